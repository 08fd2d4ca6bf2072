/** Dashboard: what the server does now, and what an operator can do about it. */
import { html, useRef, useState } from "./vendor/htm-preact.js";
import { call, send } from "./api.js";
import { Chart, inWords } from "./charts.js";
import { Reading, mean, parseMetrics, quantile, rate } from "./metrics.js";
import { Failure, usePolling } from "./parts.js";
import { Reports } from "./reports.js";

const POLL_MILLISECONDS = 2000;
const MINUTES = 5;
const MOST_READINGS = (MINUTES * 60_000) / POLL_MILLISECONDS;
const WINDOW = 5; // readings over which rates and times are taken: workers tell theirs every few seconds

/** One point of every line. Times are in milliseconds, shares in percent. */
function pointOf(before, now) {
  const milliseconds = (name, share) => {
    const seconds = quantile(before, now, name, share);
    return seconds === null ? null : seconds * 1000;
  };
  const slots = now.sum("kamishibai_slots");
  const hits = rate(before, now, "kamishibai_result_cache_total");
  return {
    waiting: now.sum("kamishibai_queue_depth") + now.sum("kamishibai_engine_waiting"),
    running: now.sum("kamishibai_slots_used"),
    tokens: rate(before, now, "kamishibai_generated_tokens_total"),
    pictures: rate(before, now, "kamishibai_generated_pictures_total"),
    texts: rate(before, now, "kamishibai_classified_texts_total"),
    batch: mean(before, now, "kamishibai_batch_size"),
    firstHalf: milliseconds("kamishibai_time_to_first_token_seconds", 0.5),
    firstMost: milliseconds("kamishibai_time_to_first_token_seconds", 0.95),
    betweenHalf: milliseconds("kamishibai_time_between_tokens_seconds", 0.5),
    betweenMost: milliseconds("kamishibai_time_between_tokens_seconds", 0.95),
    slotShare: slots ? (100 * now.sum("kamishibai_slots_used")) / slots : null,
    hitShare: hits ? 100 * shareOfHits(before, now) : null,
  };
}

function shareOfHits(before, now) {
  const risen = (outcome) => now.sum("kamishibai_result_cache_total", { outcome }) - before.sum("kamishibai_result_cache_total", { outcome });
  return risen("hit") / Math.max(1, risen("hit") + risen("miss"));
}

const CHARTS = [
  ["Requests", "", [["waiting", "waiting"], ["running", "running"]]],
  ["Tokens per second", "", [["tokens", "tokens"]]],
  ["Pictures per second", "", [["pictures", "pictures"]]],
  ["Classified texts per second", "", [["texts", "texts"]]],
  ["Batch size", "", [["mean of a call", "batch"]]],
  ["Time to first token", "ms", [["half within", "firstHalf"], ["95 % within", "firstMost"]]],
  ["Time between tokens", "ms", [["half within", "betweenHalf"], ["95 % within", "betweenMost"]]],
  ["Cache use", "%", [["slots with their KV cache", "slotShare"], ["result cache hits", "hitShare"]]],
];

export function Dashboard({ shown }) {
  const [state, setState] = useState({ readings: [], workers: [], error: null });
  const [turn, setTurn] = useState(0);
  const asked = useRef(false);

  async function read() {
    const quiet = asked.current; // the first time a person has come to see it
    asked.current = true;
    try {
      const text = await (await send("/metrics", { quiet, headers: { Accept: "text/plain" } })).text();
      const { data: workers } = await call("/v1/workers", { quiet: true });
      const reading = new Reading(parseMetrics(text), Date.now() / 1000);
      setState(({ readings }) => ({ readings: [...readings, reading].slice(-MOST_READINGS), workers, error: null }));
    } catch (error) {
      setState((before) => ({ ...before, error }));
    }
  }
  usePolling(read, POLL_MILLISECONDS + (turn % 2), shown); // another turn asks at once

  const again = () => {
    asked.current = false;
    setTurn((before) => before + 1);
  };
  const { readings, workers, error } = state;
  return html`
    <div class="stack">
      ${error && html`<${Failure} error=${withRemedy(error)} retry=${again} />`}
      ${readings.length > 0 && html`
        <${Now} readings=${readings} workers=${workers} />
        <${Lines} readings=${readings} />
        <${Engines} reading=${readings.at(-1)} workers=${workers} />
        <${Workers} workers=${workers} changed=${again} />
        <${Reports} />
      `}
    </div>
  `;
}

/** Who is here with a key of the scope infer sees why there is nothing. */
const withRemedy = (error) =>
  error.status === 403 ? Object.assign(new Error(`${error.message} An operator makes one: kamishibai keys create NAME --scope admin`), { retryAfterSeconds: null }) : error;

