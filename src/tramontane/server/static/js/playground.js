// The playground: plain continuation of a text, each token with its probability and what else could have stood there.

import { announce } from "./announcer.js";
import { call, callStream } from "./api.js";
import { copyButton } from "./copy.js";
import { h } from "./element.js";
import { findModel, modelSelect } from "./model.js";
import { parameterFields, requestFields, showDefaults } from "./parameter.js";
import { preference, setPreference } from "./preferences.js";
import { readLogprobs, TokenView } from "./token_view.js";

const NAMES = ["max_tokens", "temperature", "top_p", "random_seed", "stop"];
const DEFAULT_TOKENS = 64;

export class PlaygroundPage {
  constructor() {
    const stored = preference("playground");
    this.settingsOf = { parameters: { max_tokens: DEFAULT_TOKENS }, alternatives: 5, isEcho: false, ...stored };
    this.controller = null;
    this.model = modelSelect({ class: "title-select" });
    this.prompt = h("textarea", {
      id: "prompt",
      rows: "6",
      value: stored.prompt ?? "The wind from the north is called",
      spellcheck: "false",
    });
    this.tokens = new TokenView((token, alternative) => this.#branch(token, alternative));
    this.summary = h("p", { class: "summary", role: "status" });
    this.failure = h("p", { class: "field-error", role: "alert", hidden: true });
    this.submit = h("button", { type: "submit", class: "primary" }, "Complete");
    this.useAsPrompt = h(
      "button",
      { type: "button", hidden: true, onclick: () => this.#continueFromAll() },
      "Use as prompt",
    );
    this.copy = copyButton(() => this.tokens.text, "Copy text", { hidden: true });
    this.head = [this.model];
    this.fields = parameterFields(NAMES, this.settingsOf.parameters, () => this.#remember({}));
    const showModel = () => showDefaults(this.fields, findModel(this.model.value));
    this.model.addEventListener("change", showModel);
    document.addEventListener("models-loaded", showModel);
    showModel();
    this.element = this.#build();
  }

  get title() {
    return "Playground";
  }

  show() {
    if (matchMedia("(hover: hover)").matches) this.prompt.focus();
  }

  /** Whether a completion was on its way. */
  stop() {
    const wasRunning = this.controller !== null;
    this.controller?.abort();
    return wasRunning || this.tokens.closeCard();
  }

  #build() {
    const alternatives = h("input", {
      id: "alternatives",
      type: "number",
      min: "0",
      max: "5",
      step: "1",
      value: this.settingsOf.alternatives,
      oninput: () =>
        this.#remember({ alternatives: Math.max(0, Math.min(5, Math.trunc(Number(alternatives.value)) || 0)) }),
    });
    const echo = h("input", {
      type: "checkbox",
      checked: this.settingsOf.isEcho,
      onchange: () => this.#remember({ isEcho: echo.checked }),
    });
    const form = h(
      "form",
      { class: "playground-form" },
      h("label", { class: "field", for: "prompt" }, h("span", {}, "Text to continue")),
      this.prompt,
      h(
        "div",
        { class: "row" },
        this.submit,
        h("span", { class: "hint" }, "Ctrl+Enter"),
        h("span", { class: "spring" }),
        this.useAsPrompt,
        this.copy,
      ),
      this.failure,
      this.summary,
      this.tokens.element,
      legend(),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.controller) this.controller.abort();
      else this.#complete(this.prompt.value, []);
    });
    this.prompt.addEventListener("input", () => this.#remember({ prompt: this.prompt.value }));
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    const panel = h(
      "section",
      { class: "playground-settings", "aria-label": "Parameters" },
      this.fields,
      h(
        "div",
        { class: "parameter" },
        h("label", { for: "alternatives" }, "Alternatives"),
        alternatives,
        h("p", { class: "hint" }, "Likeliest tokens kept per place, up to 5"),
      ),
      h("label", { class: "check" }, echo, h("span", {}, "Show the prompt's own probabilities")),
    );
    return h(
      "div",
      { class: "playground scroller" },
      h("h1", { class: "visually-hidden" }, "Playground"),
      h("div", { class: "playground-columns" }, form, panel),
    );
  }

  #remember(change) {
    Object.assign(this.settingsOf, change);
    setPreference("playground", this.settingsOf);
  }

