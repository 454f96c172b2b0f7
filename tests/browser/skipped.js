// Headings that stand more than one level below the one before, and pages without exactly one of level 1.
() => {
  const headings = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].filter((node) => node.checkVisibility());
  const own = headings.filter((node) => !node.closest("aside")); // the sidebar is an outline of its own
  const levels = own.map((node) => Number(node.tagName[1]));
  const skipped = own.filter((_, at) => levels[at] > (levels[at - 1] ?? 0) + 1).map((node) => node.outerHTML);
  return levels.filter((level) => level === 1).length === 1 ? skipped : [...skipped, `levels ${levels}`];
};
