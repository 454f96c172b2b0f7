// Copying to the clipboard, confirmed where it was asked for.

import { announce } from "./announcer.js";
import { h } from "./element.js";
import { icon } from "./icon.js";

/** A button that copies what `read()` returns. */
export function copyButton(read, label = "Copy", properties = {}) {
  const button = h("button", { type: "button", class: "quiet icon-only", "aria-label": label, title: label, ...properties }, icon("copy"));
  button.addEventListener("click", async () => {
    const isDone = await copyText(read());
    announce(isDone ? "Copied" : "The browser did not allow copying");
    button.replaceChildren(icon(isDone ? "check" : "warning"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
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
