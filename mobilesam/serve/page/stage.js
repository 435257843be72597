// The stage: shows the photo and the masks, and handles the pointer. Positions are in CSS pixels of the stage or in photo
// pixels.

const MARGIN = 28;
const TOOLS_HEIGHT = 76;
const DRAG = 5; // CSS pixels: a click that moves farther becomes a drag
const LARGEST_ZOOM = 32;

/**
 * Events: "hover" (detail {point, label, time}, or null outside the photo), "point" (detail {point, label}), "box" (detail
 * [x0, y0, x1, y1]).
 *
 * `scene` holds the masks and the prompt to draw:
 * - kept: the kept objects' masks, each {path, scale, colour, strong};
 * - live: the current object's mask {path, scale, colour}, or null;
 * - preview: the mask under the mouse {path, scale, colour}, or null;
 * - points, labels, box: the prompt.
 * A path is in pixels of its mask. Each mask pixel is `scale` photo pixels wide.
 */
export class Stage extends EventTarget {
  tool = "add";
  scene = { kept: [], live: null, preview: null, points: [], labels: [], box: null };
  #element;
  #photo;
  #kept;
  #live;
  #size = null;
  #view = { scale: 1, x: 0, y: 0 };
  #fitted = true;
  #pointers = new Map();
  #gesture = null;
  #dragBox = null;
  #space = false;
  #hovered = null;

