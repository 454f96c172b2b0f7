// A small menu below a button: arrow keys move, Esc closes, focus returns.

import { h } from "./element.js";
import { icon } from "./icon.js";
import { iconButton } from "./icon_button.js";

let open = null;

/** A button that opens a menu of `items()`: {icon, label, run, isDanger}. */
export function menuButton(label, items) {
  const toggle = () => {
    const wasOpen = open?.button === button;
    closeMenu();
    if (!wasOpen) showMenu(button, items());
  };
  const look = { class: "quiet icon-only small", "aria-haspopup": "menu", "aria-expanded": "false" };
  const button = iconButton("more", label, toggle, look);
  return button;
}

/** Whether one was open. */
export function closeMenu({ returnsFocus = false } = {}) {
  if (!open) return false;
  const { menu, button } = open;
  open = null;
  menu.remove();
  button.setAttribute("aria-expanded", "false");
  if (returnsFocus) button.focus();
  return true;
}

function showMenu(button, items) {
  const menu = h(
    "div",
    { class: "menu", role: "menu" },
    items.map((item) =>
      h(
        "button",
        {
          type: "button",
          role: "menuitem",
          class: item.isDanger ? "danger-text" : null,
          onclick: () => (closeMenu({ returnsFocus: true }), item.run()),
        },
        icon(item.icon),
        item.label,
      ),
    ),
  );
  menu.addEventListener("keydown", (event) => {
    const buttons = [...menu.children];
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      buttons.at(to % buttons.length).focus();
    } else if (event.key === "Escape" || event.key === "Tab") {
      event.stopPropagation();
      closeMenu({ returnsFocus: true });
    }
  });
  document.body.append(menu);
  const box = button.getBoundingClientRect();
  menu.style.top = `${Math.min(box.bottom + 4, innerHeight - menu.offsetHeight - 8)}px`;
  menu.style.left = `${Math.max(8, Math.min(box.right - menu.offsetWidth, innerWidth - menu.offsetWidth - 8))}px`;
  button.setAttribute("aria-expanded", "true");
  open = { menu, button };
  menu.firstChild.focus();
}

document.addEventListener("pointerdown", (event) => {
  if (open && !open.menu.contains(event.target) && !open.button.contains(event.target)) closeMenu();
});
