// Copying to the clipboard, confirmed where it was asked for.

import { announce } from "./announcer.js";
import { h } from "./element.js";
import { icon } from "./icon.js";
import { iconButton } from "./icon_button.js";

/** A button that copies what `read()` returns. */
export function copyButton(read, label = "Copy", properties = {}) {
  const copy = async () => {
    const isDone = await copyText(read());
    announce(isDone ? "Copied" : "The browser did not allow copying");
    button.replaceChildren(icon(isDone ? "check" : "warning"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  };
  const button = iconButton("copy", label, copy, properties);
  return button;
}

/** Whether it worked. Without https the clipboard interface is absent and a selection has to do. */
export async function copyText(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return false;
    }
  }
  const field = h("textarea", { class: "visually-hidden", value: text, "aria-hidden": "true" });
  document.body.append(field);
  field.select();
  const isDone = document.execCommand("copy");
  field.remove();
  return isDone;
}
