/** What a call answers, of whichever task. */
import { html } from "./vendor/htm-preact.js";

export function Result({ result }) {
  if (result.choices) return result.choices.map(({ index, text }) => html`<p class="text" key=${index} tabindex="0" role="group" aria-label=${`Text ${index + 1}`}>${text}</p>`);
  if (result.data?.[0]?.scores) return html`<${Labels} data=${result.data} />`;
  return html`<${Pictures} result=${result} />`;
}

function Labels({ data }) {
  return html`
    <ol>${data.map(({ index, labels, scores }) => html`<li key=${index}>${labels.join(", ") || `none applies; likeliest: ${scores[0].label}`}</li>`)}</ol>
  `;
}

function Pictures({ result }) {
  const type = result.output_format;
  if (type === "npy") return html`<p>An array; download the result to read it.</p>`;
  return html`
    <div class="pictures">
      ${result.data.map((picture, index) => html`
        <img key=${index} alt=${`Picture ${index + 1}`} src=${picture.url ?? `data:image/${type};base64,${picture.b64_json}`} />
      `)}
    </div>
  `;
}
