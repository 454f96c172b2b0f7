// Formulas in TeX: where one begins and ends in a text, and its drawing by KaTeX, which is fetched when the first one
// comes. A formula comes from a model and may be hostile: its length, its macros and its sizes are bounded, and it can
// lead nowhere. What KaTeX refuses is shown as it is written.

import { h } from "./element.js";

const MAX_CHARS = 2000;
const MAX_DEPTH = 200; // of elements: some thirty fractions within each other
const OPTIONS = { throwOnError: true, trust: false, strict: "ignore", maxExpand: 300, maxSize: 20 };
const OPENING = /^ {0,3}(\$\$|\\\[)[ \t]*/; // of a formula that has lines of its own
const CLOSERS = { $$: "$$", "\\[": "\\]", "\\(": "\\)" };

/** The formula that begins at `at`: {text, isDisplay, end}, or null. A lone dollar is money where Pandoc would take it
 * for such, and where a sum is followed by words. */
export function formulaAt(text, at) {
  const mark = text.slice(at, at + 2);
  if (mark in CLOSERS) {
    const inner = text.slice(at + 2, at + 2 + MAX_CHARS);
    const length = inner.indexOf(CLOSERS[mark]);
    if (length === -1 || !inner.slice(0, length).trim()) return null;
    return { text: inner.slice(0, length).trim(), isDisplay: mark !== "\\(", end: at + length + 4 };
  }
  if (text[at] !== "$" || /[\p{L}\p{N}$]/u.test(text[at - 1] ?? "")) return null;
  const [, inner] = /^\$((?:[^$\\\n]|\\.)+)\$(?![\p{L}\p{N}$])/u.exec(text.slice(at, at + 2 + MAX_CHARS)) ?? [];
  if (inner === undefined || /^\s|\s$/.test(inner) || isMoney(inner)) return null;
  return { text: inner, isDisplay: false, end: at + inner.length + 2 };
}

function isMoney(inner) {
  return /^\d/.test(inner) && !inner.includes("\\") && /(?:^|\s)\p{L}{2,}/u.test(inner);
}

/** Whether a formula of its own lines begins with this one, so that a paragraph ends before it. */
export function opensFormula(line) {
  const opening = OPENING.exec(line);
  if (!opening) return false;
  const rest = line.slice(opening[0].length).trimEnd();
  return rest === "" || (rest.length > 2 && rest.endsWith(CLOSERS[opening[1]]));
}

/** The formula of lines `start` on: [block, the line after it], or null. One that has not ended yet is shown as it is
 * written. */
export function parseFormula(lines, start) {
  const opening = OPENING.exec(lines[start]);
  if (!opening) return null;
  const closer = CLOSERS[opening[1]];
  const inner = [];
  let length = 0;
  for (let i = start; i < lines.length; i += 1) {
    const line = i === start ? lines[i].slice(opening[0].length) : lines[i];
    const close = line.indexOf(closer);
    if (close !== -1) {
      const text = [...inner, line.slice(0, close)].join("\n").trim();
      if (line.slice(close + 2).trim() || !text) return null; // words follow: it is part of a sentence
      return [{ type: "formula", text, isDisplay: true }, i + 1];
    }
    inner.push(line);
    length += line.length + 1;
    if (length > MAX_CHARS) return null;
  }
  return [{ type: "paragraph", children: [{ type: "text", text: lines.slice(start).join("\n") }] }, lines.length];
}

export function formulaElement({ text, isDisplay }) {
  const look = isDisplay
    ? { class: "formula display", role: "group", "aria-label": "Formula", tabindex: "0" }
    : { class: "formula" };
  const element = h("span", look, text);
  if (globalThis.katex) draw(element, text, isDisplay);
  else
    fetchKatex().then(
      () => draw(element, text, isDisplay),
      () => {},
    ); // without it, the source is shown
  return element;
}

function draw(element, text, isDisplay) {
  const box = h("span");
  try {
    globalThis.katex.render(text, box, { ...OPTIONS, displayMode: isDisplay });
    if (isTooDeep(box)) throw new Error("nested too deeply");
    element.replaceChildren(...box.childNodes);
  } catch {
    element.replaceChildren(h("code", {}, text)); // no TeX, or too much of it
  }
}

/** Browsers lay out nested elements by recursion, and crash where it goes too deep. */
function isTooDeep(root) {
  let level = [...root.children];
  for (let depth = 0; level.length; depth += 1) {
    if (depth === MAX_DEPTH) return true;
    level = level.flatMap((node) => [...node.children]);
  }
  return false;
}

let fetching = null;

function fetchKatex() {
  fetching ??= Promise.all([import("../vendor/katex/katex.min.js"), fetchStyle()]).catch((error) => {
    fetching = null; // the next formula tries again
    throw error;
  });
  return fetching;
}

function fetchStyle() {
  const link = h("link", { rel: "stylesheet", href: new URL("../vendor/katex/katex.min.css", import.meta.url) });
  document.head.append(link);
  return new Promise((resolve, reject) => {
    link.addEventListener("load", resolve);
    link.addEventListener("error", () => (link.remove(), reject(new Error("the style of formulas did not come"))));
  });
}
