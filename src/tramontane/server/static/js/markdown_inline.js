// Inline Markdown: code, emphasis, links, line breaks. Emphasis follows CommonMark's delimiter stack.

import { formulaAt } from "./formula.js";

const PUNCTUATION = /[!-/:-@[-`{-~\p{P}\p{S}]/u;
const BARE_URL = /https?:\/\/[^\s<>"'`\\]{1,2048}/y;
const AUTOLINK = /<([a-zA-Z][a-zA-Z0-9+.-]{1,31}:[^\s<>]*|[\w.+-]+@[\w-]+(?:\.[\w-]+)+)>/y;
const ENTITIES = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
  nbsp: "\u00a0",
  hellip: "…",
  mdash: "—",
  ndash: "–",
};
const ENTITY = /&(?:([a-z]{2,8})|#(\d{1,7})|#x([0-9a-f]{1,6}));/iy;
const SAFE_URL = /^(?:https?:\/\/|mailto:)/i;
const MAX_LINK = 2048;
const MAX_OPEN = 64; // delimiters and brackets waiting for their partner: bounds how deep elements nest
const MAX_RUN = 16; // of one delimiter; longer ones are decoration

/** The address if a link may lead there: http, https or mailto, said in full; else null. */
export function safeUrl(address) {
  const url = address.trim();
  if (!SAFE_URL.test(url) || /[\s\u0000-\u001f\u007f]/.test(url)) return null;
  return URL.canParse(url) ? url : null;
}

/** Nodes: {type: "text" | "code", text}, {type: "emphasis" | "strong" | "strike", children}, {type: "break"},
 * {type: "formula", text, isDisplay}, {type: "link", url, children}, {type: "image", url, children}; `url` is safe or null. */
export function parseInline(text) {
  const nodes = []; // finished nodes and, among them, open delimiters {mark, count, canOpen, canClose}
  const brackets = []; // indices into nodes of "[" and "![" that may yet begin a link
  const noCloser = new Set(); // lengths of backtick runs that are known to have no closing run ahead
  let plain = "";
  const flush = () => {
    if (plain) nodes.push({ type: "text", text: plain });
    plain = "";
  };
  for (let i = 0; i < text.length;) {
    const char = text[i];
    const formula = char === "$" || char === "\\" ? formulaAt(text, i) : null;
    if (formula) {
      flush();
      nodes.push({ type: "formula", ...formula });
      i = formula.end;
    } else if (char === "\\") {
      const isEscape = /^[!-/:-@[-`{-~]/.test(text[i + 1] ?? "");
      if (isEscape) plain += text[i + 1];
      else if (text[i + 1] !== "\n") plain += char; // before a line end it is Markdown's mark for a break
      i += isEscape ? 2 : 1;
    } else if (char === "`") {
      const length = runLength(text, i, "`");
      const close = noCloser.has(length) ? -1 : findRun(text, i + length, length);
      if (close === -1) {
        noCloser.add(length);
        plain += text.slice(i, i + length);
        i += length;
      } else {
        flush();
        const code = text.slice(i + length, close).replaceAll("\n", " ");
        const isPadded = code.startsWith(" ") && code.endsWith(" ") && code.trim();
        nodes.push({ type: "code", text: isPadded ? code.slice(1, -1) : code });
        i = close + length;
      }
    } else if (char === "\n") {
      // models mean the line ends they write; two trailing spaces, Markdown's own mark for that, are dropped
      plain = plain.trimEnd();
      flush();
      nodes.push({ type: "break" });
      i += 1;
    } else if (char === "*" || char === "_" || (char === "~" && text[i + 1] === "~")) {
      const length = runLength(text, i, char);
      if (length > MAX_RUN) plain += text.slice(i, i + length);
      else {
        flush();
        nodes.push(delimiter(text, i, length));
      }
      i += length;
    } else if (brackets.length < MAX_OPEN && (char === "[" || (char === "!" && text[i + 1] === "["))) {
      flush();
      brackets.push(nodes.length);
      nodes.push({ type: "text", text: char === "!" ? "![" : "[" });
      i += char === "!" ? 2 : 1;
    } else if (char === "]" && brackets.length) {
      const target = linkTarget(text, i + 1);
      const opener = brackets.pop();
      if (target === null) {
        plain += char;
        i += 1;
      } else {
        flush();
        const isImage = nodes[opener].text === "![";
        const children = pairDelimiters(nodes.splice(opener).slice(1));
        nodes.push({ type: isImage ? "image" : "link", url: safeUrl(target.url), source: target.url, children });
        if (!isImage) brackets.length = 0; // links hold no links
        i = target.end;
      }
    } else if (char === "<" && matchAt(AUTOLINK, text, i)) {
      flush();
      const address = matchAt(AUTOLINK, text, i)[1];
      const url = safeUrl(address.includes(":") ? address : `mailto:${address}`);
      nodes.push({ type: "link", url, source: address, children: [{ type: "text", text: address }] });
      i += address.length + 2;
    } else if (char === "h" && !/\w/.test(text[i - 1] ?? "") && matchAt(BARE_URL, text, i)) {
      flush();
      const address = trimUrl(matchAt(BARE_URL, text, i)[0]);
      nodes.push({ type: "link", url: safeUrl(address), source: address, children: [{ type: "text", text: address }] });
      i += address.length;
    } else if (char === "&" && matchAt(ENTITY, text, i)) {
      const entity = matchAt(ENTITY, text, i);
      plain += entityText(entity);
      i += entity[0].length;
    } else {
      plain += char;
      i += 1;
    }
  }
  flush();
  return pairDelimiters(nodes);
}

function runLength(text, start, char) {
  let end = start;
  while (text[end] === char) end += 1;
  return end - start;
}

/** Where a run of exactly `length` backticks begins, at or after `from`; -1 if nowhere. */
function findRun(text, from, length) {
  for (let i = text.indexOf("`", from); i !== -1; i = text.indexOf("`", i)) {
    const found = runLength(text, i, "`");
    if (found === length) return i;
    i += found;
  }
  return -1;
}

function matchAt(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

/** Sentences end beside addresses: trailing punctuation and an unmatched ")" are not part of one. */
function trimUrl(address) {
  let url = address.replace(/[.,;:!?*_~]+$/, "");
  while (url.endsWith(")") && url.split(")").length > url.split("(").length) url = url.slice(0, -1);
  return url;
}

function entityText([whole, name, decimal, hexadecimal]) {
  if (name) return ENTITIES[name] ?? whole;
  const code = decimal ? parseInt(decimal, 10) : parseInt(hexadecimal, 16);
  return code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code < 0xe000) ? String.fromCodePoint(code) : "\ufffd";
}

/** `(address "title")` at `start`: {url, end} or null. */
function linkTarget(text, start) {
  if (text[start] !== "(") return null;
  const part = text.slice(start + 1, start + 1 + MAX_LINK);
  const found = /^\s*(?:<([^<>\n]*)>|((?:[^\s()\\]|\\.|\((?:[^\s()\\]|\\.)*\))*))(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/.exec(
    part,
  );
  return (
    found && { url: (found[1] ?? found[2]).replace(/\\([!-/:-@[-`{-~])/g, "$1"), end: start + 1 + found[0].length }
  );
}

function delimiter(text, start, count) {
  const mark = text[start];
  const [before, after] = [text[start - 1] ?? " ", text[start + count] ?? " "];
  const isSpace = (char) => /\s/.test(char);
  const isMark = (char) => PUNCTUATION.test(char);
  const left = !isSpace(after) && (!isMark(after) || isSpace(before) || isMark(before));
  const right = !isSpace(before) && (!isMark(before) || isSpace(after) || isMark(after));
  const inWord = mark === "_"; // snake_case stays as it is
  return {
    mark,
    count,
    original: count,
    canOpen: left && (!inWord || !right || isMark(before)),
    canClose: right && (!inWord || !left || isMark(after)),
  };
}

/** Delimiters become emphasis where they pair up and text where they do not. */
function pairDelimiters(nodes) {
  const out = [];
  const openers = []; // indices into out
  const bottom = new Map(); // openers below this depth cannot match such a closer: keeps the search linear
  for (const node of nodes) {
    if (node.mark === undefined) {
      out.push(node);
      continue;
    }
    const closer = { ...node };
    while (closer.canClose && closer.count > 0) {
      const kind = `${closer.mark}${closer.canOpen}${closer.original % 3}`;
      const floor = bottom.get(kind) ?? 0;
      let depth = openers.length - 1;
      while (depth >= floor && !pairs(out[openers[depth]], closer)) depth -= 1;
      if (depth < floor) {
        bottom.set(kind, openers.length);
        break;
      }
      const opener = out[openers[depth]];
      const width = closer.mark === "~" ? 2 : Math.min(opener.count, closer.count, 2);
      const type = closer.mark === "~" ? "strike" : width === 2 ? "strong" : "emphasis";
      const children = asText(out.splice(openers[depth] + 1));
      openers.length = depth + 1;
      for (const [key, value] of bottom) bottom.set(key, Math.min(value, openers.length));
      opener.count -= width;
      closer.count -= width;
      if (opener.count === 0) {
        out.pop();
        openers.pop();
      }
      out.push({ type, children });
    }
    if (closer.count > 0) {
      if (closer.canOpen && openers.length < MAX_OPEN) openers.push(out.length);
      out.push(closer);
    }
  }
  return asText(out);
}

function pairs(opener, closer) {
  if (opener.mark !== closer.mark) return false;
  if (closer.mark === "~") return opener.count >= 2 && closer.count >= 2;
  const isInner = opener.canClose || closer.canOpen; // CommonMark's rule of three
  return (
    !isInner ||
    (opener.original + closer.original) % 3 !== 0 ||
    (opener.original % 3 === 0 && closer.original % 3 === 0)
  );
}

function asText(nodes) {
  return nodes.map((node) => (node.mark === undefined ? node : { type: "text", text: node.mark.repeat(node.count) }));
}
