/** Play with genres: the labels of texts, a bar for each, with the threshold from which on one applies. */
import { html, useState } from "./vendor/htm-preact.js";
import { call } from "./api.js";
import { CopyAs } from "./copy_as.js";
import { curl, pythonPost } from "./calls.js";
import { ModelField, WithModels, modelOf } from "./models.js";
import { Failure, Field, Flag, Slider } from "./parts.js";

const MOST_TEXTS = 64;
const EXAMPLES = [
  "A detective hunts a killer through the streets of Los Angeles.",
  "Two friends fall in love on a journey to the sea.",
];
const LONG_TEXTS = [["truncate", "read their beginning"], ["average", "read all, in windows"], ["refuse", "refuse them"]];

export function PlayGenres() {
  const missing = html`
    <p>No model that reads genres is served here.</p>
    <p>Train one with <code>kamishibai train genres movies.jsonl</code>, or import a BERT or RoBERTa classifier:
      <code>kamishibai import hf FOLDER --name genres</code>.</p>
  `;
  return html`
    <${WithModels} fits=${({ task }) => task === "classify"} missing=${missing}>
      ${(models) => html`<${GenresForm} models=${models} />`}
    <//>
  `;
}

function GenresForm({ models }) {
  const [name, setName] = useState("");
  const [texts, setTexts] = useState(EXAMPLES);
  const [own, setOwn] = useState({ on: false, threshold: 0.5 });
  const [likeliest, setLikeliest] = useState(12);
  const [longTexts, setLongTexts] = useState("truncate");
  const [state, setState] = useState({ running: false, answer: null, error: null, asked: null });
  const model = modelOf(models, name);
  const input = texts.filter((text) => text.trim());
  const body = {
    model: model.id,
    input: input.length === 1 ? input[0] : input,
    ...(own.on ? { threshold: own.threshold } : {}),
    ...(likeliest < model.labels.names.length ? { top_k: likeliest } : {}),
    ...(longTexts !== "truncate" ? { long_texts: longTexts } : {}),
  };

  async function classify(event) {
    event.preventDefault();
    setState((before) => ({ ...before, running: true, error: null }));
    try {
      const answer = await call("/v1/classify", { body });
      setState({ running: false, answer, error: null, asked: { model, input, own } });
    } catch (error) {
      setState((before) => ({ ...before, running: false, error }));
    }
  }

  return html`
    <form class="play" noValidate onSubmit=${classify}>
      <div class="ask">
        <${ModelField} models=${models} value=${model} onChange=${({ id }) => setName(id)} />
        <${TextBoxes} texts=${texts} onChange=${setTexts} />
        <div class="row actions">
          <button class="primary" type="submit" disabled=${state.running || !input.length}>Find genres</button>
        </div>
      </div>
      <div class="stage">
        <p class="status-line"><span role="status">${state.running ? "Reading…" : state.answer ? "Done." : "Nothing read yet."}</span></p>
        ${state.error && html`<${Failure} error=${state.error} />`}
        <div class="frame">
          ${state.answer
            ? state.answer.data.map((found, place) => html`<${Labelled} key=${place} text=${state.asked.input[place]} found=${found} ...${state.asked} />`)
            : html`<div class="labelled"><p class="placeholder">Press Find genres to see what kind of stories these are.</p></div>`}
        </div>
      </div>
      <div class="settings">
        <div class="panel">
          <h2>Settings</h2>
          <${Flag} label="A threshold of my own" hint="Otherwise the model's own hold." value=${own.on} onChange=${(on) => setOwn({ ...own, on })} />
          ${own.on && html`<${Slider} label="Threshold" value=${own.threshold} min=${0} max=${1} step=${0.01}
            onChange=${(threshold) => setOwn({ ...own, threshold })} hint="Genres as likely as this apply." />`}
          <${Slider} label="Bars" value=${Math.min(likeliest, model.labels.names.length)} min=${1} max=${model.labels.names.length}
            onChange=${setLikeliest} hint="So many of the likeliest genres are shown." />
          <${Field} label="Long texts" hint="What becomes of texts longer than the model's context.">
            ${(id, hintId) => html`
              <select id=${id} aria-describedby=${hintId} onChange=${({ target }) => setLongTexts(target.value)}>
                ${LONG_TEXTS.map(([value, words]) => html`<option value=${value} selected=${value === longTexts}>${words}</option>`)}
              </select>
            `}
          <//>
        </div>
        <${CopyAs} calls=${(options) => ({
          curl: curl("/v1/classify", body, options),
          Python: pythonPost("/v1/classify", body, {
            ...options,
            after: ['for found in answer["data"]:', '    print(found["labels"], found["scores"][:3])'],
          }),
        })} />
      </div>
    </form>
  `;
}

function TextBoxes({ texts, onChange }) {
  const change = (place, text) => onChange(texts.map((each, index) => (index === place ? text : each)));
  const remove = (place) => onChange(texts.filter((_, index) => index !== place));
  return html`
    ${texts.map((text, place) => html`
      <div class="box-of-text" key=${place}>
        <${Field} label=${`Text ${place + 1}`}>
          ${(id) => html`<textarea id=${id} rows="3" value=${text} onInput=${({ target }) => change(place, target.value)} />`}
        <//>
        ${texts.length > 1 && html`<button type="button" class="quiet small" onClick=${() => remove(place)} aria-label=${`Remove text ${place + 1}`}>Remove</button>`}
      </div>
    `)}
    <button type="button" class="quiet" disabled=${texts.length >= MOST_TEXTS} onClick=${() => onChange([...texts, ""])}>Add a text</button>
  `;
}

/** One text with its bars. */
function Labelled({ text, found, model, own }) {
  const { names, threshold } = model.labels;
  const thresholdOf = (label) => (own.on ? own.threshold : Array.isArray(threshold) ? threshold[names.indexOf(label)] : threshold);
  const read = found.truncated ? "Only its beginning was read." : "";
  return html`
    <article class="labelled">
      <blockquote>${text}</blockquote>
      <p><strong>${found.labels.length ? found.labels.join(", ") : "No genre reaches its threshold."}</strong> <span class="hint">${read}</span></p>
      <ul class="bars">
        ${found.scores.map(({ label, score }) => {
          const applies = found.labels.includes(label);
          const from = thresholdOf(label);
          return html`
            <li>
              <span class=${`name ${applies ? "applies" : ""}`}>${applies ? "✓ " : ""}${label}</span>
              <div class="bar" aria-hidden="true">
                <div class="fill" style=${{ width: `${100 * score}%` }} />
                <div class="threshold" style=${{ left: `${100 * from}%` }} />
              </div>
              <span class="share">${(100 * score).toFixed(0)} %<span class="visually-hidden">, applies from ${(100 * from).toFixed(0)} % on</span></span>
            </li>
          `;
        })}
      </ul>
    </article>
  `;
}
