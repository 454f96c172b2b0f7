// The chat page: one conversation, its messages and the composer.

import { announce, Speaker } from "./announcer.js";
import { Answer, answerTo, areTooLong, runningIn } from "./answer.js";
import { Composer } from "./composer.js";
import { append, choose, newConversation, path } from "./conversation.js";
import { h } from "./element.js";
import { icon } from "./icon.js";
import { library } from "./library.js";
import { MessageEditor } from "./message_editor.js";
import { MessageView } from "./message_view.js";
import { defaultModel, modelSelect } from "./model.js";
import { preference, setPreference } from "./preferences.js";
import { SettingsPanel } from "./settings_panel.js";

const STARTERS = [
  { icon: "file", text: "Summarise a document", run: (page) => page.composer.picker.click() },
  { icon: "edit", text: "Draft a short, friendly reply to an invitation I cannot accept" },
  { icon: "flask", text: "Explain how a wind like the tramontane comes about, for a curious twelve-year-old" },
  { icon: "list", text: "Write a Python function that finds duplicate files in a folder, with a test" },
];

export class ChatPage {
  constructor() {
    this.conversation = null;
    this.views = new Map(); // message id -> MessageView
    this.followsEnd = true;
    this.speaker = null;
    this.model = modelSelect({ class: "title-select" });
    this.model.addEventListener("change", () => this.#settingsChanged());
    this.settings = new SettingsPanel(() => this.#settingsChanged());
    this.list = h("div", { class: "messages", role: "log", "aria-live": "off", "aria-label": "Conversation" });
    this.scroller = h("div", { class: "scroller", tabindex: "-1" }, this.list);
    this.toEnd = h("button", { type: "button", class: "to-end icon-only", hidden: true, "aria-label": "Go to the latest message", title: "Latest message", onclick: () => this.#scrollToEnd(true) }, icon("down"));
    this.composer = new Composer({ onSend: (input) => this.#send(input), onStop: () => this.stop(), currentModel: () => this.model.value });
    const settingsButton = h("button", { type: "button", class: "quiet icon-only", "aria-label": "Settings of this conversation", title: "Settings of this conversation", onclick: () => this.settings.toggle(settingsButton) }, icon("sliders"));
    this.head = [this.model, h("span", { class: "spring" }), settingsButton];
    this.element = h(
      "div", { class: "chat" },
      h("div", { class: "chat-column" }, this.scroller, h("div", { class: "composer-dock" }, this.toEnd, this.composer.element)),
      this.settings.element,
    );
    this.scroller.addEventListener("scroll", () => this.#noteScroll(), { passive: true });
    this.#acceptDrops();
    library.onChange((foreignId) => foreignId !== null && foreignId === this.conversation?.id && this.show(foreignId));
  }

  get title() {
    return this.conversation?.title || "New chat";
  }

  /** Show a conversation, or an empty page for a new one. */
  show(id) {
    const conversation = id ? library.get(id) : null;
    if (id && !conversation) {
      location.hash = "#/chat";
      return;
    }
    this.conversation = conversation;
    this.draftSettings = { model: defaultModel(), system: preference("system"), parameters: { ...preference("parameters") } };
    const settings = conversation ?? this.draftSettings;
    this.model.choose(settings.model);
    this.settings.show(settings);
    this.composer.setDocuments(this.#pinned());
    this.list.replaceChildren();
    this.views.clear();
    this.#showMessages();
    this.followsEnd = true;
    this.#scrollToEnd(false);
    if (matchMedia("(hover: hover)").matches) this.composer.focus();
  }

  /** Stop the answer on its way; whether there was one. */
  stop() {
    const answer = this.conversation && runningIn(this.conversation);
    answer?.stop();
    return Boolean(answer);
  }

  /** What single keys do here. */
  get shortcuts() {
    return {
      r: () => this.#onLast("assistant", (message) => this.#regenerate(message)),
      e: () => this.#onLast("user", (message) => this.#edit(message)),
      "[": () => this.#turnVersion(-1),
      "]": () => this.#turnVersion(1),
      c: () => this.views.get(this.#last("assistant")?.id)?.element.querySelector('[aria-label="Copy answer"]')?.click(),
      s: () => this.settings.toggle(),
      a: () => this.composer.picker.click(),
    };
  }

  #last(role) {
    return this.conversation && path(this.conversation).findLast((message) => message.role === role);
  }

  #onLast(role, act) {
    const message = this.#last(role);
    if (message && !runningIn(this.conversation)) act(message);
  }

  #turnVersion(step) {
    const label = step < 0 ? "Previous version" : "Next version";
    [...this.list.querySelectorAll(`[aria-label="${label}"]`)].findLast((button) => !button.disabled)?.click();
  }

  #settingsChanged() {
    const settings = this.conversation ?? this.draftSettings;
    settings.model = this.model.value || null;
    setPreference("model", settings.model);
    setPreference("parameters", { ...settings.parameters });
    if (this.conversation) library.put(this.conversation);
    else setPreference("system", settings.system);
  }

  #send({ text, documents, task }) {
    this.draftSettings.model = this.model.value || null;
    if (!this.conversation) {
      this.conversation = newConversation(this.draftSettings);
      this.settings.show(this.conversation);
      history.replaceState(null, "", `#/chat/${this.conversation.id}`);
    }
    const { conversation } = this;
    const model = this.model.value;
    const isLong = documents.length > 0 && areTooLong(documents, conversation, model);
    for (const document of documents) document.isLong = isLong;
    const content = text || (task === "summary" ? "Summarise this document." : "");
    const parent = path(conversation).at(-1)?.id ?? null;
    const question = append(conversation, parent, { role: "user", content, documents: documents.map((document) => ({ ...document })) });
    this.#answer(question, isLong ? { kind: task ?? "passages", documents: question.documents } : { kind: "chat" });
    this.composer.setDocuments(this.#pinned());
  }

  /** The long documents the conversation goes on about: later questions are answered from their passages too. */
  #pinned() {
    if (!this.conversation) return [];
    const question = this.#last("user");
    return (question?.documents ?? []).filter((document) => document.isLong).map((document) => ({ ...document }));
  }

  #answer(question, task) {
    const { conversation } = this;
    const message = append(conversation, question.id, { role: "assistant", content: "", model: this.model.value, task });
    this.speaker = new Speaker();
    const speaker = this.speaker;
    library.put(conversation);
    let frame = null;
    new Answer(conversation, message, () => {
      frame ??= requestAnimationFrame(() => {
        frame = null;
        this.#answerGrew(conversation, message, speaker);
      });
    });
    announce("Answering");
    this.#showMessages();
    this.followsEnd = true;
    this.#scrollToEnd(false);
  }

  #answerGrew(conversation, message, speaker) {
    const isFinished = answerTo(message) === null;
    if (this.conversation !== conversation) return;
    this.views.get(message.id)?.update();
    if (speaker === this.speaker) speaker.update(message.content, isFinished);
    if (isFinished) {
      this.composer.setBusy(runningIn(conversation) !== null);
      if (message.finish === "stopped") announce("Stopped");
    }
    if (this.followsEnd) this.#scrollToEnd(false);
  }

  #showMessages() {
    const messages = this.conversation ? path(this.conversation) : [];
    const ids = new Set(messages.map(({ id }) => id));
    for (const [id, view] of this.views) {
      if (!ids.has(id)) {
        view.element.remove();
        this.views.delete(id);
      }
    }
    this.list.querySelector(":scope > .welcome")?.remove();
    for (const message of messages) {
      const known = this.views.get(message.id);
      if (known) known.update();
      else this.views.set(message.id, new MessageView(this.conversation, message, this.#actions));
      this.list.append(this.views.get(message.id).element); // moving an element keeps its state
    }
    if (!messages.length) this.list.append(this.#welcome());
    this.element.classList.toggle("empty", messages.length === 0);
    this.composer.setBusy(this.conversation !== null && runningIn(this.conversation) !== null);
  }

  get #actions() {
    return {
      edit: (message) => this.#edit(message),
      regenerate: (message) => this.#regenerate(message),
      retry: (message) => this.#regenerate(message),
      onward: (message) => this.#answer(this.#parent(message), { kind: "continue", text: message.content }),
      choose: (message) => {
        const isForward = this.conversation.messages.indexOf(message) > 0;
        choose(this.conversation, message);
        library.put(this.conversation);
        this.#showMessages();
        const arrows = this.views.get(message.id)?.element.querySelectorAll(".versions button:not(:disabled)");
        if (isForward) arrows?.[arrows.length - 1]?.focus();
        else arrows?.[0]?.focus();
      },
    };
  }

  #parent(message) {
    return this.conversation.messages.find(({ id }) => id === message.parent);
  }

  #regenerate(message) {
    if (runningIn(this.conversation)) return;
    const task = message.task?.kind === "continue" || !message.task ? { kind: "chat" } : message.task;
    this.#answer(this.#parent(message), task);
  }

  /** Answers refused for want of a key, asked for again now that there is one. */
  retryRefused() {
    const last = this.conversation && path(this.conversation).at(-1);
    if (last?.error?.status === 401) this.#regenerate(last);
  }

  #edit(message) {
    const view = this.views.get(message.id);
    if (!view || view.element.classList.contains("editing")) return;
    const editor = new MessageEditor(message, {
      onCancel: () => this.#closeEditor(view, editor),
      onSave: (text) => {
        this.#closeEditor(view, editor);
        if (text === message.content && message.role === "assistant") return;
        const { role, documents, model, task, usage } = message;
        if (role === "user") {
          const question = append(this.conversation, message.parent, { role, content: text, documents });
          const long = (documents ?? []).filter((document) => document.isLong);
          this.#answer(question, long.length ? { kind: "passages", documents: long } : { kind: "chat" });
        } else {
          append(this.conversation, message.parent, { role, content: text, model, task: task?.kind === "chat" ? task : { kind: "chat" }, usage, finish: "edited" });
          library.put(this.conversation);
          this.#showMessages();
        }
      },
    });
    view.element.classList.add("editing");
    view.element.append(editor.element);
    editor.focus();
  }

