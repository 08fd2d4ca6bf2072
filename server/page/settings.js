/** Every setting of a completion: its control, a line about it, and how it is written into a call. */
import { html } from "./vendor/htm-preact.js";
import { Field, Flag, NumberBox, Slider } from "./parts.js";

/**
 * @typedef {"slider" | "number" | "flag" | "choice" | "lines" | "ids" | "biases"} Kind
 * @typedef {{name: string, label: string, kind: Kind, fallback: any, initial?: any, min?: number, max?: number,
 *   step?: number, choices?: [any, string][], hint: string}} Setting
 */

/** `fallback` is what the server takes where a call is silent, so that what is shown stays short. */
/** @type {Record<string, Setting[]>} */
export const SETTINGS = {
  Basics: [
    { name: "max_tokens", label: "Length", kind: "slider", fallback: 16, initial: 120, min: 1, max: 512,
      hint: "Tokens to write at most: words, or for some models characters." },
    { name: "temperature", label: "Temperature", kind: "slider", fallback: 1, initial: 0.8, min: 0, max: 2, step: 0.05,
      hint: "Low is predictable, high is wild; 0 always takes the likeliest token." },
    { name: "top_p", label: "Top p", kind: "slider", fallback: 1, min: 0.01, max: 1, step: 0.01,
      hint: "Draw among the likeliest tokens that together have this share." },
    { name: "top_k", label: "Top k", kind: "slider", fallback: 0, min: 0, max: 200,
      hint: "Draw among this many likeliest tokens; 0 is off." },
    { name: "n", label: "Texts", kind: "slider", fallback: 1, min: 1, max: 16, hint: "So many texts, side by side." },
  ],
  "Choosing tokens": [
    { name: "min_p", label: "Min p", kind: "slider", fallback: 0, min: 0, max: 1, step: 0.01,
      hint: "Drop tokens less likely than this share of the likeliest one; 0 is off." },
    { name: "repetition_penalty", label: "Repetition penalty", kind: "slider", fallback: 1, min: 0.5, max: 2, step: 0.05,
      hint: "Above 1, tokens of prompt and text become less likely." },
    { name: "presence_penalty", label: "Presence penalty", kind: "slider", fallback: 0, min: -2, max: 2, step: 0.1,
      hint: "Taken from every token that was written before." },
    { name: "frequency_penalty", label: "Frequency penalty", kind: "slider", fallback: 0, min: -2, max: 2, step: 0.1,
      hint: "Taken from a token for each time that it was written." },
    { name: "no_repeat_ngram_size", label: "No repeated runs of", kind: "slider", fallback: 0, min: 0, max: 64,
      hint: "No run of this many tokens comes twice; 0 is off." },
    { name: "logit_bias", label: "Biases", kind: "biases", fallback: "",
      hint: "A token id and -100 to 100 in each line, as 42: -100." },
  ],
  "Where a text ends": [
    { name: "lengths", label: "Lengths count", kind: "choice", fallback: "written",
      choices: [["written", "what is written"], ["all", "prompt and text together"]],
      hint: "Prompt and text together is max_length, as in transformers." },
    { name: "min_tokens", label: "Shortest", kind: "number", fallback: 0, min: 0, max: 4096,
      hint: "Tokens before which a text does not end." },
    { name: "stop", label: "Stop at", kind: "lines", fallback: "", hint: "Up to four texts, one in each line; a text ends before the first of them." },
    { name: "stop_token_ids", label: "Stop at tokens", kind: "ids", fallback: "", hint: "Token ids, with commas between them." },
    { name: "ignore_eos", label: "Write on after the end", kind: "flag", fallback: false,
      hint: "The model's own end of a text ends nothing." },
  ],
  "Beam search": [
    { name: "num_beams", label: "Beams", kind: "slider", fallback: 1, min: 1, max: 16,
      hint: "Search for likely texts along so many ways; 1 is off." },
    { name: "length_penalty", label: "Length penalty", kind: "slider", fallback: 1, min: -10, max: 10, step: 0.1,
      hint: "Above 0 beams favour long texts." },
    { name: "early_stopping", label: "Search ends", kind: "choice", fallback: false,
      choices: [[false, "when a better text is unlikely"], [true, "when there are enough texts"], ["never", "when no better one is possible"]],
      hint: "When the beams have found enough." },
  ],
  "What comes back": [
    { name: "logprobs", label: "Token probabilities", kind: "slider", fallback: -1, initial: 5, min: -1, max: 20,
      hint: "So many likeliest tokens for each place; -1 is off." },
    { name: "echo", label: "Begin with the prompt", kind: "flag", fallback: false, hint: "The text has the prompt before it." },
  ],
};

