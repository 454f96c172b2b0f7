// Turns: a question and what was answered to it, as the server takes them. The oldest go first where not all fit.

import { attachmentText } from "./attachment.js";
import { path } from "./conversation.js";

/** The branch down to `last` as [{id, messages}], oldest first; `id` is that of the question the turn begins with.
 * Documents go in front of what was asked about them; those too long for the model were answered from their passages
 * and are only named. Raises Error where a document is no longer stored. */
export async function turnsDownTo(conversation, last) {
  const branch = path(conversation, last);
  const turns = [];
  for (const [at, message] of branch.entries()) {
    if (message.role === "assistant") {
      if (message.content) turns.at(-1)?.messages.push({ role: "assistant", content: message.content });
      continue;
    }
    if (wasTooLong(branch, at)) continue;
    const content = await contentOf(message);
    const before = turns.at(-1)?.messages.at(-1);
    // an answer that failed before its first word leaves two questions in a row, which chat templates refuse
    if (before?.role === "user") before.content += `\n\n${content}`;
    else turns.push({ id: message.id, messages: [{ role: "user", content }] });
  }
  return turns;
}

/** Whether the question at `at` of a branch was refused for its length: it would be refused again. */
export function wasTooLong(branch, at) {
  return branch[at + 1]?.finish === "too_long";
}

async function contentOf(question) {
  const parts = [];
  for (const document of question.documents ?? []) {
    parts.push(
      document.isLong ? `[Attached: ${document.name}]` : `Document "${document.name}":\n\n${await textOf(document)}`,
    );
  }
  return [...parts, question.content].filter(Boolean).join("\n\n---\n\n");
}

async function textOf(document) {
  const text = await attachmentText(document.id);
  if (text === null) throw new Error(`${document.name} is no longer stored in this browser; attach it again`);
  return text;
}

/** The texts of several documents as one. Raises Error where one is no longer stored. */
export async function textOfAll(documents) {
  const texts = await Promise.all(documents.map(textOf));
  return texts.length === 1
    ? texts[0]
    : texts.map((text, index) => `# ${documents[index].name}\n\n${text}`).join("\n\n");
}
