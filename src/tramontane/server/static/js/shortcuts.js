// Keys. Single ones work only outside text fields, and can be turned off for people whose software types for them.

import { openDialog } from "./dialog.js";
import { h } from "./element.js";
import { preference, setPreference } from "./preferences.js";

const HELP = [
  [
    "Everywhere",
    [
      ["n", "New chat"],
      ["/", "Write a message"],
      ["f", "Search conversations"],
      ["g c", "Chat"],
      ["g p", "Playground"],
      ["g f", "Fine-tuning"],
      ["g u", "Usage"],
      ["t", "Switch theme"],
      ["?", "This list"],
      ["Esc", "Stop the answer; close what is open"],
    ],
  ],
  [
    "In a conversation",
    [
      ["Enter", "Send"],
      ["Shift+Enter", "New line"],
      ["e", "Edit your last message"],
      ["r", "Regenerate the last answer"],
      ["[  ]", "Previous and next version"],
      ["c", "Copy the last answer"],
      ["a", "Attach a document"],
      ["s", "Settings"],
    ],
  ],
  [
    "In the playground",
    [
      ["Ctrl+Enter", "Complete"],
      ["← →", "Walk the tokens"],
      ["Enter", "Alternatives of a token"],
    ],
  ],
];

/** `find(key)` gives what a key does now, or undefined; two keys in a row come as "g c". `onEscape` hears of Esc. */
export function listen(find, onEscape) {
  let prefix = "";
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing) return;
    if (event.key === "Escape") return event.target.closest("dialog") ? null : onEscape(); // dialogs close themselves
    if (event.ctrlKey || event.metaKey || event.altKey || !preference("singleKeys")) return;
    if (event.target.closest("input, textarea, select, dialog, [role=menu]")) return;
    const key = prefix + event.key;
    prefix = "";
    if (key === "g") {
      prefix = "g ";
      setTimeout(() => (prefix = ""), 1200);
      return;
    }
    const act = find(key);
    if (!act) return;
    event.preventDefault();
    act();
  });
}

export function showHelp() {
  const toggle = h("input", {
    type: "checkbox",
    checked: preference("singleKeys"),
    onchange: () => setPreference("singleKeys", toggle.checked),
  });
  const group = ([title, rows]) =>
    h(
      "section",
      {},
      h("h3", {}, title),
      h(
        "dl",
        { class: "keys" },
        rows.flatMap(([keys, what]) => [
          h(
            "dt",
            {},
            keys.split(/\s+/).map((key) => h("kbd", {}, key)),
          ),
          h("dd", {}, what),
        ]),
      ),
    );
  return openDialog(
    "Keyboard",
    [
      h("div", { class: "key-groups" }, HELP.map(group)),
      h("label", { class: "check" }, toggle, h("span", {}, "Single keys are shortcuts")),
    ],
    { className: "wide" },
  );
}
