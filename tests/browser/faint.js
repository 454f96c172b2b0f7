// Text whose contrast is below 4.5, WCAG 2's level AA for text of normal size: the relative luminance of its colour
// against that of what lies behind it.
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r, g, b].map((c, i) => (c * a + [R, G, B][i] * (255 - a)) / 255);
  const behind = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3]) layers.push(colour);
      if (colour[3] === 255) break;
    }
    return layers.reduceRight((base, layer) => over(layer, base), [255, 255, 255]);
  };
  const luminance = (rgb) =>
    rgb
      .map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4))
      .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const hasText = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    const isSeen = node.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    if (!hasText || !isSeen || node.closest(":disabled, .visually-hidden, .skip-link, option")) continue;
    const background = behind(node);
    const [a, b] = [luminance(over(rgba(getComputedStyle(node).color), background)), luminance(background)];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const what = `${node.localName}.${node.className}: ${node.textContent.slice(0, 40)}`;
    if (contrast < 4.5) found.push(`${contrast.toFixed(2)} ${what}`);
  }
  return [...new Set(found)];
};
