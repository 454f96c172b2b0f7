// A button that shows an icon and says its name to everyone who cannot see it.

import { h } from "./element.js";
import { icon } from "./icon.js";

/** `key`: the key that does the same, for the tooltip. Further properties go to the element. */
export function iconButton(name, label, onclick, { key = null, ...properties } = {}) {
  const title = key ? `${label} (${key})` : label;
  const all = { type: "button", class: "quiet icon-only", "aria-label": label, title, onclick, ...properties };
  return h("button", all, icon(name));
}
