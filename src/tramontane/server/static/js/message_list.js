// The messages of the branch being read, and the scrolling that follows an answer until the reader looks elsewhere.

import { path } from "./conversation.js";
import { h } from "./element.js";
import { iconButton } from "./icon_button.js";
import { MessageView } from "./message_view.js";

const NEAR_END_PX = 48;

export class MessageList {
  /** `actions`: what can be done with a message, see MessageView; `welcome()`: what an empty list shows. */
  constructor(actions, welcome) {
    this.actions = actions;
    this.welcome = welcome;
    this.views = new Map(); // message id -> MessageView
    this.followsEnd = true;
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
    for (const [id, view] of this.views) {
      if (ids.has(id)) continue;
      view.element.remove();
      this.views.delete(id);
    }
    this.list.querySelector(":scope > .welcome")?.remove();
    for (const message of messages) {
      const known = this.views.get(message.id);
      if (known) known.update();
      else this.views.set(message.id, new MessageView(conversation, message, this.actions));
      this.list.append(this.views.get(message.id).element); // moving an element keeps its state
    }
    if (!messages.length) this.list.append(this.welcome());
  }

  view(message) {
    return this.views.get(message?.id) ?? null;
  }

  /** A message has grown. */
  update(message) {
    this.view(message)?.update();
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
