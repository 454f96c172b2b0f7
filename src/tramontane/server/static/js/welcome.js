// What a new conversation shows: a greeting, and ways to begin.

import { h } from "./element.js";
import { icon } from "./icon.js";

const STARTERS = [
  { icon: "file", text: "Summarise a document", attaches: true },
  { icon: "edit", text: "Draft a short, friendly reply to an invitation I cannot accept" },
  { icon: "wind", text: "Explain how a wind like the tramontane comes about, for a curious twelve-year-old" },
  { icon: "list", text: "Write a Python function that finds duplicate files in a folder, with a test" },
];

export function welcome(composer) {
  const begin = ({ text, attaches }) => {
    if (attaches) return composer.chooseFiles();
    composer.setText(text);
    composer.focus();
  };
  const starters = STARTERS.map((starter) =>
    h("button", { type: "button", onclick: () => begin(starter) }, icon(starter.icon), h("span", {}, starter.text)),
  );
  return h(
    "div",
    { class: "welcome" },
    h("div", { class: "mark" }, icon("wind")),
    h("h2", {}, "What shall we look into?"),
    h("div", { class: "starters" }, starters),
  );
}
