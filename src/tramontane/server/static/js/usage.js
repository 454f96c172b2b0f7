// The usage page: what was asked of the server, how fast it answered and what it cost, over time and by model.

import { ApiError, call } from "./api.js";
import { h } from "./element.js";
import { barPlot, compact } from "./plot.js";
import { daysBetween, hoursBetween, PERIODS } from "./period.js";

const REFRESH_MS = 5000;
const SHARE_OF_TIME = 0.05; // at most, of the server's time that goes into these figures

export class UsagePage {
  constructor() {
    this.period = PERIODS[0];
    this.figures = h("div", { class: "sheet-section" });
    this.status = h("p", { class: "hint" }); // no role: it would be read out every few seconds
    this.head = [h("h1", {}, "Usage"), h("span", { class: "spring" }), this.#periods()];
    this.element = h(
      "div",
      { class: "sheet scroller", tabindex: "-1" },
      h("div", { class: "sheet-column" }, this.figures, this.status),
    );
  }

  get title() {
    return "Usage";
  }

  show() {
    this.element.focus();
    this.#refresh();
  }

  retryRefused() {
    this.#refresh();
  }

  #periods() {
    const select = h(
      "select",
      {
        class: "title-select",
        "aria-label": "Period",
        onchange: () => {
          this.period = PERIODS.find(({ label }) => label === select.value);
          this.#refresh();
        },
      },
      PERIODS.map(({ label }) => h("option", { value: label }, label)),
    );
    return select;
  }

  async #refresh() {
    clearTimeout(this.timer);
    const { period } = this;
    const started = performance.now();
    if (document.visibilityState === "visible") {
      try {
        const since = period.since(new Date());
        const read = (by) => call(`api/usage?by=${by}&since=${since}`);
        const reports = await Promise.all([read("model"), read(period.by)]);
        if (period !== this.period) return; // another was chosen meanwhile, and is on its way
        this.#show(period, ...reports);
        this.status.textContent = `As of ${new Date().toLocaleTimeString()}. ${explanation(period)}`;
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        this.#fail(error);
      }
    }
    const pause = Math.max(REFRESH_MS, (performance.now() - started) / SHARE_OF_TIME);
    clearTimeout(this.timer);
    if (this.element.isConnected) this.timer = setTimeout(() => this.#refresh(), pause);
  }

  #show(period, byModel, byTime) {
    const hour = Math.floor(byTime.until / 3600);
    const shown = JSON.stringify([period.label, hour, byModel.data, byTime.data, byTime.price_per_hour]);
    if (shown === this.shown) return; // nothing new: what is open, scrolled or pointed at stays as it is
    this.shown = shown;
    const opened = [...this.figures.querySelectorAll("details[open]")].map((details) => details.dataset.of);
    this.figures.replaceChildren(
      ...(byModel.totals.requests ? figures(period, byModel, byTime) : [nothingYet(period, byModel.owner !== null)]),
    );
    for (const name of opened)
      this.figures.querySelector(`details[data-of="${CSS.escape(name)}"]`)?.setAttribute("open", "");
  }

  #fail(error) {
    this.status.textContent = "";
    if (error.status === 0 && this.shown) return; // the banner says so; what was last known is worth more than nothing
    this.shown = JSON.stringify(error.message);
    if (this.figures.querySelector("[role=alert]")?.textContent !== refusal(error).textContent)
      this.figures.replaceChildren(refusal(error));
  }
}

function refusal(error) {
  if (error.status !== 403) return h("p", { class: "empty-state", role: "alert" }, error.message);
  return h(
    "div",
    { class: "empty-state", role: "alert" },
    h("p", {}, "Your key may not read usage: it was made without the scope “usage”."),
    h("p", {}, "Keys have it unless they were limited to other scopes: ", h("code", {}, "tramontane keys create NAME")),
  );
}

function nothingYet(period, isOwn) {
  return h(
    "p",
    { class: "empty-state" },
    `No request${isOwn ? " with your keys" : ""} has ended in the ${period.label.toLowerCase()}. `,
    h("a", { href: "#/chat" }, "Ask something"),
    ", and figures appear here.",
  );
}