const ALL = Object.values(SETTINGS).flat();

export const initialValues = () => Object.fromEntries(ALL.map((each) => [each.name, each.initial ?? each.fallback]));

/**
 * The fields of a call, without those at which nothing is changed.
 * @returns {{fields: object, faults: Record<string, string>}} faults: by the setting's name
 */
export function fieldsOf(values, settings = ALL) {
  const fields = {};
  const faults = {};
  for (const { name, kind, fallback } of settings) {
    if (name === "lengths" || (values[name] === fallback && name !== "max_tokens")) continue;
    try {
      fields[name] = READERS[kind] ? READERS[kind](values[name]) : values[name];
    } catch (error) {
      faults[name] = error.message;
    }
  }
  return { fields: values.lengths === "all" ? withPromptCounted(fields) : fields, faults };
}

function withPromptCounted({ max_tokens, min_tokens, ...others }) {
  return { max_length: max_tokens, ...(min_tokens ? { min_length: min_tokens } : {}), ...others };
}

/** What people type into boxes, as the API takes it. They throw what is to be said of it. */
const READERS = {
  lines: (text) => text.split("\n").filter((line) => line !== ""),
  ids: (text) => text.split(",").filter((each) => each.trim()).map(tokenId),
  biases: (text) =>
    Object.fromEntries(
      text.split("\n").filter((line) => line.trim()).map((line) => {
        const [id, bias] = line.split(":");
        if (!bias?.trim() || Number.isNaN(Number(bias))) throw new Error(`Write a token id and a number, as 42: -100, not “${line}”.`);
        return [tokenId(id), Number(bias)];
      }),
    ),
};

function tokenId(text) {
  if (!/^\s*\d+\s*$/.test(text)) throw new Error(`“${text.trim()}” is no token id; those are whole numbers.`);
  return Number(text);
}

/** The controls of some settings. `most` has upper ends that depend on the model. */
export function Settings({ settings, values, faults = {}, most = {}, onChange }) {
  return settings.map((setting) => {
    const { name } = setting;
    const Control = CONTROLS[setting.kind];
    const set = (value) => onChange({ ...values, [name]: value });
    const max = most[name] ?? setting.max;
    const shown = name === "max_tokens" ? Math.min(values[name], max) : values[name];
    return html`<${Control} key=${name} ...${setting} max=${max} value=${shown} error=${faults[name]} onChange=${set} />`;
  });
}

const CONTROLS = {
  slider: Slider,
  flag: Flag,
  number: ({ label, hint, value, min, max, onChange }) => html`
    <${Field} label=${label} hint=${hint}>
      ${(id, hintId) => html`<${NumberBox} id=${id} min=${min} max=${max} value=${value} aria-describedby=${hintId}
        onChange=${onChange} />`}
    <//>
  `,
  choice: ({ label, hint, value, choices, onChange }) => html`
    <${Field} label=${label} hint=${hint}>
      ${(id, hintId) => html`
        <select id=${id} aria-describedby=${hintId} onChange=${({ target }) => onChange(choices[target.selectedIndex][0])}>
          ${choices.map(([choice, words]) => html`<option selected=${choice === value}>${words}</option>`)}
        </select>
      `}
    <//>
  `,
  lines: Box,
  ids: Box,
  biases: Box,
};

function Box({ label, hint, value, kind, error, onChange }) {
  return html`
    <${Field} label=${label} hint=${hint} error=${error}>
      ${(id, hintId) => html`<textarea id=${id} rows=${kind === "ids" ? 1 : 2} value=${value} spellcheck=${false}
        aria-describedby=${hintId} aria-invalid=${Boolean(error)} onInput=${({ target }) => onChange(target.value)} />`}
    <//>
  `;
}
