// Before the first paint, and so no module: the theme and language chosen here earlier.
(() => {
  const root = document.documentElement;
  try {
    const theme = localStorage.getItem("reelway.theme");
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    const lang = localStorage.getItem("reelway.lang") ?? navigator.language;
    root.lang = lang.toLowerCase().startsWith("zh") ? "zh" : "en";
  } catch {
    // Storage is switched off in this browser: the system's theme, and English.
  }
})();
