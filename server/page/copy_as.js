/** The panel that shows a call for a shell and for Python. */
import { html, useState } from "./vendor/htm-preact.js";
import { key } from "./key.js";
import { useShared } from "./shared.js";

/** `calls({needsKey})` returns the programs by the language's name. */
export function CopyAs({ calls }) {
  const needsKey = useShared(key) !== null;
  const programs = Object.entries(calls({ needsKey }));
  return html`
    <details class="panel copy-as">
      <summary>The same call from a program</summary>
      ${programs.map(([language, text]) => html`<${Program} key=${language} language=${language} text=${text} />`)}
    </details>
  `;
}

function Program({ language, text }) {
  const [told, setTold] = useState("");
  async function copy() {
    setTold((await copied(text)) ? "Copied." : "Select it and copy by hand.");
    setTimeout(() => setTold(""), 3000);
  }
  return html`
    <div class="program">
      <div class="row spread">
        <h3>${language}</h3>
        <span role="status">${told}</span>
        <button type="button" onClick=${copy} aria-label=${`Copy the call for ${language}`}>Copy</button>
      </div>
      <pre tabindex="0" role="region" aria-label=${`The call for ${language}`}>${text}</pre>
    </div>
  `;
}

/** Browsers let pages copy over HTTPS and on this machine only. */
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
