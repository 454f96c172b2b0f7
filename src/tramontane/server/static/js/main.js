// The start of the page: storage, server, pages by address (#/chat/<id>, #/playground, #/tuning, #/usage), keys.

import { announce } from "./announcer.js";
import { ChatPage } from "./chat.js";
import { Connection } from "./connection.js";
import { h } from "./element.js";
import { iconButton } from "./icon_button.js";
import { askForKey, currentKey, keyButton } from "./key.js";
import { library } from "./library.js";
import { closeMenu } from "./menu.js";
import { loadModels } from "./model.js";
import { notify } from "./notice.js";
import { PlaygroundPage } from "./playground.js";
import { listen, showHelp } from "./shortcuts.js";
import { Sidebar } from "./sidebar.js";
import { switchTheme, themeButton } from "./theme.js";
import { TuningPage } from "./tuning.js";
import { UsagePage } from "./usage.js";

// A page: {element, head, title, show(rest of the address), shortcuts}. Adding one is a line here.
const PAGES = [
  { name: "chat", label: "New chat", icon: "plus", make: () => new ChatPage() },
  { name: "playground", label: "Playground", icon: "flask", make: () => new PlaygroundPage() },
  { name: "tuning", label: "Fine-tuning", icon: "tune", make: () => new TuningPage() },
  { name: "usage", label: "Usage", icon: "chart", make: () => new UsagePage() },
];
const made = new Map();
let current = null;

const connection = new Connection(() => connect());
const help = iconButton("keyboard", "Keyboard shortcuts", showHelp, { key: "?" });
const sidebar = new Sidebar(PAGES, [connection.element, h("span", { class: "spring" }), keyButton, help, themeButton]);
const head = h("header", { class: "page-head" });
const content = h("main", { id: "content", tabindex: "-1" });
const openSidebar = iconButton("menu", "Open navigation", () => sidebar.open(), {
  class: "quiet icon-only open-sidebar",
  "aria-controls": "sidebar",
});

function route() {
  const [, name = "chat", rest = ""] = location.hash.split("/");
  const page = PAGES.find((entry) => entry.name === name) ?? PAGES[0];
  if (!made.has(page)) made.set(page, page.make());
  current = made.get(page);
  closeMenu();
  content.replaceChildren(current.element);
  head.replaceChildren(openSidebar, ...current.head);
  current.show(rest);
  mark();
}

/** The title and the marked entry of the sidebar follow what is shown. */
function mark() {
  const [, name = "chat", id = ""] = location.hash.split("/");
  document.title = `${current.title} · Tramontane`;
  sidebar.mark(name || "chat", id);
}

let withdraw = () => {}; // what was said of the last try to connect

async function connect() {
  withdraw();
  try {
    await loadModels();
    connection.ready();
  } catch (error) {
    if (error.status === 401 || error.status === 0) return; // each has its own way of asking and retrying
    withdraw = notify(error.message, { kind: "error", action: { label: "Try again", run: connect } });
  }
}

document.addEventListener("key-needed", async () => {
  connection.refused();
  if (!(await askForKey(currentKey() !== null))) {
    const action = { label: "Enter key", run: connect };
    withdraw();
    withdraw = notify("Without a key this server answers nothing.", { kind: "error", action });
    return;
  }
  await connect();
  current.retryRefused?.();
});
document.addEventListener("title-changed", mark);
document.querySelector(".skip-link").addEventListener("click", (event) => {
  event.preventDefault(); // its address would be taken for a page's
  content.focus();
});
addEventListener("hashchange", route);
library.onChange(() => current && mark());

const go = (address) => () => {
  if (location.hash === address) route();
  else location.hash = address;
};
const KEYS = {
  n: go("#/chat"),
  "g c": go("#/chat"),
  "g p": go("#/playground"),
  "g f": go("#/tuning"),
  "g u": go("#/usage"),
  t: switchTheme,
  "?": showHelp,
  f: () => (sidebar.open(), sidebar.search.select()),
  "/": () => (current.composer ?? current.prompt)?.focus(),
};
listen(
  (key) => current.shortcuts?.[key] ?? KEYS[key],
  () => closeMenu({ returnsFocus: true }) || sidebar.close() || current.stop?.() || current.settings?.close(),
);

const isLasting = await library.open();
document
  .querySelector("#app")
  .replaceChildren(sidebar.element, sidebar.scrim, h("div", { class: "page" }, connection.banner, head, content));
route();
if (!isLasting)
  notify(
    "This browser stores nothing for this page: conversations last until it is closed. Export what you want to keep.",
  );
await connect();
announce("Ready");
