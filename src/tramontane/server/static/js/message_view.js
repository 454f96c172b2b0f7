// One message as it is shown: text, documents, thoughts, sources, what can be done with it.

import { attachmentChip } from "./attachment.js";
import { answerTo } from "./answer.js";
import { copyButton } from "./copy.js";
import { siblings } from "./conversation.js";
import { h } from "./element.js";
import { icon } from "./icon.js";
import { iconButton } from "./icon_button.js";
import { MarkdownView } from "./markdown_view.js";
import { refill } from "./redraw.js";

const SHOW_SECONDS_FROM = 3;
const FINISHES = {
  stopped: "Stopped",
  length: "Cut off at its length",
  model_length: "The model's context is full",
  error: "Broken off",
  too_long: "Not read",
  content_filter: "Withheld by a guardrail",
  edited: "Edited",
};

/** `actions`: {edit, regenerate, onward, choose, retry, shorten}, each called with the message (choose also with a
 * version). */
export class MessageView {
  constructor(conversation, message, actions) {
    this.conversation = conversation;
    this.message = message;
    this.actions = actions;
    this.markdown = message.role === "assistant" ? new MarkdownView() : null;
    this.body = h("div", { class: "message-body" });
    this.failure = h("div", {});
    this.foot = h("div", { class: "message-foot" });
    this.title = h("h2", { class: "visually-hidden", id: `message-${message.id}` });
    this.element = h(
      "article",
      {
        class: `message ${message.role}`,
        "data-id": message.id,
        "aria-labelledby": `message-${message.id}`,
      },
      this.title,
      this.body,
      this.foot,
    );
    this.update();
  }

  /** Draw what has changed. Another tab's change comes as other objects of the same ids. */
  update(conversation = this.conversation, message = this.message) {
    this.conversation = conversation;
    this.message = message;
    const answer = answerTo(message);
    this.element.setAttribute("aria-busy", String(answer !== null));
    // asked before the server had told what it serves, an answer learns its model's name later
    this.title.textContent = message.role === "user" ? "Your message" : `Answer by ${message.model || "the assistant"}`;
    if (message.role === "user") this.#showQuestion();
    else this.#showAnswer(answer);
    const versions = siblings(this.conversation, message).map(({ id }) => id);
    const { content, finish, task } = message;
    refill(this.foot, answer ? null : [versions, content !== "", finish, task?.kind, facts(message)], () =>
      answer ? [] : this.#tools(),
    );
  }

