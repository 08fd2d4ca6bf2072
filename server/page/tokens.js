/** A text of which each token shows how likely it was: by the mouse, by touch, and by the arrow keys. */
import { html, useState } from "./vendor/htm-preact.js";

/**
 * @param {string} text
 * @param {{tokens: string[], token_logprobs: (number | null)[], top_logprobs: (object | null)[] | null, text_offset: number[]}} logprobs
 * @returns {{text: string, token: string, probability: number | null, likeliest: [string, number][]}[]}
 */
export function piecesOf(text, logprobs) {
  const characters = Array.from(text); // offsets count characters, not the units of a string
  const { tokens, token_logprobs: own, top_logprobs: top, text_offset: offsets } = logprobs;
  return tokens.map((token, place) => ({
    text: characters.slice(offsets[place], offsets[place + 1] ?? characters.length).join(""),
    token,
    probability: own[place] === null ? null : Math.exp(own[place]),
    likeliest: Object.entries(top?.[place] ?? {})
      .map(([other, logprob]) => [other, Math.exp(logprob)])
      .sort((one, other) => other[1] - one[1]),
  }));
}

const MOVES = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 };

export function TokenText({ text, logprobs, label, given }) {
  const [place, setPlace] = useState(-1);
  const pieces = piecesOf(text, logprobs);

  function move(event) {
    const step = MOVES[event.key];
    if (!step) return;
    event.preventDefault();
    setPlace(Math.min(pieces.length - 1, Math.max(0, place + step)));
  }

  const point = (event) => {
    const found = event.target.dataset?.place;
    if (found !== undefined) setPlace(Number(found));
  };
  return html`
    <div class="text" tabindex="0" role="group" aria-label=${`${label}. Arrow keys go from token to token.`}
      onKeyDown=${move} onPointerOver=${point} onPointerDown=${point}>
      <span class="given">${given}</span>${pieces.map((piece, index) => html`
        <span key=${index} data-place=${index} class=${`token ${shade(piece.probability)} ${index === place ? "chosen" : ""}`}>${piece.text}</span>
      `)}
    </div>
    <${TokenLine} piece=${pieces[place]} />
  `;
}

/** Four shades: enough to see where the model had a choice. */
const shade = (probability) =>
  probability === null || probability > 0.5 ? "" : probability > 0.2 ? "token-likely" : probability > 0.05 ? "token-open" : "token-rare";

function TokenLine({ piece }) {
  if (!piece) return html`<p class="token-line hint">Point at a word to see how likely it was.</p>`;
  const own = piece.probability === null ? "given" : percent(piece.probability);
  const others = piece.likeliest.filter(([token]) => token !== piece.token);
  return html`
    <p class="token-line" role="status">
      <code>${visible(piece.token)}</code> <strong>${own}</strong>
      ${others.length > 0 && html`<span class="others"> instead of ${others.map(
        ([token, probability]) => html`<span class="other"><code>${visible(token)}</code> ${percent(probability)}</span> `,
      )}</span>`}
    </p>
  `;
}

const percent = (share) => `${share < 0.001 ? "<0.1" : (100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

/** Blanks and ends of lines can be seen. */
const visible = (token) => token.replaceAll(" ", "␣").replaceAll("\n", "⏎") || "∅";
