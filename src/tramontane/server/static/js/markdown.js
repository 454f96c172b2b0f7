// Markdown, as models write it, to a tree: CommonMark's blocks and inlines, tables, task lists and strikethrough of
// GitHub's dialect, formulas in TeX. HTML is text here. The text comes from a model and may be hostile:
// passes are linear in its length or nearly so, and nesting is bounded.

import { opensFormula, parseFormula } from "./formula.js";
import { parseInline } from "./markdown_inline.js";

const MAX_DEPTH = 16;
const FENCE = /^( {0,3})(`{3,}|~{3,})([^`\n]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:([ \t]+)(.*)|[ \t]*)$/;
const DELIMITER_ROW = /^\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?$/; // of a trimmed line

/** Blocks from `firstLine` on: {type, line, raw, …}. `raw` is the block's source and `line` where it begins, for telling
 * what changed while text is still arriving. */
export function parseMarkdown(text, firstLine = 0) {
  return parseBlocks(text.replace(/\r\n?/g, "\n").split("\n"), 0, firstLine);
}

function parseBlocks(lines, depth, firstLine = 0) {
  const blocks = [];
  for (let i = firstLine; i < lines.length;) {
    if (!lines[i].trim()) {
      i += 1;
      continue;
    }
    const [block, next] = parseBlock(lines, i, depth);
    block.line = i;
    block.raw = lines.slice(i, next).join("\n");
    blocks.push(block);
    i = next;
  }
  return blocks;
}

/** The block that starts at line `i`, and the line after it. */
function parseBlock(lines, i, depth) {
  const line = lines[i];
  const fence = FENCE.exec(line);
  if (fence) return parseFence(lines, i, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    return [{ type: "heading", level: heading[1].length, children: parseInline(unclosed(heading[2] ?? "")) }, i + 1];
  }
  if (RULE.test(line)) return [{ type: "rule" }, i + 1];
  const formula = parseFormula(lines, i);
  if (formula) return formula;
  if (depth < MAX_DEPTH && QUOTE.test(line)) return parseQuote(lines, i, depth);
  if (depth < MAX_DEPTH && ITEM.test(line)) return parseList(lines, i, depth);
  if (isTable(lines, i)) return parseTable(lines, i);
  return parseParagraph(lines, i);
}

/** Heading text without the marks that may close it. */
function unclosed(text) {
  const content = text.trim();
  let end = content.length;
  while (content[end - 1] === "#") end -= 1;
  return end === 0 || content[end - 1] === " " ? content.slice(0, end).trimEnd() : content;
}

function parseFence(lines, start, [, indent, marks, info]) {
  const closing = new RegExp(`^ {0,3}\\${marks[0]}{${marks.length},}[ \\t]*$`);
  const code = [];
  let i = start + 1;
  for (; i < lines.length && !closing.test(lines[i]); i += 1) {
    let line = lines[i];
    for (let n = indent.length; n > 0 && line.startsWith(" "); n -= 1) line = line.slice(1);
    code.push(line);
  }
  return [
    { type: "code", language: info.trim().split(/\s+/)[0].toLowerCase(), text: code.join("\n") },
    Math.min(i + 1, lines.length),
  ];
}

function parseQuote(lines, start, depth) {
  const inner = [];
  let i = start;
  // a line without the mark goes on with the paragraph inside, as CommonMark has it
  for (; i < lines.length && (QUOTE.test(lines[i]) || (lines[i].trim() && !startsBlock(lines[i]))); i += 1) {
    inner.push(lines[i].replace(QUOTE, ""));
  }
  return [{ type: "quote", children: parseBlocks(inner, depth + 1) }, i];
}

