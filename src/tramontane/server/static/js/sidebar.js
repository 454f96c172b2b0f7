// The side of the page: pages, conversations with search, and the state of the connection.

import { confirmDialog, promptDialog } from "./dialog.js";
import { h } from "./element.js";
import { icon } from "./icon.js";
import { iconButton } from "./icon_button.js";
import { library } from "./library.js";
import { matches, snippet } from "./conversation.js";
import { menuButton } from "./menu.js";
import { notify } from "./notice.js";
import { arrange, refill } from "./redraw.js";
import { runningIn } from "./answer.js";
import { exportJson, exportMarkdown, importJson } from "./transfer.js";

const DAY_MS = 86_400_000;

export class Sidebar {
  /** `pages`: [{name, label, icon}]; `foot`: elements for the bottom row. */
  constructor(pages, foot) {
    this.search = h("input", {
      type: "search",
      placeholder: "Search conversations",
      "aria-label": "Search conversations",
      oninput: () => this.update(),
    });
    this.rows = new Map(); // conversation id -> its row
    this.headings = new Map(); // age -> heading
    this.nothing = h("p", { class: "nothing" });
    this.list = h("nav", { class: "conversations", "aria-label": "Conversations" });
    this.picker = h("input", {
      type: "file",
      accept: ".json,application/json",
      hidden: true,
      tabindex: "-1",
      "aria-label": "File to import",
      onchange: () => this.#import(),
    });
    this.links = pages.map(({ name, label, icon: symbol }) =>
      h("a", { href: `#/${name}`, "data-page": name }, icon(symbol), label),
    );
    const more = menuButton("All conversations", () => [
      { icon: "save", label: "Export all", run: () => exportJson(library.all(), "conversations") },
      { icon: "open", label: "Import", run: () => this.picker.click() },
      { icon: "bin", label: "Delete all", isDanger: true, run: () => this.#deleteAll() },
    ]);
    this.element = h(
      "aside",
      { class: "sidebar", id: "sidebar", "aria-label": "Navigation" },
      h(
        "div",
        { class: "brand" },
        h("span", { class: "mark" }, icon("wind")),
        h("span", {}, "Tramontane"),
        iconButton("close", "Close navigation", () => this.close(), { class: "quiet icon-only close-sidebar" }),
      ),
      h("nav", { class: "pages", "aria-label": "Pages" }, this.links),
      h("div", { class: "list-head" }, h("label", { class: "search" }, icon("search"), this.search), more, this.picker),
      this.list,
      h("div", { class: "sidebar-foot" }, foot),
    );
    this.scrim = h("div", { class: "scrim", onclick: () => this.close() });
    this.element.addEventListener("click", (event) => event.target.closest("a") && this.close());
  }

  /** Mark where we are. */
  mark(page, conversationId) {
    this.current = conversationId;
    for (const link of this.links) {
      if (link.dataset.page === page && !conversationId) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    this.update();
  }

  open() {
    document.body.classList.add("sidebar-open");
    this.search.focus();
  }

  /** Whether it was open over the page, as on phones. */
  close() {
    const wasOpen = document.body.classList.contains("sidebar-open");
    document.body.classList.remove("sidebar-open");
    return wasOpen;
  }

  update() {
    const query = this.search.value;
    const found = library.all().filter((conversation) => matches(conversation, query));
    let heading = null;
    const children = [];
    for (const conversation of found) {
      const age = ageOf(conversation.updated);
      if (age !== heading) children.push(this.#heading((heading = age)));
      children.push(this.#row(conversation));
    }
    this.nothing.textContent = query
      ? "No conversation holds these words."
      : "Conversations appear here. They stay in this browser.";
    arrange(this.list, children.length ? children : [this.nothing]);
    const ids = new Set(library.all().map(({ id }) => id));
    for (const id of this.rows.keys()) if (!ids.has(id)) this.rows.delete(id);
  }

  #heading(age) {
    if (!this.headings.has(age)) this.headings.set(age, h("h2", {}, age));
    return this.headings.get(age);
  }

  #row(conversation) {
    if (!this.rows.has(conversation.id)) this.rows.set(conversation.id, this.#newRow(conversation.id));
    const row = this.rows.get(conversation.id);
    const link = row.firstChild;
    const title = conversation.title || "Untitled";
    const isAnswering = runningIn(conversation) !== null;
    const found = snippet(conversation, this.search.value);
    refill(link, [title, isAnswering, found], () =>
      [
        title,
        isAnswering && h("span", { class: "live", role: "img", "aria-label": "answering" }),
        found && h("span", { class: "snippet" }, found),
      ].filter(Boolean),
    );
    link.title = title;
    if (conversation.id === this.current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    const menu = row.lastChild;
    menu.title = menu.ariaLabel = `Options of ${title}`;
    return row;
  }

  #newRow(id) {
    const act = (run) => () => library.get(id) && run(library.get(id)); // another tab may have changed it
    const menu = menuButton("Options", () => [
      { icon: "edit", label: "Rename", run: act((conversation) => this.#rename(conversation)) },
      { icon: "save", label: "Export as Markdown", run: act(exportMarkdown) },
      {
        icon: "save",
        label: "Export as JSON",
        run: act((conversation) => exportJson([conversation], conversation.title || "Untitled")),
      },
      { icon: "bin", label: "Delete", isDanger: true, run: act((conversation) => this.#delete(conversation)) },
    ]);
    return h("div", { class: "conversation-row" }, h("a", { href: `#/chat/${id}`, "data-id": id }), menu);
  }

  async #rename(conversation) {
    const title = await promptDialog("Rename conversation", "Title", conversation.title);
    if (!title) return;
    Object.assign(conversation, { title, isNamed: true });
    library.put(conversation);
    document.dispatchEvent(new CustomEvent("title-changed"));
  }

  async #delete(conversation) {
    if (
      !(await confirmDialog(
        "Delete conversation?",
        `“${conversation.title || "Untitled"}” and its documents are removed from this browser.`,
        "Delete",
      ))
    )
      return;
    runningIn(conversation)?.stop();
    await library.delete(conversation);
    if (conversation.id === this.current) location.hash = "#/chat";
  }

  async #deleteAll() {
    const all = library.all();
    if (
      !all.length ||
      !(await confirmDialog(
        "Delete all conversations?",
        `${all.length} conversation${all.length === 1 ? " is" : "s are"} removed from this browser. Export them first to keep a copy.`,
        "Delete all",
      ))
    )
      return;
    for (const conversation of all) {
      runningIn(conversation)?.stop();
      await library.delete(conversation);
    }
    location.hash = "#/chat";
  }

  async #import() {
    const [file] = this.picker.files;
    this.picker.value = "";
    if (!file) return;
    try {
      const conversations = await importJson(file);
      for (const conversation of conversations) library.put(conversation);
      notify(`Imported ${conversations.length} conversation${conversations.length === 1 ? "" : "s"}.`);
    } catch (error) {
      notify(`${error.message}.`, { kind: "error" });
    }
  }
}

function ageOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - DAY_MS) return "Yesterday";
  if (time >= midnight - 7 * DAY_MS) return "This week";
  return new Date(time).toLocaleDateString(undefined, { month: "long", year: "numeric" });
}
