// The chat page: one conversation, its messages and the composer.

import { announce, Speaker } from "./announcer.js";
import { Answer, answerTo, runningIn } from "./answer.js";
import { Composer } from "./composer.js";
import { areTooLong, contextOf, tokensInUse } from "./context.js";
import { ContextMeter } from "./context_meter.js";
import { append, choose, newConversation, path } from "./conversation.js";
import { acceptFiles } from "./drop.js";
import { h } from "./element.js";
import { iconButton } from "./icon_button.js";
import { library } from "./library.js";
import { MessageEditor } from "./message_editor.js";
import { MessageList } from "./message_list.js";
import { defaultModel, findModel, modelSelect } from "./model.js";
import { showModelFacts } from "./model_facts.js";
import { preference, setPreference } from "./preferences.js";
import { SettingsPanel } from "./settings_panel.js";
import { Welcome } from "./welcome.js";

export class ChatPage {
  constructor() {
    this.conversation = null; // none until the first message is sent
    this.speaker = null;
    this.model = modelSelect({ class: "title-select" });
    this.model.addEventListener("change", () => this.#settingsChanged());
    this.settings = new SettingsPanel(() => this.#settingsChanged());
    this.meter = new ContextMeter();
    this.composer = new Composer({
      onSend: (input) => this.#send(input),
      onStop: () => this.stop(),
      onDraft: () => this.#measure(),
      currentModel: () => this.model.value,
      beside: this.meter.element,
    });
    this.welcome = new Welcome(this.composer);
    document.addEventListener("models-loaded", () => this.#showModel());
    this.messages = new MessageList(this.#actions, this.welcome.element);
    const toggle = iconButton("sliders", "Settings of this conversation", () => this.settings.toggle(toggle), {
      key: "s",
    });
    this.heading = h("h1", { class: "visually-hidden" });
    const about = iconButton("info", "About this model", () => showModelFacts(this.model.value));
    this.head = [this.heading, this.model, about, h("span", { class: "spring" }), toggle];
    const dock = h("div", { class: "composer-dock" }, this.messages.toEnd, this.composer.element);
    const column = h("div", { class: "chat-column" }, this.messages.element, dock);
    this.element = h("div", { class: "chat" }, column, this.settings.element);
    acceptFiles(this.element, (files) => this.composer.attach(files));
    library.onChange(
      (foreignId) => foreignId !== null && foreignId === this.conversation?.id && this.#adopt(foreignId),
    );
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
    this.draftSettings = {
      model: defaultModel(),
      system: preference("system"),
      parameters: { ...preference("parameters") },
    };
    const settings = conversation ?? this.draftSettings;
    this.model.choose(settings.model);
    this.settings.show(settings);
    this.composer.setDocuments(this.#pinned());
    this.messages.clear();
    this.#showMessages();
    this.messages.scrollToEnd();
    if (matchMedia("(hover: hover)").matches) this.composer.focus();
  }

  /** Another tab has changed the conversation that is shown: what is being written and pressed here stays. */
  #adopt(id) {
    this.conversation = library.get(id);
    if (!this.conversation) return this.show(id);
    this.model.choose(this.conversation.model);
    this.settings.show(this.conversation);
    this.#showMessages();
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
      "[": () => this.#turnVersion("Previous version"),
      "]": () => this.#turnVersion("Next version"),
      c: () => this.#press(this.messages.view(this.#last("assistant"))?.element, "Copy answer"),
      s: () => this.settings.toggle(),
      a: () => this.composer.chooseFiles(),
    };
  }

  /** Answers refused for want of a key, asked for again now that there is one. */
  retryRefused() {
    const last = this.conversation && path(this.conversation).at(-1);
    if (last?.error?.status === 401) this.#regenerate(last);
  }

  #last(role) {
    return this.conversation && path(this.conversation).findLast((message) => message.role === role);
  }

  #onLast(role, act) {
    const message = this.#last(role);
    if (message && !runningIn(this.conversation)) act(message);
  }

  #press(element, label) {
    element?.querySelector(`[aria-label="${label}"]`)?.click();
  }

