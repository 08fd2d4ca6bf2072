/** The page: its tabs, the theme and the key. What a first visitor does not see at once is loaded when it is asked for. */
import { html, render, useEffect, useState } from "./vendor/htm-preact.js";
import { KeyDialog, askForKey, forgetKey, key } from "./key.js";
import { Failure } from "./parts.js";
import { PlayText } from "./play_text.js";
import { ThemeButton } from "./theme_button.js";
import { useShared } from "./shared.js";

/** By the address behind `#`. */
const TABS = {
  text: { title: "Text", about: "A model goes on from your words.", load: async () => PlayText },
  plots: { title: "Plots", about: "A genre and a title become a film.", load: async () => (await import("./play_plots.js")).PlayPlots },
  faces: { title: "Faces", about: "Faces that nobody has, and the way from one to another.", load: async () => (await import("./play_faces.js")).PlayFaces },
  genres: { title: "Genres", about: "What kind of story is this?", load: async () => (await import("./play_genres.js")).PlayGenres },
  jobs: { title: "Jobs", about: "Work that goes on without you.", load: async () => (await import("./jobs.js")).Jobs },
  dashboard: { title: "Dashboard", about: "What the server does now.", load: async () => (await import("./dashboard.js")).Dashboard },
};

const tabOfAddress = () => (location.hash.slice(1) in TABS ? location.hash.slice(1) : "text");

function useTab() {
  const [tab, setTab] = useState(tabOfAddress);
  useEffect(() => {
    const update = () => setTab(tabOfAddress());
    addEventListener("hashchange", update);
    return () => removeEventListener("hashchange", update);
  }, []);
  return tab;
}

function Page() {
  const tab = useTab();
  const [opened, setOpened] = useState([tab]);
  useEffect(() => {
    document.title = `${TABS[tab].title} – Kamishibai`;
    setOpened((before) => (before.includes(tab) ? before : [...before, tab]));
  }, [tab]);
  // Tabs that were opened stay: what runs in them goes on, and what was typed is still there.
  return html`
    <a class="skip" href="#main" onClick=${skip}>To the content</a>
    <${Header} tab=${tab} />
    <main id="main" tabindex="-1">
      ${[...new Set([...opened, tab])].map((name) => html`<${Tab} key=${name} name=${name} hidden=${name !== tab} />`)}
    </main>
    <footer><p>Kamishibai is paper theatre: a stage, a stack of pictures, somebody who tells. <a href="/docs">The API</a></p></footer>
    <${KeyDialog} />
  `;
}

function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

function Header({ tab }) {
  const links = Object.entries(TABS).map(
    ([name, { title }]) => html`<li><a href=${`#${name}`} aria-current=${name === tab ? "page" : undefined}>${title}</a></li>`,
  );
  return html`
    <header>
      <div class="brand"><img src="/page/icon.svg" alt="" width="36" height="36" /><span>Kamishibai</span></div>
      <nav aria-label="Tabs"><ul>${links}</ul></nav>
      <div class="row tools"><${KeyButton} /><${ThemeButton} /></div>
    </header>
  `;
}

function KeyButton() {
  return useShared(key) === null
    ? html`<button type="button" class="quiet" onClick=${() => askForKey()}>Key</button>`
    : html`<button type="button" class="quiet" onClick=${forgetKey}>Forget key</button>`;
}

function Tab({ name, hidden }) {
  const [loaded, setLoaded] = useState({ Content: name === "text" ? PlayText : null, error: null });
  const load = () =>
    TABS[name].load().then(
      (Content) => setLoaded({ Content, error: null }),
      () => setLoaded({ Content: null, error: new Error("This part of the page could not be loaded. Is the server still running?") }),
    );
  useEffect(() => void load(), []);
  const { Content, error } = loaded;
  return html`
    <section hidden=${hidden} id=${`tab-${name}`} aria-labelledby=${`title-${name}`}>
      <div class="title"><h1 id=${`title-${name}`}>${TABS[name].title}</h1><p>${TABS[name].about}</p></div>
      ${error ? html`<${Failure} error=${error} retry=${() => location.reload()} />` : Content && html`<${Content} shown=${!hidden} />`}
    </section>
  `;
}

render(html`<${Page} />`, document.getElementById("page"));
