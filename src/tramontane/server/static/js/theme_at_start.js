// Runs before the first paint, so that a chosen theme does not flash in after the other one.
(() => {
  try {
    const theme = JSON.parse(localStorage.getItem("tramontane.preferences") ?? "{}").theme;
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  } catch {
    // the system's theme then
  }
})();
