// A Markdown tree as elements. While an answer grows, blocks whose source has not changed keep their elements.

import { copyButton } from "./copy.js";
import { h } from "./element.js";
import { formulaElement } from "./formula.js";
import { highlight } from "./highlight.js";
import { parseMarkdown } from "./markdown.js";

export class MarkdownView {
  constructor() {
    this.element = h("div", { class: "prose" });
    this.text = "";
    this.blocks = [];
  }

  /** Show `text`. */
  update(text) {
    if (text === this.text) return;
    // what is added can change the last block, or join it to the one before: `---` below a paragraph makes a heading
    const settled = text.startsWith(this.text) ? this.blocks.slice(0, -2) : [];
    const firstLine = settled.length ? this.blocks[settled.length].line : 0;
    const blocks = [...settled, ...parseMarkdown(text, firstLine)];
    rankHeadings(blocks, settled.length);
    let same = settled.length;
    while (blocks[same] && this.blocks[same] && blocks[same].raw === this.blocks[same].raw) same += 1;
    while (this.element.childNodes.length > same) this.element.lastChild.remove();
    this.element.append(...blocks.slice(same).map(blockElement));
    this.text = text;
    this.blocks = blocks;
  }
}

/** Give every heading from block `first` on its rank: how many headings it stands below, whatever levels these are
 * written with. `openLevels` of a block: the written levels of the headings that what follows it stands below. */
function rankHeadings(blocks, first) {
  let open = blocks[first - 1]?.openLevels ?? [];
  const rank = (block) => {
    if (block.type === "heading") {
      open = open.filter((level) => level < block.level);
      block.rank = open.length;
      open = [...open, block.level];
    }
    for (const inner of block.items ?? block.children ?? []) rank(inner);
  };
  for (const block of blocks.slice(first)) {
    rank(block);
    block.openLevels = open;
  }
}

function blockElement(block) {
  switch (block.type) {
    case "heading":
      // the page's own headings are levels 1 and 2; no level is skipped, and the look is that of the written level
      return h(`h${Math.min(block.rank + 3, 6)}`, { class: `level-${block.level}` }, inlines(block.children));
    case "rule":
      return h("hr");
    case "quote":
      return h("blockquote", {}, block.children.map(blockElement));
    case "list":
      return listElement(block);
    case "code":
      return codeElement(block);
    case "table":
      return tableElement(block);
    case "formula":
      return h("p", {}, formulaElement(block));
    default:
      return h("p", {}, inlines(block.children));
  }
}

function listElement(list) {
  const items = list.items.map((item) => {
    const box =
      item.isTask &&
      h("input", {
        type: "checkbox",
        disabled: true,
        checked: item.isDone,
        "aria-label": item.isDone ? "done" : "to do",
      });
    const children = item.children.flatMap((child) =>
      child.type === "paragraph" && !list.isLoose ? inlines(child.children) : [blockElement(child)],
    );
    return h("li", { class: item.isTask ? "task" : null }, box, children);
  });
  return list.isOrdered ? h("ol", { start: list.start === 1 ? null : list.start }, items) : h("ul", {}, items);
}

function codeElement({ language, text }) {
  const code = h(
    "code",
    {},
    highlight(text, language).map(([kind, part]) => (kind ? h("span", { class: `code-${kind}` }, part) : part)),
  );
  return h(
    "figure",
    { class: "code" },
    h(
      "figcaption",
      {},
      h("span", {}, language || "text"),
      copyButton(() => text, "Copy code"),
    ),
    h("pre", { tabindex: "0", "aria-label": `Code${language ? `, ${language}` : ""}` }, code),
  );
}

function tableElement({ align, head, rows }) {
  const cell = (tag) => (children, column) =>
    h(tag, { class: align[column] ? `align-${align[column]}` : null }, inlines(children));
  return h(
    "div",
    { class: "table", tabindex: "0", role: "region", "aria-label": "Table" },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, head.map(cell("th")))),
      h(
        "tbody",
        {},
        rows.map((row) => h("tr", {}, row.map(cell("td")))),
      ),
    ),
  );
}

function inlines(nodes) {
  return nodes.map((node) => {
    switch (node.type) {
      case "text":
        return node.text;
      case "break":
        return h("br");
      case "code":
        return h("code", {}, node.text);
      case "emphasis":
        return h("em", {}, inlines(node.children));
      case "strong":
        return h("strong", {}, inlines(node.children));
      case "strike":
        return h("s", {}, inlines(node.children));
      case "formula":
        return formulaElement(node);
      default:
        return linkElement(node);
    }
  });
}

/** Links open apart and tell nothing about this page. Images are links too: fetching one would tell its host what was
 * said here. An address of any other kind is shown as text. */
function linkElement({ type, url, source, children }) {
  const label = children.length ? inlines(children) : [source];
  if (url === null) return h("span", { class: "dead-link", title: "This address is not opened from here" }, label);
  return h(
    "a",
    {
      href: url,
      target: "_blank",
      rel: "noopener noreferrer nofollow",
      title: type === "image" ? `Image: ${url}` : url,
    },
    label,
  );
}
