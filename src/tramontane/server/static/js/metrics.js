// What the server counts, from Prometheus' text format, with the few sums and quantiles a page needs.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

export class Metrics {
  constructor(text) {
    this.samples = [];
    for (const line of text.split("\n")) {
      const found = line.startsWith("#") ? null : LINE.exec(line);
      if (!found) continue;
      const labels = {};
      for (const [, name, value] of (found[2] ?? "").matchAll(LABEL)) labels[name] = value.replace(/\\(.)/g, "$1");
      this.samples.push({ name: found[1], labels, value: Number(found[3]) });
    }
  }

  /** Samples of a name whose labels agree with `labels`. */
  find(name, labels = {}) {
    const agrees = (sample) => Object.entries(labels).every(([label, value]) => sample.labels[label] === value);
    return this.samples.filter((sample) => sample.name === name && agrees(sample));
  }

  sum(name, labels = {}) {
    return this.find(name, labels).reduce((sum, { value }) => sum + value, 0);
  }

  /** Sums by the values of one label, as [[value, sum]]. */
  sumsBy(name, label) {
    const sums = new Map();
    for (const { labels, value } of this.find(name)) sums.set(labels[label], (sums.get(labels[label]) ?? 0) + value);
    return [...sums];
  }

  /** A histogram as [{from, to, count}], over all labels but those given; `to` of the last is Infinity. */
  histogram(name, labels = {}) {
    const cumulative = new Map();
    for (const { labels: own, value } of this.find(`${name}_bucket`, labels)) {
      const bound = own.le === "+Inf" ? Infinity : Number(own.le);
      cumulative.set(bound, (cumulative.get(bound) ?? 0) + value);
    }
    const bounds = [...cumulative.keys()].sort((a, b) => a - b);
    return bounds.map((to, index) => {
      const below = index ? cumulative.get(bounds[index - 1]) : 0;
      return { from: index ? bounds[index - 1] : 0, to, count: cumulative.get(to) - below };
    });
  }
}

/** The value below which a share of a histogram lies, by Prometheus' histogram_quantile, made readable by `format`;
 * a value beyond the last bound is said to be above it. */
export function quantile(buckets, share, format) {
  const total = buckets.reduce((sum, { count }) => sum + count, 0);
  let below = 0;
  for (const { from, to, count } of buckets) {
    if (count && below + count >= share * total) {
      if (to === Infinity) return `> ${format(from)}`;
      return format(from + ((to - from) * (share * total - below)) / count);
    }
    below += count;
  }
  return "–"; // nothing has been counted
}