  /** Go on from `token`'s place with another token there. */
  #branch(token, alternative) {
    if (this.controller) return;
    const kept = this.tokens.before(token);
    const start = this.tokens.isEcho ? "" : this.startText;
    const chosen = {
      ...token,
      text: alternative.text,
      adds: alternative.text,
      logprob: alternative.logprob,
      isForced: true,
    };
    this.#complete(start + kept.map(({ adds }) => adds).join("") + alternative.text, [...kept, chosen]);
  }

  #continueFromAll() {
    this.prompt.value = (this.tokens.isEcho ? "" : this.startText) + this.tokens.text;
    this.#remember({ prompt: this.prompt.value });
    this.tokens.clear();
    this.#showButtons();
    this.prompt.focus();
  }

  /** Continue `text`; `kept` are tokens of it that are shown already. */
  async #complete(text, kept) {
    if (!text) return this.prompt.focus();
    if (!kept.length) {
      this.startText = text;
      this.tokens.isEcho = this.settingsOf.isEcho;
    }
    this.tokens.show(kept);
    this.failure.hidden = true;
    this.controller = new AbortController();
    this.submit.textContent = "Stop";
    this.#showButtons();
    const { parameters, alternatives } = this.settingsOf;
    const { random_seed: seed, ...fields } = requestFields({ max_tokens: DEFAULT_TOKENS, ...parameters });
    const body = {
      model: this.model.value,
      prompt: text,
      logprobs: alternatives,
      ...fields,
      ...(seed === undefined ? {} : { seed }),
    };
    const started = performance.now();
    let numNew = 0;
    let finish = null;
    try {
      const isEcho = this.tokens.isEcho && !kept.length;
      for await (const choice of isEcho ? this.#whole(body) : this.#streamed(body)) {
        const tokens = readLogprobs(choice);
        numNew += tokens.length;
        this.tokens.add(tokens);
        finish = choice.finish_reason ?? finish;
        this.#summarize(numNew, performance.now() - started, finish);
      }
      announce(`Completed, ${numNew} tokens`);
    } catch (error) {
      if (error.name !== "AbortError") [this.failure.hidden, this.failure.textContent] = [false, error.message];
      this.#summarize(numNew, performance.now() - started, error.name === "AbortError" ? "stopped" : null);
    }
    this.controller = null;
    this.submit.textContent = "Complete";
    this.#showButtons();
  }

  async *#streamed(body) {
    for await (const { data } of callStream("v1/completions", { ...body, stream: true }, this.controller.signal)) {
      if (data.choices?.[0]) yield data.choices[0];
    }
  }

  /** The prompt's own probabilities come only with a whole answer. */
  async *#whole(body) {
    const { choices } = await call("v1/completions", {
      method: "POST",
      body: { ...body, echo: true },
      signal: this.controller.signal,
    });
    yield choices[0];
  }

  #showButtons() {
    const isEmpty = this.tokens.text === "";
    this.useAsPrompt.hidden = isEmpty || this.controller !== null;
    this.copy.hidden = isEmpty;
  }

  #summarize(numNew, milliseconds, finish) {
    const perplexity = this.tokens.perplexity();
    const speed = numNew > 1 ? `${(numNew / (milliseconds / 1000)).toFixed(1)} tokens/s` : null;
    const end = { length: "cut off at its length", stopped: "stopped", stop: null }[finish];
    this.summary.textContent = [`${numNew} tokens`, speed, perplexity && `perplexity ${perplexity.toFixed(2)}`, end]
      .filter(Boolean)
      .join(" · ");
  }
}

function legend() {
  const sample = (probability) => {
    const mark = h("span", { class: "token" }, `${probability * 100} %`);
    mark.style.setProperty("--surprise", 1 - probability);
    return mark;
  };
  return h(
    "p",
    { class: "legend" },
    h("span", {}, "Probability"),
    [1, 0.75, 0.5, 0.25, 0.05].map(sample),
    h("span", { class: "hint" }, "Point at a token, or walk with the arrow keys"),
  );
}
