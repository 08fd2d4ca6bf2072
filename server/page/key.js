/** The API key, kept for this tab only, and the dialog that asks for one. */
import { html, useEffect, useRef } from "./vendor/htm-preact.js";
import { shared, useShared } from "./shared.js";

const PLACE = "kamishibai-key";

/** @type {ReturnType<typeof shared<string | null>>} */
export const key = shared(sessionStorage.getItem(PLACE));

/** What the dialog asks for: null, or why and who waits. */
const question = shared(/** @type {null | {refused: boolean, answer: (given: boolean) => void}} */ (null));
let asked = /** @type {Promise<boolean> | null} */ (null);

/** Ask once for all who wait. True: there is a new key; false: the person would rather not. */
export function askForKey(refused = false) {
  asked ??= new Promise((resolve) => {
    question.set({
      refused,
      answer(given) {
        question.set(null);
        asked = null;
        resolve(given);
      },
    });
  });
  return asked;
}

export function keepKey(text) {
  sessionStorage.setItem(PLACE, text);
  key.set(text);
}

export function forgetKey() {
  sessionStorage.removeItem(PLACE);
  key.set(null);
}

export function KeyDialog() {
  const open = useShared(question);
  const dialog = useRef(null);
  const input = useRef(null);
  useEffect(() => {
    if (open && !dialog.current.open) dialog.current.showModal();
    if (!open && dialog.current.open) dialog.current.close();
  }, [open]);

  function submit(event) {
    event.preventDefault();
    const text = input.current.value.trim();
    if (!text) return;
    input.current.value = "";
    keepKey(text);
    open.answer(true);
  }

  return html`
    <dialog ref=${dialog} class="key-dialog" aria-labelledby="key-title" onCancel=${() => open?.answer(false)}>
      <form onSubmit=${submit}>
        <h2 id="key-title">An API key, please</h2>
        <p role="status">
          ${open?.refused
            ? "The server does not know this key, or it was revoked. Try another one."
            : "This server serves those who have a key. It stays in this tab and is forgotten with it."}
        </p>
        <label for="key-text">API key</label>
        <input id="key-text" ref=${input} type="password" autocomplete="off" placeholder="kmb_…" spellcheck=${false} />
        <p class="hint">An operator makes one: <code>kamishibai keys create NAME</code></p>
        <div class="row">
          <button class="primary" type="submit">Use this key</button>
          <button type="button" onClick=${() => open?.answer(false)}>Not now</button>
        </div>
      </form>
    </dialog>
  `;
}
