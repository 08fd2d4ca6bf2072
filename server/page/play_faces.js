/** Play with faces: a grid of seeds, and the way from one face to another. */
import { html, useRef, useState } from "./vendor/htm-preact.js";
import { call } from "./api.js";
import { CopyAs } from "./copy_as.js";
import { openai, pythonValue, shellWord } from "./calls.js";
import { FaceWay } from "./face_way.js";
import { ModelField, WithModels, modelOf } from "./models.js";
import { Failure, SeedField, Slider, drawSeed } from "./parts.js";

const AT_ONCE = 6; // connections that a browser opens to one server

export function PlayFaces() {
  const missing = html`
    <p>No model that draws is served here.</p>
    <p>Make the demo models with <code>kamishibai demo</code>, or train one with <code>kamishibai train dcgan FOLDER</code>.</p>
  `;
  return html`
    <${WithModels} fits=${({ task }) => task === "image"} missing=${missing}>
      ${(models) => html`<${FacesForm} models=${models} />`}
    <//>
  `;
}

/** Each face is picture 0 of a seed of its own: so any of them can be drawn again, and be the end of a way. */
const bodyOf = (model, seed, truncation) => ({ model: model.id, n: 1, seed, ...(truncation < 1 ? { truncation } : {}) });

/** @typedef {{seed: number, url: string | null}} Face */

function useFaces() {
  const [state, setState] = useState({ faces: /** @type {Face[]} */ ([]), running: false, error: null, drawnWith: null });
  const controller = useRef(null);

  async function draw(model, first, count, truncation) {
    controller.current?.abort();
    const mine = new AbortController();
    controller.current = mine;
    const faces = Array.from({ length: count }, (_, place) => ({ seed: first + place, url: null }));
    const update = (change) => controller.current === mine && setState((before) => ({ ...before, ...change }));
    update({ faces: [...faces], running: true, error: null, drawnWith: { model, truncation } });
    const waiting = [...faces];
    const drawNext = async () => {
      for (let face = waiting.shift(); face; face = waiting.shift()) {
        const answer = await call("/v1/images/generations", { body: bodyOf(model, face.seed, truncation), signal: mine.signal });
        face.url = `data:image/png;base64,${answer.data[0].b64_json}`;
        update({ faces: faces.map((each) => ({ ...each })) });
      }
    };
    try {
      await Promise.all(Array.from({ length: AT_ONCE }, drawNext));
      update({ running: false });
    } catch (error) {
      mine.abort();
      update({ running: false, error: error.name === "AbortError" ? null : error });
    }
  }

  const stop = () => controller.current?.abort();
  return { ...state, draw, stop };
}

function FacesForm({ models }) {
  const [name, setName] = useState("");
  const [count, setCount] = useState(12);
  const [truncation, setTruncation] = useState(0.8);
  const [seed, setSeed] = useState(() => ({ seed: drawSeed(), fresh: true }));
  const [ends, setEnds] = useState(/** @type {number[]} */ ([]));
  const faces = useFaces();
  const model = modelOf(models, name);

  function draw(event) {
    event?.preventDefault();
    const drawn = seed.fresh && faces.drawnWith ? drawSeed() : seed.seed;
    setSeed({ ...seed, seed: drawn });
    setEnds([]);
    faces.draw(model, drawn, count, truncation);
  }

  const choose = (chosen) => setEnds((before) => (before.includes(chosen) ? before.filter((each) => each !== chosen) : [...before, chosen].slice(-2)));
  return html`
    <form class="play" noValidate onSubmit=${draw}>
      <div class="ask">
        <${ModelField} models=${models} value=${model} onChange=${({ id }) => setName(id)} />
        <${Slider} label="Faces" value=${count} min=${1} max=${64} onChange=${setCount} hint="Each has a seed of its own, counted up from the first." />
        <${Slider} label="Truncation" value=${truncation} min=${0.05} max=${1} step=${0.05} onChange=${setTruncation}
          hint="Low: what is typical. High: more variety." />
        <${SeedField} ...${seed} onChange=${setSeed} />
        <div class="row actions">
          <button class="primary" type="submit" disabled=${faces.running}>Draw</button>
          <button type="button" onClick=${faces.stop} disabled=${!faces.running}>Stop</button>
        </div>
      </div>
      <div class="stage">
        <p class="status-line"><span role="status">${statusOf(faces, ends)}</span></p>
        ${faces.error && html`<${Failure} error=${faces.error} />`}
        <div class="frame"><${Grid} faces=${faces.faces} count=${count} ends=${ends} choose=${choose} /></div>
        <${FaceWay} drawnWith=${faces.drawnWith} ends=${ends} />
      </div>
      <div class="settings">
        <${CopyAs} calls=${(options) => programs(model, seed.seed, count, truncation, options)} />
      </div>
    </form>
  `;
}

function statusOf({ faces, running }, ends) {
  const done = faces.filter(({ url }) => url).length;
  if (running) return `Drawing… ${done} of ${faces.length}`;
  if (!faces.length) return "Nothing drawn yet.";
  if (!done) return "Stopped.";
  return ["Choose two faces to go from one to the other.", "Choose one more.", "Two are chosen: see below."][ends.length];
}

function Grid({ faces, count, ends, choose }) {
  if (!faces.length) {
    return html`<ul class="faces">${Array.from({ length: count }, () => html`<li class="face"><span class="unseen" /><span class="seed-of-face">?</span></li>`)}</ul>`;
  }
  return html`
    <ul class="faces">
      ${faces.map(({ seed, url }) => {
        const end = ends.indexOf(seed);
        return html`
          <li key=${seed}>
            <button type="button" class="face" aria-pressed=${end !== -1} disabled=${!url} onClick=${() => choose(seed)}>
              ${url ? html`<img src=${url} alt="Face of seed" />` : html`<span class="unseen" />`}
              <span class="seed-of-face">${seed}</span>
              ${end !== -1 && html`<span class="badge">${end === 0 ? "from" : "to"}</span>`}
            </button>
          </li>
        `;
      })}
    </ul>
  `;
}

function programs(model, first, count, truncation, { needsKey }) {
  const { seed: _, ...body } = bodyOf(model, first, truncation);
  const json = JSON.stringify(body).replace(/}$/, "");
  const authorization = needsKey ? ' -H "Authorization: Bearer $KAMISHIBAI_KEY"' : "";
  const extra = { seed: "seed", ...(truncation < 1 ? { truncation } : {}) };
  return {
    curl: [
      `for seed in $(seq ${first} ${first + count - 1}); do`,
      `  curl ${shellWord(`${location.origin}/v1/images/generations`)} -H 'Content-Type: application/json' -H 'Accept: image/png'${authorization} \\`,
      `    -d ${shellWord(`${json},"seed":`)}"$seed"'}' -o face-$seed.png`,
      "done",
    ].join("\n"),
    Python: [
      ...openai(needsKey, ["base64"]),
      `for seed in range(${first}, ${first + count}):`,
      `    answer = client.images.generate(model=${pythonValue(model.id)}, prompt="", n=1, extra_body=${pythonValue(extra)})`,
      '    with open(f"face-{seed}.png", "wb") as file:',
      "        file.write(base64.b64decode(answer.data[0].b64_json))",
    ].join("\n"),
  };
}
