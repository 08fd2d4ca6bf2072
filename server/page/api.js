/** Talks to the server: adds the tab's key, asks for one where it is missing, and makes errors of refusals. */
import { askForKey, key } from "./key.js";

/** What went wrong, in words for people. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, code?: string, param?: string | null, retryAfterSeconds?: number | null}} [about]
   */
  constructor(message, { status = 0, code = "", param = null, retryAfterSeconds = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryAfterSeconds });
  }
}

/**
 * @param {string} path
 * @param {{method?: string, body?: object, form?: FormData, signal?: AbortSignal, headers?: object, quiet?: boolean}} [options]
 *   `quiet`: a refused key is an error at once; for what nobody has asked for by hand.
 * @returns {Promise<Response>}
 */
export async function send(path, options = {}) {
  for (;;) {
    const used = key.get();
    const response = await attempt(path, options, used);
    if (response.ok) return response;
    const failure = await failureOf(response);
    if (response.status !== 401) throw failure;
    if (used !== key.get()) continue; // another call has got a new one meanwhile
    if (options.quiet || !(await askForKey(used !== null))) throw failure;
  }
}

/** The JSON of an answer. */
export async function call(path, options = {}) {
  return parse(await (await send(path, options)).text());
}

/** JSON whose seeds keep all of their digits: those that a number cannot hold stay texts. */
export function parse(text) {
  return JSON.parse(text.replace(/"seed":\s*(\d{16,})/g, '"seed":"$1"'));
}

/** The other way. A quotation mark within a text is escaped, so no text is taken for a seed. */
export function stringify(body) {
  return JSON.stringify(body).replace(/"seed":"(\d{16,})"/g, '"seed":$1');
}

async function attempt(path, { method, body, form, signal, headers = {} }, used) {
  const json = body === undefined ? {} : { "Content-Type": "application/json" };
  const authorization = used ? { Authorization: `Bearer ${used}` } : {};
  try {
    return await fetch(path, {
      method: method ?? (body || form ? "POST" : "GET"),
      headers: { Accept: "application/json", ...json, ...authorization, ...headers },
      body: form ?? (body === undefined ? undefined : stringify(body)),
      signal,
      cache: "no-store",
    });
  } catch (error) {
    throw connectionError(error);
  }
}

/** An error of the connection in our words; a stop by hand stays what it is. */
export function connectionError(error) {
  if (error instanceof ApiError || error.name === "AbortError") return error;
  return new ApiError("The server does not answer. Is it still running?", { code: "unreachable" });
}

async function failureOf(response) {
  const text = await response.text().catch(() => "");
  return errorOf(text, response.status, Number(response.headers.get("Retry-After")) || null);
}

/** @returns {ApiError} */
export function errorOf(text, status, retryAfterSeconds = null) {
  let told = null;
  try {
    told = JSON.parse(text).error;
  } catch {
    // Not the API's own answer: a proxy's page, or nothing.
  }
  const message = told?.message ?? `The server answered with status ${status}.`;
  return new ApiError(message, { status, code: told?.code ?? "", param: told?.param ?? null, retryAfterSeconds });
}
