// What one conversation is asked with: system prompt and parameters. Edits the settings it is shown, in place.

import { h } from "./element.js";
import { iconButton } from "./icon_button.js";
import { parameterFields, showDefaults } from "./parameter.js";

const NAMES = ["temperature", "top_p", "max_tokens", "random_seed", "stop", "presence_penalty", "frequency_penalty"];

export class SettingsPanel {
  constructor(onChange) {
    this.onChange = onChange;
    this.card = null; // of the model that is asked
    this.system = h("textarea", {
      id: "system-prompt",
      rows: "5",
      placeholder: "How the model should behave, such as: Answer in one sentence.",
    });
    this.system.addEventListener("input", () => {
      this.settings.system = this.system.value;
      onChange();
    });
    this.fields = h("div", { class: "parameters" });
    const reset = h("button", { type: "button", onclick: () => this.#reset() }, "Back to defaults");
    const close = iconButton("close", "Close settings", () => this.close(), { key: "Esc" });
    this.element = h(
      "aside",
      { class: "settings", "aria-label": "Settings of this conversation", hidden: true },
      h("header", {}, h("h2", {}, "Settings"), close),
      h(
        "div",
        { class: "settings-body" },
        h("label", { class: "field", for: "system-prompt" }, h("span", {}, "System prompt")),
        this.system,
        this.fields,
        reset,
      ),
    );
    this.element.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.close();
    });
  }

  show(settings) {
    this.settings = settings;
    this.system.value = settings.system ?? "";
    this.fields.replaceChildren(...parameterFields(NAMES, settings.parameters, this.onChange));
    showDefaults(this.fields.children, this.card);
  }

  /** Tell what holds where a field is empty; `card` is the model's, or null. */
  showModel(card) {
    this.card = card;
    showDefaults(this.fields.children, card);
  }

  toggle(opener = null) {
    if (!this.element.hidden) return this.close();
    this.opener = opener ?? document.activeElement;
    this.element.hidden = false;
    // on a phone, focus in a text field would bring up the keyboard over the panel
    (matchMedia("(hover: hover)").matches ? this.system : this.element.querySelector("button")).focus();
  }

  /** Whether it was open. */
  close() {
    const wasOpen = !this.element.hidden;
    this.element.hidden = true;
    if (wasOpen) this.opener?.focus();
    return wasOpen;
  }

  #reset() {
    for (const name of NAMES) delete this.settings.parameters[name];
    this.show(this.settings);
    this.onChange();
  }
}
