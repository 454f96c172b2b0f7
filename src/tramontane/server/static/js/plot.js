// Plots in SVG, drawn at the size they are shown in, each with its numbers as a table for whoever cannot see it.

import { h, svg } from "./element.js";

const HEIGHT = 190;
const MARGIN = { top: 10, right: 8, bottom: 24, left: 52 };

/** Stacked bars. `places`: a label per bar; `series`: [{name, values}], one value per place, null where there is none;
 * `format(value)`. */
export function barPlot({ title, places, series, format = compact }) {
  const shown = (value) => (value === null || value === undefined ? "–" : format(value));
  const totals = places.map((_, place) => series.reduce((sum, { values }) => sum + (values[place] ?? 0), 0));
  const draw = (width) => {
    const frame = new Frame(width, [0, places.length], [0, Math.max(...totals, 0)], format);
    const step = frame.width / Math.max(places.length, 1);
    const bar = Math.max(1, Math.min(40, step * 0.72));
    const marks = places.flatMap((_, place) => {
      let below = 0;
      return series.map(({ values }, index) => {
        const value = values[place] ?? 0;
        const [y, bottom] = [frame.y(below + value), frame.y(below)];
        below += value;
        return (
          value > 0 &&
          svg("rect", {
            class: `series-${index}`,
            x: frame.x(place) + (step - bar) / 2,
            y,
            width: bar,
            height: Math.max(bottom - y, 1),
            rx: Math.min(2, bar / 2),
          })
        );
      });
    });
    const every = Math.ceil(places.length / Math.max(1, Math.floor(frame.width / 70)));
    const labels = places.map(
      (label, place) =>
        place % every === 0 &&
        svg("text", { x: frame.x(place) + step / 2, y: HEIGHT - 7, "text-anchor": "middle" }, label),
    );
    return [...frame.grid(), ...marks, ...labels];
  };
  return plotFigure(title, draw, series, {
    head: ["", ...series.map(({ name }) => name)],
    rows: places.map((label, place) => [label, ...series.map(({ values }) => shown(values[place]))]),
    tip: (share) => {
      const place = Math.min(places.length - 1, Math.floor(share * places.length));
      return place < 0
        ? null
        : [places[place], ...series.map(({ name, values }) => `${name}: ${shown(values[place])}`)];
    },
  });
}

/** Lines. `series`: [{name, points: [[x, y]]}], each in order of x; `formatX` and `format` make numbers readable. */
export function linePlot({ title, series, format = compact, formatX = compact, fromZero = false }) {
  const all = series.flatMap(({ points }) => points);
  const [xs, ys] = [all.map(([x]) => x), all.map(([, y]) => y)];
  const range = (values, low = Infinity) => (values.length ? [Math.min(low, ...values), Math.max(...values)] : [0, 1]);
  const [rangeX, rangeY] = [range(xs), range(ys, fromZero ? 0 : Infinity)];
  const draw = (width) => {
    const frame = new Frame(width, rangeX, rangeY, format);
    const lines = series.map(({ points }, index) =>
      points.length === 1
        ? svg("circle", { class: `series-${index}`, cx: frame.x(points[0][0]), cy: frame.y(points[0][1]), r: 3 })
        : svg("polyline", {
            class: `series-${index}`,
            points: points.map(([x, y]) => `${frame.x(x)},${frame.y(y)}`).join(" "),
          }),
    );
    const labels = ticks(...rangeX, Math.max(2, Math.floor(frame.width / 90))).map((x) =>
      svg("text", { x: frame.x(x), y: HEIGHT - 7, "text-anchor": "middle" }, formatX(x)),
    );
    return [...frame.grid(), ...lines, ...labels];
  };
  return plotFigure(title, draw, series, {
    head: ["", ...series.map(({ name }) => name)],
    rows: [...new Set(xs)]
      .sort((a, b) => a - b)
      .map((x) => [
        formatX(x),
        ...series.map(({ points }) => {
          const found = points.find(([other]) => other === x);
          return found ? format(found[1]) : "";
        }),
      ]),
    tip: (share) => {
      const at = rangeX[0] + share * (rangeX[1] - rangeX[0]);
      const nearest = series
        .map(({ name, points }) => [
          name,
          points.reduce((best, point) => (Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best), points[0]),
        ])
        .filter(([, point]) => point);
      return nearest.length
        ? [formatX(nearest[0][1][0]), ...nearest.map(([name, point]) => `${name}: ${format(point[1])}`)]
        : null;
    },
  });
}

