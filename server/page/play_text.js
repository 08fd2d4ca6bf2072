/** Play with text: a prompt, every setting, and texts that come as they are written. */
import { html, useState } from "./vendor/htm-preact.js";
import { CopyAs } from "./copy_as.js";
import { curl, pythonCompletion } from "./calls.js";
import { useCompletion } from "./completion.js";
import { FieldInputs, fieldsBody } from "./prompt_fields.js";
import { ModelField, WithModels, modelOf } from "./models.js";
import { Failure, Field, SeedField, drawSeed } from "./parts.js";
import { SETTINGS, Settings, fieldsOf, initialValues } from "./settings.js";
import { TextCard } from "./text_card.js";

const PROMPTS = ["In the year", "A young girl ", "During the war", "When the moon", "Once upon a time"];

export function PlayText() {
  return html`
    <${WithModels} fits=${({ task }) => task === "text"} missing=${html`<${NoTextModel} />`}>
      ${(models) => html`<${TextForm} models=${[...models].sort(plainFirst)} />`}
    <//>
  `;
}

/** Any prompt does for those; others expect one of a form. */
const plainFirst = (one, other) => Boolean(one.prompt_fields) - Boolean(other.prompt_fields);

function NoTextModel() {
  return html`
    <p>No model that writes text is served here.</p>
    <p>Make the demo models with <code>kamishibai demo</code>, train one with <code>kamishibai train char-lstm FILE</code>,
      or import one: <code>kamishibai import hf FOLDER --name NAME</code>.</p>
  `;
}

function TextForm({ models }) {
  const [name, setName] = useState("");
  const [prompt, setPrompt] = useState(PROMPTS[0]);
  const [parts, setParts] = useState({});
  const [byParts, setByParts] = useState(false);
  const [values, setValues] = useState(initialValues);
  const [seed, setSeed] = useState(() => ({ seed: drawSeed(), fresh: true }));
  const completion = useCompletion();
  const [given, setGiven] = useState("");

  const model = modelOf(models, name);
  const room = roomOf(model);
  const { fields, faults } = fieldsOf({ ...values, max_tokens: Math.min(values.max_tokens, room) });
  const usesParts = byParts && Boolean(model.prompt_fields);
  const asked = usesParts ? { fields: fieldsBody(model, parts) } : { prompt };
  const body = { model: model.id, ...asked, ...fields, seed: seed.seed };
  const running = completion.status === "running";

  function write(event) {
    event.preventDefault();
    if (running || Object.keys(faults).length) return;
    const drawn = seed.fresh && completion.status !== "idle" ? drawSeed() : seed.seed;
    setSeed({ ...seed, seed: drawn });
    setGiven(usesParts || values.echo ? "" : prompt);
    completion.run({ ...body, seed: drawn });
  }

  return html`
    <form class="play" noValidate onSubmit=${write}>
      <div class="ask">
        <${ModelField} models=${models} value=${model} onChange=${({ id }) => setName(id)} />
        ${model.prompt_fields && html`<${PartsChoice} byParts=${byParts} onChange=${setByParts} />`}
        ${usesParts
          ? html`<${FieldInputs} model=${model} values=${parts} onChange=${setParts} />`
          : html`<${PromptBox} value=${prompt} onChange=${setPrompt} onSubmit=${write} />`}
        <div class="row actions">
          <button class="primary" type="submit" disabled=${running}>Write</button>
          <button type="button" onClick=${completion.stop} disabled=${!running}>Stop</button>
        </div>
      </div>
      <div class="stage">
        <${Texts} completion=${completion} n=${values.n} given=${given} />
      </div>
      <div class="settings">
        <${AllSettings} room=${room} values=${values} faults=${faults} onChange=${setValues} seed=${seed} setSeed=${setSeed} />
        <${CopyAs} calls=${(options) => ({
          curl: curl("/v1/completions", { ...body, stream: true }, { ...options, stream: true }),
          Python: pythonCompletion({ ...body, stream: true }, options),
        })} />
      </div>
    </form>
  `;
}

function PartsChoice({ byParts, onChange }) {
  const choice = (value, words) => html`
    <label><input type="radio" name="text-by" checked=${byParts === value} onChange=${() => onChange(value)} /> ${words}</label>
  `;
  return html`<fieldset class="choice"><legend>Begin with</legend>${choice(false, "a prompt")}${choice(true, "named parts")}</fieldset>`;
}

function PromptBox({ value, onChange, onSubmit }) {
  const another = () => onChange(PROMPTS[(PROMPTS.indexOf(value) + 1) % PROMPTS.length]);
  const send = (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && onSubmit(event);
  return html`
    <${Field} label="Prompt" hint="The model goes on from here. Ctrl+Enter writes.">
      ${(id, hintId) => html`<textarea id=${id} class="prompt" rows="4" value=${value} aria-describedby=${hintId}
        onInput=${({ target }) => onChange(target.value)} onKeyDown=${send} />`}
    <//>
    <button type="button" class="quiet" onClick=${another}>Another prompt</button>
  `;
}

/** Tokens that fit behind a short prompt. */
export const roomOf = ({ limits }) => limits.max_tokens ?? Math.floor((limits.context_tokens ?? 1024) * 0.75);

function AllSettings({ room, values, faults, onChange, seed, setSeed }) {
  const most = { max_tokens: room, min_tokens: room };
  const [[, basics], ...others] = Object.entries(SETTINGS);
  const shared = { values, faults, most, onChange };
  return html`
    <div class="panel">
      <h2>Settings</h2>
      <${SeedField} ...${seed} onChange=${setSeed} />
      <${Settings} settings=${basics} ...${shared} />
      ${others.map(([title, settings]) => html`
        <details>
          <summary>${title}</summary>
          <${Settings} settings=${settings} ...${shared} />
        </details>
      `)}
    </div>
  `;
}

/** The texts side by side. Their cards have their size from the start: nothing moves while they are written. */
function Texts({ completion, n, given }) {
  const { status, progress, error } = completion;
  const texts = progress?.texts ?? Array.from({ length: n }, () => ({ text: "", finishReason: null, logprobs: null }));
  return html`
    <${StatusLine} ...${completion} />
    ${error && html`<${Failure} error=${error} />`}
    <div class=${`texts ${texts.length > 1 ? "several" : ""}`}>
      ${texts.map((written, index) => html`
        <${TextCard} key=${index} written=${written} number=${texts.length > 1 ? index + 1 : null} status=${status} given=${given} />
      `)}
    </div>
  `;
}

const WORDS = { idle: "Nothing written yet.", running: "Writing…", done: "Done.", stopped: "Stopped.", failed: "Not finished." };

export function StatusLine({ status, progress }) {
  const seconds = progress && (progress.milliseconds / 1000).toFixed(1);
  const { usage, firstMilliseconds, seed } = progress ?? {};
  const facts = [
    seed !== undefined && seed !== null && `seed ${seed}`,
    usage && `${usage.completion_tokens} tokens in ${seconds} s`,
    firstMilliseconds && `first after ${Math.round(firstMilliseconds)} ms`,
  ].filter(Boolean);
  return html`<p class="status-line"><span role="status">${WORDS[status]}</span> <span class="facts">${facts.join(" · ")}</span></p>`;
}
