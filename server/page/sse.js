/** Server-sent events of an answer to fetch; EventSource can send neither a body nor a key. */
import { connectionError } from "./api.js";

/**
 * @param {Response} response
 * @returns {AsyncGenerator<{id: string | null, data: string}>}
 */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = eventOf(block);
        if (event) yield event;
      }
    }
  } catch (error) {
    throw connectionError(error);
  } finally {
    reader.cancel().catch(() => {}); // the reader has left: the server need not go on
  }
}

/** Lines that begin with a colon are comments, which keep the connection alive. */
function eventOf(block) {
  let id = null;
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
    if (line.startsWith("id:")) id = line.slice(3).trim();
  }
  return data.length ? { id, data: data.join("\n") } : null;
}
