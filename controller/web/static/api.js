// Talks to the server. An error has `status` (0: the server could not be reached) and `problems`.

export class ApiError extends Error {
  constructor(status, message, problems = []) {
    super(message);
    this.status = status;
    this.problems = problems;
  }

  /** Whether trying again later may help: nobody there, too many requests, or a server in trouble. */
  get mayPass() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }

  /** All that the server said, in one sentence or two. */
  get words() {
    return [this.message, ...this.problems].join(" · ");
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch {
    throw new ApiError(0, "The server does not answer.");
  }
  if (response.ok) return response;
  let said = {};
  try {
    said = await response.json();
  } catch {
    // Not every error comes from the application; its number says enough.
  }
  throw new ApiError(response.status, said.error ?? `The server answered ${response.status}.`, said.problems ?? []);
}

async function body(response) {
  try {
    return await response.json();
  } catch {
    throw new ApiError(0, "The server's answer was cut off.");
  }
}

/** @returns {Promise<any>} */
export async function get(path) {
  return body(await ask(path));
}

/** @returns {Promise<any>} */
export async function post(path, content) {
  const text = JSON.stringify(content);
  return body(
    await ask(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: text,
      // So it arrives even if the tab closes now. Browsers refuse that for more than 64 KiB.
      keepalive: text.length < 50_000,
    }),
  );
}

/** Give a question back while the tab closes: nobody is left to hear what the server says to it. */
export function releaseOnTheWayOut(leaseId) {
  post("/api/release", { lease_id: leaseId }).catch(() => {});
}

/**
 * One channel of a sample with what is around it.
 * @typedef {{pixels: Uint16Array|Float32Array, rows: number, columns: number,
 *            origin: [number, number], window: [number, number], name: string}} Picture
 */

/** Fetch the pixels of one channel of a task's item. @returns {Promise<Picture>} */
export async function fetchPicture(channel) {
  const response = await ask(channel.url);
  let bytes;
  try {
    bytes = await response.arrayBuffer();
  } catch {
    throw new ApiError(0, "The picture was cut off.");
  }
  const [rows, columns] = channel.shape;
  const Kind = channel.dtype === "uint16" ? Uint16Array : Float32Array;
  if (bytes.byteLength !== rows * columns * Kind.BYTES_PER_ELEMENT) {
    throw new ApiError(0, `The picture has ${bytes.byteLength} bytes, not ${rows} × ${columns} ${channel.dtype}.`);
  }
  return { pixels: new Kind(bytes), rows, columns, origin: channel.origin, window: channel.window, name: channel.name };
}
