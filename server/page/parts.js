/** Small parts of forms and notices that all tabs share. */
import { html, useEffect, useState } from "./vendor/htm-preact.js";

let ids = 0;

/** An id of this component's own, to tie a label to its control. */
export function useId() {
  return useState(() => `part-${(ids += 1)}`)[0];
}

/** A label, its control, and a line about it. `children(id, hintId)` draws the control. */
export function Field({ label, hint, error, children }) {
  const id = useId();
  const hintId = `${id}-hint`;
  return html`
    <div class="field">
      <label for=${id}>${label}</label>
      ${children(id, hint || error ? hintId : undefined)}
      ${error ? html`<p class="fault" id=${hintId}>${error}</p>` : hint && html`<p class="hint" id=${hintId}>${hint}</p>`}
    </div>
  `;
}

/** A number to type. What is half typed stays as it is, however often the page is drawn meanwhile. */
export function NumberBox({ value, onChange, ...others }) {
  const [draft, setDraft] = useState(null);
  function type({ target }) {
    setDraft(target.value);
    if (target.value !== "") onChange(target.valueAsNumber);
  }
  return html`<input ...${others} type="number" value=${draft ?? value} onInput=${type} onBlur=${() => setDraft(null)} />`;
}

/** A slider with its number beside it, which can be typed. */
export function Slider({ label, hint, value, min, max, step = 1, onChange }) {
  const range = { min, max, step };
  return html`
    <${Field} label=${label} hint=${hint}>
      ${(id, hintId) => html`
        <div class="slider">
          <input id=${id} type="range" ...${range} value=${value} aria-describedby=${hintId}
            onInput=${({ target }) => onChange(target.valueAsNumber)} />
          <${NumberBox} ...${range} value=${value} aria-label=${`${label}, as a number`} onChange=${onChange} />
        </div>
      `}
    <//>
  `;
}

export function Flag({ label, hint, value, onChange }) {
  const id = useId();
  return html`
    <div class="field flag">
      <input id=${id} type="checkbox" checked=${value} aria-describedby=${`${id}-hint`}
        onChange=${(event) => onChange(event.target.checked)} />
      <label for=${id}>${label}</label>
      <p class="hint" id=${`${id}-hint`}>${hint}</p>
    </div>
  `;
}

export const MAX_SEED = Number.MAX_SAFE_INTEGER; // the server takes more; a number of this page holds no more

/** A seed for people: few enough digits to say aloud. */
export const drawSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;

/** The seed, and whether each call draws a new one. */
export function SeedField({ seed, fresh, onChange }) {
  return html`
    <div class="seed">
      <${Field} label="Seed" hint="The same seed and settings bring the same result.">
        ${(id, hintId) => html`<${NumberBox} id=${id} min="0" max=${MAX_SEED} step="1" value=${seed} aria-describedby=${hintId}
          onChange=${(value) => onChange({ seed: Math.trunc(value), fresh: false })} />`}
      <//>
      <${Flag} label="A new one each time" hint="" value=${fresh} onChange=${(value) => onChange({ seed, fresh: value })} />
    </div>
  `;
}

/** What went wrong, and what to do. */
export function Failure({ error, retry }) {
  const seconds = useCountdown(error);
  const again = retry && html`<button type="button" onClick=${retry}>Try again</button>`;
  return html`
    <div class="notice failure" role="alert">
      <p>${error.message}</p>
      ${error.retryAfterSeconds && html`<p>${seconds ? `Try again in ${seconds} s.` : "You can try again now."}</p>`}
      ${again}
    </div>
  `;
}

/** Seconds until the server wants to be asked again. */
function useCountdown(error) {
  const [seconds, setSeconds] = useState(0);
  useEffect(() => {
    const until = performance.now() + (error.retryAfterSeconds ?? 0) * 1000;
    const tick = () => setSeconds(Math.max(0, Math.ceil((until - performance.now()) / 1000)));
    tick();
    const timer = setInterval(tick, 1000);
    return () => clearInterval(timer);
  }, [error]);
  return seconds;
}

/** A file that the person keeps. */
export function save(content, name) {
  const url = URL.createObjectURL(content);
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Call `act` now and then every so often while `active`, and never twice at once. */
export function usePolling(act, milliseconds, active = true) {
  useEffect(() => {
    if (!active) return undefined;
    let timer = 0;
    let over = false;
    const turn = async () => {
      if (!document.hidden) await act();
      if (!over) timer = setTimeout(turn, milliseconds);
    };
    turn();
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [active, milliseconds]);
}
