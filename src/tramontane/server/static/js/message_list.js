// The messages of the branch being read, and the scrolling that follows an answer until the reader looks elsewhere.

import { announce } from "./announcer.js";
import { path } from "./conversation.js";
import { h } from "./element.js";
import { iconButton } from "./icon_button.js";
import { MessageView } from "./message_view.js";
import { arrange } from "./redraw.js";

const NEAR_END_PX = 48;

export class MessageList {
  /** `actions`: what can be done with a message, see MessageView; `welcome`: the element that an empty list shows. */
  constructor(actions, welcome) {
    this.actions = actions;
    this.welcome = welcome;
    this.views = new Map(); // message id -> MessageView
    this.followsEnd = true;
    this.boundary = h(
      "p",
      { class: "boundary", role: "note" },
      h("span", {}, "The messages above are no longer read: the model's context is full."),
    );
    this.list = h("div", { class: "messages", role: "log", "aria-live": "off", "aria-label": "Conversation" });
    this.element = h("div", { class: "scroller", tabindex: "-1" }, this.list);
    const look = { class: "to-end icon-only", hidden: true };
    this.toEnd = iconButton("down", "Go to the latest message", () => this.scrollToEnd({ isSmooth: true }), look);
    this.element.addEventListener("scroll", () => this.#noteScroll(), { passive: true });
  }

  clear() {
    this.list.replaceChildren();
    this.views.clear();
  }

  /** Show what is to be read of a conversation (null: of none yet). */
  show(conversation) {
    const messages = conversation ? path(conversation) : [];
    const ids = new Set(messages.map(({ id }) => id));
    for (const id of this.views.keys()) if (!ids.has(id)) this.views.delete(id);
    for (const message of messages) {
      const known = this.views.get(message.id);
      if (known) known.update(conversation, message);
      else this.views.set(message.id, new MessageView(conversation, message, this.actions));
    }
    const elements = messages.map(({ id }) => this.views.get(id).element);
    arrange(this.list, elements.length ? elements : [this.welcome]);
    this.lastAnswer = messages.findLast(({ role }) => role === "assistant") ?? null;
    this.#showBoundary();
  }

  /** A line above the first message that the last answer has read, where it has not read all; whether it is news. */
  #showBoundary() {
    const first = this.views.get(this.lastAnswer?.readsFrom)?.element;
    const isNews = first !== undefined && first.previousSibling !== this.boundary;
    if (!first) this.boundary.remove();
    else if (isNews) first.before(this.boundary);
    return isNews;
  }

  view(message) {
    return this.views.get(message?.id) ?? null;
  }

  /** A message has grown. */
  update(message) {
    this.view(message)?.update();
    if (message === this.lastAnswer && this.#showBoundary()) announce(this.boundary.textContent);
    if (this.followsEnd) this.scrollToEnd();
  }

  scrollToEnd({ isSmooth = false } = {}) {
    const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const behavior = isSmooth && !isCalm ? "smooth" : "instant";
    this.element.scrollTo({ top: this.element.scrollHeight, behavior });
    this.followsEnd = true;
    this.toEnd.hidden = true;
  }

  #noteScroll() {
    const { scrollHeight, scrollTop, clientHeight } = this.element;
    this.followsEnd = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
    this.toEnd.hidden = this.followsEnd;
  }
}
