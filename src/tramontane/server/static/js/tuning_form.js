// The form of a new fine-tuning job: files are sent and checked, then the job waits to be started.

import { call } from "./api.js";
import { acceptFiles } from "./drop.js";
import { h } from "./element.js";
import { ensureModels, tunableModels } from "./model.js";
import { refill } from "./redraw.js";

const EXAMPLE = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}';

export class TuningForm {
  /** `onMade(job)` gets the job once its samples are checked. */
  constructor(onMade) {
    this.onMade = onMade;
    this.model = h("select", { id: "tuning-model", required: true });
    this.samples = fileInput("tuning-samples", { required: true });
    this.heldOut = fileInput("tuning-held-out");
    this.suffix = h("input", {
      id: "tuning-suffix",
      maxlength: "18",
      pattern: "[A-Za-z0-9._\\-]*",
      autocomplete: "off",
    });
    this.epochs = h("input", { id: "tuning-epochs", type: "number", min: "0.1", max: "1000", step: "any", value: "3" });
    this.rate = h("input", {
      id: "tuning-rate",
      type: "number",
      min: "0.00000001",
      max: "1",
      step: "any",
      value: "0.0005",
    });
    this.skipped = h("input", { id: "tuning-skipped", type: "number", min: "0", max: "50", step: "any", value: "0" });
    this.button = h("button", { type: "submit", class: "primary" }, "Check and estimate");
    const nothing = "No model served here can be trained: it takes a folder of float weights that can chat.";
    this.nothing = h("p", { role: "status", hidden: true }, nothing);
    this.outcome = h("div", { role: "status", "aria-live": "polite" });
    this.element = h(
      "form",
      { class: "panel tuning-form", "aria-label": "New job", onsubmit: (event) => this.#send(event) },
      h("h2", {}, "Teach a model your own conversations"),
      h(
        "p",
        { class: "hint" },
        "A file of JSON lines, one conversation a line: ",
        h("code", {}, EXAMPLE),
        ". Lines with ",
        h("code", {}, "text"),
        " and ",
        h("code", {}, "labels"),
        " make a classifier. Nothing is trained before you have seen what it takes.",
      ),
      h(
        "div",
        { class: "tuning-fields" },
        field("Base model", this.model),
        field("Samples", this.samples),
        field("Samples to measure with", this.heldOut, "held out from training; optional"),
        field("Name", this.suffix, "a word in the name of the new model; optional"),
        field("Epochs", this.epochs, "how often each sample is seen"),
        field("Learning rate", this.rate),
        field("Invalid lines to skip, in %", this.skipped, "0: every line must be sound"),
      ),
      h("div", { class: "row" }, this.button),
      this.nothing,
      this.outcome,
    );
    acceptFiles(this.element, (files) => {
      const given = new DataTransfer();
      given.items.add(files[0]);
      this.samples.files = given.files;
    });
    document.addEventListener("models-loaded", () => this.#fill());
    this.#fill();
  }

  #fill() {
    const models = tunableModels();
    const ids = models.map(({ id }) => id);
    refill(this.model, ids, () => ids.map((id) => h("option", { value: id }, id)));
    this.button.disabled = models.length === 0;
    this.nothing.hidden = models.length > 0;
  }

  async #send(event) {
    event.preventDefault();
    this.button.disabled = true;
    this.outcome.replaceChildren("Sending and checking…");
    try {
      await ensureModels();
      const training = await upload(this.samples.files[0]);
      const [measured] = this.heldOut.files;
      const job = await call("v1/fine_tuning/jobs", {
        method: "POST",
        body: {
          model: this.model.value,
          training_files: [training.id],
          ...(measured && { validation_files: [(await upload(measured)).id] }),
          ...(this.suffix.value && { suffix: this.suffix.value }),
          hyperparameters: { epochs: Number(this.epochs.value), learning_rate: Number(this.rate.value) },
          invalid_sample_skip_percentage: Number(this.skipped.value) / 100,
          auto_start: false,
        },
      });
      this.outcome.replaceChildren();
      this.onMade(job);
    } catch (error) {
      this.outcome.replaceChildren(refusalOf(error));
    } finally {
      this.button.disabled = false;
    }
  }
}

async function upload(file) {
  const form = new FormData();
  form.append("purpose", "fine-tune");
  form.append("file", file);
  return call("v1/files", { method: "POST", body: form });
}

/** Why no job was made: the lines that were refused, or what else was wrong. */
function refusalOf({ message, detail }) {
  const lines = (detail ?? []).filter(({ type }) => type === "invalid_line");
  if (!lines.length) return h("p", { class: "tuning-error", role: "alert" }, message);
  return problemList(lines.map(({ loc, msg }) => ({ line: loc.at(-1), message: msg })));
}

/** `problems`: [{line, message}]; servers name the first of many. */
export function problemList(problems) {
  return h(
    "div",
    { class: "tuning-error", role: "alert" },
    h("p", {}, "Nothing can be learned from:"),
    h(
      "ul",
      { class: "tuning-problems" },
      problems.map(({ line, message }) => h("li", {}, h("b", {}, `Line ${line}: `), message)),
    ),
  );
}

function fileInput(id, properties = {}) {
  return h("input", { id, type: "file", accept: ".jsonl,.json,application/jsonl", ...properties });
}

function field(label, input, hint = null) {
  return h(
    "div",
    { class: "field" },
    h("label", { for: input.id }, label),
    input,
    hint && h("p", { class: "hint" }, hint),
  );
}
