/** Light, dark, or as the device has it. */
import { html, useState } from "./vendor/htm-preact.js";
import { shared } from "./shared.js";

const PLACE = "kamishibai-theme"; // theme.js reads it before the first paint
const NEXT = { auto: "light", light: "dark", dark: "auto" };
const WORDS = { auto: "Theme: auto", light: "Theme: light", dark: "Theme: dark" };

/** Tells those who draw with colours of their own that the theme has changed. */
export const theme = shared(document.documentElement.dataset.theme ?? "auto");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme.set(theme.get()));

export function ThemeButton() {
  const [chosen, setChosen] = useState(theme.get);
  function change() {
    const next = NEXT[chosen];
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    localStorage.setItem(PLACE, next);
    setChosen(next);
    theme.set(next);
  }
  return html`<button type="button" class="quiet" onClick=${change}>${WORDS[chosen]}</button>`;
}
