/** Models whose texts have named parts: genre, title, plot. */
import { html } from "./vendor/htm-preact.js";
import { Field, useId } from "./parts.js";

const GENRES = ("Action Adult Adventure Animation Biography Comedy Crime Documentary Drama Family Fantasy Game-Show History Horror" +
  " Lifestyle Music Musical Mystery News Reality-TV Romance Sci-Fi Short Sport Talk-Show Thriller War Western").split(" ");

/** All parts but the last are given whole, of the last its beginning. */
const given = (model) => [...model.prompt_fields.fields.slice(0, -1).map(({ name }) => name), "prefix"];

/** What a call says of them. A part can be given only where all before it are. */
export function fieldsBody(model, values) {
  const fields = {};
  for (const name of given(model)) {
    if (!values[name]) break;
    fields[name] = values[name];
  }
  return fields;
}

export function FieldInputs({ model, values, onChange }) {
  const names = given(model);
  const last = model.prompt_fields.fields.at(-1).name;
  const firstEmpty = names.findIndex((name) => !values[name]);
  return names.map((name, place) => {
    const unread = firstEmpty !== -1 && place > firstEmpty && values[name];
    return html`
      <${PartInput} key=${name} name=${name} value=${values[name] ?? ""}
        label=${name === "prefix" ? `Beginning of the ${last}` : name[0].toUpperCase() + name.slice(1)}
        hint=${unread ? `Not used while the ${names[firstEmpty]} is empty.` : "Empty: the model writes it."}
        onChange=${(value) => onChange({ ...values, [name]: value })} />
    `;
  });
}

function PartInput({ name, label, hint, value, onChange }) {
  const list = useId();
  const isGenre = /genre/i.test(name);
  return html`
    <${Field} label=${label} hint=${hint}>
      ${(id, hintId) => html`
        <input id=${id} type="text" value=${value} list=${isGenre ? list : undefined} aria-describedby=${hintId}
          autocomplete="off" onInput=${({ target }) => onChange(target.value)} />
        ${isGenre && html`<datalist id=${list}>${GENRES.map((genre) => html`<option value=${genre} />`)}</datalist>`}
      `}
    <//>
  `;
}
