// Short messages at the top of the page: what failed or was done, and a way to undo or retry it.

import { h } from "./element.js";
import { iconButton } from "./icon_button.js";

const SECONDS = { info: 8, error: 16 };
const MOST = 4; // at a time; the oldest goes first
const stack = h("div", { class: "notices" });
const open = new Map(); // text -> {box, close}
document.body.append(stack);

/** Show a notice until it is dismissed or was there long enough to be read; one that is pointed at stays. `action` is
 * {label, run} or null; what offers one waits for it. Returns what takes it away. */
export function notify(text, { kind = "info", action = null } = {}) {
  open.get(text)?.close(); // said again, it is said once
  let timer = null;
  const close = () => {
    clearTimeout(timer);
    box.remove();
    if (open.get(text)?.box === box) open.delete(text);
  };
  const wait = () => {
    clearTimeout(timer);
    if (action === null) timer = setTimeout(close, SECONDS[kind] * 1000);
  };
  const stay = () => clearTimeout(timer);
  const box = h(
    "div",
    {
      class: `notice ${kind}`,
      role: kind === "error" ? "alert" : "status",
      onmouseenter: stay,
      onmouseleave: wait,
      onfocusin: stay,
      onfocusout: wait,
    },
    h("span", {}, text),
    action && h("button", { type: "button", class: "quiet", onclick: () => (close(), action.run()) }, action.label),
    iconButton("close", "Dismiss", close),
  );
  stack.append(box);
  open.set(text, { box, close });
  if (open.size > MOST) open.values().next().value.close();
  wait();
  return close;
}
