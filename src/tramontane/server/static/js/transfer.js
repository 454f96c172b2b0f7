// Conversations out of the browser and back: JSON holds everything, Markdown the branch being read.

import { path, randomId } from "./conversation.js";
import { h } from "./element.js";
import { documentIds } from "./library.js";
import { load, save } from "./storage.js";

const FORMAT = "tramontane.conversations";
const VERSION = 1;

/** A JSON file of conversations and the texts of their documents. */
export async function exportJson(conversations, name) {
  const ids = [...new Set(conversations.flatMap(documentIds))];
  const documents = (await Promise.all(ids.map((id) => load("documents", id)))).filter(Boolean);
  const text = JSON.stringify({ format: FORMAT, version: VERSION, conversations, documents }, null, 2);
  download(text, `${fileName(name)}.json`, "application/json");
}

export function exportMarkdown(conversation) {
  const parts = [`# ${conversation.title || "Conversation"}`];
  if (conversation.system?.trim()) parts.push(`**System**\n\n${conversation.system.trim()}`);
  for (const message of path(conversation)) {
    const documents = (message.documents ?? []).map(({ name }) => `*Attached: ${name}*`);
    const who = message.role === "user" ? "You" : (message.model ?? "Assistant");
    parts.push([`**${who}**`, ...documents, message.content].filter(Boolean).join("\n\n"));
  }
  download(`${parts.join("\n\n---\n\n")}\n`, `${fileName(conversation.title)}.md`, "text/markdown");
}

/** The conversations of an exported file, stored under new ids beside what is there. Raises Error with a sentence. */
export async function importJson(file) {
  let data;
  try {
    data = JSON.parse(await file.text());
  } catch {
    throw new Error(`${file.name} is not JSON; choose a file that was exported here`);
  }
  if (data?.format !== FORMAT || !Array.isArray(data.conversations))
    throw new Error(`${file.name} holds no conversations exported from here`);
  if (data.version !== VERSION)
    throw new Error(`${file.name} is of version ${data.version}; this page reads version ${VERSION}`);
  const newIds = new Map();
  for (const document of Array.isArray(data.documents) ? data.documents : []) {
    const id = randomId();
    newIds.set(document?.id, id);
    await save("documents", {
      id,
      name: text(document?.name),
      text: text(document?.text),
      num_tokens: number(document?.num_tokens),
      created: Date.now(),
    });
  }
  const conversations = data.conversations.map((conversation) => checkedConversation(conversation, newIds));
  for (const conversation of conversations) await save("conversations", conversation);
  return conversations;
}

/** A conversation rebuilt field by field: a file from elsewhere decides nothing but texts, numbers and the tree. */
function checkedConversation(data, documentIds) {
  const ids = new Map();
  const messages = [];
  for (const message of Array.isArray(data?.messages) ? data.messages : []) {
    if (!["user", "assistant"].includes(message?.role)) continue;
    if (message.parent !== null && !ids.has(message.parent)) continue; // parents come first; orphans could never be shown
    const id = randomId();
    ids.set(message.id, id);
    messages.push(checkedMessage(message, id, ids.get(message.parent) ?? null, documentIds));
  }
  const chosen = {};
  for (const [parent, child] of Object.entries(data?.chosen ?? {})) {
    if (ids.has(child)) chosen[parent === "root" ? "root" : ids.get(parent)] = ids.get(child);
  }
  const parameters = Object.fromEntries(
    Object.entries(data?.parameters ?? {}).filter(([name, value]) => typeof value === "number" || name === "stop"),
  );
  return {
    id: randomId(),
    title: text(data?.title),
    isNamed: Boolean(data?.isNamed),
    created: number(data?.created),
    updated: number(data?.updated),
    model: text(data?.model) || null,
    system: text(data?.system),
    parameters,
    messages,
    chosen,
  };
}

function checkedMessage(message, id, parent, newIds) {
  const documents = checkedDocuments(message, newIds);
  const checked = { id, parent, role: message.role, created: number(message.created), content: text(message.content) };
  if (documents.length) checked.documents = documents;
  if (message.role === "user") return checked;
  const kind = ["chat", "summary", "passages"].includes(message.task?.kind) ? message.task.kind : "chat";
  const task = kind === "chat" ? { kind } : { kind, documents: checkedDocuments(message.task, newIds) };
  const usage =
    message.usage &&
    Object.fromEntries(["prompt", "completion", "chars"].map((name) => [name, number(message.usage[name])]));
  const passages =
    Array.isArray(message.passages) &&
    message.passages.map((passage) => ({ text: text(passage?.text), isCited: Boolean(passage?.isCited) }));
  return Object.assign(
    checked,
    { model: text(message.model), task, finish: text(message.finish) || "stop" },
    message.thinking && { thinking: text(message.thinking) },
    usage && { usage, durationMs: number(message.durationMs) },
    passages && { passages },
  );
}

function checkedDocuments({ documents }, newIds) {
  return (Array.isArray(documents) ? documents : []).map((document) => ({
    id: newIds.get(document?.id) ?? randomId(),
    name: text(document?.name),
    num_tokens: number(document?.num_tokens),
    isLong: Boolean(document?.isLong),
  }));
}

function text(value) {
  return typeof value === "string" ? value : "";
}

function number(value) {
  return Number.isFinite(value) ? value : 0;
}

function fileName(title) {
  return (
    (title || "conversation")
      .replace(/[^\p{L}\p{N} ._-]+/gu, "")
      .trim()
      .slice(0, 60) || "conversation"
  );
}

function download(content, name, type) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