  #showQuestion() {
    const { documents, content } = this.message;
    refill(this.body, [documents, content], () =>
      [
        documents?.length > 0 &&
          h(
            "div",
            { class: "chips" },
            documents.map((document) => attachmentChip(document)),
          ),
        content && h("div", { class: "bubble" }, content),
      ].filter(Boolean),
    );
  }

  #showAnswer(answer) {
    const { message } = this;
    if (message.thinking) this.#showThinking(answer !== null && !message.content);
    this.markdown.update(message.content);
    if (this.markdown.element.parentNode !== this.body) this.body.append(this.markdown.element);
    this.body.querySelector(":scope > .waiting")?.remove();
    if (answer && !message.content) this.body.append(waiting(answer));
    this.element.classList.toggle("streaming", answer !== null && message.content !== "");
    if (message.passages && !this.body.querySelector(":scope > .sources")) this.body.append(sources(message.passages));
    const failure = answer ? null : (message.error ?? null);
    refill(this.failure, failure, () => (failure ? [this.#failure()] : []));
    if (!failure) this.failure.remove();
    else if (this.failure.parentNode !== this.body) this.body.append(this.failure);
  }

  #showThinking(isOpen) {
    let thoughts = this.body.querySelector(":scope > .thoughts");
    if (!thoughts) {
      thoughts = h("details", { class: "thoughts" }, h("summary", {}, "Thoughts"), h("div", {}));
      this.body.prepend(thoughts);
    }
    thoughts.querySelector("summary").textContent = isOpen ? "Thinking…" : "Thoughts";
    thoughts.lastChild.textContent = this.message.thinking;
  }

  #failure() {
    const { actions } = this;
    const { error, finish } = this.message;
    const isTooLong = finish === "too_long";
    return h(
      "div",
      { class: "failure", role: "alert" },
      icon("warning"),
      h("p", {}, error.message),
      isTooLong && h("button", { type: "button", onclick: () => actions.shorten(this.message) }, "Edit the message"),
      !wouldFailAgain(this.message) &&
        h("button", { type: "button", onclick: () => actions.retry(this.message) }, "Try again"),
    );
  }

  #tools() {
    const { message, actions } = this;
    const tool = (name, label, run) => iconButton(name, label, () => run(this.message));
    const isAnswer = message.role === "assistant";
    const canGoOn =
      isAnswer &&
      message.content &&
      ["stopped", "length", "model_length", "edited", "error"].includes(message.finish) &&
      ["chat", "continue"].includes(message.task?.kind);
    return [
      this.#versions(),
      message.content && copyButton(() => this.message.content, isAnswer ? "Copy answer" : "Copy message"),
      (message.content || !isAnswer) && tool("edit", isAnswer ? "Edit answer" : "Edit message", actions.edit),
      isAnswer && tool("again", "Regenerate", actions.regenerate),
      canGoOn && tool("onward", "Continue this answer", actions.onward),
      isAnswer && h("span", { class: "facts" }, facts(message)),
    ].filter(Boolean);
  }

  #versions() {
    const { message, conversation, actions } = this;
    const all = siblings(conversation, message);
    if (all.length < 2) return null;
    const at = all.indexOf(message);
    const look = (target) => ({ class: "quiet icon-only small", disabled: !target });
    const current = ({ id }) => this.conversation.messages.find((other) => other.id === id);
    const arrow = (name, label, target) =>
      iconButton(name, label, () => actions.choose(current(target), label), look(target));
    return h(
      "span",
      { class: "versions", role: "group", "aria-label": `Version ${at + 1} of ${all.length}` },
      arrow("left", "Previous version", all[at - 1]),
      h("span", {}, `${at + 1} / ${all.length}`),
      arrow("right", "Next version", all[at + 1]),
    );
  }
}

/** Whether the server refused what was asked, and not for want of a key or of time: the same would be refused again. */
function wouldFailAgain({ error: { status } }) {
  return status >= 400 && status < 500 && ![401, 408, 409, 429].includes(status);
}

/** Before the first word: what is being read, and for how long already. Long prompts take their time on small machines. */
function waiting({ progress, started }) {
  const seconds = h("span", { class: "seconds" });
  const tick = () => {
    const elapsed = Math.floor((performance.now() - started) / 1000);
    if (elapsed >= SHOW_SECONDS_FROM) seconds.textContent = `${elapsed} s`;
  };
  const timer = setInterval(() => (seconds.isConnected ? tick() : clearInterval(timer)), 1000);
  tick();
  if (!progress) {
    const dots = h("span", { class: "dots", "aria-hidden": "true" }, h("i"), h("i"), h("i"));
    return h(
      "p",
      { class: "waiting" },
      dots,
      h("span", { class: "visually-hidden" }, "Waiting for the answer"),
      seconds,
    );
  }
  const label = `Reading part ${Math.min(progress.done + 1, progress.total)} of ${progress.total}`;
  const bar = h("progress", { max: progress.total, value: progress.done, "aria-label": label });
  return h("p", { class: "waiting reading" }, h("span", {}, label, " ", seconds), bar);
}

function sources(passages) {
  return h(
    "details",
    { class: "sources" },
    h("summary", {}, `Answered from ${passages.length} passage${passages.length === 1 ? "" : "s"}`),
    h(
      "ol",
      {},
      passages.map(({ text, isCited }) => h("li", { class: isCited ? "cited" : null }, text)),
    ),
  );
}

/** Model, length and speed, and why the answer ended where it did not end by itself. */
function facts(message) {
  const { usage, durationMs, firstTokenMs } = message;
  const seconds = (durationMs - (firstTokenMs ?? 0)) / 1000;
  const speed =
    usage?.completion > 1 && seconds > 0.05 ? `${((usage.completion - 1) / seconds).toFixed(1)} tokens/s` : null;
  const end = message.finish === undefined ? "Interrupted" : FINISHES[message.finish];
  return [end, message.model, usage && `${usage.completion.toLocaleString()} tokens`, speed]
    .filter(Boolean)
    .join(" · ");
}
