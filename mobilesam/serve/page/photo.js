// One photo: its file, its picture in the browser, and its id on the server.

import * as api from "./api.js";

/** Opens an image. Resolves to {url, width, height}, or null if this browser cannot show the image. */
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

  /** The file name without its extension. */
  get stem() {
    return this.name.replace(/(.)\.[^.]*$/, "$1");
  }

  /** Open the file in the browser. Resolves to {url, width, height}, or null if the browser cannot. */
  async preview() {
    this.shown = await read(this.file);
    return this.shown;
  }

  /** Upload the photo. The server encodes it. */
  async send(onProgress) {
    const { id, width, height } = await api.upload(this.file, onProgress);
    Object.assign(this, { id, width, height });
    if (this.shown?.width === width && this.shown.height === height) return;
    // The browser cannot show the file, or orients it differently: show the server's picture instead.
    if (this.shown) URL.revokeObjectURL(this.shown.url);
    this.shown = await read(await api.picture(id));
  }

  /** Calls question(id). If the server no longer has the image, uploads it again and calls question(new id). */
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
