// The API key: kept for this tab, or on this device where the user asks for that. It goes into one header and nowhere else.

import { openDialog } from "./dialog.js";
import { h } from "./element.js";
import { iconButton } from "./icon_button.js";

const NAME = "tramontane.key";
let key = read(sessionStorage) ?? read(localStorage);
let asking = null;

/** Shown while there is a key: says where it is kept, changes or forgets it. */
export const keyButton = iconButton("key", "API key", () => showKey(), { hidden: key === null });

export function currentKey() {
  return key;
}

/** Ask for the key, once however many requests were refused meanwhile; resolves true when one was entered. */
export function askForKey(wasRefused) {
  asking ??= ask(wasRefused).finally(() => (asking = null));
  return asking;
}

async function ask(wasRefused) {
  const field = h("input", {
    type: "password",
    name: "key",
    autocomplete: "off",
    spellcheck: "false",
    autofocus: true,
    required: true,
    "aria-describedby": "key-hint",
  });
  const keep = h("input", { type: "checkbox", name: "keep" });
  const content = [
    wasRefused &&
      h(
        "p",
        { class: "field-error", role: "alert" },
        "The server refused that key. It may have expired or been revoked.",
      ),
    h("label", { class: "field" }, h("span", {}, "Key"), field),
    h(
      "p",
      { class: "hint", id: "key-hint" },
      "Whoever runs this server makes keys with ",
      h("code", {}, "tramontane keys create"),
      ".",
    ),
    h("label", { class: "check" }, keep, h("span", {}, "Remember on this device")),
  ];
  const answer = await openDialog("This server asks for an API key", content, {
    buttons: [{ label: "Use key", value: "yes", kind: "primary" }],
    className: "narrow",
  });
  if (answer !== "yes" || !field.value.trim()) return false;
  key = field.value.trim();
  keyButton.hidden = false;
  forgetStored();
  try {
    (keep.checked ? localStorage : sessionStorage).setItem(NAME, key);
  } catch {
    // storage is forbidden: the key holds until the page is closed
  }
  return true;
}

async function showKey() {
  const place =
    read(localStorage) === key ? "on this device, until it is forgotten" : "for this tab, until it is closed";
  const content = [
    h("p", {}, `This page sends an API key with all it asks. The key is kept ${place}.`),
    h("p", { class: "hint" }, "Conversations stay in this browser, with or without a key; the sidebar deletes them."),
  ];
  const answer = await openDialog("API key", content, {
    buttons: [
      { label: "Forget this key", value: "forget", kind: "danger" },
      { label: "Use another key", value: "another" },
    ],
    className: "narrow",
  });
  if (answer === "forget") forgetKey();
  if (answer === "forget" || (answer === "another" && (await askForKey(false)))) beginAnew();
}

/** What was read with the old key is to be seen no more, whoever sits here next. */
function beginAnew() {
  document.body.inert = true; // what is written while the page goes would be lost
  location.reload();
}

function forgetKey() {
  key = null;
  forgetStored();
}

function forgetStored() {
  for (const storage of [sessionStorage, localStorage]) {
    try {
      storage.removeItem(NAME);
    } catch {
      // forbidden: nothing was stored either
    }
  }
}

// forgotten in another tab
addEventListener("storage", ({ key: name, oldValue, newValue }) => {
  if (name === NAME && newValue === null && oldValue === key) beginAnew();
});

function read(storage) {
  try {
    return storage.getItem(NAME);
  } catch {
    return null;
  }
}
