// What this browser remembers besides conversations: theme, last model, parameters, whether single keys are shortcuts.

const NAME = "tramontane.preferences";
const DEFAULTS = { theme: "auto", model: null, system: "", parameters: {}, singleKeys: true, playground: {} };

let values = { ...DEFAULTS };
try {
  values = { ...DEFAULTS, ...JSON.parse(localStorage.getItem(NAME) ?? "{}") };
} catch {
  // storage is forbidden or its content is not ours: the defaults do
}

export function preference(name) {
  return values[name];
}

export function setPreference(name, value) {
  values = { ...values, [name]: value };
  try {
    localStorage.setItem(NAME, JSON.stringify(values));
  } catch {
    // forbidden or full: it holds until the page is closed
  }
}
