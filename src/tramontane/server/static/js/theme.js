// Light, dark, or as the system has it.

import { announce } from "./announcer.js";
import { h } from "./element.js";
import { icon } from "./icon.js";
import { preference, setPreference } from "./preferences.js";

const NEXT = { auto: "light", light: "dark", dark: "auto" };
const ICONS = { auto: "screen", light: "sun", dark: "moon" };
const NAMES = { auto: "as the system", light: "light", dark: "dark" };

export const themeButton = h("button", { type: "button", class: "quiet icon-only", onclick: () => switchTheme() });
show();

export function switchTheme() {
  setPreference("theme", NEXT[preference("theme")] ?? "auto");
  show();
  announce(`Theme: ${NAMES[preference("theme")]}`);
}

function show() {
  const theme = preference("theme") in NEXT ? preference("theme") : "auto";
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const label = `Theme: ${NAMES[theme]}`;
  themeButton.replaceChildren(icon(ICONS[theme]));
  themeButton.setAttribute("aria-label", label);
  themeButton.title = label;
}
