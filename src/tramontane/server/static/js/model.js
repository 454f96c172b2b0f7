// The models this server offers.

import { call } from "./api.js";
import { h } from "./element.js";
import { preference } from "./preferences.js";

let cards = [];

/** Ask the server anew. Raises ApiError. */
export async function loadModels() {
  const { data } = await call("v1/models");
  cards = Array.isArray(data) ? data.filter((card) => typeof card?.id === "string") : [];
  document.dispatchEvent(new CustomEvent("models-loaded"));
}

/** Ask the server if it has not told yet. Raises ApiError. */
export async function ensureModels() {
  if (!cards.length) await loadModels();
}

export function findModel(id) {
  return cards.find((card) => card.id === id) ?? null;
}

/** Those that fine-tuning can start from, by their own names. */
export function tunableModels() {
  return cards.filter(({ id, name, capabilities }) => capabilities?.fine_tuning && id === name);
}

/** The model to begin with: the one used last where it is still served, else the first that can chat. */
export function defaultModel() {
  const last = findModel(preference("model"));
  return (last ?? cards.find((card) => card.capabilities?.completion_chat) ?? cards[0])?.id ?? null;
}

/** A <select> of all models, own names before aliases; it follows the server's list. */
export function modelSelect(properties = {}) {
  const select = h("select", { "aria-label": "Model", ...properties });
  const fill = () => {
    const chosen = select.dataset.model ?? defaultModel();
    const isAlias = (card) => typeof card.alias_of === "string" && findModel(card.alias_of) !== null;
    const options = (list) => list.map((card) => h("option", { value: card.id }, card.id));
    const [own, aliases] = [cards.filter((card) => !isAlias(card)), cards.filter(isAlias)];
    const missing = chosen && !findModel(chosen) && h("option", { value: chosen }, `${chosen} (not served)`);
    select.replaceChildren(
      ...[
        missing,
        ...options(own),
        aliases.length > 0 && h("optgroup", { label: "Other names" }, options(aliases)),
      ].filter(Boolean),
    );
    if (!select.options.length) select.append(h("option", { value: "" }, "No model"));
    select.value = chosen ?? "";
  };
  select.addEventListener("change", () => (select.dataset.model = select.value));
  document.addEventListener("models-loaded", fill);
  fill();
  select.choose = (id) => {
    if (id) select.dataset.model = id;
    else delete select.dataset.model;
    fill();
  };
  return select;
}