function parseList(lines, start, depth) {
  const [, , firstMark] = ITEM.exec(lines[start]);
  const kind = firstMark.at(-1); // "-", "*", "+", "." or ")": another mark is another list
  const list = {
    type: "list",
    isOrdered: /\d/.test(firstMark),
    start: parseInt(firstMark, 10),
    items: [],
    isLoose: false,
  };
  let i = start;
  while (i < lines.length) {
    const item = ITEM.exec(lines[i]);
    if (!item || item[2].at(-1) !== kind || RULE.test(lines[i])) break;
    const [, indent, mark, gap = " ", rest = ""] = item;
    const width = indent.length + mark.length + (gap.length > 4 ? 1 : gap.length);
    const inner = [rest];
    i += 1;
    for (; i < lines.length; i += 1) {
      const line = lines[i];
      if (!line.trim()) {
        const after = nextText(lines, i);
        if (after === lines.length || leadingSpaces(lines[after]) < width) break;
        inner.push("");
      } else if (leadingSpaces(line) >= width) inner.push(line.slice(width));
      else if (startsBlock(line) || ITEM.test(line) || !inner.at(-1).trim()) break;
      else inner.push(line.trimStart());
    }
    list.items.push(parseItem(inner, depth));
    const next = nextText(lines, i);
    const following = ITEM.exec(lines[next] ?? "");
    if (!following || following[2].at(-1) !== kind) break;
    if (next > i) list.isLoose = true;
    i = next;
  }
  list.isLoose ||= list.items.some((item) => item.isLoose);
  return [list, i];
}

/** The first line at or after `i` that is not blank; the number of lines if there is none. */
function nextText(lines, i) {
  while (i < lines.length && !lines[i].trim()) i += 1;
  return i;
}

function parseItem(inner, depth) {
  const task = /^\[([ xX])\][ \t]+/.exec(inner[0]);
  if (task) inner[0] = inner[0].slice(task[0].length);
  const children = parseBlocks(inner, depth + 1);
  const isLoose = children.filter((child) => child.type === "paragraph").length > 1;
  return { isTask: task !== null, isDone: task !== null && task[1] !== " ", children, isLoose };
}

function isTable(lines, i) {
  if (i + 1 >= lines.length || !lines[i].includes("|") || !DELIMITER_ROW.test(lines[i + 1].trim())) return false;
  return cells(lines[i]).length === cells(lines[i + 1]).length;
}

function parseTable(lines, start) {
  const align = cells(lines[start + 1]).map((cell) => {
    const [left, right] = [cell.startsWith(":"), cell.endsWith(":")];
    return right ? (left ? "center" : "right") : left ? "left" : null;
  });
  const row = (line) => {
    const found = cells(line);
    return align.map((_, column) => parseInline(found[column] ?? ""));
  };
  const rows = [];
  let i = start + 2;
  for (; i < lines.length && lines[i].trim() && !startsBlock(lines[i]); i += 1) rows.push(row(lines[i]));
  return [{ type: "table", align, head: row(lines[start]), rows }, i];
}

/** Cells of a table row; a `|` inside a code span or after a backslash belongs to its cell. */
function cells(line) {
  const found = [];
  let cell = "";
  for (let i = 0; i < line.length; i += 1) {
    if (line[i] === "\\" && line[i + 1] === "|") {
      cell += "|";
      i += 1;
    } else if (line[i] === "|") {
      found.push(cell.trim());
      cell = "";
    } else cell += line[i];
  }
  found.push(cell.trim());
  if (found[0] === "") found.shift();
  if (found.at(-1) === "") found.pop();
  return found;
}

function parseParagraph(lines, start) {
  let i = start + 1;
  for (; i < lines.length && lines[i].trim() && !startsBlock(lines[i]) && !isTable(lines, i); i += 1) {
    if (/^ {0,3}(?:=+|-{2,})[ \t]*$/.test(lines[i])) break;
  }
  const text = lines
    .slice(start, i)
    .map((line) => line.trimStart())
    .join("\n")
    .trimEnd();
  const underline = i < lines.length ? /^ {0,3}(=+|-{2,})[ \t]*$/.exec(lines[i]) : null;
  if (underline)
    return [{ type: "heading", level: underline[1][0] === "=" ? 1 : 2, children: parseInline(text) }, i + 1];
  return [{ type: "paragraph", children: parseInline(text) }, i];
}

/** Whether a line may interrupt a paragraph. A numbered item does so only as number 1, as CommonMark has it. */
function startsBlock(line) {
  if (FENCE.test(line) || HEADING.test(line) || QUOTE.test(line) || opensFormula(line)) return true;
  if (RULE.test(line) && !/^ {0,3}-{2,}[ \t]*$/.test(line)) return true; // dashes below a paragraph make a heading
  const item = ITEM.exec(line);
  return item !== null && Boolean(item[4]) && (!/\d/.test(item[2]) || parseInt(item[2], 10) === 1);
}

function leadingSpaces(line) {
  let n = 0;
  for (const char of line) {
    if (char === " ") n += 1;
    else if (char === "\t") n += 4 - (n % 4);
    else break;
  }
  return n;
}
