/** Play with plots: genre, title and beginning become genre, title and plot. */
import { html, useState } from "./vendor/htm-preact.js";
import { CopyAs } from "./copy_as.js";
import { curl, pythonCompletion } from "./calls.js";
import { useCompletion } from "./completion.js";
import { FieldInputs, fieldsBody } from "./prompt_fields.js";
import { ModelField, WithModels, modelOf } from "./models.js";
import { Failure, Flag, SeedField, drawSeed } from "./parts.js";
import { SETTINGS, Settings, fieldsOf } from "./settings.js";
import { StatusLine, roomOf } from "./play_text.js";

const SETTINGS_OF_PLOTS = SETTINGS.Basics.filter(({ name }) => ["temperature", "top_p", "max_tokens"].includes(name));

export function PlayPlots() {
  const missing = html`
    <p>No model that writes plots is served here: one whose texts have named parts, such as genre, title and plot.</p>
    <p>Train one with <code>kamishibai train gpt2 plots.jsonl</code>, or import one with
      <code>kamishibai import hf FOLDER --name NAME --fields FORMAT</code>.</p>
  `;
  return html`
    <${WithModels} fits=${({ prompt_fields: fields }) => Boolean(fields)} missing=${missing}>
      ${(models) => html`<${PlotForm} models=${models} />`}
    <//>
  `;
}

function PlotForm({ models }) {
  const [name, setName] = useState("");
  const [parts, setParts] = useState({ genre: "Comedy" });
  const [values, setValues] = useState({ max_tokens: 256, temperature: 0.8, top_p: 0.9 });
  const [seed, setSeed] = useState(() => ({ seed: drawSeed(), fresh: true }));
  const [cut, setCut] = useState(true);
  const completion = useCompletion();
  const model = modelOf(models, name);
  const room = roomOf(model);
  const { fields } = fieldsOf({ ...values, max_tokens: Math.min(values.max_tokens, room) }, SETTINGS_OF_PLOTS);
  const body = { model: model.id, fields: fieldsBody(model, parts), ...fields, seed: seed.seed };
  const running = completion.status === "running";

  function write(event) {
    event.preventDefault();
    if (running) return;
    const drawn = seed.fresh && completion.status !== "idle" ? drawSeed() : seed.seed;
    setSeed({ ...seed, seed: drawn });
    completion.run({ ...body, seed: drawn });
  }

  return html`
    <form class="play" noValidate onSubmit=${write}>
      <div class="ask">
        <${ModelField} models=${models} value=${model} onChange=${({ id }) => setName(id)} />
        <${FieldInputs} model=${model} values=${parts} onChange=${setParts} />
        <div class="row actions">
          <button class="primary" type="submit" disabled=${running}>Tell it</button>
          <button type="button" onClick=${completion.stop} disabled=${!running}>Stop</button>
        </div>
      </div>
      <div class="stage">
        <${StatusLine} ...${completion} />
        ${completion.error && html`<${Failure} error=${completion.error} />`}
        <${Plot} model=${model} given=${parts} completion=${completion} cut=${cut} />
      </div>
      <div class="settings">
        <div class="panel">
          <h2>Settings</h2>
          <${SeedField} ...${seed} onChange=${setSeed} />
          <${Settings} settings=${SETTINGS_OF_PLOTS} values=${values} most=${{ max_tokens: room }} onChange=${setValues} />
          <${Flag} label="End with a full sentence" hint="What the model left unfinished is not shown." value=${cut} onChange=${setCut} />
        </div>
        <${CopyAs} calls=${(options) => ({
          curl: curl("/v1/completions", body, options),
          Python: pythonCompletion(body, options),
        })} />
      </div>
    </form>
  `;
}

/** All parts of the text. Until the server tells which is which, what was written stands in the last. */
function Plot({ model, given, completion, cut }) {
  const names = model.prompt_fields.fields.map(({ name }) => name);
  const written = completion.progress?.texts[0];
  const ended = Boolean(written?.fields);
  const parts = written?.fields ?? { ...given, [names.at(-1)]: (given.prefix ?? "") + (written?.text ?? "") };
  const shown = completion.status === "idle" ? {} : parts;
  return html`
    <div class="texts"><article class="card plot" aria-label="Plot" aria-busy=${completion.status === "running"}>
      <dl tabindex="0">
        ${names.map((name, place) => {
          const isLast = place === names.length - 1;
          const text = shown[name]?.trim() ?? "";
          return html`
            <div>
              <dt>${name[0].toUpperCase() + name.slice(1)}</dt>
              <dd class=${name === "title" ? "title-of-plot" : ""}>${isLast && ended && cut ? fullSentences(text) : text}</dd>
            </div>
          `;
        })}
      </dl>
    </article></div>
  `;
}

/** The text up to the end of its last whole sentence; all of it where none ends. */
export function fullSentences(text) {
  const ends = [...text.matchAll(/[.!?…]["'”’)\]]*(?=\s|$)/g)];
  const last = ends.at(-1);
  return last ? text.slice(0, last.index + last[0].length) : text;
}
