// The panel beside the photo: the current object, the list of kept objects, and the keys.

import { shown } from "./session.js";

export const KEYS = [
  ["Click", "belongs to the object"],
  ["Right click", "does not belong to it"],
  ["Drag", "a box around it"],
  ["N", "keep it, start the next"],
  ["Backspace", "undo"],
];

export const MORE_KEYS = [
  ["Alt + Click", "does not belong to it"],
  ["1 · 2 · 3", "choose among the candidate masks"],
  ["Esc", "discard the current object"],
  ["M", "find every object"],
  ["A · E · B", "click adds, click excludes, drag a box"],
  ["Wheel", "zoom, like the keys + and −"],
  ["Space + Drag", "move the photo"],
  ["F", "fit to the window"],
  ["Shift + Ctrl + Z", "redo"],
  ["O", "open another photo"],
];

/** An element with properties and children. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export function writeKeys(element, keys) {
  element.replaceChildren(
    ...keys.flatMap(([key, meaning]) => {
      const strokes = key.split(/( [+·] )/).map((part, i) => (i % 2 ? part : make("kbd", { textContent: part })));
      return [make("dt", {}, ...strokes), make("dd", { textContent: meaning })];
    }),
  );
}

function swatch(colour) {
  const element = make("span", { className: "swatch" });
  element.style.setProperty("--colour", colour);
  return element;
}

export function share(mask, total) {
  const percent = (100 * mask.area) / total;
  if (percent < 0.1) return "< 0.1 %";
  return `${percent.toFixed(percent < 10 ? 1 : 0)} %`;
}

function invitation(photo) {
  if (!photo) return "Open a photo to begin.";
  if (!photo.id) return "The photo is prepared once. After that, every click is answered at once.";
  if (matchMedia("(hover: none)").matches) return "Tap what you want to select.";
  return "Move over the photo to see what a click would select, then click.";
}

/** Writes the text about the current object. */
export function writeCurrent(element, session) {
  const mask = shown(session.current);
  if (!session.started || !mask) {
    element.textContent = invitation(session.photo);
    return;
  }
  const { points, box, answer } = session.current;
  const prompt = [points.length && `${points.length} point${points.length > 1 ? "s" : ""}`, box && "a box"];
  const facts = `${share(mask, answer.width * answer.height)} of the photo, score ${mask.score.toFixed(2)}`;
  element.replaceChildren(
    swatch(session.colour),
    `From ${prompt.filter(Boolean).join(" and ")}`,
    make("span", { className: "facts", textContent: facts }),
  );
}

/** Writes the list of kept objects. Calls onHover(key) when the pointer enters an object, onHover(null) when it leaves. */
export function writeList(list, session, onHover) {
  list.replaceChildren(
    ...session.objects.map((object) => {
      const name = make("input", { className: "name", value: object.name, maxLength: 200, spellcheck: false });
      name.setAttribute("aria-label", "Name");
      name.addEventListener("change", () => session.rename(object.key, name.value.trim() || object.name));
      name.addEventListener("keydown", (event) => event.key === "Enter" && name.blur());
      const eye = make("button", { title: object.visible ? "Hide" : "Show" }, icon(object.visible ? "eye" : "hidden"));
      eye.setAttribute("aria-label", `${eye.title} ${object.name}`);
      eye.addEventListener("click", () => session.toggle(object.key));
      const remove = make("button", { title: "Remove" }, icon("remove"));
      remove.setAttribute("aria-label", `Remove ${object.name}`);
      remove.addEventListener("click", () => session.remove(object.key));
      const [height, width] = object.mask.rle.size;
      const area = make("span", { className: "area", textContent: share(object.mask, width * height) });
      const row = make("li", { className: object.visible ? "" : "hidden" }, swatch(object.colour), name, area, eye, remove);
      row.addEventListener("pointerenter", () => onHover(object.key));
      row.addEventListener("pointerleave", () => onHover(null));
      return row;
    }),
  );
}
