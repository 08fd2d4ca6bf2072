/** The same call for a shell and for Python, to copy. A key is never in it: it stands for itself as a variable. */
import { stringify } from "./api.js";

/** @param {string} text */
export const shellWord = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** A value of JSON as Python writes it. JSON's texts are Python's, too. */
export function pythonValue(value) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(pythonValue).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value)
    .map(([name, each]) => `${JSON.stringify(name)}: ${name === "seed" ? each : pythonValue(each)}`)
    .join(", ")}}`;
}

/**
 * @param {string} path
 * @param {object} body
 * @param {{needsKey: boolean, stream?: boolean, output?: string}} options
 */
export function curl(path, body, { needsKey, stream = false, output }) {
  const words = [`curl${stream ? " -N" : ""} ${shellWord(location.origin + path)}`];
  words.push("-H 'Content-Type: application/json'");
  if (needsKey) words.push('-H "Authorization: Bearer $KAMISHIBAI_KEY"');
  words.push(`-d ${shellWord(stringify(body))}`);
  if (output) words.push(`-o ${output}`);
  return words.join(" \\\n  ");
}

const OF_OPENAI = new Set(
  "model prompt max_tokens n temperature top_p presence_penalty frequency_penalty logit_bias stop echo logprobs seed stream".split(" "),
);

/** With OpenAI's SDK; what it does not know goes into `extra_body`. */
export function pythonCompletion(body, { needsKey }) {
  const known = Object.entries(body).filter(([name]) => OF_OPENAI.has(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !OF_OPENAI.has(name)));
  delete extra.stream_options;
  if (!("prompt" in body)) known.splice(1, 0, ["prompt", null]); // the SDK insists on one; none is left out
  const lines = known.map(([name, value]) => `    ${name}=${pythonValue(value)},`);
  if (Object.keys(extra).length) lines.push(`    extra_body=${pythonValue(extra)},`);
  const read = body.stream
    ? ["for chunk in answer:", "    for choice in chunk.choices:", '        print(choice.text, end="", flush=True)']
    : ["for choice in answer.choices:", "    print(choice.text)"];
  return [
    ...openai(needsKey),
    "answer = client.completions.create(",
    ...lines,
    ")",
    ...read,
  ].join("\n");
}

/** With nothing but Python; `after` are lines that use `answer`, the body as a dictionary. */
export function pythonPost(path, body, { needsKey, imports = [], after }) {
  const authorization = needsKey ? `, "Authorization": f"Bearer {os.environ['KAMISHIBAI_KEY']}"` : "";
  const modules = [...new Set([...imports, "json", "urllib.request", ...(needsKey ? ["os"] : [])])].sort();
  return [
    ...modules.map((name) => `import ${name}`),
    "",
    `body = ${pythonValue(body)}`,
    "request = urllib.request.Request(",
    `    ${JSON.stringify(location.origin + path)},`,
    "    json.dumps(body).encode(),",
    `    {"Content-Type": "application/json"${authorization}},`,
    ")",
    "with urllib.request.urlopen(request) as response:",
    "    answer = json.load(response)",
    ...after,
  ].join("\n");
}

/** The beginning of a program that has OpenAI's SDK. */
export function openai(needsKey, imports = []) {
  const modules = [...new Set([...imports, ...(needsKey ? ["os"] : [])])].sort();
  const key = needsKey ? 'os.environ["KAMISHIBAI_KEY"]' : '"none"';
  return [
    ...modules.map((name) => `import ${name}`),
    ...(modules.length ? [""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${JSON.stringify(`${location.origin}/v1`)}, api_key=${key})`,
  ];
}
