// Controls that assistive technology would find no name for.
() => {
  const name = (node) =>
    node.getAttribute("aria-label") ||
    node.textContent.trim() ||
    node.title ||
    node.getAttribute("alt") ||
    [...(node.labels ?? [])].map((label) => label.textContent.trim()).join(" ");
  const controls = "button, a[href], input:not([hidden]), select, textarea, summary, [role=button], progress, dialog";
  return [...document.querySelectorAll(controls)]
    .filter((node) => !name(node) && !node.getAttribute("aria-labelledby"))
    .map((node) => node.outerHTML.slice(0, 120));
};
