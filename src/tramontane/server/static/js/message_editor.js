// A message being rewritten in place. Saving makes a new version; the old one stays beside it.

import { h } from "./element.js";

export class MessageEditor {
  constructor(message, { onSave, onCancel }) {
    const isAnswer = message.role === "assistant";
    this.field = h("textarea", {
      value: message.content,
      "aria-label": isAnswer ? "Edit the answer" : "Edit the message",
    });
    this.element = h(
      "form",
      { class: "message-editor" },
      this.field,
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", onclick: onCancel }, "Cancel"),
        h("button", { type: "submit", class: "primary", title: "Ctrl+Enter" }, isAnswer ? "Save" : "Send"),
      ),
    );
    const save = () => (this.field.value.trim() ? onSave(this.field.value.trim()) : onCancel());
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      save();
    });
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        save();
      } else if (event.key === "Escape") {
        event.stopPropagation();
        onCancel();
      }
    });
    this.field.addEventListener("input", () => this.#grow());
  }

  focus() {
    this.#grow();
    this.field.focus();
    this.field.setSelectionRange(this.field.value.length, this.field.value.length);
  }

  #grow() {
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight + 2, 480)}px`;
  }
}