/** The axes of one drawing: data to pixels. */
class Frame {
  constructor(width, [minX, maxX], [minY, maxY], format) {
    this.width = Math.max(60, width - MARGIN.left - MARGIN.right);
    this.ticks = ticks(minY, maxY > minY ? maxY : minY + 1, 4);
    const [low, high] = [Math.min(minY, this.ticks[0]), Math.max(maxY, this.ticks.at(-1))];
    const spanX = maxX - minX || 1;
    const height = HEIGHT - MARGIN.top - MARGIN.bottom;
    this.x = (value) => MARGIN.left + ((value - minX) / spanX) * this.width;
    this.y = (value) => MARGIN.top + (1 - (value - low) / (high - low || 1)) * height;
    this.format = format;
  }

  grid() {
    return this.ticks.flatMap((value) => [
      svg("line", {
        class: "grid",
        x1: MARGIN.left,
        x2: MARGIN.left + this.width,
        y1: this.y(value),
        y2: this.y(value),
      }),
      svg("text", { x: MARGIN.left - 8, y: this.y(value) + 4, "text-anchor": "end" }, this.format(value)),
    ]);
  }
}

function plotFigure(title, draw, series, { head, rows, tip }) {
  const drawing = svg("svg", { height: HEIGHT, role: "img", "aria-label": title });
  const box = h("div", { class: "plot-tip", hidden: true });
  const stage = h("div", { class: "plot-stage" }, drawing, box);
  let drawn = 0;
  new ResizeObserver(([{ contentRect }]) => {
    const width = Math.floor(contentRect.width);
    if (width === drawn || width === 0) return;
    drawn = width;
    drawing.setAttribute("width", width);
    drawing.replaceChildren(...draw(width).filter(Boolean));
  }).observe(stage);
  stage.addEventListener("pointermove", ({ clientX }) => {
    const { left, width } = stage.getBoundingClientRect();
    const share = (clientX - left - MARGIN.left) / (width - MARGIN.left - MARGIN.right);
    const lines = share >= 0 && share <= 1 ? tip(share) : null;
    box.hidden = lines === null;
    if (!lines) return;
    box.replaceChildren(...lines.map((line) => h("div", {}, line)));
    box.style.left = `${Math.max(0, Math.min(clientX - left + 12, width - box.offsetWidth))}px`;
  });
  stage.addEventListener("pointerleave", () => (box.hidden = true));
  const legend =
    series.length > 1 &&
    h(
      "p",
      { class: "plot-legend" },
      series.map(({ name }, index) => h("span", {}, h("i", { class: `series-${index}` }), name)),
    );
  const table = h(
    "table",
    {},
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        head.map((text) => h("th", { scope: "col" }, text)),
      ),
    ),
    h(
      "tbody",
      {},
      rows.map(([first, ...rest]) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, first),
          rest.map((text) => h("td", {}, text)),
        ),
      ),
    ),
  );
  return h(
    "figure",
    { class: "plot" },
    h("figcaption", {}, h("h2", {}, title), legend),
    stage,
    h(
      "details",
      { class: "plot-numbers", "data-of": title },
      h("summary", {}, "Numbers"),
      h("div", { class: "plot-table", tabindex: "0", role: "region", "aria-label": `${title}, numbers` }, table),
    ),
  );
}

/** About `count` round numbers from `low` to `high`. */
function ticks(low, high, count) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const found = [];
  for (let i = first; i * step <= high + step * 1e-9; i += 1) found.push(i * step || 0);
  if (found.at(-1) < high && low === 0) found.push(found.at(-1) + step);
  return found;
}

/** 1234 as 1.2 k. */
export function compact(value) {
  return new Intl.NumberFormat("en", {
    notation: "compact",
    maximumFractionDigits: Math.abs(value) < 10 ? 2 : 1,
  }).format(value);
}
