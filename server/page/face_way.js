/** The way from one face to another, as an animation that can be held, stepped through and kept. */
import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { call, send } from "./api.js";
import { CopyAs } from "./copy_as.js";
import { curl, openai, pythonValue } from "./calls.js";
import { Failure, Slider, save } from "./parts.js";

const FRAME_MILLISECONDS = 80;

export function FaceWay({ drawnWith, ends }) {
  const [frames, setFrames] = useState(24);
  const [state, setState] = useState({ pictures: [], running: false, error: null });
  const ready = drawnWith && ends.length === 2;
  const body = ready && {
    model: drawnWith.model.id,
    seed: ends[0],
    interpolate: { to_seed: ends[1], frames },
    ...(drawnWith.truncation < 1 ? { truncation: drawnWith.truncation } : {}),
  };
  const animation = { ...body, frame_milliseconds: FRAME_MILLISECONDS };

  useEffect(() => setState({ pictures: [], running: false, error: null }), [ends.join()]);

  const attempt = async (act) => {
    setState((before) => ({ ...before, running: true, error: null }));
    try {
      const change = await act();
      setState((before) => ({ ...before, running: false, ...change }));
    } catch (error) {
      setState((before) => ({ ...before, running: false, error }));
    }
  };
  const go = () => attempt(async () => {
    const { data } = await call("/v1/images/generations", { body });
    return { pictures: data.map((each) => `data:image/png;base64,${each.b64_json}`) };
  });
  const keep = (type) => attempt(async () => {
    const response = await send("/v1/images/generations", { body: animation, headers: { Accept: `image/${type}` } });
    save(await response.blob(), `faces-${ends[0]}-${ends[1]}.${type}`);
  });

  if (!ready) return null;
  return html`
    <section class="way" aria-labelledby="way-title">
      <div class="frame"><${Film} pictures=${state.pictures} label=${`From face ${ends[0]} to face ${ends[1]}`} /></div>
      <div class="way-controls">
        <h2 id="way-title">From ${ends[0]} to ${ends[1]}</h2>
        <${Slider} label="Pictures" value=${frames} min=${2} max=${64} onChange=${setFrames} hint="How many steps the way has." />
        <div class="row">
          <button type="button" class="primary" onClick=${go} disabled=${state.running}>Go</button>
          <button type="button" onClick=${() => keep("gif")} disabled=${state.running}>Download GIF</button>
          <button type="button" onClick=${() => keep("webp")} disabled=${state.running}>Download WebP</button>
        </div>
        <p class="hint" role="status">${state.running ? "Drawing…" : ""}</p>
        ${state.error && html`<${Failure} error=${state.error} />`}
        <${CopyAs} calls=${({ needsKey }) => ({
          curl: curl("/v1/images/generations", { ...animation, output_format: "gif" }, { needsKey })
            .replace("curl ", "curl -H 'Accept: image/gif' -o way.gif "),
          Python: [
            ...openai(needsKey, ["base64"]),
            `body = ${pythonValue({ ...animation, output_format: "gif" })}`,
            `answer = client.images.generate(model=body.pop("model"), prompt="", extra_body=body)`,
            'with open("way.gif", "wb") as file:',
            "    file.write(base64.b64decode(answer.data[0].b64_json))",
          ].join("\n"),
        })} />
      </div>
    </section>
  `;
}

/** There and back again. It stands still for those who asked their device for less motion, until they play it. */
function Film({ pictures, label }) {
  const [place, setPlace] = useState(0);
  const [playing, setPlaying] = useState(false);
  const turns = 2 * pictures.length - 2;

  useEffect(() => {
    setPlace(0);
    setPlaying(pictures.length > 1 && !matchMedia("(prefers-reduced-motion: reduce)").matches);
  }, [pictures]);
  useEffect(() => {
    if (!playing) return undefined;
    const timer = setInterval(() => setPlace((before) => (before + 1) % turns), FRAME_MILLISECONDS);
    return () => clearInterval(timer);
  }, [playing, turns]);

  const shown = place < pictures.length ? place : turns - place;
  if (!pictures.length) return html`<span class="unseen" role="img" aria-label="Nothing drawn yet" />`;
  return html`
    <img src=${pictures[shown]} alt=${label} />
    <div class="film">
      <button type="button" class="small" onClick=${() => setPlaying(!playing)}>${playing ? "Hold" : "Play"}</button>
      <input type="range" min="0" max=${pictures.length - 1} value=${shown} aria-label="Picture of the way"
        onInput=${({ target }) => { setPlaying(false); setPlace(Number(target.value)); }} />
    </div>
  `;
}
