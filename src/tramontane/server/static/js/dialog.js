// Modal dialogs on the browser's own <dialog>: focus is kept inside, Esc closes, focus returns to where it was.

import { h } from "./element.js";
import { iconButton } from "./icon_button.js";

let count = 0;

/** Show a dialog; resolves with what its form's pressed button holds, or null when it was dismissed. */
export function openDialog(title, content, { buttons = [], className = "" } = {}) {
  const id = `dialog-${(count += 1)}`;
  const close = iconButton("close", "Close", () => dialog.close(""), { key: "Esc" });
  const form = h(
    "form",
    { method: "dialog" },
    h("header", {}, h("h2", { id }, title), close),
    h("div", { class: "dialog-body" }, content),
    buttons.length > 0 &&
      h(
        "footer",
        {},
        buttons.map(({ label, value, kind = "" }) => h("button", { type: "submit", class: kind, value }, label)),
      ),
  );
  const dialog = h("dialog", { "aria-labelledby": id, class: className }, form);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close("")); // the backdrop
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue || null);
    });
  });
}

/** Whether the user confirmed. */
export async function confirmDialog(title, text, action) {
  const buttons = [
    { label: "Cancel", value: "", kind: "" },
    { label: action, value: "yes", kind: "danger" },
  ];
  return (await openDialog(title, h("p", {}, text), { buttons, className: "narrow" })) === "yes";
}

/** The text entered, or null. */
export async function promptDialog(title, label, value) {
  const field = h("input", { type: "text", value, maxlength: "200", autofocus: true, name: "text" });
  const buttons = [
    { label: "Cancel", value: "" },
    { label: "Save", value: "yes", kind: "primary" },
  ];
  const pending = openDialog(title, h("label", { class: "field" }, h("span", {}, label), field), {
    buttons,
    className: "narrow",
  });
  field.select();
  // Enter presses the first submit button of a form, which is Cancel
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    field.closest("dialog").close("yes");
  });
  return (await pending) === "yes" ? field.value.trim() : null;
}
