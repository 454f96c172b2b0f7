// What a model is and can do: its own words, its size, and the names that programs may call it by.

import { openDialog } from "./dialog.js";
import { h } from "./element.js";
import { findModel } from "./model.js";

const UNITS = ["", " thousand", " million", " billion"];

/** Show a dialog about the model of a name. */
export function showModelFacts(name) {
  const model = findModel(name);
  if (model === null)
    return openDialog(name || "No model", h("p", {}, "It is not served here."), { className: "narrow" });
  const facts = [
    ["Weights", count(model.num_parameters)],
    ["Reads at once", `${model.max_context_length.toLocaleString()} tokens, the answer included`],
    ["Base", model.root],
    ["Other names, for programs", model.aliases?.join(", ")],
  ].filter(([, value]) => value);
  return openDialog(model.id, [
    model.description && h("p", {}, model.description),
    h(
      "dl",
      { class: "fact-list" },
      facts.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))),
    ),
  ]);
}

/** Such as "11 million" or "7.2 billion". */
function count(number) {
  if (!number) return null;
  const power = Math.min(UNITS.length - 1, Math.floor(Math.log10(number) / 3));
  const value = number / 1000 ** power;
  return `${value.toFixed(value < 10 ? 1 : 0)}${UNITS[power]}`;
}
