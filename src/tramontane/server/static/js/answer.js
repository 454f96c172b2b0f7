// One answer on its way: from the server's stream into a message of a conversation. It goes on while another
// conversation is shown, and is saved as it grows, so that a closed page loses at most a second of it.

import { callStream } from "./api.js";
import { attachmentText } from "./attachment.js";
import { path } from "./conversation.js";
import { library } from "./library.js";
import { defaultModel, ensureModels, findModel } from "./model.js";
import { requestFields } from "./parameter.js";
import { save } from "./storage.js";

const SAVE_EVERY_MS = 1000;
const running = new Map(); // message id -> Answer

export function answerTo(message) {
  return running.get(message.id) ?? null;
}

export function runningIn(conversation) {
  return conversation.messages.map(answerTo).find(Boolean) ?? null;
}

export class Answer {
  /** `message`: the assistant's, still empty. Its `task` says how it comes about: {kind: "chat"}, {kind: "continue",
   * text}, or {kind: "summary" or "passages", documents} of documents too long for the model's context. `onChange`
   * hears of every growth. */
  constructor(conversation, message, onChange) {
    this.conversation = conversation;
    this.message = message;
    this.onChange = onChange;
    this.started = performance.now();
    this.progress = null; // {done, total} of a long document's parts
    this.controller = new AbortController();
    running.set(message.id, this);
    library.hold(conversation);
    this.done = this.#run();
  }

  stop() {
    this.controller.abort();
  }

  async #run() {
    const { conversation, message } = this;
    const { started } = this;
    let lastSave = started;
    try {
      const events = await this.#events();
      for await (const event of events) {
        this.#take(event);
        if (message.firstTokenMs === undefined && (message.content || message.thinking))
          message.firstTokenMs = performance.now() - started;
        this.onChange(this);
        if (performance.now() - lastSave > SAVE_EVERY_MS) {
          lastSave = performance.now();
          this.#save().catch(() => {}); // the last save, below, is the one that reports
        }
      }
      message.finish ??= "stop";
    } catch (error) {
      if (error.name === "AbortError") message.finish = "stopped";
      else [message.finish, message.error] = ["error", { message: error.message, status: error.status ?? null }];
    }
    message.durationMs = performance.now() - started;
    conversation.updated = Date.now();
    try {
      await this.#save();
    } catch (error) {
      message.error ??= { message: `The browser could not store this conversation: ${error.message}`, status: null };
    }
    running.delete(message.id); // not before it is stored: a page that shows it as finished may be closed
    library.release(conversation);
    this.onChange(this);
  }

  async #save() {
    if (library.get(this.conversation.id) === this.conversation) await save("conversations", this.conversation); // else it was deleted
  }

  async #events() {
    const { conversation, message } = this;
    const { task } = message;
    const { signal } = this.controller;
    if (!message.model) await this.#chooseModel(); // asked before the server had told what it serves
    const { model } = message;
    if (task.kind === "summary") {
      return callStream(
        "api/documents/summary",
        { model, text: await textOfAll(task.documents), stream: true },
        signal,
      );
    }
    const question = conversation.messages.find((other) => other.id === message.parent);
    if (task.kind === "passages") {
      return callStream(
        "api/documents/answer",
        { model, text: await textOfAll(task.documents), question: question.content, stream: true },
        signal,
      );
    }
    const messages = await requestMessages(conversation, question);
    if (task.kind === "continue") messages.push({ role: "assistant", content: task.text, prefix: true });
    return callStream(
      "v1/chat/completions",
      { model, messages, stream: true, ...requestFields(conversation.parameters) },
      signal,
    );
  }

  async #chooseModel() {
    await ensureModels();
    const model = defaultModel();
    if (model === null) throw new Error("The server serves no model");
    this.message.model = model;
    this.conversation.model ??= model;
  }

  #take({ event, data }) {
    const { message } = this;
    if (event === "progress") this.progress = data;
    else if (event === "result") {
      message.content = data.text;
      if (data.passages)
        message.passages = data.passages.map(({ text }, index) => ({ text, isCited: data.cited.includes(index + 1) }));
    } else {
      const choice = data.choices?.[0];
      if (choice) takeDelta(message, choice.delta ?? {});
      if (choice?.finish_reason) message.finish = choice.finish_reason;
      if (data.usage) message.usage = { prompt: data.usage.prompt_tokens, completion: data.usage.completion_tokens };
    }
  }
}

/** Content comes as text or as chunks; reasoning as chunks (Mistral) or as `reasoning_content` (OpenAI's relatives). */
function takeDelta(message, delta) {
  if (typeof delta.content === "string") message.content += delta.content;
  for (const chunk of Array.isArray(delta.content) ? delta.content : []) {
    if (chunk.type === "text") message.content += chunk.text;
    if (chunk.type === "thinking")
      message.thinking = (message.thinking ?? "") + chunk.thinking.map(({ text }) => text ?? "").join("");
  }
  if (typeof delta.reasoning_content === "string")
    message.thinking = (message.thinking ?? "") + delta.reasoning_content;
}

async function textOf(document) {
  const text = await attachmentText(document.id);
  if (text === null) throw new Error(`${document.name} is no longer stored in this browser; attach it again`);
  return text;
}

async function textOfAll(documents) {
  const texts = await Promise.all(documents.map(textOf));
  return texts.length === 1
    ? texts[0]
    : texts.map((text, index) => `# ${documents[index].name}\n\n${text}`).join("\n\n");
}

/** The messages of the branch down to `last`, as the server takes them. Documents go in front of what was asked about
 * them; those too long for the model were answered from their passages and are only named. */
async function requestMessages(conversation, last) {
  const messages = [];
  if (conversation.system?.trim()) messages.push({ role: "system", content: conversation.system });
  for (const message of path(conversation, last)) {
    if (message.role === "assistant") {
      if (message.content) messages.push({ role: "assistant", content: message.content });
      continue;
    }
    const parts = [];
    for (const document of message.documents ?? []) {
      parts.push(
        document.isLong ? `[Attached: ${document.name}]` : `Document "${document.name}":\n\n${await textOf(document)}`,
      );
    }
    const content = [...parts, message.content].filter(Boolean).join("\n\n---\n\n");
    // an answer that failed before its first word leaves two questions in a row, which chat templates refuse
    if (messages.at(-1)?.role === "user") messages.at(-1).content += `\n\n${content}`;
    else messages.push({ role: "user", content });
  }
  return messages;
}

/** Whether documents leave no room in the model's context for conversation and answer. */
export function areTooLong(documents, conversation, model) {
  const context = findModel(model)?.max_context_length ?? 4096;
  const answer = conversation.parameters.max_tokens ?? Math.min(1024, context / 4);
  const earlier =
    path(conversation).reduce((sum, message) => sum + message.content.length, conversation.system?.length ?? 0) / 3;
  return documents.reduce((sum, document) => sum + document.num_tokens, 0) + answer + earlier + 64 > context;
}
