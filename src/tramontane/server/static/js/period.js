// Periods of the usage page, and the hours and days they are made of, named as the server names them.

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** {label, by, since(now) in seconds since 1970, place(slot): how a slot is shown}. */
export const PERIODS = [
  hours("Last 24 hours", 24),
  days("Last 7 days", 7),
  days("Last 30 days", 30),
  days("Last 90 days", 90),
];

function hours(label, count) {
  const format = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });
  return {
    label,
    by: "hour",
    since: (now) => (startOf(now.getTime(), HOUR_MS) - (count - 1) * HOUR_MS) / 1000,
    place: (slot) => format.format(new Date(slot)),
  };
}

function days(label, count) {
  const format = new Intl.DateTimeFormat([], { day: "numeric", month: "short", timeZone: "UTC" });
  return {
    label,
    by: "day",
    since: (now) => (startOf(now.getTime(), DAY_MS) - (count - 1) * DAY_MS) / 1000,
    place: (slot) => format.format(new Date(slot)),
  };
}

/** From one time to another, in seconds since 1970: "2026-11-26T09:00Z" and the like, those without requests too. */
export function hoursBetween(since, until) {
  return slots(since, until, HOUR_MS, (date) => `${date.toISOString().slice(0, 13)}:00Z`);
}

/** The same for "2026-11-26". */
export function daysBetween(since, until) {
  return slots(since, until, DAY_MS, (date) => date.toISOString().slice(0, 10));
}

function slots(since, until, step, name) {
  const found = [];
  for (let at = startOf(since * 1000, step); at <= until * 1000; at += step) found.push(name(new Date(at)));
  return found;
}

function startOf(milliseconds, step) {
  return Math.floor(milliseconds / step) * step;
}
