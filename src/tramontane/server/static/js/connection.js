// Whether the server answers: a dot in the corner, a line across the page while it does not, and the way back.

import { announce } from "./announcer.js";
import { h } from "./element.js";

const RETRY_MS = 3000;

export class Connection {
  /** `onReturn()` is called when a server that was away answers again. */
  constructor(onReturn) {
    this.onReturn = onReturn;
    this.isUp = true;
    this.label = h("span", {}, "Connecting…");
    this.element = h("span", { class: "connection" }, h("i", { "aria-hidden": "true" }), this.label);
    this.banner = h(
      "div",
      { class: "banner", role: "status", hidden: true },
      "The server does not answer. What you write is kept; trying again every few seconds.",
    );
    document.addEventListener("server-unreachable", () => this.#lost());
  }

  ready() {
    this.#show("up", "Connected");
  }

  /** The server answers, and wants a key. */
  refused() {
    this.#show("refused", "Key needed");
  }

  #show(state, text) {
    this.element.dataset.state = state;
    this.label.textContent = text;
  }

  #lost() {
    if (!this.isUp) return;
    this.isUp = false;
    this.banner.hidden = false;
    this.#show("down", "No connection");
    setTimeout(() => this.#retry(), RETRY_MS);
  }

  async #retry() {
    try {
      await fetch(new URL("health", document.baseURI), { cache: "no-store" });
    } catch {
      setTimeout(() => this.#retry(), RETRY_MS);
      return;
    }
    this.isUp = true;
    this.banner.hidden = true;
    this.ready();
    announce("The server answers again");
    this.onReturn();
  }
}
