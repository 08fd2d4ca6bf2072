/** One streamed completion: the texts as they come. */
import { ApiError, errorOf, parse, send } from "./api.js";
import { useRef, useState } from "./vendor/htm-preact.js";
import { events } from "./sse.js";

/**
 * @typedef {{text: string, finishReason: string | null, logprobs: object | null, fields?: Record<string, string>,
 *   beamScore?: number}} Written
 * @typedef {{texts: Written[], seed: number | string | null, usage: object | null, firstMilliseconds: number | null,
 *   milliseconds: number}} Progress
 */

/**
 * @param {object} body of POST /v1/completions
 * @param {(progress: Progress) => void} tell called at most once for each frame of the screen
 * @param {AbortSignal} signal leaving cancels the job
 */
export async function streamCompletion(body, tell, signal) {
  const began = performance.now();
  const texts = Array.from({ length: body.n ?? 1 }, () => ({ text: "", finishReason: null, logprobs: null }));
  const progress = { texts, seed: null, usage: null, firstMilliseconds: null, milliseconds: 0 };
  const show = perFrame(() => tell({ ...progress, texts: texts.map((each) => ({ ...each })) }));
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await send("/v1/completions", { body: asked, signal, headers: { Accept: "text/event-stream" } });
  try {
    for await (const { data } of events(response)) {
      if (data === "[DONE]") return;
      takeChunk(data, progress);
      const now = performance.now() - began;
      progress.milliseconds = now;
      progress.firstMilliseconds ??= now;
      show();
    }
  } finally {
    show.now();
  }
  throw new ApiError("The connection ended before the text did. Is the server still running?", { code: "unreachable" });
}

/** Add one event of a stream to what was written. Throws what the event says went wrong. */
export function takeChunk(data, progress) {
  const chunk = parse(data);
  if (chunk.error) throw errorOf(data, 0);
  progress.seed = chunk.seed ?? progress.seed;
  progress.usage = chunk.usage ?? progress.usage;
  for (const { index, text, finish_reason: finishReason, logprobs, fields, beam_score: beamScore } of chunk.choices) {
    const written = (progress.texts[index] ??= { text: "", finishReason: null, logprobs: null });
    written.text += text;
    if (finishReason) Object.assign(written, { finishReason, logprobs, fields, beamScore });
  }
}

/** Hundreds of tokens come in a second; the screen shows sixty pictures. */
function perFrame(act) {
  let frame = 0;
  const ask = () => {
    frame ||= requestAnimationFrame(ask.now);
  };
  ask.now = () => {
    cancelAnimationFrame(frame);
    frame = 0;
    act();
  };
  return ask;
}

/**
 * @typedef {"idle" | "running" | "done" | "stopped" | "failed"} Status
 * @returns {{status: Status, progress: Progress | null, error: Error | null, run: (body: object) => Promise<void>, stop: () => void}}
 */
export function useCompletion() {
  const [state, setState] = useState({ status: "idle", progress: null, error: null });
  const controller = useRef(null);
  const stop = () => controller.current?.abort();

  async function run(body) {
    stop();
    const mine = new AbortController();
    controller.current = mine;
    const update = (change) => controller.current === mine && setState((before) => ({ ...before, ...change }));
    update({ status: "running", progress: null, error: null });
    try {
      await streamCompletion(body, (progress) => update({ progress }), mine.signal);
      update({ status: "done" });
    } catch (error) {
      update(error.name === "AbortError" ? { status: "stopped" } : { status: "failed", error });
    }
  }

  return { ...state, run, stop };
}
