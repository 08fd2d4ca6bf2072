/** Jobs: work that goes on when the page is closed. Submit, watch, cancel, open results; and batches. */
import { html, useState } from "./vendor/htm-preact.js";
import { call, parse } from "./api.js";
import { Batches } from "./batches.js";
import { CopyAs } from "./copy_as.js";
import { curl, openai, pythonValue } from "./calls.js";
import { JobPanel, isOver } from "./job_panel.js";
import { ModelField, WithModels, modelOf } from "./models.js";
import { Failure, Field, usePolling } from "./parts.js";

const POLL_MILLISECONDS = 2000;
const INPUTS = {
  text: { prompt: "In the year", max_tokens: 200, stream: true },
  image: { n: 8 },
  classify: { input: ["A detective hunts a killer.", "Two friends fall in love."] },
};

export function Jobs({ shown }) {
  const [list, setList] = useState({ jobs: null, error: null });
  const [opened, setOpened] = useState(null);
  const [turn, setTurn] = useState(0);

  async function read() {
    try {
      const { data } = await call("/v1/jobs?limit=20", { quiet: list.jobs !== null });
      setList({ jobs: data, error: null });
    } catch (error) {
      setList((before) => ({ ...before, error }));
    }
  }
  usePolling(read, POLL_MILLISECONDS + (turn % 2), shown); // another turn asks at once

  const refresh = () => setTurn((before) => before + 1);
  const made = (job) => {
    setOpened(job.id);
    refresh();
  };
  return html`
    <div class="columns">
      <div class="stack">
        <${WithModels} fits=${() => true} missing=${html`<p>No worker serves a model now. Jobs can be made when one does.</p>`}>
          ${(models) => html`<${JobForm} models=${models} made=${made} />`}
        <//>
        <${Batches} shown=${shown} />
      </div>
      <div class="stack">
        ${list.error && html`<${Failure} error=${list.error} retry=${refresh} />`}
        <${JobTable} jobs=${list.jobs} opened=${opened} open=${setOpened} />
        ${opened && html`<${JobPanel} key=${opened} id=${opened} changed=${refresh} close=${() => setOpened(null)} />`}
      </div>
    </div>
  `;
}

function JobForm({ models, made }) {
  const [name, setName] = useState("");
  const [inputs, setInputs] = useState({});
  const [priority, setPriority] = useState("normal");
  const [deadline, setDeadline] = useState("");
  const [error, setError] = useState(null);
  const model = modelOf(models, name);
  const text = inputs[model.task] ?? JSON.stringify(INPUTS[model.task], null, 2);
  const { input, fault } = readInput(text);
  const body = {
    model: model.id,
    input,
    ...(priority !== "normal" ? { priority } : {}),
    ...(deadline !== "" ? { deadline_seconds: Number(deadline) } : {}),
  };

  async function submit(event) {
    event.preventDefault();
    if (fault) return;
    setError(null);
    try {
      made(await call("/v1/jobs", { body }));
    } catch (failure) {
      setError(failure);
    }
  }

  return html`
    <form class="panel" noValidate onSubmit=${submit}>
      <h2>A new job</h2>
      <${ModelField} models=${models} value=${model} onChange=${({ id }) => setName(id)} />
      <${Field} label="Input" error=${fault} hint="The fields of the call, as JSON.">
        ${(id, hintId) => html`<textarea id=${id} class="code" rows="6" spellcheck=${false} value=${text} aria-describedby=${hintId}
          aria-invalid=${Boolean(fault)} onInput=${({ target }) => setInputs({ ...inputs, [model.task]: target.value })} />`}
      <//>
      <${Field} label="Priority" hint="Urgent jobs of a model go first.">
        ${(id, hintId) => html`
          <select id=${id} aria-describedby=${hintId} onChange=${({ target }) => setPriority(target.value)}>
            ${["high", "normal", "low"].map((each) => html`<option selected=${each === priority}>${each}</option>`)}
          </select>
        `}
      <//>
      <${Field} label="Deadline" hint="Seconds from now; empty: none.">
        ${(id, hintId) => html`<input id=${id} type="number" min="1" value=${deadline} aria-describedby=${hintId}
          onInput=${({ target }) => setDeadline(target.value)} />`}
      <//>
      ${error && html`<${Failure} error=${error} />`}
      <div class="row"><button class="primary" type="submit">Submit</button></div>
    </form>
    <${CopyAs} calls=${(options) => ({
      curl: curl("/v1/jobs", body, options),
      Python: [
        ...openai(options.needsKey),
        `job = client.post("/jobs", body=${pythonValue(body)}, cast_to=object)`,
        'while job["status"] in ("queued", "running"):',
        `    job = client.get(f"/jobs/{job['id']}", options={"params": {"wait": 30}}, cast_to=object)`,
        'print(job["status"], job.get("result", job.get("error")))',
      ].join("\n"),
    })} />
  `;
}

function readInput(text) {
  try {
    return { input: parse(text), fault: null };
  } catch (error) {
    return { input: {}, fault: `This is no JSON: ${error.message}` };
  }
}

function JobTable({ jobs, opened, open }) {
  if (!jobs) return html`<p class="hint">Asking for your jobs…</p>`;
  const rows = jobs.map(({ id, status, model, created_at: made }) => html`
    <tr key=${id}>
      <td><code>${id.slice(0, 8)}</code></td>
      <td>${model}</td>
      <td><${Status} status=${status} /></td>
      <td class="number wide-only">${new Date(made * 1000).toLocaleTimeString()}</td>
      <td>
        <button type="button" class="small" aria-expanded=${id === opened} aria-label=${`${isOver(status) ? "Open" : "Watch"} job ${id.slice(0, 8)}`}
          onClick=${() => open(id)}>${isOver(status) ? "Open" : "Watch"}</button>
      </td>
    </tr>
  `);
  return html`
    <div class="table" tabindex="0" role="region" aria-label="Your jobs">
      <table>
        <caption>Your jobs</caption>
        <thead><tr><th>Job</th><th>Model</th><th>Status</th><th class="wide-only">Made</th><th><span class="visually-hidden">Actions</span></th></tr></thead>
        <tbody>${rows.length ? rows : html`<tr><td colspan="5" class="hint">None yet, or their time is over.</td></tr>`}</tbody>
      </table>
    </div>
  `;
}

export const Status = ({ status }) => html`<span class=${`status status-${status}`}>${status.replace("_", " ")}</span>`;
