// One fine-tuning job: what it takes, how it goes, what it answers, and what has become of it.

import { call } from "./api.js";
import { confirmDialog } from "./dialog.js";
import { h } from "./element.js";
import { loadModels } from "./model.js";
import { notify } from "./notice.js";
import { linePlot } from "./plot.js";
import { setPreference } from "./preferences.js";
import { TuningComparison } from "./tuning_comparison.js";
import { problemList } from "./tuning_form.js";
import { hasEnded, statusChip } from "./tuning_status.js";
import { duration } from "./usage.js";

const POLL_MS = 1500;

export class TuningJob {
  constructor(id) {
    this.path = `v1/fine_tuning/jobs/${encodeURIComponent(id)}`;
    this.losses = `api/fine_tuning/jobs/${encodeURIComponent(id)}/losses`;
    this.summary = h("section", { class: "panel tuning-job", "aria-label": "Job" }, h("p", {}, "Loading…"));
    this.plot = h("div", {});
    this.samples = h("div", {});
    this.result = h("div", {});
    this.element = h("div", { class: "sheet-section" }, this.summary, this.plot, this.samples, this.result);
    this.seen = "";
    this.#follow();
  }

  close() {
    clearTimeout(this.timer);
    this.isClosed = true;
  }

  async #follow() {
    let job = null;
    try {
      job = await call(this.path);
      await this.#show(job);
    } catch (error) {
      if (error.status === 404) this.summary.replaceChildren(h("p", { role: "alert" }, "There is no such job."));
      else if (error.status !== 401 && error.status !== 0) notify(error.message, { kind: "error" });
      if (error.status === 404) return;
    }
    if (!this.isClosed && !(job && hasEnded(job))) this.timer = setTimeout(() => this.#follow(), POLL_MS);
  }

  /** Draw anew only what has changed, so that focus and open parts stay. */
  async #show(job) {
    const state = JSON.stringify([job.status, job.trained_tokens, job.events.length]);
    if (state === this.seen) return;
    this.seen = state;
    this.summary.replaceChildren(...this.#about(job));
    if (job.trained_tokens) this.plot.replaceChildren(lossPlot(await call(this.losses)));
    const told = job.events.filter(({ name }) => name === "sample").map(({ data }) => data);
    if (told.length) this.samples.replaceChildren(sampleTable(told));
    if (job.status === "SUCCESS" && !this.result.hasChildNodes()) {
      await loadModels();
      if (job.job_type === "completion")
        this.result.replaceChildren(new TuningComparison(job.model, job.fine_tuned_model).element);
    }
  }

  #about(job) {
    const problems = job.events.filter(({ name }) => name === "invalid-line").map(({ data }) => data);
    const notes = job.events.filter(({ name }) => name === "note").map(({ data }) => data.message);
    const error = job.events.map(({ data }) => data?.error).findLast(Boolean);
    const facts = [
      ["Base", job.model],
      ["Samples", job.metadata && `${job.metadata.data_tokens.toLocaleString()} tokens`],
      ["Seen", job.metadata && `${job.metadata.train_tokens.toLocaleString()} tokens in all`],
      ["Takes", job.metadata && `about ${duration(job.metadata.expected_duration_seconds)}`],
      ["Costs", job.metadata?.cost != null && job.metadata.cost.toPrecision(2)],
      ["Model", job.fine_tuned_model],
    ].filter(([, value]) => value);
    return [
      h("h2", {}, job.suffix || job.id.slice(0, 8), " ", statusChip(job.status)),
      h(
        "dl",
        { class: "fact-list" },
        facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
      ),
      job.metadata && job.status !== "VALIDATED" && progressBar(job),
      notes.map((note) => h("p", { class: "hint" }, note)),
      problems.length > 0 ? problemList(problems) : error && h("p", { class: "tuning-error", role: "alert" }, error),
      h("div", { class: "row" }, this.#actions(job)),
    ]
      .flat()
      .filter(Boolean);
  }

  #actions(job) {
    const act = (verb) => async () => {
      try {
        this.seen = "";
        await call(`${this.path}/${verb}`, { method: "POST", body: {} });
      } catch (error) {
        notify(error.message, { kind: "error" });
      }
      clearTimeout(this.timer);
      this.#follow();
    };
    return [
      job.status === "VALIDATED" &&
        h("button", { class: "primary", type: "button", onclick: act("start") }, "Start training"),
      !hasEnded(job) && h("button", { type: "button", onclick: act("cancel") }, "Cancel"),
      job.fine_tuned_model &&
        job.job_type === "completion" &&
        h(
          "button",
          { class: "primary", type: "button", onclick: () => chatWith(job.fine_tuned_model) },
          "Chat with it",
        ),
      job.fine_tuned_model &&
        h(
          "button",
          { class: "quiet danger-text", type: "button", onclick: () => this.#delete(job) },
          "Delete the model",
        ),
    ];
  }

  async #delete({ fine_tuned_model: name }) {
    if (!(await confirmDialog("Delete the model?", `${name} answers no more, and its weights are removed.`, "Delete")))
      return;
    try {
      await call(`v1/models/${encodeURIComponent(name)}`, { method: "DELETE" });
      await loadModels();
      location.hash = "#/tuning";
    } catch (error) {
      notify(error.message, { kind: "error" });
    }
  }
}

function chatWith(model) {
  setPreference("model", model);
  location.hash = "#/chat";
}

function progressBar({ trained_tokens: done, metadata }) {
  const share = Math.min(1, (done ?? 0) / metadata.train_tokens);
  return h("progress", { max: "1", value: String(share), "aria-label": "Progress" }, `${Math.round(100 * share)} %`);
}

function lossPlot({ train, held_out: heldOut }) {
  return linePlot({
    title: "Loss in nats per token",
    series: [{ name: "Training", points: train }, ...(heldOut.length ? [{ name: "Held out", points: heldOut }] : [])],
    format: (value) => value.toFixed(2),
    formatX: (step) => `${Math.round(step)}`,
  });
}

/** `told`: [{step, prompt, answer}]; a row for each step, a column for each prompt. */
function sampleTable(told) {
  const prompts = [...new Set(told.map(({ prompt }) => prompt))];
  const steps = [...new Set(told.map(({ step }) => step))];
  const answer = (step, prompt) => told.find((each) => each.step === step && each.prompt === prompt)?.answer ?? "";
  return h(
    "section",
    { class: "panel tuning-samples", "aria-label": "What it answers" },
    h("h2", {}, "What it answers"),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "What it answers, by update" },
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ["After update", ...prompts].map((text) => h("th", { scope: "col" }, text)),
          ),
        ),
        h(
          "tbody",
          {},
          steps.map((step) =>
            h(
              "tr",
              {},
              h("th", { scope: "row" }, step === 0 ? "before" : `${step}`),
              prompts.map((prompt) => h("td", {}, answer(step, prompt))),
            ),
          ),
        ),
      ),
    ),
  );
}
