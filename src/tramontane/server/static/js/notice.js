// Short messages at the foot of the page: what failed or was done, and a way to undo or retry it.

import { h } from "./element.js";
import { iconButton } from "./icon_button.js";

const SECONDS = 8;
const stack = h("div", { class: "notices" });
document.body.append(stack);

/** Show a notice; `action` is {label, run} or null. Errors stay until closed. */
export function notify(text, { kind = "info", action = null } = {}) {
  const close = () => box.remove();
  const box = h(
    "div",
    { class: `notice ${kind}`, role: kind === "error" ? "alert" : "status" },
    h("span", {}, text),
    action && h("button", { type: "button", class: "quiet", onclick: () => (close(), action.run()) }, action.label),
    iconButton("close", "Dismiss", close),
  );
  stack.append(box);
  if (kind !== "error") setTimeout(close, SECONDS * 1000);
}
