// What screen readers are told. A streaming answer is read sentence by sentence, not token by token.

import { h } from "./element.js";

const region = h("div", { class: "visually-hidden", role: "status", "aria-live": "polite", id: "announcements" });
document.body.append(region);

export function announce(text) {
  const line = h("p", {}, text);
  region.append(line);
  while (region.childNodes.length > 4) region.firstChild.remove();
}

/** Says the sentences of a growing text as they are completed. */
export class Speaker {
  #said = 0;

  update(text, isFinished = false) {
    const rest = text.slice(this.#said);
    const ends = [...rest.matchAll(/[.!?:…。！？]["')\]]*\s|\n/g)];
    const end = isFinished ? rest.length : ends.length ? ends.at(-1).index + ends.at(-1)[0].length : 0;
    if (end === 0) return;
    this.#said += end;
    const sentence = rest
      .slice(0, end)
      .replace(/[*_`#>|]+/g, "")
      .trim();
    if (sentence) announce(sentence);
  }
}
