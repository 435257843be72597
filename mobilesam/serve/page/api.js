// The server's HTTP API. If the server refuses a request, a ServerError with the server's sentence is thrown.

export class ServerError extends Error {
  constructor(message, status, retryAfter = 0) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

const UNREACHABLE = "The server does not answer. Is mobilesam serve still running?";

async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  const retryAfter = Number(response.headers.get("Retry-After")) || 0;
  return new ServerError(body.error ?? `The server answered ${response.status}.`, response.status, retryAfter);
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServerError(UNREACHABLE, 0);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

function post(path, body, signal) {
  return ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
}

/** Upload a file. Calls onProgress(fraction sent) during the upload. Resolves to {id, width, height}. */
export function upload(file, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not report the progress of an upload
    request.open("POST", "api/images");
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.responseType = "json";
    request.upload.onprogress = (event) => onProgress(event.loaded / Math.max(event.total, 1));
    request.onerror = () => reject(new ServerError(UNREACHABLE, 0));
    request.onload = () => {
      if (request.status === 201) resolve(request.response);
      else reject(new ServerError(request.response?.error ?? `The server answered ${request.status}.`, request.status));
    };
    request.send(file);
  });
}

export function release(id) {
  fetch(`api/images/${id}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

/** The masks for a prompt {points, labels, box}. Resolves to {width, height, best, masks}. */
export async function masks(id, prompt, { candidates, maxSide, signal }) {
  const response = await post(`api/images/${id}/masks`, { ...prompt, candidates, max_side: maxSide }, signal);
  return response.json();
}

export async function picture(id) {
  return (await ask(`api/images/${id}/picture`)).blob();
}

/** Export objects. Resolves to the file, a Blob. */
export async function exported(id, request) {
  return (await post(`api/images/${id}/export`, request)).blob();
}

/** Search for every object. Resolves to an async iterator over the lines {progress} or {mask} of the search. */
export async function everything(id, parameters, signal) {
  return lines(await post(`api/images/${id}/everything`, parameters, signal));
}

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const complete = (rest + value).split("\n");
    rest = complete.pop();
    for (const line of complete) {
      const parsed = JSON.parse(line);
      if (parsed.error) throw new ServerError(parsed.error, 500);
      yield parsed;
    }
  }
}
