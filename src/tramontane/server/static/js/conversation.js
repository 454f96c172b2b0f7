// A conversation is a tree of messages. Editing or regenerating adds a sibling; `chosen` says which branch is read.
// Plain data throughout, so that it can be stored, exported and imported as it is.

const ROOT = "root";

export function newConversation(settings) {
  const now = Date.now();
  return {
    id: crypto.randomUUID?.() ?? randomId(), // randomUUID is absent on plain http away from this machine
    title: "",
    isNamed: false,
    created: now,
    updated: now,
    ...structuredClone(settings), // model, system, parameters
    messages: [],
    chosen: {},
  };
}

export function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Add a message below `parent` (null for the first) and read on through it. */
export function append(conversation, parent, message) {
  const added = { id: randomId(), parent, created: Date.now(), ...message };
  conversation.messages.push(added);
  choose(conversation, added);
  if (!conversation.isNamed && message.role === "user" && parent === null) conversation.title = titleOf(message);
  conversation.updated = added.created;
  return added;
}

/** Read the branch that goes through `message`. */
export function choose(conversation, message) {
  conversation.chosen[message.parent ?? ROOT] = message.id;
}

/** All versions of a message, oldest first, itself included. */
export function siblings(conversation, message) {
  return conversation.messages.filter((other) => other.parent === message.parent);
}

/** The messages of the branch being read, or those up to and including `last`. */
export function path(conversation, last = null) {
  const byId = new Map(conversation.messages.map((message) => [message.id, message]));
  const messages = [];
  if (last !== null) {
    for (let message = last; message; message = byId.get(message.parent)) messages.unshift(message);
    return messages;
  }
  for (let at = ROOT; ;) {
    const message = byId.get(conversation.chosen[at]);
    if (!message) return messages;
    messages.push(message);
    at = message.id;
  }
}

/** What a title can be read from: the first line of the question, else the name of the first document. */
function titleOf(message) {
  const line = message.content.trim().split("\n")[0] || message.documents?.[0]?.name || "Untitled";
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line;
}

const SNIPPET_BEFORE = 24; // characters of a snippet in front of what was found
const SNIPPET = 120;

/** The words around the first place in the messages where a word of `query` is; null where none is. */
export function snippet(conversation, query) {
  for (const word of wordsOf(query)) {
    for (const { content } of conversation.messages) {
      const at = content.toLocaleLowerCase().indexOf(word);
      if (at === -1) continue;
      const start = at < SNIPPET_BEFORE ? 0 : Math.max(0, content.lastIndexOf(" ", at - SNIPPET_BEFORE) + 1, at - 48);
      return `${start > 0 ? "…" : ""}${content.slice(start, start + SNIPPET).replace(/\s+/g, " ")}`;
    }
  }
  return null;
}

function wordsOf(query) {
  return query.toLocaleLowerCase().split(/\s+/).filter(Boolean);
}

/** Whether all words of `query` are in the title or the messages. */
export function matches(conversation, query) {
  const words = wordsOf(query);
  if (!words.length) return true;
  const text = [conversation.title, ...conversation.messages.map((message) => message.content)]
    .join("\n")
    .toLocaleLowerCase();
  return words.every((word) => text.includes(word));
}