  #closeEditor(view, editor) {
    editor.element.remove();
    view.element.classList.remove("editing");
    view.element.querySelector('[aria-label^="Edit"]')?.focus();
  }

  #welcome() {
    return h(
      "div", { class: "welcome" },
      h("div", { class: "mark" }, icon("wind")), h("h1", {}, "What shall we look into?"),
      h("div", { class: "starters" }, STARTERS.map((starter) => h(
        "button", { type: "button", onclick: () => (starter.run ? starter.run(this) : (this.composer.setText(starter.text), this.composer.focus())) },
        icon(starter.icon), h("span", {}, starter.text)))),
    );
  }

  #noteScroll() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    this.followsEnd = scrollHeight - scrollTop - clientHeight < 48;
    this.toEnd.hidden = this.followsEnd;
  }

  #scrollToEnd(isSmooth) {
    const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.scroller.scrollTo({ top: this.scroller.scrollHeight, behavior: isSmooth && !isCalm ? "smooth" : "instant" });
    this.toEnd.hidden = true;
  }

  #acceptDrops() {
    const holdsFiles = (event) => [...event.dataTransfer.types].includes("Files");
    this.element.addEventListener("dragover", (event) => {
      if (!holdsFiles(event)) return;
      event.preventDefault();
      this.element.classList.add("dropping");
    });
    this.element.addEventListener("dragleave", (event) => {
      if (!this.element.contains(event.relatedTarget)) this.element.classList.remove("dropping");
    });
    this.element.addEventListener("drop", (event) => {
      this.element.classList.remove("dropping");
      if (!holdsFiles(event)) return;
      event.preventDefault();
      this.composer.attach([...event.dataTransfer.files]);
    });
  }
}
