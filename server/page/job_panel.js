/** One job: how it goes, what it brought, and its end by hand. */
import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { call, send } from "./api.js";
import { events } from "./sse.js";
import { takeChunk } from "./completion.js";
import { Failure, save } from "./parts.js";
import { Result } from "./job_result.js";

const WAIT_SECONDS = 5;
const RETRY_MILLISECONDS = 1500;

export const isOver = (status) => status !== "queued" && status !== "running";

/** Follow a job to its end; what fails on the way is tried again, since the job goes on without us. */
async function follow(id, tell, signal) {
  for (let wait = 0; !signal.aborted; wait = WAIT_SECONDS) {
    try {
      const job = await call(`/v1/jobs/${id}?wait=${wait}`, { signal, quiet: true });
      tell({ job, error: null });
      if (isOver(job.status)) return;
    } catch (error) {
      if (error.name === "AbortError") return;
      tell({ error });
      if (error.status) return; // the server said no, and would say so again
      await new Promise((resolve) => setTimeout(resolve, RETRY_MILLISECONDS));
    }
  }
}

/** The text as it is written; after a lost connection from behind the last event that came. */
async function followText(id, tell, signal) {
  const progress = { texts: [], seed: null, usage: null };
  let last = null;
  while (!signal.aborted) {
    try {
      const headers = { Accept: "text/event-stream", ...(last === null ? {} : { "Last-Event-ID": last }) };
      const response = await send(`/v1/jobs/${id}/events`, { signal, headers, quiet: true });
      for await (const event of events(response)) {
        if (event.data === "[DONE]") return;
        if (!event.data.includes('"text_completion"')) return; // pictures, labels or an error: the job itself tells
        takeChunk(event.data, progress);
        last = event.id ?? last;
        tell({ texts: progress.texts.map(({ text }) => text) });
      }
    } catch (error) {
      if (error.name === "AbortError" || error.status) return;
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MILLISECONDS));
  }
}

export function JobPanel({ id, changed, close }) {
  const [state, setState] = useState({ job: null, texts: [], error: null });
  const tell = (change) => setState((before) => ({ ...before, ...change }));
  useEffect(() => {
    const controller = new AbortController();
    const { signal } = controller;
    const show = (change) => signal.aborted || tell(change);
    follow(id, show, signal).then(() => signal.aborted || changed());
    followText(id, show, signal);
    return () => controller.abort();
  }, [id]);

  const { job, texts, error } = state;
  const over = job && isOver(job.status);

  async function remove() {
    try {
      const answer = await call(`/v1/jobs/${id}`, { method: "DELETE" });
      if (answer.deleted) close();
      else tell({ job: answer });
      changed();
    } catch (failure) {
      tell({ error: failure });
    }
  }

  return html`
    <section class="panel result" aria-labelledby="job-title">
      <div class="row spread">
        <h2 id="job-title">Job <code>${id.slice(0, 8)}</code></h2>
        ${job && html`<button type="button" onClick=${remove}>${over ? "Forget it" : "Cancel"}</button>`}
        ${over && job.result && html`<button type="button" onClick=${() => keep(job)}>Download</button>`}
        <button type="button" onClick=${close}>Close</button>
      </div>
      ${job && html`<p role="status">${words(job)}</p>`}
      ${error && html`<${Failure} error=${error} />`}
      ${job?.error && html`<${Failure} error=${job.error} />`}
      ${job?.result ? html`<${Result} result=${job.result} />` : texts.map((text) => html`<p class="text">${text}</p>`)}
    </section>
  `;
}

const keep = (job) => save(new Blob([JSON.stringify(job.result, null, 2)], { type: "application/json" }), `job-${job.id}.json`);

function words(job) {
  if (job.status === "queued") {
    const start = job.estimated_start_at ? `, starts in about ${Math.max(1, Math.round(job.estimated_start_at - Date.now() / 1000))} s` : "";
    return job.position ? `Number ${job.position} in the queue${start}.` : "Waits in the queue.";
  }
  if (job.status === "running") return "Running…";
  const seconds = job.started_at && job.ended_at ? ` after ${(job.ended_at - job.started_at).toFixed(1)} s` : "";
  const seed = job.seed === undefined ? "" : ` Seed ${job.seed}.`;
  return `${job.status[0].toUpperCase()}${job.status.slice(1)}${seconds}.${seed}`;
}
