// Everything in the document that text from outside must never have become.
() => {
  const found = [];
  const ours = new Set(["js/theme_at_start.js", "js/main.js"]);
  const foreign = new Set("iframe object embed base style video audio img image use marquee".split(" "));
  const addresses = /^(href|src|action|xlink:href|formaction|background|data)$/;
  const allowed = /^(https?:|mailto:|#|js\/|css\/|favicon)/;
  for (const node of document.querySelectorAll("*")) {
    const name = node.localName;
    if (foreign.has(name)) found.push(name);
    if (name === "script" && !ours.has(node.getAttribute("src"))) found.push("script");
    for (const { name: attribute, value } of node.attributes) {
      if (attribute.startsWith("on") || attribute === "srcdoc") found.push(`${name} ${attribute}`);
      if (attribute === "style" && value.includes("url")) found.push(`${name} ${value}`);
      if (addresses.test(attribute) && !allowed.test(value)) found.push(`${attribute}=${value}`);
    }
    if (name === "a" && /^https?:/.test(node.getAttribute("href")) && !/noopener/.test(node.rel))
      found.push("no noopener");
  }
  return found;
};
