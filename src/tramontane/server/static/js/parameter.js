// The parameters of a request, as fields. A field left empty is not sent: the model's own default holds.

import { h } from "./element.js";

export const PARAMETERS = [
  {
    name: "temperature",
    label: "Temperature",
    hint: "0 always takes the likeliest token",
    min: 0,
    max: 1.5,
    step: 0.05,
    slider: true,
  },
  {
    name: "top_p",
    label: "Top p",
    hint: "Draws among the tokens that hold this much probability",
    min: 0.05,
    max: 1,
    step: 0.05,
    slider: true,
  },
  { name: "max_tokens", label: "Most tokens", hint: "Where an answer is cut off", min: 1, max: 1_000_000, step: 1 },
  {
    name: "random_seed",
    label: "Seed",
    hint: "The same seed gives the same answer",
    min: 0,
    max: 2 ** 31 - 1,
    step: 1,
  },
  {
    name: "presence_penalty",
    label: "Presence penalty",
    hint: "Above 0: new words are preferred",
    min: -2,
    max: 2,
    step: 0.1,
    slider: true,
  },
  {
    name: "frequency_penalty",
    label: "Frequency penalty",
    hint: "Above 0: repetition costs more each time",
    min: -2,
    max: 2,
    step: 0.1,
    slider: true,
  },
  { name: "stop", label: "Stop at", hint: "Ends the answer before this text", text: true },
];

/** Fields for `parameters` (an object, edited in place); `onChange` hears of every change. `showDefaults(fields, card)`
 * tells what holds where they are empty. */
export function parameterFields(names, parameters, onChange) {
  return PARAMETERS.filter(({ name }) => names.includes(name)).map((parameter) =>
    field(parameter, parameters, onChange),
  );
}

/** Tell in `fields` what the model of a card is asked with where nothing is given; null while none is known. */
export function showDefaults(fields, card) {
  for (const each of fields) each.showDefault(card?.default_sampling ?? {});
}

function field({ name, label, hint, min, max, step, slider, text }, parameters, onChange) {
  const id = `parameter-${name}-${Math.random().toString(36).slice(2, 8)}`;
  const number = h("input", {
    id,
    name,
    type: text ? "text" : "number",
    min,
    max,
    step: slider ? "any" : step,
    value: parameters[name] ?? "",
    "aria-describedby": `${id}-hint`,
    autocomplete: "off",
    inputmode: text ? null : "decimal",
  });
  const range =
    slider &&
    h("input", {
      type: "range",
      min,
      max,
      step,
      "aria-label": label,
      tabindex: "-1",
    });
  let fallback = null; // the model's own
  const showValue = () => {
    if (!slider) return;
    range.value = parameters[name] ?? fallback ?? (min + max) / 2;
    range.classList.toggle("unset", parameters[name] === undefined);
  };
  const store = () => {
    const raw = number.value;
    const value = text ? raw : Number(raw);
    const isUsable =
      raw !== "" &&
      (text || (Number.isFinite(value) && value >= min && value <= max && (slider || Number.isInteger(value))));
    if (isUsable) parameters[name] = value;
    else delete parameters[name];
    number.setAttribute("aria-invalid", String(!isUsable && (raw !== "" || number.validity.badInput)));
    showValue();
    onChange();
  };
  number.addEventListener("input", store);
  if (slider)
    range.addEventListener("input", () => {
      number.value = range.value;
      store();
    });
  const element = h(
    "div",
    { class: "parameter" },
    h("label", { for: id }, label),
    number,
    range,
    h("p", { class: "hint", id: `${id}-hint` }, hint),
  );
  element.showDefault = (defaults) => {
    fallback = defaults[name] ?? null;
    number.placeholder = fallback === null ? "default" : `default: ${fallback}`;
    showValue();
  };
  element.showDefault({});
  return element;
}

/** The fields of a request body for `parameters`. */
export function requestFields(parameters) {
  const fields = { ...parameters };
  if (fields.stop) fields.stop = [fields.stop.replaceAll("\\n", "\n")];
  return fields;
}
