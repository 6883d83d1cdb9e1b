// Requests to the service. The key stays in this tab.

const KEY = "streamward-key";
const TIMEOUT_MS = 120000;

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function rememberKey(key) {
  sessionStorage.setItem(KEY, key);
}

export function forgetKey() {
  sessionStorage.removeItem(KEY);
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

/** Make a request and return its JSON, or its body if it is a stream; throws Refused with the service's own message. */
export async function call(path, options = {}) {
  const response = await open(path, options);
  return options.isStream ? response.body : response.json();
}

/** Return a path with a query; parameters without a value are left out. */
export function withQuery(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/** Make a request and return the response; throws Refused. */
export async function open(path, { body = null, signal = null, isStream = false } = {}) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers["Authorization"] = `Bearer ${key}`;
  if (body !== null) headers["Content-Type"] = "application/json";
  const signals = [signal, isStream ? null : AbortSignal.timeout(TIMEOUT_MS)].filter(Boolean);
  const asked = fetch(path, {
    method: body === null ? "GET" : "POST",
    headers,
    body: body === null ? null : JSON.stringify(body),
    signal: signals.length ? AbortSignal.any(signals) : null,
    credentials: "omit",
    cache: "no-store",
  });
  const response = await asked.catch((error) => {
    throw told(error);
  });
  if (!response.ok) throw new Refused(response.status, await reason(response));
  return response;
}

/** Say in our words what the browser says of a connection in words of its own, which differ from one to the next. */
function told(error) {
  if (error.name === "AbortError") return error;
  if (error.name === "TimeoutError") return new Error(`The service did not answer within ${TIMEOUT_MS / 1000} s.`);
  return new Error("The service cannot be reached. Check that it runs, then try again.");
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `status ${response.status}`;
  }
}

/** Yield the data of server-sent events. */
export async function* events(stream) {
  let text = "";
  for await (const chunk of readAll(stream.pipeThrough(new TextDecoderStream()))) {
    text += chunk;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const lines = text.slice(0, end).split("\n").filter((line) => line.startsWith("data: "));
      text = text.slice(end + 2);
      if (lines.length) yield lines.map((line) => line.slice(6)).join("\n");
    }
  }
}

async function* readAll(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        throw told(error);
      });
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
