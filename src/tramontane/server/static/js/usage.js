// The usage page: what was asked of the server since it started, how fast it answered, and how it stands now.

import { callText } from "./api.js";
import { h } from "./element.js";
import { Metrics, quantile } from "./metrics.js";
import { barPlot, compact } from "./plot.js";

const REFRESH_MS = 5000;

export class UsagePage {
  constructor() {
    this.now = h("div", { class: "sheet-section" });
    this.status = h("p", { class: "hint", role: "status" });
    this.head = [h("h1", {}, "Usage"), h("span", { class: "spring" }), this.status];
    this.element = h("div", { class: "sheet scroller", tabindex: "-1" }, h("div", { class: "sheet-column" }, this.now));
  }

  get title() {
    return "Usage";
  }

  show() {
    this.element.focus();
    clearTimeout(this.timer);
    this.#refresh();
  }

  async #refresh() {
    if (document.visibilityState === "visible") {
      try {
        const text = await callText("metrics");
        if (text !== this.text) this.#showNow(new Metrics(text));
        this.text = text;
        this.status.textContent = `As of ${new Date().toLocaleTimeString()}`;
      } catch (error) {
        this.status.textContent = error.status === 403 ? "Your key may not read the server's figures." : error.message;
      }
    }
    if (this.element.isConnected) this.timer = setTimeout(() => this.#refresh(), REFRESH_MS);
  }

  #showNow(metrics) {
    const opened = [...this.now.querySelectorAll("details[open]")].map((details) => details.dataset.of);
    this.now.replaceChildren(...(metrics.sum("tramontane_requests_total") ? figures(metrics) : [nothingYet()]));
    for (const name of opened)
      this.now.querySelector(`details[data-of="${CSS.escape(name)}"]`)?.setAttribute("open", "");
  }
}

function nothingYet() {
  return h(
    "p",
    { class: "empty-state" },
    "No request has been answered since the server started. ",
    h("a", { href: "#/chat" }, "Ask something"),
    ", and figures appear here.",
  );
}

function figures(metrics) {
  const started = metrics.find("process_start_time_seconds")[0]?.value;
  const firstToken = metrics.histogram("tramontane_first_token_seconds");
  const speed = metrics.histogram("tramontane_completion_tokens_per_second");
  const failed = metrics.find("tramontane_requests_total").filter(({ labels }) => Number(labels.status) >= 500);
  const [prompt, cached] = ["prompt_tokens", "cached_prompt_tokens"].map((name) =>
    metrics.sum(`tramontane_${name}_total`),
  );
  const pages = metrics.sum("tramontane_engine_pages");
  return [
    h(
      "dl",
      { class: "tiles" },
      tile("Requests", compact(metrics.sum("tramontane_requests_total")), started && `since ${whenStarted(started)}`),
      tile(
        "Failures of the server",
        compact(failed.reduce((sum, { value }) => sum + value, 0)),
        "status 500 and above",
      ),
      tile("Tokens read", compact(prompt), prompt > 0 && `${Math.round((100 * cached) / prompt)} % from the cache`),
      tile("Tokens written", compact(metrics.sum("tramontane_completion_tokens_total"))),
      tile(
        "First token",
        quantile(firstToken, 0.5, duration),
        `half within; 99 % within ${quantile(firstToken, 0.99, duration)}`,
      ),
      tile("Speed", quantile(speed, 0.5, compact), "tokens per second and answer, median"),
      tile(
        "Running now",
        compact(metrics.sum("tramontane_engine_running_sequences")),
        `${metrics.sum("tramontane_engine_waiting_requests")} waiting`,
      ),
      tile(
        "Memory for context",
        `${Math.round((100 * metrics.sum("tramontane_engine_held_pages")) / (pages || 1))} %`,
        "of pages in use",
      ),
    ),
    h(
      "div",
      { class: "plots" },
      tokensByModel(metrics),
      barPlot({
        title: "Requests by route",
        ...bars(metrics.sumsBy("tramontane_requests_total", "endpoint"), "Requests", shortRoute),
      }),
      barPlot({ title: "Time to the first token", ...bars(inUse(firstToken), "Answers", untilLabel(duration)) }),
      barPlot({ title: "Tokens per second of an answer", ...bars(inUse(speed), "Answers", untilLabel(compact)) }),
    ),
  ];
}

function tile(name, value, note = null) {
  return h(
    "div",
    { class: "tile" },
    h("dt", {}, name),
    h("dd", {}, value),
    note && h("dd", { class: "tile-note" }, note),
  );
}

function bars(pairs, name, label) {
  return { places: pairs.map(([place]) => label(place)), series: [{ name, values: pairs.map(([, value]) => value) }] };
}

function tokensByModel(metrics) {
  const models = metrics.sumsBy("tramontane_prompt_tokens_total", "model").map(([model]) => model);
  const values = (name) => models.map((model) => metrics.sum(`tramontane_${name}_tokens_total`, { model }));
  const series = [
    { name: "Read", values: values("prompt") },
    { name: "Written", values: values("completion") },
  ];
  return barPlot({ title: "Tokens by model", places: models, series });
}

/** The buckets of a histogram from the first to the last that holds anything, as [bucket, count]. */
function inUse(buckets) {
  const used = buckets.map(({ count }) => count > 0);
  return buckets.slice(used.indexOf(true), used.lastIndexOf(true) + 1).map((bucket) => [bucket, bucket.count]);
}

function untilLabel(format) {
  return ({ from, to }) => (to === Infinity ? `> ${format(from)}` : `≤ ${format(to)}`);
}

function shortRoute(endpoint) {
  return endpoint.replace(/^\/(v1|api)\//, "");
}

export function duration(seconds) {
  if (seconds < 1) return `${(seconds * 1000).toPrecision(2).replace(/\.0$/, "")} ms`;
  return seconds < 60 ? `${Number(seconds.toPrecision(2))} s` : `${Math.round(seconds / 60)} min`;
}

function whenStarted(seconds) {
  const date = new Date(seconds * 1000);
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday ? date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : date.toLocaleDateString();
}
