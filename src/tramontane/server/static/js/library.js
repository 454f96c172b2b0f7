// All conversations, in memory and in storage; listeners hear of every change.

import { load, loadAll, loadIds, onOtherTab, openStorage, remove, save } from "./storage.js";
import { notify } from "./notice.js";

const DAY_MS = 86_400_000;
const conversations = new Map();
const growing = new Set(); // ids of conversations that this page is adding to: its copy is the one that counts
const listeners = new Set(); // called with the id of a conversation that another tab changed, else null

export const library = {
  /** Read everything from storage; false when nothing will outlast this page. */
  async open() {
    const isLasting = await openStorage();
    for (const conversation of await loadAll("conversations")) conversations.set(conversation.id, conversation);
    onOtherTab(async ({ kind, id }) => {
      if (kind !== "conversations" || growing.has(id)) return;
      const stored = await load(kind, id);
      if (stored) conversations.set(id, stored);
      else conversations.delete(id);
      tell(id);
    });
    removeUnsent().catch(() => {}); // tried again at the next start
    return isLasting;
  },

  get: (id) => conversations.get(id) ?? null,

  /** Newest first. */
  all: () => [...conversations.values()].sort((a, b) => b.updated - a.updated),

  put(conversation) {
    conversations.set(conversation.id, conversation);
    save("conversations", conversation).catch((error) =>
      notify(`The browser could not store this conversation: ${error.message}`, { kind: "error" }),
    );
    tell();
  },

  /** Between these two an answer is growing in a conversation. */
  hold: ({ id }) => growing.add(id),

  release(conversation) {
    growing.delete(conversation.id);
    tell();
  },

  async delete(conversation) {
    conversations.delete(conversation.id);
    tell();
    await remove("conversations", conversation.id);
    const kept = new Set([...conversations.values()].flatMap(documentIds));
    for (const id of documentIds(conversation)) if (!kept.has(id)) await remove("documents", id);
  },

  onChange: (listener) => listeners.add(listener),
};

/** Documents that were attached yesterday or before and never sent. Younger ones may be in the composer of another tab. */
async function removeUnsent() {
  const sent = new Set([...conversations.values()].flatMap(documentIds));
  for (const id of (await loadIds("documents")).filter((id) => !sent.has(id))) {
    const { created = 0 } = await load("documents", id);
    if (created < Date.now() - DAY_MS) await remove("documents", id);
  }
}

export function documentIds(conversation) {
  return conversation.messages.flatMap((message) => (message.documents ?? []).map(({ id }) => id));
}

function tell(foreignId = null) {
  for (const listener of listeners) listener(foreignId);
}