  #turnVersion(label) {
    const arrows = this.messages.element.querySelectorAll(`[aria-label="${label}"]:not(:disabled)`);
    arrows[arrows.length - 1]?.click();
  }

  #settingsChanged() {
    const settings = this.conversation ?? this.draftSettings;
    settings.model = this.model.value || null;
    setPreference("model", settings.model);
    setPreference("parameters", { ...settings.parameters });
    if (this.conversation) library.put(this.conversation);
    else setPreference("system", settings.system);
    this.#showModel();
  }

  /** What depends on the model chosen. */
  #showModel() {
    const card = findModel(this.model.value);
    this.welcome.show(card);
    this.settings.showModel(card);
    this.#measure();
  }

  /** Show how full the model's context is, with what is being written. */
  #measure() {
    if (!this.composer) return; // which is being made
    this.meter.show(
      tokensInUse(this.conversation ?? this.draftSettings, this.composer.draft),
      contextOf(this.model.value),
    );
  }

  #send({ text, documents, task }) {
    this.draftSettings.model = this.model.value || null;
    if (!this.conversation) {
      this.conversation = newConversation(this.draftSettings);
      this.settings.show(this.conversation);
      history.replaceState(null, "", `#/chat/${this.conversation.id}`);
    }
    const { conversation } = this;
    const isLong = documents.length > 0 && areTooLong(documents, conversation, this.model.value);
    for (const document of documents) document.isLong = isLong;
    const content = text || (task === "summary" ? "Summarise this document." : "");
    const parent = path(conversation).at(-1)?.id ?? null;
    const question = append(conversation, parent, {
      role: "user",
      content,
      documents: documents.map((document) => ({ ...document })),
    });
    this.#answer(question, isLong ? { kind: task ?? "passages", documents: question.documents } : { kind: "chat" });
    this.composer.setDocuments(this.#pinned());
  }

  /** The long documents the conversation goes on about: later questions are answered from their passages too. */
  #pinned() {
    const documents = this.#last("user")?.documents ?? [];
    return documents.filter((document) => document.isLong).map((document) => ({ ...document }));
  }

  #answer(question, task) {
    const { conversation } = this;
    runningIn(conversation)?.stop(); // what is asked now takes its place
    const model = this.model.value;
    const message = append(conversation, question.id, { role: "assistant", content: "", model, task });
    const speaker = new Speaker();
    this.speaker = speaker;
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
    this.messages.scrollToEnd();
  }

  #answerGrew(conversation, message, speaker) {
    if (this.conversation !== conversation) return;
    const isFinished = answerTo(message) === null;
    this.messages.update(message);
    if (speaker === this.speaker) speaker.update(message.content, isFinished);
    if (isFinished) {
      this.composer.setBusy(runningIn(conversation) !== null);
      this.#measure();
    }
    if (message.finish === "stopped") announce("Stopped");
  }

  #showMessages() {
    this.heading.textContent = this.title;
    this.messages.show(this.conversation);
    this.composer.setBusy(this.conversation !== null && runningIn(this.conversation) !== null);
    this.#showModel();
  }

  get #actions() {
    return {
      edit: (message) => this.#edit(message),
      regenerate: (message) => this.#regenerate(message),
      retry: (message) => this.#regenerate(message),
      shorten: (message) => this.#edit(this.#parent(message)),
      onward: (message) => this.#answer(this.#parent(message), { kind: "continue", text: message.content }),
      choose: (message, label) => {
        choose(this.conversation, message);
        library.put(this.conversation);
        this.#showMessages();
        const arrows = this.messages.view(message).element.querySelectorAll(".versions button:not(:disabled)");
        [...arrows].sort((a) => (a.ariaLabel === label ? -1 : 1))[0]?.focus(); // for pressing it again
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

  #edit(message) {
    const view = this.messages.view(message);
    if (!view || view.element.classList.contains("editing")) return;
    const close = () => {
      editor.element.remove();
      view.element.classList.remove("editing");
      view.element.querySelector('[aria-label^="Edit"]')?.focus();
    };
    const editor = new MessageEditor(message, {
      onCancel: close,
      onSave: (text) => {
        close();
        if (message.role === "user") this.#resend(message, text);
        else if (text !== message.content) this.#rewrite(message, text);
      },
    });
    view.element.classList.add("editing");
    view.element.append(editor.element);
    editor.focus();
  }

  /** Ask again in other words, on a branch of its own. */
  #resend({ role, parent, documents }, content) {
    const question = append(this.conversation, parent, { role, content, documents });
    const long = (documents ?? []).filter((document) => document.isLong);
    this.#answer(question, long.length ? { kind: "passages", documents: long } : { kind: "chat" });
  }

  /** Put words into the model's mouth, on a branch of its own. */
  #rewrite({ role, parent, model }, content) {
    append(this.conversation, parent, { role, content, model, task: { kind: "chat" }, finish: "edited" });
    library.put(this.conversation);
    this.#showMessages();
  }
}
