// Tokens in a row, shaded by how unlikely they were; a card shows what else could have stood in a place.

import { h } from "./element.js";

const PARTIAL = "\ufffd"; // stands for bytes that are no whole character; such a token cannot be put into a text

/** Tokens of a choice of /v1/completions: {text, adds, logprob (null where there is none), top: [{text, logprob}]}.
 * `adds` is what the token adds to the text: parts of a character add nothing until the last one. */
export function readLogprobs({ text, logprobs }) {
  const tokens = logprobs?.tokens ?? [];
  if (!tokens.length) return text ? [{ text, adds: text, logprob: null, top: [] }] : [];
  const isPlain = tokens.join("") === text;
  return tokens.map((token, index) => ({
    text: token,
    adds: isPlain ? token : index === tokens.length - 1 ? text : "",
    logprob: logprobs.token_logprobs?.[index] ?? null,
    top: Object.entries(logprobs.top_logprobs?.[index] ?? {})
      .map(([other, logprob]) => ({ text: other, logprob }))
      .sort((a, b) => b.logprob - a.logprob),
  }));
}

export class TokenView {
  /** `onChoose(token, alternative)`: another token is wanted in a place. */
  constructor(onChoose) {
    this.onChoose = onChoose;
    this.isEcho = false; // whether the prompt's tokens are among those shown
    this.tokens = [];
    this.row = h("div", { class: "tokens", role: "group", "aria-label": "Completion, token by token" });
    this.card = h("div", { class: "token-card", role: "dialog", "aria-label": "Token", hidden: true });
    this.element = h("div", { class: "token-view" }, this.row, this.card);
    this.row.addEventListener("pointerover", (event) => event.pointerType === "mouse" && this.#open(event.target));
    this.row.addEventListener("focusin", (event) => this.#open(event.target));
    this.row.addEventListener("click", (event) => this.#open(event.target));
    this.row.addEventListener("keydown", (event) => this.#onKey(event));
    this.element.addEventListener(
      "pointerleave",
      () => !this.element.contains(document.activeElement) && this.closeCard(),
    );
    this.element.addEventListener(
      "focusout",
      (event) => !this.element.contains(event.relatedTarget) && this.closeCard(),
    );
    this.card.addEventListener("keydown", (event) => this.#onCardKey(event));
  }

  get text() {
    return this.tokens.map(({ adds }) => adds).join("");
  }

  before(token) {
    return this.tokens.slice(0, this.tokens.indexOf(token));
  }

  /** exp of the mean negative log-probability; null when none is known. */
  perplexity() {
    const known = this.tokens.filter(({ logprob }) => logprob !== null);
    return known.length ? Math.exp(-known.reduce((sum, { logprob }) => sum + logprob, 0) / known.length) : null;
  }

  clear() {
    this.show([]);
  }

  show(tokens) {
    this.tokens = [];
    this.row.replaceChildren();
    this.closeCard();
    this.add(tokens);
  }

  add(tokens) {
    for (const token of tokens) {
      this.tokens.push(token);
      this.row.append(this.#mark(token));
    }
  }

  /** Whether it was open. */
  closeCard() {
    const wasOpen = !this.card.hidden;
    this.card.hidden = true;
    this.row.querySelector(".token.open")?.classList.remove("open");
    return wasOpen;
  }

  #mark(token) {
    const spoken = token.logprob === null ? visible(token.text) : `${visible(token.text)}, ${percent(token.logprob)}`;
    const isFirst = this.row.childNodes.length === 0;
    const mark = h(
      "span",
      {
        class: `token${token.isForced ? " forced" : ""}`,
        role: "button",
        tabindex: isFirst ? "0" : "-1",
        "aria-label": spoken,
      },
      token.text,
    );
    if (token.logprob !== null) mark.style.setProperty("--surprise", 1 - Math.exp(token.logprob));
    return mark;
  }

  #onKey(event) {
    const marks = [...this.row.children];
    const at = marks.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: marks.length - 1 }[event.key];
    if (to !== undefined && marks[to]) {
      event.preventDefault();
      marks[at].tabIndex = -1;
      marks[to].tabIndex = 0;
      marks[to].focus();
    } else if (["Enter", " ", "ArrowDown"].includes(event.key)) {
      event.preventDefault();
      this.card.querySelector("button")?.focus();
    }
  }

  #onCardKey(event) {
    const buttons = [...this.card.querySelectorAll("button")];
    const to = { ArrowDown: buttons.indexOf(event.target) + 1, ArrowUp: buttons.indexOf(event.target) - 1 }[event.key];
    if (buttons[to]) {
      event.preventDefault();
      buttons[to].focus();
    } else if (event.key === "Escape" || to === -1) {
      event.preventDefault();
      event.stopPropagation();
      this.row.querySelector(".token.open")?.focus();
    }
  }

  #open(mark) {
    const token = this.tokens[[...this.row.children].indexOf(mark)];
    if (!token || mark.classList.contains("open")) return;
    this.closeCard();
    mark.classList.add("open");
    const others = token.top.map((alternative) => this.#alternative(token, alternative));
    this.card.replaceChildren(
      h(
        "p",
        { class: "token-card-head" },
        h("code", {}, visible(token.text)),
        h("strong", {}, token.logprob === null ? "no probability" : percent(token.logprob)),
        token.logprob !== null && h("span", { class: "hint" }, `logprob ${token.logprob.toFixed(3)}`),
      ),
      ...(others.length ? [h("p", { class: "hint" }, "Choose another to go on from there"), h("ol", {}, others)] : []),
    );
    this.card.hidden = false;
    this.#place(mark);
  }

  #alternative(token, alternative) {
    const bar = h("i", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", Math.exp(alternative.logprob));
    const isSame = alternative.text === token.text;
    return h(
      "li",
      {},
      h(
        "button",
        {
          type: "button",
          class: isSame ? "same" : null,
          disabled: alternative.text.includes(PARTIAL),
          "aria-label": `${visible(alternative.text)}, ${percent(alternative.logprob)}${isSame ? ", chosen" : ""}`,
          onclick: () => this.onChoose(token, alternative),
        },
        h("code", {}, visible(alternative.text)),
        bar,
        h("span", {}, percent(alternative.logprob)),
      ),
    );
  }

  /** Below the token, inside the row's width. */
  #place(mark) {
    const [outer, inner] = [
      this.element.getBoundingClientRect(),
      mark.getClientRects()[0] ?? mark.getBoundingClientRect(),
    ];
    this.card.style.left = `${Math.max(0, Math.min(inner.left - outer.left, outer.width - this.card.offsetWidth))}px`;
    this.card.style.top = `${inner.bottom - outer.top + 2}px`;
  }
}

/** White space made visible. */
function visible(text) {
  return text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "∅";
}

function percent(logprob) {
  const share = Math.exp(logprob) * 100;
  return share >= 99.95
    ? "100 %"
    : share >= 1
      ? `${share.toFixed(1)} %`
      : share >= 0.01
        ? `${share.toFixed(2)} %`
        : "< 0.01 %";
}
