/** What the models' trainings have drawn: curves, samples, an animation. */
import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { send } from "./api.js";
import { useModels } from "./models.js";
import { Failure } from "./parts.js";

export function Reports() {
  const [opened, setOpened] = useState(null);
  const models = (useModels().list ?? []).filter(({ reports }) => reports);
  if (!models.length) return null;
  return html`
    <section aria-labelledby="reports-title">
      <h2 id="reports-title">How they were trained</h2>
      <ul class="reports">
        ${models.map(({ id, version, reports }) => html`
          <li key=${id}><strong>${id}</strong> (version ${version})
            ${reports.map((file) => html`
              <button type="button" class="small" onClick=${() => setOpened({ id, file })}>${file}</button>
            `)}
          </li>
        `)}
      </ul>
      ${opened && html`<${Report} key=${`${opened.id}/${opened.file}`} ...${opened} close=${() => setOpened(null)} />`}
    </section>
  `;
}

/** A picture is fetched with the tab's key, which a plain link would not bring. */
function Report({ id, file, close }) {
  const [state, setState] = useState({ url: null, error: null });
  const dialog = useRef(null);
  useEffect(() => {
    dialog.current.showModal();
    let url = null;
    let over = false;
    send(`/v1/models/${encodeURIComponent(id)}/reports/${encodeURIComponent(file)}`, { headers: { Accept: "image/*" } })
      .then((response) => response.blob())
      .then((picture) => {
        if (over) return;
        url = URL.createObjectURL(picture);
        setState({ url, error: null });
      })
      .catch((error) => setState({ url: null, error }));
    return () => {
      over = true;
      if (url) URL.revokeObjectURL(url);
    };
  }, []);
  return html`
    <dialog ref=${dialog} class="report" aria-labelledby="report-title" onClose=${close}>
      <div class="row spread">
        <h2 id="report-title">${id}: ${file}</h2>
        <button type="button" onClick=${() => dialog.current.close()}>Close</button>
      </div>
      ${state.error && html`<${Failure} error=${state.error} />`}
      ${state.url && html`<img src=${state.url} alt=${`${file} of the training of ${id}`} />`}
    </dialog>
  `;
}
