// Elements from data. Text only ever becomes text nodes, so nothing a model, file or server says can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Properties: `onclick` and the like listen; `value` is set live; the rest are attributes, where
 * true means present and false, null or undefined absent. Children: nodes, strings; null and false are left out. */
export function h(tag, properties = {}, ...children) {
  return build(document.createElement(tag), properties, children);
}

/** The same for SVG. */
export function svg(tag, properties = {}, ...children) {
  return build(document.createElementNS(SVG, tag), properties, children);
}

function build(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