const pointsOf = (readings) => readings.map((now, index) => pointOf(readings[Math.max(0, index - WINDOW)], now));

function Now({ readings, workers }) {
  const point = pointsOf(readings.slice(-WINDOW - 1)).at(-1);
  const ready = workers.filter((each) => each.ready && !each.drained).length;
  const tiles = [
    ["Workers ready", `${ready} of ${workers.length}`],
    ["Waiting", inWords(point.waiting, "")],
    ["Running", inWords(point.running, "")],
    ["Tokens per second", inWords(point.tokens, "")],
    ["Mean batch", inWords(point.batch, "")],
    ["First token", inWords(point.firstHalf, "ms")],
  ];
  return html`<dl class="tiles">${tiles.map(([name, value]) => html`<div class="tile"><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

function Lines({ readings }) {
  const points = pointsOf(readings);
  const times = readings.map(({ seconds }) => seconds);
  const span = [Math.min(times[0], times.at(-1) - 60), times.at(-1)];
  return html`
    <div class="charts">
      ${CHARTS.map(([title, unit, lines]) => html`
        <${Chart} key=${title} title=${title} unit=${unit} span=${span} times=${times}
          series=${lines.map(([name, field]) => ({ name, values: points.map((point) => point[field]) }))} />
      `)}
    </div>
  `;
}

/** A row for each model on each worker. */
function Engines({ reading, workers }) {
  const rows = reading.samples.filter(({ name }) => name === "kamishibai_slots");
  const deviceOf = new Map(workers.map(({ id, device }) => [id, device]));
  const failed = (labels) => reading.sum("kamishibai_jobs_total", labels) - reading.sum("kamishibai_jobs_total", { ...labels, outcome: "finished" });
  return html`
    <${Table} title="Models" heads=${["Model", "Version", "Variant", "Device", "Running", "Waiting", "Jobs ended", "Failed or cancelled", ""]}>
      ${rows.map(({ labels, value: slots }) => html`
        <tr key=${`${labels.worker}/${labels.model}@${labels.version}`}>
          <td>${labels.model}</td><td class="number">${labels.version}</td><td><code>${labels.variant}</code></td>
          <td>${deviceOf.get(labels.worker) ?? "–"}</td>
          <td class="number">${reading.sum("kamishibai_slots_used", labels)} of ${slots}</td>
          <td class="number">${reading.sum("kamishibai_engine_waiting", labels) + reading.sum("kamishibai_queue_depth", { model: labels.model, version: labels.version, variant: labels.variant })}</td>
          <td class="number">${reading.sum("kamishibai_jobs_total", labels)}</td>
          <td class="number">${failed(labels)}</td>
          <td><${Control} path=${`/v1/models/${encodeURIComponent(labels.model)}/reload`} words="Reload" about=${`Reload ${labels.model}`} /></td>
        </tr>
      `)}
    <//>
  `;
}

function Workers({ workers, changed }) {
  return html`
    <${Table} title="Workers" heads=${["Worker", "Device", "State", "Models", ""]}>
      ${workers.map(({ id, device, ready, drained, models }) => html`
        <tr key=${id}>
          <td><code>${id}</code></td><td>${device}</td>
          <td>${drained ? "drained" : ready ? "ready" : "starting"}</td>
          <td>${models.join(", ")}</td>
          <td><${Control} path=${`/v1/workers/${encodeURIComponent(id)}/${drained ? "resume" : "drain"}`} words=${drained ? "Resume" : "Drain"}
            about=${`${drained ? "Resume" : "Drain"} worker ${id}`} changed=${changed} /></td>
        </tr>
      `)}
    <//>
  `;
}

function Table({ title, heads, children }) {
  return html`
    <div class="table" tabindex="0" role="region" aria-label=${title}>
      <table>
        <caption>${title}</caption>
        <thead><tr>${heads.map((head) => html`<th>${head || html`<span class="visually-hidden">Actions</span>`}</th>`)}</tr></thead>
        <tbody>${children}</tbody>
      </table>
    </div>
  `;
}

/** A button for what only operators may do; the server says why not. */
function Control({ path, words, about, changed }) {
  const [told, setTold] = useState("");
  async function act() {
    setTold("Asked…");
    try {
      await call(path, { method: "POST" });
      setTold("Workers do it within seconds.");
      changed?.();
    } catch (error) {
      setTold(error.message);
    }
  }
  return html`<button type="button" class="small" onClick=${act} aria-label=${about}>${words}</button> <span class="hint" role="status">${told}</span>`;
}
