// Icons: one stroke each on a 24 by 24 grid, coloured by the text around them.

import { svg } from "./element.js";

const PATHS = {
  plus: "M12 5v14M5 12h14",
  search: "M11 4a7 7 0 1 1 0 14 7 7 0 0 1 0-14zM16 16l5 5",
  send: "M12 20V5M5.5 11 12 4.5 18.5 11",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "M5 12.5 10 17.5 19.5 7",
  edit: "M4 20l1-4L16.5 4.5l3 3L8 19l-4 1zM14 7l3 3",
  again: "M20 11a8 8 0 1 0-2 6.2M20 5v6h-6",
  onward: "M4 6v12l9-6zM15 6v12",
  left: "M14.5 6 8.5 12l6 6",
  right: "M9.5 6l6 6-6 6",
  down: "M6 9.5l6 6 6-6",
  menu: "M4 7h16M4 12h16M4 17h16",
  close: "M6 6l12 12M18 6 6 18",
  sliders:
    "M4 8h9M18 8h2M15.5 5.5a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5zM4 16h2M11 16h9M8.5 13.5a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5z",
  attach: "M19.5 11.5 12 19a5 5 0 0 1-7-7l8-8a3.3 3.3 0 0 1 4.7 4.7l-8 8a1.6 1.6 0 0 1-2.3-2.3l7.1-7.1",
  file: "M6 3h8l4 4v14H6zM14 3v4h4M9 12h6M9 16h6",
  bin: "M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13",
  save: "M12 4v11M7 10.5l5 5 5-5M5 20h14",
  open: "M12 15V4M7 8.5l5-5 5 5M5 20h14",
  sun: "M12 8a4 4 0 1 1 0 8 4 4 0 0 1 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6 19 19M19 5l-1.4 1.4M6.4 17.6 5 19",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5z",
  screen: "M3 5h18v12H3zM9 21h6",
  keyboard: "M3 7h18v10H3zM7 11h.01M11 11h.01M15 11h.01M8 14h8",
  key: "M8 11a4 4 0 1 1 0 8 4 4 0 0 1 0-8zM11 12l9-9M16 7l3 3",
  chart: "M4 20V4M4 20h16M8 16v-4M12 16V8M16 16v-6",
  flask: "M9 3h6M10 3v6l-5 9.5A1.7 1.7 0 0 0 6.5 21h11a1.7 1.7 0 0 0 1.5-2.5L14 9V3M8 15h8",
  tune: "M3 9l9-4 9 4-9 4zM7 11v5c2 2 8 2 10 0v-5M21 9v6",
  chat: "M4 5h16v11H10l-4 4v-4H4z",
  more: "M5.3 12a0.7 0.7 0 1 0 1.4 0a0.7 0.7 0 1 0-1.4 0M11.3 12a0.7 0.7 0 1 0 1.4 0a0.7 0.7 0 1 0-1.4 0M17.3 12a0.7 0.7 0 1 0 1.4 0a0.7 0.7 0 1 0-1.4 0",
  warning: "M12 4 2.5 20h19zM12 10v4M12 17h.01",
  wind: "M3 9h11a3 3 0 1 0-3-3M3 13h15a3 3 0 1 1-3 3M3 17h6a2 2 0 1 1-2 2",
  info: "M12 4a8 8 0 1 1 0 16 8 8 0 0 1 0-16zM12 11v5M12 8h.01",
  list: "M9 6h11M9 12h11M9 18h11M4.5 6h.01M4.5 12h.01M4.5 18h.01",
};

export function icon(name) {
  return svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: PATHS[name] }));
}