  constructor(element) {
    super();
    this.#element = element;
    this.#photo = element.querySelector("#photo");
    this.#kept = element.querySelector("#kept");
    this.#live = element.querySelector("#live");
    new ResizeObserver(() => this.#resize()).observe(element);
    element.addEventListener("pointerdown", (event) => this.#down(event));
    element.addEventListener("pointermove", (event) => this.#move(event));
    element.addEventListener("pointerup", (event) => this.#up(event));
    element.addEventListener("pointercancel", (event) => this.#cancel(event));
    element.addEventListener("pointerleave", () => this.#leave());
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    element.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    addEventListener("keydown", (event) => this.#key(event, true));
    addEventListener("keyup", (event) => this.#key(event, false));
  }

  /** Show the image at a URL, of width × height photo pixels. */
  open(url, width, height) {
    this.#photo.src = url;
    this.#photo.style.width = `${width}px`;
    this.#photo.style.height = `${height}px`;
    this.#photo.hidden = false;
    this.#size = { width, height };
    this.fit();
  }

  close() {
    this.#photo.hidden = true;
    this.#photo.removeAttribute("src");
    this.#size = null;
    this.draw();
  }

  fit() {
    if (!this.#size) return;
    const { clientWidth, clientHeight } = this.#element;
    const { width, height } = this.#size;
    const margin = Math.min(MARGIN, clientWidth / 40);
    const scale = Math.min((clientWidth - 2 * margin) / width, (clientHeight - MARGIN - TOOLS_HEIGHT) / height);
    this.#fitted = true;
    this.#setView(
      Math.max(scale, 0.005),
      (clientWidth - width * scale) / 2,
      Math.max(MARGIN, (clientHeight - TOOLS_HEIGHT + MARGIN - height * scale) / 2),
    );
  }

  zoom(factor, x = this.#element.clientWidth / 2, y = this.#element.clientHeight / 2) {
    if (!this.#size) return;
    const { scale, x: left, y: top } = this.#view;
    const smallest = Math.min(1, 100 / Math.max(this.#size.width, this.#size.height));
    const next = Math.min(Math.max(scale * factor, smallest), LARGEST_ZOOM);
    this.#fitted = false;
    this.#setView(next, x - ((x - left) * next) / scale, y - ((y - top) * next) / scale);
  }

  #setView(scale, x, y) {
    this.#view = { scale, x, y };
    this.#photo.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    this.#photo.style.imageRendering = scale > 4 ? "pixelated" : "auto";
    this.draw();
  }

  #resize() {
    const { clientWidth, clientHeight } = this.#element;
    for (const canvas of [this.#kept, this.#live]) {
      canvas.width = Math.round(clientWidth * devicePixelRatio);
      canvas.height = Math.round(clientHeight * devicePixelRatio);
    }
    if (this.#fitted) this.fit();
    this.draw();
  }

  /** The photo pixel under a position. Outside the photo: the nearest pixel if `clamped`, otherwise null. */
  #pixel({ x, y }, clamped = false) {
    if (!this.#size) return null;
    const { width, height } = this.#size;
    const px = Math.floor((x - this.#view.x) / this.#view.scale);
    const py = Math.floor((y - this.#view.y) / this.#view.scale);
    if (clamped) return [Math.min(Math.max(px, 0), width - 1), Math.min(Math.max(py, 0), height - 1)];
    return px >= 0 && py >= 0 && px < width && py < height ? [px, py] : null;
  }

  #position(event) {
    const { left, top } = this.#element.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #label(event) {
    return event.altKey || event.button === 2 || (event.buttons & 2) || this.tool === "exclude" ? 0 : 1;
  }

  #down(event) {
    if (!this.#size || !this.#element.classList.contains("ready") || event.target.closest(".tools, .progress")) return;
    event.preventDefault();
    document.activeElement?.blur();
    this.#element.setPointerCapture(event.pointerId);
    const at = this.#position(event);
    this.#pointers.set(event.pointerId, at);
    if (this.#pointers.size > 1) {
      this.#leave();
      this.#gesture = { kind: "pinch" };
      this.#dragBox = null;
    } else if (event.button === 1 || this.#space) {
      this.#gesture = { kind: "pan" };
    } else {
      const pans = event.pointerType === "touch" && this.tool !== "box";
      this.#gesture = { kind: "click", from: at, label: this.#label(event), button: event.button, drag: pans ? "pan" : "box" };
    }
    this.#element.classList.toggle("panning", this.#gesture.kind === "pan");
  }

  #move(event) {
    const at = this.#position(event);
    const before = this.#pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse" && this.#element.classList.contains("ready")) this.#hover(event, at);
      return;
    }
    const gesture = this.#gesture;
    if (gesture?.kind === "click" && Math.hypot(at.x - gesture.from.x, at.y - gesture.from.y) > DRAG && gesture.button === 0) {
      gesture.kind = gesture.drag;
      this.#leave();
    }
    if (gesture?.kind === "pinch") this.#pinch(event.pointerId, at);
    else if (gesture?.kind === "pan") this.#pan(at.x - before.x, at.y - before.y);
    else if (gesture?.kind === "box") {
      this.#dragBox = corners(this.#pixel(gesture.from, true), this.#pixel(at, true));
      this.drawLive();
    }
    this.#pointers.set(event.pointerId, at);
  }

  #hover(event, at) {
    const point = event.target.closest(".tools, .progress") || this.tool === "box" ? null : this.#pixel(at);
    this.#hovered = point && { point, label: this.#label(event), time: event.timeStamp };
    this.#emit("hover", this.#hovered);
  }

  /** Alt changes the label of a click, even while the mouse does not move. While Space is down, a drag moves the photo. */
  #key(event, down) {
    if (event.code === "Space" && event.target === document.body) this.#space = down;
    if (event.key !== "Alt" || !this.#hovered) return;
    event.preventDefault();
    this.#hovered = { ...this.#hovered, label: this.#label(event), time: event.timeStamp };
    this.#emit("hover", this.#hovered);
  }

  /** Dispatch the last "hover" event again. */
  rehover() {
    if (this.#hovered) this.#emit("hover", { ...this.#hovered, time: performance.now() });
  }

  #leave() {
    this.#hovered = null;
    this.#emit("hover", null);
  }

  #pan(dx, dy) {
    this.#fitted = false;
    this.#setView(this.#view.scale, this.#view.x + dx, this.#view.y + dy);
  }

  #pinch(id, at) {
    const [[, other]] = [...this.#pointers].filter(([key]) => key !== id);
    const before = this.#pointers.get(id);
    const grown = Math.hypot(at.x - other.x, at.y - other.y) / Math.max(1, Math.hypot(before.x - other.x, before.y - other.y));
    this.zoom(grown, (at.x + other.x) / 2, (at.y + other.y) / 2);
    this.#pan((at.x - before.x) / 2, (at.y - before.y) / 2);
  }

  #up(event) {
    if (!this.#pointers.delete(event.pointerId)) return;
    const gesture = this.#gesture;
    if (this.#pointers.size) return;
    this.#gesture = null;
    this.#element.classList.remove("panning");
    const box = this.#dragBox;
    this.#dragBox = null;
    if (gesture?.kind === "box" && box && box[2] > box[0] && box[3] > box[1]) this.#emit("box", box);
    else if (gesture?.kind === "click") {
      const point = this.#pixel(gesture.from);
      if (point && (this.tool !== "box" || gesture.button === 2)) this.#emit("point", { point, label: gesture.label });
    }
    this.drawLive();
  }

  #cancel(event) {
    this.#pointers.delete(event.pointerId);
    this.#gesture = null;
    this.#dragBox = null;
    this.drawLive();
  }

  #wheel(event) {
    event.preventDefault();
    if (!this.#size || event.target.closest(".tools, .progress")) return;
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 18 : 1;
    const { x, y } = this.#position(event);
    this.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0022)), x, y);
  }

  draw() {
    const context = this.#begin(this.#kept);
    for (const mask of this.scene.kept) {
      this.#fill(context, mask, mask.strong ? 0.62 : 0.4);
      this.#stroke(context, mask, "rgb(0 0 0 / 35%)", mask.strong ? 4 : 3);
      this.#stroke(context, mask, mask.strong ? "#fff" : mask.colour, mask.strong ? 2.2 : 1.6);
    }
    this.drawLive();
  }

  /** Redraw only the layer of the current object and the preview, because it changes most often. */
  drawLive() {
    const context = this.#begin(this.#live);
    const { live, preview, points, labels } = this.scene;
    if (live) {
      this.#fill(context, live, preview ? 0.3 : 0.45);
      this.#stroke(context, live, "#fff", 3.4);
      this.#stroke(context, live, live.colour, 1.8);
    }
    if (preview) {
      this.#fill(context, preview, live ? 0.22 : 0.36);
      this.#stroke(context, preview, "rgb(0 0 0 / 45%)", 3);
      this.#stroke(context, preview, "#fff", 1.6, [5, 4]);
    }
    const box = this.#dragBox ?? this.scene.box;
    if (box) this.#drawBox(context, box);
    points.forEach((point, i) => this.#drawPoint(context, point, labels[i]));
  }

  #begin(canvas) {
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    return context;
  }

  /** Set the canvas units to mask pixels of `scale` photo pixels each. Returns the size of a mask pixel in CSS pixels. */
  #into(context, scale) {
    const { scale: zoom, x, y } = this.#view;
    const unit = zoom * scale * devicePixelRatio;
    context.setTransform(unit, 0, 0, unit, x * devicePixelRatio, y * devicePixelRatio);
    return unit / devicePixelRatio;
  }

  #fill(context, { path, scale, colour }, alpha) {
    this.#into(context, scale);
    context.globalAlpha = alpha;
    context.fillStyle = colour;
    context.fill(path, "evenodd");
    context.globalAlpha = 1;
  }

  #stroke(context, { path, scale }, style, width, dash = []) {
    const unit = this.#into(context, scale);
    context.setLineDash(dash.map((length) => length / unit));
    context.lineJoin = "round";
    context.lineWidth = width / unit;
    context.strokeStyle = style;
    context.stroke(path);
    context.setLineDash([]);
  }

  #drawBox(context, [x0, y0, x1, y1]) {
    const path = new Path2D();
    path.rect(x0, y0, x1 - x0 + 1, y1 - y0 + 1);
    this.#stroke(context, { path, scale: 1 }, "rgb(0 0 0 / 55%)", 3.5);
    this.#stroke(context, { path, scale: 1 }, "#fff", 1.6, [7, 4]);
  }

  #drawPoint(context, [x, y], label) {
    const { scale, x: left, y: top } = this.#view;
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.translate(left + (x + 0.5) * scale, top + (y + 0.5) * scale);
    context.beginPath();
    context.arc(0, 0, 7.5, 0, 2 * Math.PI);
    context.fillStyle = label ? "#12864a" : "#c8321f";
    context.strokeStyle = "#fff";
    context.lineWidth = 2;
    context.fill();
    context.stroke();
    context.beginPath();
    context.moveTo(-3.4, 0);
    context.lineTo(3.4, 0);
    if (label) {
      context.moveTo(0, -3.4);
      context.lineTo(0, 3.4);
    }
    context.stroke();
  }
}

function corners(a, b) {
  return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
}
