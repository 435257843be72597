// One photo: its file, its picture in the browser, and its id on the server.

import * as api from "./api.js";

/** A picture that this browser can show, as {url, width, height}, or null. */
async function read(blob) {
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
    return { url, width: image.naturalWidth, height: image.naturalHeight };
  } catch {
    URL.revokeObjectURL(url);
    return null;
  }
}

export class Photo {
  #again = null;

  constructor(file) {
    this.file = file;
    this.name = file.name || "pasted image";
    this.shown = null;
  }

  /** Its name without the ending. */
  get stem() {
    return this.name.replace(/(.)\.[^.]*$/, "$1");
  }

  /** Read the file here. Resolves to {url, width, height} or null, where only the server may be able to. */
  async preview() {
    this.shown = await read(this.file);
    return this.shown;
  }

  /** Send it to the server, which encodes it. */
  async send(onProgress) {
    const { id, width, height } = await api.upload(this.file, onProgress);
    Object.assign(this, { id, width, height });
    if (this.shown?.width === width && this.shown.height === height) return;
    // Not a picture for this browser, or one that it turns another way: show what the server sees.
    if (this.shown) URL.revokeObjectURL(this.shown.url);
    this.shown = await read(await api.picture(id));
  }

  /** ask(id), and once more where the server has let go of the image meanwhile. */
  async ask(question) {
    const id = this.id;
    try {
      return await question(id);
    } catch (error) {
      if (error.status !== 404) throw error;
    }
    if (this.id === id) {
      this.#again ??= api.upload(this.file, () => {}).finally(() => (this.#again = null));
      this.id = (await this.#again).id;
    }
    return question(this.id);
  }

  close() {
    if (this.id) api.release(this.id);
    if (this.shown) URL.revokeObjectURL(this.shown.url);
  }
}
