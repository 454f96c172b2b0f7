// Drawing again without taking away what is there: an element that is replaced while it is being pressed loses the
// click, and with it focus, selection and what was opened. So elements change only where what they show does.

const shown = new WeakMap(); // element -> what its children were made from

/** Give `parent` the children that `make()` returns, unless it has those made from an equal `state` (plain data). */
export function refill(parent, state, make) {
  const text = JSON.stringify(state);
  if (shown.get(parent) === text) return;
  shown.set(parent, text);
  parent.replaceChildren(...make());
}

/** Make `nodes` the children of `parent`; those that are in their place already are not touched. */
export function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.childNodes]) if (!wanted.has(child)) child.remove();
  for (const [at, node] of nodes.entries()) {
    const place = parent.childNodes[at] ?? null;
    if (place !== node) parent.insertBefore(node, place);
  }
}
