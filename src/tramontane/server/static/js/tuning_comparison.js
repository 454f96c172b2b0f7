// A question put to a base and to what became of it, side by side.

import { call } from "./api.js";
import { h } from "./element.js";

export class TuningComparison {
  constructor(base, tuned) {
    this.question = h("textarea", { id: "tuning-question", rows: "2", required: true });
    this.button = h("button", { type: "submit", class: "primary" }, "Ask both");
    this.answers = [base, tuned].map((model) => ({
      model,
      element: h("div", { class: "tuning-answer", role: "status" }),
    }));
    this.element = h(
      "form",
      { class: "panel tuning-comparison", "aria-label": "Try it", onsubmit: (event) => this.#ask(event) },
      h("h2", {}, "Try it"),
      h("div", { class: "field" }, h("label", { for: "tuning-question" }, "Question"), this.question),
      h("div", { class: "row" }, this.button),
      h(
        "div",
        { class: "tuning-answers" },
        this.answers.map(({ model, element }) => h("section", { "aria-label": model }, h("h3", {}, model), element)),
      ),
    );
  }

  async #ask(event) {
    event.preventDefault();
    this.button.disabled = true;
    await Promise.all(this.answers.map((answer) => this.#answer(answer)));
    this.button.disabled = false;
  }

  async #answer({ model, element }) {
    element.textContent = "…";
    try {
      const { choices } = await call("v1/chat/completions", {
        method: "POST",
        body: {
          model,
          messages: [{ role: "user", content: this.question.value }],
          max_tokens: 200,
          temperature: 0,
        },
      });
      element.textContent = choices[0].message.content;
    } catch (error) {
      element.textContent = error.message;
    }
  }
}
