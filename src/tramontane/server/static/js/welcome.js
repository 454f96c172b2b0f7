// What a new conversation shows: a greeting, what the model is, and ways to begin that it is able to go.

import { h } from "./element.js";
import { icon } from "./icon.js";

const SMALL = 100e6; // weights: models below write stories and no programs
const STARTERS = [
  { icon: "file", text: "Summarise a document", attaches: true },
  { icon: "edit", text: "Draft a short, friendly reply to an invitation I cannot accept" },
  { icon: "wind", text: "Explain how a wind like the tramontane comes about, for a curious twelve-year-old" },
  { icon: "list", text: "Write a Python function that finds duplicate files in a folder, with a test" },
];
const SMALL_STARTERS = [
  { icon: "chat", text: "Who are you, and what can you do?" },
  { icon: "edit", text: "Write a short story about a girl and her kite" },
  { icon: "list", text: "Tell me a story about a little boat and a big storm" },
  { icon: "wind", text: "Write a poem about the wind" },
];

export class Welcome {
  constructor(composer) {
    this.composer = composer;
    this.about = h("p", { class: "about-model" });
    this.starters = h("div", { class: "starters" });
    this.element = h(
      "div",
      { class: "welcome" },
      h("div", { class: "mark" }, icon("wind")),
      h("h2", {}, "What shall we look into?"),
      this.about,
      this.starters,
    );
  }

  /** Fit it to a model, by its card; null while none is known. */
  show(model) {
    this.about.textContent = model?.description ?? "";
    this.about.hidden = !model?.description;
    const starters = model === null ? [] : model.num_parameters < SMALL ? SMALL_STARTERS : STARTERS;
    if (starters === this.shown) return; // a button that is being pressed stays
    this.shown = starters;
    this.starters.replaceChildren(...starters.map((starter) => this.#button(starter)));
  }

  #button({ icon: symbol, text, attaches }) {
    const begin = () => {
      if (attaches) return this.composer.chooseFiles();
      this.composer.setText(text);
      this.composer.focus();
    };
    return h("button", { type: "button", onclick: begin }, icon(symbol), h("span", {}, text));
  }
}
