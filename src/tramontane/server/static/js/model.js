// The models this server offers, each once, whatever other names it answers to.

import { call } from "./api.js";
import { h } from "./element.js";
import { preference } from "./preferences.js";
import { refill } from "./redraw.js";

let cards = []; // of the models' own names

/** Ask the server anew. Raises ApiError. */
export async function loadModels() {
  const { data } = await call("v1/models");
  cards = Array.isArray(data) ? data.filter((card) => typeof card?.id === "string" && !card.alias_of) : [];
  document.dispatchEvent(new CustomEvent("models-loaded"));
}

/** Ask the server if it has not told yet. Raises ApiError. */
export async function ensureModels() {
  if (!cards.length) await loadModels();
}

/** The model of a name or alias, or null. */
export function findModel(name) {
  return cards.find(({ id }) => id === name) ?? cards.find(({ aliases }) => aliases?.includes(name)) ?? null;
}

/** Those that fine-tuning can start from. */
export function tunableModels() {
  return cards.filter(({ capabilities }) => capabilities?.fine_tuning);
}

/** The model to begin with: the one used last where it is still served, else the first that can chat. */
export function defaultModel() {
  const last = findModel(preference("model"));
  return (last ?? cards.find((card) => card.capabilities?.completion_chat) ?? cards[0])?.id ?? null;
}

/** A <select> of all models; it follows the server's list. */
export function modelSelect(properties = {}) {
  const select = h("select", { "aria-label": "Model", ...properties });
  const fill = () => {
    const wanted = select.dataset.model ?? defaultModel();
    const chosen = findModel(wanted)?.id ?? wanted;
    const options = cards.map(({ id }) => [id, id]);
    if (chosen && !findModel(chosen)) options.unshift([chosen, `${chosen} (not served)`]);
    if (!options.length) options.push(["", "No model"]);
    refill(select, options, () => options.map(([value, text]) => h("option", { value }, text)));
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
