// Where a message is written: text, attached documents, send and stop.

import { ACCEPTED, attachmentChip, readAttachment } from "./attachment.js";
import { announce } from "./announcer.js";
import { h } from "./element.js";
import { icon } from "./icon.js";
import { notify } from "./notice.js";

const MAX_FILES = 4;

export class Composer {
  /** `onSend({text, documents, task})`: task is "summary" or null; `onStop()`; `currentModel()`. */
  constructor({ onSend, onStop, currentModel }) {
    Object.assign(this, { onSend, onStop, currentModel });
    this.documents = [];
    this.reading = new Map(); // file -> AbortController
    this.isBusy = false;
    this.field = h("textarea", { rows: "1", placeholder: "Ask anything", "aria-label": "Message", enterkeyhint: "send", oninput: () => this.#grow() });
    this.picker = h("input", { type: "file", accept: ACCEPTED, multiple: true, hidden: true, tabindex: "-1", "aria-label": "Files to attach" });
    this.picker.addEventListener("change", () => {
      this.attach([...this.picker.files]);
      this.picker.value = "";
    });
    this.chips = h("div", { class: "chips" });
    const attach = h("button", { type: "button", class: "quiet icon-only", "aria-label": "Attach a document", title: "Attach a document", onclick: () => this.picker.click() }, icon("attach"));
    this.summarize = h("button", { type: "button", class: "soft", hidden: true, onclick: () => this.#send("summary") }, icon("list"), "Summarise");
    this.submit = h("button", { type: "submit", class: "send icon-only", "aria-label": "Send", title: "Send (Enter)" }, icon("send"));
    this.element = h(
      "form", { class: "composer", "aria-label": "Write a message" },
      this.chips, this.field, h("div", { class: "composer-row" }, attach, this.picker, this.summarize, h("span", { class: "spring" }), this.submit),
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
    this.documents = documents;
    this.#show();
  }

  /** Read files into documents, each shown as a chip meanwhile. */
  async attach(files) {
    const room = MAX_FILES - this.documents.length - this.reading.size;
    if (files.length > room) notify(`At most ${MAX_FILES} documents go with one message.`, { kind: "error" });
    await Promise.all(files.slice(0, room).map((file) => this.#read(file)));
    this.field.focus();
  }

  async #read(file) {
    const controller = new AbortController();
    this.reading.set(file, controller);
    this.#show();
    try {
      const document = await readAttachment(file, this.currentModel(), controller.signal);
      this.documents.push(document);
      announce(`${document.name} attached`);
    } catch (error) {
      if (error.name !== "AbortError" && error.status !== 401) notify(error.message, { kind: "error" });
    }
    this.reading.delete(file);
    this.#show();
  }

  #onKey(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    if (matchMedia("(hover: none)").matches && !event.ctrlKey && !event.metaKey) return; // on phones Enter is a new line
    event.preventDefault();
    if (!this.isBusy) this.#send(null);
  }

  #send(task) {
    const text = this.field.value.trim();
    if (this.isBusy || this.reading.size || (!text && !this.documents.length)) return;
    const documents = this.documents;
    this.documents = [];
    this.setText("");
    this.#show();
    this.onSend({ text, documents, task: text || task ? task : "summary" });
  }

  #show() {
    const remove = (document) => () => {
      this.documents = this.documents.filter((other) => other !== document);
      this.#show();
      this.field.focus();
    };
    this.chips.replaceChildren(
      ...this.documents.map((document) => attachmentChip(document, { onRemove: remove(document), note: document.isLong ? "asking about this" : null })),
      ...[...this.reading].map(([file, controller]) => attachmentChip({ name: file.name }, { isReading: true, onRemove: () => controller.abort() })),
    );
    this.summarize.hidden = this.documents.length === 0;
    this.#grow();
  }

  #grow() {
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight, 240)}px`;
    const canSend = this.isBusy || ((this.field.value.trim() !== "" || this.documents.length > 0) && this.reading.size === 0);
    this.submit.disabled = !canSend;
  }
}
