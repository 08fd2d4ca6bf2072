/** Batches: a file of requests, dropped here; how far it is; and its answers. */
import { html, useRef, useState } from "./vendor/htm-preact.js";
import { call, send } from "./api.js";
import { Failure, save, usePolling } from "./parts.js";

const POLL_MILLISECONDS = 1500;
const ENDPOINTS = ["/v1/completions", "/v1/images/generations", "/v1/classify"];
const OVER = new Set(["completed", "failed", "expired", "cancelled"]);

export function Batches({ shown }) {
  const [list, setList] = useState({ batches: [], error: null });
  const [turn, setTurn] = useState(0);
  const refresh = () => setTurn((before) => before + 1);

  usePolling(async () => {
    try {
      const { data } = await call("/v1/batches?limit=10", { quiet: true });
      setList({ batches: data, error: null });
    } catch (error) {
      setList((before) => ({ ...before, error: error.status === 401 ? null : error }));
    }
  }, POLL_MILLISECONDS + (turn % 2), shown); // another turn asks at once

  return html`
    <section class="panel" aria-labelledby="batches-title">
      <h2 id="batches-title">Batches</h2>
      <${Drop} made=${refresh} />
      ${list.error && html`<${Failure} error=${list.error} retry=${refresh} />`}
      ${list.batches.map((batch) => html`<${Batch} key=${batch.id} batch=${batch} changed=${refresh} />`)}
    </section>
  `;
}

function Drop({ made }) {
  const [state, setState] = useState({ over: false, told: "", error: null });
  const input = useRef(null);
  const tell = (change) => setState((before) => ({ ...before, ...change }));

  async function take(file) {
    if (!file) return;
    tell({ told: `Sending ${file.name}…`, error: null, over: false });
    try {
      await run(file);
      tell({ told: `${file.name} is on its way.` });
      made();
    } catch (error) {
      tell({ told: "", error });
    }
    input.current.value = ""; // so that the same file can be chosen again
  }

  const over = (event) => {
    event.preventDefault();
    tell({ over: true });
  };
  const drop = (event) => {
    event.preventDefault();
    tell({ over: false });
    take(event.dataTransfer.files[0]);
  };
  return html`
    <div class=${`drop ${state.over ? "over" : ""}`} onDragOver=${over} onDragLeave=${() => tell({ over: false })} onDrop=${drop}>
      <p id="drop-about">Drop a JSONL file of requests here: one in each line, as OpenAI's batches have them.</p>
      <label class="button">Choose a file
        <input ref=${input} class="visually-hidden" type="file" accept=".jsonl,application/jsonl,text/plain" aria-describedby="drop-about"
          onChange=${({ target }) => take(target.files[0])} />
      </label>
      <p role="status" class="hint">${state.told}</p>
    </div>
    ${state.error && html`<${Failure} error=${state.error} />`}
  `;
}

/** Upload and begin. All lines ask one endpoint: that of the first. */
async function run(file) {
  const endpoint = endpointOf(await file.slice(0, 1 << 20).text());
  const form = new FormData();
  form.append("purpose", "batch");
  form.append("file", file, file.name);
  const { id } = await call("/v1/files", { form });
  await call("/v1/batches", { body: { input_file_id: id, endpoint, completion_window: "24h" } });
}

function endpointOf(text) {
  const line = text.split("\n").find((each) => each.trim());
  let url;
  try {
    url = JSON.parse(line ?? "").url;
  } catch {
    throw new Error("The first line is no JSON. Each line is one object with custom_id, method, url and body.");
  }
  if (!ENDPOINTS.includes(url)) throw new Error(`The first line's url is ${JSON.stringify(url)}; use one of ${ENDPOINTS.join(", ")}.`);
  return url;
}

function Batch({ batch, changed }) {
  const [error, setError] = useState(null);
  const { total, completed, failed } = batch.request_counts;
  const attempt = (act) => async () => {
    setError(null);
    try {
      await act();
    } catch (failure) {
      setError(failure);
    }
  };
  const cancel = attempt(async () => {
    await call(`/v1/batches/${batch.id}/cancel`, { method: "POST" });
    changed();
  });
  const keep = (id, name) => attempt(async () => save(await (await send(`/v1/files/${id}/content`)).blob(), name));
  const short = batch.id.slice(-8);
  return html`
    <article class="batch" aria-label=${`Batch ${short}`}>
      <div class="row spread"><strong><code>${short}</code></strong><span class=${`status status-${batch.status}`}>${batch.status.replace("_", " ")}</span></div>
      <progress max=${Math.max(total, 1)} value=${completed + failed} aria-label=${`Progress of batch ${short}`}></progress>
      <p class="hint">${completed} of ${total} done${failed ? `, ${failed} failed` : ""}</p>
      ${batch.errors?.data.slice(0, 3).map(({ line, message }) => html`<p class="fault">${line ? `Line ${line}: ` : ""}${message}</p>`)}
      <div class="row">
        ${!OVER.has(batch.status) && html`<button type="button" class="small" onClick=${cancel}>Cancel</button>`}
        ${batch.output_file_id && html`<button type="button" class="small" onClick=${keep(batch.output_file_id, `batch-${short}.jsonl`)}>Download answers</button>`}
        ${batch.error_file_id && html`<button type="button" class="small" onClick=${keep(batch.error_file_id, `batch-${short}-errors.jsonl`)}>Download errors</button>`}
      </div>
      ${error && html`<${Failure} error=${error} />`}
    </article>
  `;
}
