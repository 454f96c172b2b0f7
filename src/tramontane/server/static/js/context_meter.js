// How full the model's context is: a ring below the message being written, and the share as a number.

import { h, svg } from "./element.js";

const RADIUS = 7;
const LENGTH = 2 * Math.PI * RADIUS;
const NEARLY_FULL = 0.9;

export class ContextMeter {
  constructor() {
    this.arc = svg("circle", { cx: 9, cy: 9, r: RADIUS, class: "arc", "stroke-dasharray": LENGTH });
    this.share = h("span", { "aria-hidden": "true" });
    const ring = svg("svg", { class: "ring", viewBox: "0 0 18 18", "aria-hidden": "true" });
    ring.append(svg("circle", { cx: 9, cy: 9, r: RADIUS, class: "track" }), this.arc);
    this.element = h(
      "span",
      { class: "context-meter", role: "meter", "aria-label": "Context in use", "aria-valuemin": "0", hidden: true },
      ring,
      this.share,
    );
  }

  /** `used` of the `context` tokens that the model reads at once; nothing is shown where that is not known (null). */
  show(used, context) {
    this.element.hidden = context === null;
    if (context === null) return;
    const share = Math.min(1, used / context);
    const percent = used > 0 && share < 0.01 ? "< 1 %" : `${Math.floor(share * 100)} %`;
    const told = `About ${Math.min(used, context).toLocaleString()} of the ${context.toLocaleString()} tokens that the model reads at once`;
    this.arc.setAttribute("stroke-dashoffset", String(LENGTH * (1 - share)));
    this.share.textContent = percent;
    this.element.classList.toggle("nearly-full", share >= NEARLY_FULL);
    this.element.setAttribute("aria-valuemax", String(context));
    this.element.setAttribute("aria-valuenow", String(Math.min(used, context)));
    this.element.setAttribute("aria-valuetext", told);
    this.element.title = `${told}. Where they no longer suffice, the oldest messages are left out.`;
  }
}
