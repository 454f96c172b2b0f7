// Where a message is written: text, attached documents, send and stop.

import { ACCEPTED, attachmentChip, readAttachment } from "./attachment.js";
import { announce } from "./announcer.js";
import { h } from "./element.js";
import { icon } from "./icon.js";
import { iconButton } from "./icon_button.js";
import { notify } from "./notice.js";
import { arrange } from "./redraw.js";

const MAX_FILES = 4;

export class Composer {
  /** `onSend({text, documents, task})`: task is "summary" or null; `onStop()`; `onDraft()` hears of every change;
   * `currentModel()`; `beside`: an element for the row of buttons. */
  constructor({ onSend, onStop, onDraft, currentModel, beside }) {
    Object.assign(this, { onSend, onStop, onDraft, currentModel });
    this.attachments = []; // in the order chosen: {name, document, chip}; document is null while it is being read
    this.isBusy = false;
    this.field = h("textarea", {
      rows: "1",
      placeholder: "Ask anything",
      "aria-label": "Message",
      enterkeyhint: "send",
      oninput: () => this.#grow(),
    });
    this.picker = h("input", {
      type: "file",
      accept: ACCEPTED,
      multiple: true,
      hidden: true,
      tabindex: "-1",
      "aria-label": "Files to attach",
    });
    this.picker.addEventListener("change", () => {
      this.attach([...this.picker.files]);
      this.picker.value = "";
    });
    this.chips = h("div", { class: "chips" });
    const attach = iconButton("attach", "Attach a document", () => this.chooseFiles(), { key: "a" });
    this.summarize = h(
      "button",
      { type: "button", class: "soft", hidden: true, onclick: () => this.#send("summary") },
      icon("list"),
      "Summarise",
    );
    this.submit = h(
      "button",
      { type: "submit", class: "send icon-only", "aria-label": "Send", title: "Send (Enter)" },
      icon("send"),
    );
    this.element = h(
      "form",
      { class: "composer", "aria-label": "Write a message" },
      this.chips,
      this.field,
      h(
        "div",
        { class: "composer-row" },
        attach,
        this.picker,
        this.summarize,
        h("span", { class: "spring" }),
        beside,
        this.submit,
      ),
    );
    this.field.addEventListener("keydown", (event) => this.#onKey(event));
    this.field.addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files];
      if (!files.length) return;
      event.preventDefault();
      this.attach(files);
    });
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.isBusy) this.onStop();
      else this.#send(null);
    });
    this.#show();
  }

  focus() {
    this.field.focus();
  }

  /** What is being written, as {chars, tokens}: of the text, and of documents that would go with it whole. */
  get draft() {
    const whole = this.attachments.filter(({ document }) => document && !document.isLong);
    const tokens = whole.reduce((sum, { document }) => sum + (document.num_tokens ?? 0), 0);
    return { chars: this.field.value.length, tokens };
  }

  chooseFiles() {
    this.picker.click();
  }

  setText(text) {
    this.field.value = text;
    this.#grow();
  }

  setBusy(isBusy) {
    if (this.isBusy === isBusy) return;
    this.isBusy = isBusy;
    const label = isBusy ? "Stop" : "Send";
    this.submit.replaceChildren(icon(isBusy ? "stop" : "send"));
    this.submit.setAttribute("aria-label", label);
    this.submit.title = `${label} (${isBusy ? "Esc" : "Enter"})`;
    this.#show();
  }

  setDocuments(documents) {
    this.attachments = documents.map((document) => this.#attachment({ name: document.name, document }));
    this.#show();
  }

  /** Read files into documents, each shown as a chip meanwhile. */
  async attach(files) {
    const room = MAX_FILES - this.attachments.length;
    if (files.length > room) notify(`At most ${MAX_FILES} documents go with one message.`, { kind: "error" });
    await Promise.all(files.slice(0, room).map((file) => this.#read(file)));
    this.field.focus();
  }

  async #read(file) {
    const attachment = this.#attachment({ name: file.name, document: null, controller: new AbortController() });
    this.attachments.push(attachment);
    this.#show();
    try {
      attachment.document = await readAttachment(file, this.currentModel, attachment.controller.signal);
      attachment.chip.show(attachment.document);
      announce(`${file.name} attached`);
      this.#show();
    } catch (error) {
      if (error.name !== "AbortError" && error.status !== 401) notify(error.message, { kind: "error" });
      this.#remove(attachment);
    }
  }

  #onKey(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    if (matchMedia("(hover: none)").matches && !event.ctrlKey && !event.metaKey) return; // on phones Enter is a new line
    event.preventDefault();
    if (!this.isBusy) this.#send(null);
  }

  #send(task) {
    const text = this.field.value.trim();
    if (!this.#canSend) return;
    const documents = this.attachments.map(({ document }) => document);
    this.attachments = [];
    this.setText("");
    this.#show();
    this.onSend({ text, documents, task: text || task ? task : "summary" });
  }

  get #canSend() {
    const isRead = this.attachments.every(({ document }) => document !== null);
    return !this.isBusy && isRead && (this.field.value.trim() !== "" || this.attachments.length > 0);
  }

  /** An entry of `attachments` with its chip. */
  #attachment(fields) {
    const attachment = { ...fields };
    const note = fields.document?.isLong ? "asking about this" : null;
    const look = { isReading: fields.document === null, note, onRemove: () => this.#remove(attachment) };
    attachment.chip = attachmentChip(fields.document ?? fields, look);
    return attachment;
  }

  #remove(attachment) {
    attachment.controller?.abort();
    this.attachments = this.attachments.filter((other) => other !== attachment);
    this.#show();
    this.field.focus();
  }

  #show() {
    arrange(
      this.chips,
      this.attachments.map(({ chip }) => chip),
    );
    this.summarize.hidden = this.attachments.length === 0;
    this.#grow();
  }

  #grow() {
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight, 240)}px`;
    this.submit.disabled = !this.isBusy && !this.#canSend;
    this.onDraft();
  }
}