function figures(period, byModel, byTime) {
  const { totals, price_per_hour: price, owner } = byModel;
  const plots = [
    timePlot("Requests", [
      ["Answered", ({ requests, failures }) => requests - failures],
      ["Failed", ({ failures }) => failures],
    ]),
    timePlot("Tokens", [
      ["Read", (line) => line.prompt_tokens - line.cached_tokens],
      ["From the cache", (line) => line.cached_tokens],
      ["Written", (line) => line.completion_tokens],
    ]),
    timePlot("Mean time to the first token", [["Mean", (line) => line.first_token_s]], duration),
    timePlot("Mean tokens per second of an answer", [["Mean", (line) => line.tokens_per_second]]),
    price !== null && timePlot("Cost", [["Cost", ({ cost }) => cost]], money),
  ];
  return [
    h("dl", { class: "tiles" }, tiles(totals, price, owner)),
    h(
      "div",
      { class: "plots" },
      plots.filter(Boolean).map((plot) => plot(period, byTime)),
    ),
    modelTable(byModel),
  ];
}

function explanation({ by }) {
  const days = by === "day" ? "Days are those of UTC. " : "";
  return `${days}A request counts when it has ended. First tokens and speeds are those of streamed answers.`;
}

function tiles(totals, price, owner) {
  const { requests, failures, prompt_tokens: prompt, cached_tokens: cached } = totals;
  return [
    tile("Requests", compact(requests), owner === null ? "of everyone" : "of your keys"),
    tile("Failures", compact(failures), "status 500 and above"),
    tile("Tokens read", compact(prompt), prompt > 0 && `${Math.round((100 * cached) / prompt)} % from the cache`),
    tile("Tokens written", compact(totals.completion_tokens)),
    tile("First token", known(totals.first_token_s, duration), "mean"),
    tile("Speed", known(totals.tokens_per_second, compact), "tokens per second and answer, mean"),
    price === null
      ? tile("Cost", "–", "start with --price-per-hour to see it")
      : tile("Cost", known(totals.cost, money), `at ${money(price)} per hour of the machine`),
    price !== null &&
      tile("Per million tokens", known(totals.cost_per_million_tokens, money), "read and written alike"),
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

/** The line of an hour or day without requests. */
const IDLE = {
  requests: 0,
  failures: 0,
  prompt_tokens: 0,
  cached_tokens: 0,
  completion_tokens: 0,
  first_token_s: null,
  tokens_per_second: null,
  cost: 0,
};

/** `series`: [name, value of a line of the report]; null where there is none. */
function timePlot(title, series, format = compact) {
  return ({ by, place }, report) => {
    const lines = new Map(report.data.map((line) => [line[by], line]));
    const slots = (by === "day" ? daysBetween : hoursBetween)(report.since, report.until);
    return barPlot({
      title: `${title} by ${by}`,
      places: slots.map(place),
      series: series.map(([name, value]) => ({
        name,
        values: slots.map((slot) => value(lines.get(slot) ?? IDLE)),
      })),
      format,
    });
  };
}

const COLUMNS = [
  ["Requests", ({ requests }) => requests.toLocaleString("en")],
  ["Failed", ({ failures }) => failures.toLocaleString("en")],
  ["Read", (line) => compact(line.prompt_tokens)],
  ["Cached", (line) => compact(line.cached_tokens)],
  ["Written", (line) => compact(line.completion_tokens)],
  ["First token", (line) => known(line.first_token_s, duration)],
  ["Tokens/s", (line) => known(line.tokens_per_second, compact)],
  ["Cost", (line) => known(line.cost, money)],
];

function modelTable({ data, price_per_hour: price }) {
  const columns = price === null ? COLUMNS.slice(0, -1) : COLUMNS;
  const headings = ["Model", ...columns.map(([name]) => name)].map((name) => h("th", { scope: "col" }, name));
  const rows = data.map((line) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, line.model || "(none)"),
      columns.map(([, value]) => h("td", {}, value(line))),
    ),
  );
  return h(
    "section",
    { class: "panel", "aria-label": "By model" },
    h("h2", {}, "By model"),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "By model, numbers" },
      h("table", {}, h("thead", {}, h("tr", {}, headings)), h("tbody", {}, rows)),
    ),
  );
}

function known(value, format) {
  return value === null ? "–" : format(value);
}

export function duration(seconds) {
  if (seconds < 0.9995) return `${Number((seconds * 1000).toPrecision(seconds < 0.1 ? 2 : 3))} ms`;
  return seconds < 60 ? `${Number(seconds.toPrecision(2))} s` : `${Math.round(seconds / 60)} min`;
}

/** Three digits of an amount in whatever currency the price was given. */
function money(amount) {
  return new Intl.NumberFormat("en", { maximumSignificantDigits: 3 }).format(amount);
}
