// Documents to ask about: read into text by the server, kept in this browser, shown as chips.

import { call } from "./api.js";
import { randomId } from "./conversation.js";
import { h } from "./element.js";
import { icon } from "./icon.js";
import { iconButton } from "./icon_button.js";
import { ensureModels } from "./model.js";
import { load, save } from "./storage.js";

const MAX_FILE_MIB = 32; // what the server takes; said here, before a large file is sent in vain
export const ACCEPTED =
  ".txt,.md,.markdown,.html,.htm,.pdf,.docx,.csv,.json,.log,.py,.js,.toml,.yaml,.yml,text/*,application/pdf";

/** The stored document a file was read into: {id, name, num_tokens, reach}. `currentModel()`: whose tokens are counted,
 * and who sees `reach` of a prompt; it is asked once the models are known. Raises Error. */
export async function readAttachment(file, currentModel, signal) {
  if (file.size > MAX_FILE_MIB * 2 ** 20)
    throw new Error(`${file.name} is larger than ${MAX_FILE_MIB} MiB; split it first`);
  await ensureModels();
  const form = new FormData();
  form.append("file", file);
  const model = currentModel();
  if (model) form.append("model", model);
  const { name, text, num_tokens, reach } = await call("api/documents/text", { method: "POST", body: form, signal });
  const id = randomId();
  await save("documents", { id, name, text, num_tokens, created: Date.now() });
  return { id, name, num_tokens, reach };
}

/** The text of a document, or null when its record is gone. */
export async function attachmentText(id) {
  return (await load("documents", id))?.text ?? null;
}

/** A chip for a document; `onRemove` adds a button that takes it away. `chip.show(document)` is for one that was being
 * read when it was made. */
export function attachmentChip({ name, num_tokens }, { onRemove = null, note = null, isReading = false } = {}) {
  const label = h("span", { class: "chip-name" });
  const size = h("span", { class: "chip-note" });
  const chip = h(
    "span",
    { class: `chip${isReading ? " reading" : ""}` },
    icon("file"),
    label,
    size,
    onRemove && iconButton("close", `Remove ${name}`, onRemove, { class: "quiet icon-only small" }),
  );
  const fill = (name, text) => {
    label.textContent = label.title = name;
    size.textContent = text ?? "";
    size.hidden = !text;
  };
  const sizeOf = (count) => (count ? `${count.toLocaleString()} tokens` : null);
  chip.show = (document) => {
    chip.classList.remove("reading");
    fill(document.name, sizeOf(document.num_tokens));
  };
  fill(name, isReading ? "reading…" : (note ?? sizeOf(num_tokens)));
  return chip;
}
