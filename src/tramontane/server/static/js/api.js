// The server's interface: JSON in and out, event streams, and errors a person can act on.

import { readEvents } from "./event_stream.js";
import { currentKey } from "./key.js";

export class ApiError extends Error {
  /** `status` is 0 when the server could not be reached; `detail` is the list of a 422, else null; `code` is what
   * programs tell errors apart by, or null. */
  constructor(message, status, { detail = null, code = null } = {}) {
    super(message);
    Object.assign(this, { status, detail, code });
  }
}

/** The JSON answer to a request. `body`: an object sent as JSON, or FormData. Raises ApiError. */
export async function call(path, { method = "GET", body = null, signal = null } = {}) {
  const response = await send(path, { method, body, signal });
  return response.json();
}

/** The parsed events of a streamed answer, as {event, data}; ends at the protocol's [DONE]. Raises ApiError. */
export async function* callStream(path, body, signal) {
  const response = await send(path, { method: "POST", body, signal });
  try {
    for await (const { event, data } of readEvents(response.body)) {
      if (data === "[DONE]") return;
      const parsed = JSON.parse(data);
      if (parsed.error || event === "error") throw new ApiError(messageOf(parsed.error ?? parsed, 500), 500);
      yield { event, data: parsed };
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError("The connection broke off before the answer was complete.", 0);
  }
}

async function send(path, { method, body = null, signal = null }) {
  const headers = {};
  const key = currentKey();
  if (key) headers.authorization = `Bearer ${key}`;
  const isForm = body instanceof FormData;
  if (body !== null && !isForm) headers["content-type"] = "application/json";
  const url = new URL(path, document.baseURI); // relative, so that a proxy may serve the platform below a folder
  let response;
  try {
    response = await fetch(url, {
      method,
      headers,
      signal,
      body: body === null || isForm ? body : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    document.dispatchEvent(new CustomEvent("server-unreachable"));
    throw new ApiError("The server does not answer. Is it running?", 0);
  }
  if (response.ok) return response;
  const error = await readError(response);
  if (error.status === 401) document.dispatchEvent(new CustomEvent("key-needed"));
  throw error;
}

async function readError(response) {
  let message = `The server answered ${response.status} ${response.statusText}`.trimEnd();
  let [detail, code] = [null, null];
  try {
    const body = await response.json();
    message = messageOf(body, response.status) ?? message;
    code = body.code ?? body.error?.code ?? null;
    if (Array.isArray(body.detail)) detail = body.detail;
  } catch {
    // not JSON: a proxy in between answered
  }
  return new ApiError(message, response.status, { detail, code });
}

/** The sentence inside any of the error shapes that servers of this interface use. */
function messageOf(body, status) {
  if (status === 401) return "This server asks for an API key.";
  if (typeof body === "string") return body;
  const found = body.message ?? body.error?.message ?? body.detail;
  if (Array.isArray(found))
    return found.map((item) => `${(item.loc ?? []).slice(1).join(".")}: ${item.msg}`).join("; ");
  return typeof found === "string" ? found : found?.detail ? messageOf(found, status) : null;
}
