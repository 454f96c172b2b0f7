// One answer on its way: from the server's stream into a message of a conversation. It goes on while another
// conversation is shown, and is saved as it grows, so that a closed page loses at most a second of it.

import { ApiError, callStream } from "./api.js";
import { charsOf, contextOf, firstAfterRefusal, firstTurn } from "./context.js";
import { path } from "./conversation.js";
import { library } from "./library.js";
import { defaultModel, ensureModels, findModel } from "./model.js";
import { requestFields } from "./parameter.js";
import { save } from "./storage.js";
import { textOfAll, turnsDownTo } from "./turn.js";

const SAVE_EVERY_MS = 1000;
const TOO_LONG = "context_length_exceeded"; // the server's code for a prompt that does not fit
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
      else {
        message.finish = error.code === TOO_LONG ? "too_long" : "error";
        message.error = { message: error.message, status: error.status ?? null };
      }
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
    return this.#converse(question);
  }

  /** Events of an answer in the conversation. Where it has outgrown the model's context, the oldest turns are left out:
   * the system prompt and the question stay. */
  async *#converse(question) {
    const { conversation, message } = this;
    const { model, task } = message;
    const branch = path(conversation, question);
    const turns = await turnsDownTo(conversation, question);
    const system = conversation.system?.trim() ? [{ role: "system", content: conversation.system }] : [];
    const begun = task.kind === "continue" ? [{ role: "assistant", content: task.text, prefix: true }] : [];
    let first = firstTurn(turns, {
      branch,
      charsBeside: charsOf([...system, ...begun]),
      context: contextOf(model),
      maxTokens: conversation.parameters.max_tokens,
      readsFrom: branch.findLast(({ readsFrom }) => readsFrom)?.readsFrom,
    });
    while (first !== null) {
      message.readsFrom = first > 0 ? turns[first].id : null;
      const messages = [...system, ...turns.slice(first).flatMap((turn) => turn.messages), ...begun];
      this.promptChars = charsOf(messages);
      const body = { model, messages, stream: true, ...requestFields(conversation.parameters) };
      try {
        return yield* callStream("v1/chat/completions", body, this.controller.signal);
      } catch (error) {
        if (error.code !== TOO_LONG) throw error;
        first = firstAfterRefusal(turns, first);
      }
    }
    message.readsFrom = null;
    throw new ApiError(refusal(this, system), 400, { code: TOO_LONG });
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
      if (data.usage) {
        const { prompt_tokens: prompt, completion_tokens: completion } = data.usage;
        const begun = message.task.text?.length ?? 0; // both in the prompt and in the answer
        const chars = this.promptChars + message.content.length - begun + (message.thinking?.length ?? 0);
        message.usage = { prompt, completion, chars };
      }
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

/** What to do about a single question that is longer than the model can read. */
function refusal({ message, conversation }, system) {
  const context = contextOf(message.model);
  const reads = context ? `${context.toLocaleString()} tokens (about ${wordsOf(context)} words)` : "less";
  const what =
    system.length && system[0].content.length > 500 ? "This message and the system prompt are" : "This message is";
  const limit = conversation.parameters.max_tokens ? ", or ask for fewer tokens in the settings" : "";
  return (
    `${what} too long for ${message.model}, which reads ${reads} at once, the answer included. ` +
    `Shorten the message${limit}; a long text can be attached as a file, which is read in parts.`
  );
}

function wordsOf(tokens) {
  return Number((tokens * 0.7).toPrecision(1)).toLocaleString();
}
