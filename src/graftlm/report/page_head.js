// before anything is drawn: the theme that was chosen last time, so that the page does not flash in the other one
try {
  const theme = localStorage.getItem("graftlm-theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch { /* no storage in this browser: the system's theme holds */ }
document.documentElement.classList.add("js");
