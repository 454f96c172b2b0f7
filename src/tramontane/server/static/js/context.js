// How much of a model's context a conversation takes, and which of its turns still fit. The server alone counts tokens;
// here they are estimated from characters, at the rate its last count shows, and its refusal has the last word.

import { path } from "./conversation.js";
import { findModel } from "./model.js";
import { wasTooLong } from "./turn.js";

const TOKENS_PER_CHAR = 1 / 3; // before anything was counted: more than most texts have
const MESSAGE_CHARS = 12; // what a message costs beside its text, in characters
const ANSWER_TOKENS = 1024; // room for an answer whose length nothing limits; never more than ANSWER_SHARE
const ANSWER_SHARE = 1 / 4;
const KEPT_SHARE = 3 / 4; // what turns may take once some had to go: the next answers then need no further ones to go,
// their prompts begin alike, and the server finds them in its cache
const DROPPED_SHARE = 1 / 8; // what goes at least after a refusal

/** Tokens that a model reads at once, its answer included; null where the server has not told. */
export function contextOf(model) {
  return findModel(model)?.max_context_length || null;
}

/** Characters of messages as they are sent, with those that stand for their frames. */
export function charsOf(messages) {
  return messages.reduce((sum, { content }) => sum + content.length + MESSAGE_CHARS, 0);
}

/** The last answer of a branch whose prompt the server counted as part of this conversation, and not as parts of a
 * document. */
function lastCounted(branch) {
  return branch.findLast(({ usage }) => usage?.chars);
}

/** Tokens of a character, by the last count in a branch. */
export function tokensPerChar(branch) {
  const counted = lastCounted(branch);
  return counted ? (counted.usage.prompt + counted.usage.completion) / counted.usage.chars : TOKENS_PER_CHAR;
}

/** Tokens that the next request will have: counted where an answer tells, the rest estimated. `conversation` may be the
 * settings of one that has not begun; `draft`: {chars, tokens} of what is being written and of the documents beside it. */
export function tokensInUse(conversation, draft) {
  const branch = conversation.messages ? path(conversation) : [];
  const rate = tokensPerChar(branch);
  const counted = lastCounted(branch);
  const since = branch.indexOf(counted) + 1;
  const uncounted = branch.filter((_, at) => at >= since && !wasTooLong(branch, at));
  const documents = uncounted.flatMap((message) => message.documents ?? []).filter(({ isLong }) => !isLong);
  const system = counted || !conversation.system ? 0 : charsOf([{ content: conversation.system }]) * rate;
  const known = counted ? counted.usage.prompt + counted.usage.completion : system;
  const attached = documents.reduce((sum, { num_tokens }) => sum + (num_tokens ?? 0), draft.tokens);
  return Math.round(known + attached + (charsOf(uncounted) + draft.chars) * rate);
}

/** Tokens of the context that are to be left for an answer. */
export function answerRoom(context, maxTokens = ANSWER_TOKENS) {
  return Math.min(maxTokens, context * ANSWER_SHARE);
}

/** Index of the first of `turns` to send. `charsBeside`: of what goes along whatever happens; `readsFrom`: id of the turn
 * that the answer before began to read at, where it did not read all. */
export function firstTurn(turns, { branch, charsBeside, context, maxTokens, readsFrom }) {
  if (context === null) return 0;
  const limit = context - answerRoom(context, maxTokens);
  const rate = tokensPerChar(branch);
  const tokensFrom = (first) => (charsBeside + charsFrom(turns, first)) * rate;
  if (tokensFrom(0) <= limit) return 0;
  const before = turns.findIndex(({ id }) => id === readsFrom);
  let first = Math.max(0, before);
  if (tokensFrom(first) <= limit) return first;
  while (first < turns.length - 1 && tokensFrom(first) > limit * KEPT_SHARE) first += 1;
  return first;
}

/** The first turn to try after those from `first` on were refused as too long; null where only one was left. */
export function firstAfterRefusal(turns, first) {
  if (first >= turns.length - 1) return null;
  const enough = charsFrom(turns, first) * (1 - DROPPED_SHARE);
  let next = first + 1;
  while (next < turns.length - 1 && charsFrom(turns, next) > enough) next += 1;
  return next;
}

function charsFrom(turns, first) {
  return charsOf(turns.slice(first).flatMap(({ messages }) => messages));
}

/** Whether documents leave no room in what the model sees for an answer: they are then read in parts. A model with
 * sliding windows sees less than its context (`reach`). */
export function areTooLong(documents, conversation, model) {
  const context = contextOf(model) ?? 4096;
  const seen = Math.min(context, ...documents.map(({ reach }) => reach ?? context));
  const system = (conversation.system?.length ?? 0) * TOKENS_PER_CHAR;
  const tokens = documents.reduce((sum, { num_tokens }) => sum + num_tokens, system);
  return tokens + answerRoom(seen, conversation.parameters.max_tokens) + 64 > seen;
}
