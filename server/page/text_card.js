/** One written text, on its stage. */
import { html, useEffect, useRef } from "./vendor/htm-preact.js";
import { TokenText } from "./tokens.js";

const ENDS = { stop: "ended by itself", length: "reached its length" };

export function TextCard({ written, number, status, given }) {
  const label = number ? `Text ${number}` : "Text";
  const { text, logprobs, finishReason, beamScore } = written;
  return html`
    <article class="card" aria-label=${label} aria-busy=${status === "running" && !finishReason}>
      ${logprobs && text
        ? html`<${TokenText} text=${text} logprobs=${logprobs} label=${label} given=${given} />`
        : html`<${PlainText} text=${text} label=${label} status=${status} given=${given} />`}
      <p class="card-end">
        ${number && html`<span>${label}</span>`} <span>${ENDS[finishReason] ?? ""}</span>
        ${beamScore !== undefined && html`<span>score ${beamScore.toFixed(3)}</span>`}
      </p>
    </article>
  `;
}

/** It is scrolled to its end while it grows. */
function PlainText({ text, label, status, given }) {
  const box = useRef(null);
  useEffect(() => {
    if (status === "running") box.current.scrollTop = box.current.scrollHeight;
  }, [text, status]);

  const waiting = status === "idle" ? html`<span class="placeholder">Press Write, and a story begins here.</span>` : "";
  const story = status === "idle" ? waiting : html`<span class="given">${given}</span>${text}`;
  return html`
    <div class="text" ref=${box} tabindex="0" role="group" aria-label=${label}>${story}${status === "running" && html`<span class="caret" aria-hidden="true" />`}</div>
    <p class="token-line" aria-hidden="true"></p>
  `;
}
