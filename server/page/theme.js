// Runs before the first paint, so that nobody sees the other theme flash by. The choice is kept for later visits.
"use strict";
const chosenTheme = localStorage.getItem("kamishibai-theme");
if (chosenTheme === "light" || chosenTheme === "dark") document.documentElement.dataset.theme = chosenTheme;
