// The API key: kept for this tab, or on this device where the user asks for that. It goes into one header and nowhere else.

import { openDialog } from "./dialog.js";
import { h } from "./element.js";

const NAME = "tramontane.key";
let key = read(sessionStorage) ?? read(localStorage);
let asking = null;

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
  forgetStored();
  try {
    (keep.checked ? localStorage : sessionStorage).setItem(NAME, key);
  } catch {
    // storage is forbidden: the key holds until the page is closed
  }
  return true;
}

export function forgetKey() {
  key = null;
  forgetStored();
}

function forgetStored() {
  for (const storage of [sessionStorage, localStorage]) storage.removeItem(NAME);
}

function read(storage) {
  try {
    return storage.getItem(NAME);
  } catch {
    return null;
  }
}
