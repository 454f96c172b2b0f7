// Fine-tuning: the form of a new job and the list of jobs, or one job, by address.

import { call } from "./api.js";
import { h } from "./element.js";
import { notify } from "./notice.js";
import { refill } from "./redraw.js";
import { TuningForm } from "./tuning_form.js";
import { TuningJob } from "./tuning_job.js";
import { statusChip } from "./tuning_status.js";

const POLL_MS = 2000;

export class TuningPage {
  constructor() {
    this.title = "Fine-tuning";
    this.heading = h("h1", {}, "Fine-tuning");
    this.head = [this.heading];
    this.form = new TuningForm((job) => (location.hash = `#/tuning/${job.id}`));
    this.list = h("div", {});
    this.column = h("div", { class: "sheet-column" });
    this.element = h("div", { class: "sheet scroller", tabindex: "-1" }, this.column);
    this.shown = null;
  }

  show(id) {
    this.shown?.close();
    this.shown = id ? new TuningJob(id) : null;
    this.heading.textContent = id ? "Fine-tuning job" : "Fine-tuning";
    if (this.shown) this.column.replaceChildren(backLink(), this.shown.element);
    else this.column.replaceChildren(this.form.element, this.list);
    clearTimeout(this.timer);
    if (!id) this.#follow();
  }

  retryRefused() {
    this.show(location.hash.split("/")[2] ?? "");
  }

  async #follow() {
    try {
      const { data } = await call("v1/fine_tuning/jobs?page_size=50");
      refill(this.list, data, () => [jobTable(data)]);
    } catch (error) {
      if (error.status === 403) refill(this.list, 403, () => [refusal()]);
      else if (error.status !== 401 && error.status !== 0) notify(error.message, { kind: "error" });
    }
    if (this.element.isConnected && !this.shown) this.timer = setTimeout(() => this.#follow(), POLL_MS);
  }
}

function backLink() {
  return h("p", {}, h("a", { href: "#/tuning" }, "All jobs"));
}

function refusal() {
  return h(
    "p",
    { class: "empty-state", role: "alert" },
    "Your key may not train models. A key with the scope fine_tuning may: ",
    h("code", {}, "tramontane keys create NAME --scope fine_tuning"),
  );
}

function jobTable(jobs) {
  if (!jobs.length)
    return h("p", { class: "empty-state" }, "No job yet. Choose a file of conversations above; it is checked first.");
  const rows = jobs.map((job) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, h("a", { href: `#/tuning/${job.id}` }, job.suffix || job.id.slice(0, 8))),
      h("td", {}, job.model),
      h("td", {}, statusChip(job.status)),
      h("td", {}, new Date(job.created_at * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })),
    ),
  );
  const headings = ["Job", "Base", "Status", "Made"].map((name) => h("th", { scope: "col" }, name));
  return h(
    "section",
    { class: "panel", "aria-label": "Jobs" },
    h("h2", {}, "Jobs"),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Jobs, table" },
      h("table", {}, h("thead", {}, h("tr", {}, headings)), h("tbody", {}, rows)),
    ),
  );
}
