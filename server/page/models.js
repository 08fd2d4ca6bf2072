/** The models that can be asked for, and the control that chooses one. */
import { html, useEffect } from "./vendor/htm-preact.js";
import { call } from "./api.js";
import { Failure, Field } from "./parts.js";
import { key } from "./key.js";
import { shared, useShared } from "./shared.js";

/**
 * @typedef {{id: string, version: number, variant: string, task: "text" | "image" | "classify",
 *   limits: {context_tokens?: number, max_tokens?: number, picture_pixels?: [number, number]}, latent_length?: number,
 *   labels?: {names: string[], activation: string, threshold: number | number[]},
 *   prompt_fields?: {start: string, fields: {name: string, end: string}[]}}} Model
 * @typedef {{list: Model[] | null, error: Error | null}} Known
 */

const RETRY_MILLISECONDS = 3000;

/** `list` is null until the server has told. */
const known = shared(/** @type {Known} */ ({ list: null, error: null }));
let timer = 0;

/** Ask the server; again soon while it has none, since a server that starts has its models in a moment. */
export async function loadModels({ quiet = false } = {}) {
  clearTimeout(timer);
  try {
    const { data } = await call("/v1/models", { quiet });
    known.set({ list: data, error: null });
    if (data.length) return;
  } catch (error) {
    known.set({ list: known.get().list, error });
    if (error.status === 401) return; // until there is a key
  }
  timer = setTimeout(() => loadModels({ quiet: true }), RETRY_MILLISECONDS);
}

key.subscribe(() => key.get() && loadModels());

/** @returns {Known} */
export function useModels() {
  useEffect(() => {
    if (!known.get().list && !timer) {
      timer = -1; // all tabs ask once
      loadModels();
    }
  }, []);
  return useShared(known);
}

/** Draws `children(models)` once there are models that `fits`, else why there are none and how to get one. */
export function WithModels({ fits, missing, children }) {
  const { list, error } = useModels();
  const models = (list ?? []).filter(fits);
  if (models.length) return children(models);
  if (error) return html`<${Failure} error=${error} retry=${() => loadModels()} />`;
  if (!list) return html`<p class="notice" role="status">Asking the server for its models…</p>`;
  return html`<div class="notice">${missing}</div>`;
}

export function ModelField({ models, value, onChange }) {
  const choices = models.map(
    ({ id, version }) => html`<option value=${id} selected=${id === value.id}>${id} (version ${version})</option>`,
  );
  const choose = (event) => onChange(models.find(({ id }) => id === event.target.value));
  return html`
    <${Field} label="Model">
      ${(id) => html`<select id=${id} onChange=${choose}>${choices}</select>`}
    <//>
  `;
}

/** The model of that name, or the first. */
export const modelOf = (models, name) => models.find(({ id }) => id === name) ?? models[0];

