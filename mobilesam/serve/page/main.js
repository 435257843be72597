// The page: connects the photo, the stage, the session and the panel.

import * as api from "./api.js";
import { Latest } from "./latest.js";
import { toPath } from "./mask.js";
import { attachMenu } from "./menu.js";
import { KEYS, MORE_KEYS, writeCurrent, writeKeys, writeList } from "./panel.js";
import { Photo } from "./photo.js";
import { Session, shown, wire } from "./session.js";
import { Stage } from "./stage.js";
import { toggleTheme } from "./theme.js";

const MAX_SIDE = 1024; // longest side of masks for display, equal to the side of the model's input
const EVERYTHING = { adaptive: true, drafts: true }; // parameters of the search for every object
const TOAST_MS = 6000;

const $ = (id) => document.getElementById(id);
const session = new Session();
const stage = new Stage($("stage"));
let photo = null;
let highlighted = null;
let listed = null;
let keepWhenAnswered = false;
let search = null;

// Drawing

const drawables = new WeakMap(); // caches the outline of each mask

function drawable(mask, colour) {
  if (!drawables.has(mask)) {
    drawables.set(mask, { path: toPath(mask.rle), scale: photo.width / mask.rle.size[1] });
  }
  return { ...drawables.get(mask), colour };
}

function show() {
  const { current, objects, colour, started } = session;
  const mask = started ? shown(current) : null;
  stage.scene.kept = objects
    .filter((object) => object.visible)
    .sort((a, b) => b.mask.area - a.mask.area) // small objects on top
    .map((object) => ({ ...drawable(object.mask, object.colour), strong: object.key === highlighted }));
  stage.scene.live = mask && drawable(mask, colour);
  Object.assign(stage.scene, { points: current.points, labels: current.labels, box: current.box });
  stage.draw();
  writeCurrent($("now-text"), session);
  showControls(mask);
  $("stage").setAttribute("aria-busy", started && current.stale);
  if (listed !== objects) {
    const more = objects.length > (listed?.length ?? 0);
    writeList($("list"), session, highlight);
    if (more) $("list").lastElementChild.scrollIntoView({ block: "nearest" });
    listed = objects;
  }
}

let frame = 0;

/** Redraw in the next frame. Several changes in one frame cause one redraw. */
function showSoon() {
  $("stage").setAttribute("aria-busy", true);
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    show();
  });
}

function highlight(key) {
  highlighted = key;
  showSoon();
}

function showControls(mask) {
  const { current, objects } = session;
  const several = Boolean(mask && current.answer.masks.length > 1);
  for (const button of document.querySelectorAll("[data-choice]")) {
    button.disabled = !several;
    button.setAttribute("aria-checked", several && Number(button.dataset.choice) === mask.index);
  }
  $("undo").disabled = !session.canUndo;
  $("keep").disabled = !session.started;
  $("everything").disabled = !photo?.id;
  $("export").disabled = !mask && !objects.length;
  $("tools").hidden = !photo?.id;
  $("count").textContent = objects.length || "";
  $("none").hidden = objects.length > 0;
  $("clear").hidden = !objects.length;
}

function toast(text) {
  $("toast").textContent = text[0].toUpperCase() + text.slice(1);
  $("toast").hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => ($("toast").hidden = true), TOAST_MS);
}

function progress(text, fraction = null, onStop = null) {
  $("progress").hidden = !text;
  $("progress-text").textContent = text ?? "";
  $("progress-bar").parentElement.classList.toggle("endless", fraction === null);
  $("progress-bar").style.transform = fraction === null ? "" : `scaleX(${fraction})`;
  $("stop").hidden = !onStop;
  $("stop").onclick = onStop;
}

// Requests

function ask(prompt, signal, candidates) {
  return photo.ask((id) => api.masks(id, wire(prompt), { candidates, maxSide: MAX_SIDE, signal }));
}

const previews = new Latest(
  (wish, signal) => ask(wish.prompt, signal, "best"),
  ({ time }, answer) => {
    stage.scene.preview = drawable(answer.masks[0], session.colour);
    stage.drawLive();
    // The first task after the next frame: by then the preview has been handed to the screen.
    requestAnimationFrame(() => setTimeout(() => showTiming(performance.now() - time)));
  },
  (error) => toast(error.message),
);

function showTiming(milliseconds) {
  $("timing").textContent = `preview in ${milliseconds.toFixed(0)} ms`;
  $("stage").dispatchEvent(new CustomEvent("preview-drawn", { detail: milliseconds }));
}

let previewed = "";

function endPreview() {
  previews.cancel();
  previewed = $("timing").textContent = "";
  if (!stage.scene.preview) return;
  stage.scene.preview = null;
  stage.drawLive();
}

stage.addEventListener("hover", ({ detail }) => {
  if (!detail || !photo?.id) return endPreview();
  const { points, labels, box } = session.current;
  const { point, label, time } = detail;
  const wanted = `${point} ${label}`;
  if (wanted === previewed) return;
  previewed = wanted;
  previews.want({ prompt: { points: [...points, point], labels: [...labels, label], box }, time });
});

const answers = new Latest(
  (current, signal) => ask(current, signal, "all"),
  (current, answer) => {
    if (session.current !== current) return;
    endPreview();
    session.setAnswer(answer);
    if (keepWhenAnswered) keep();
  },
  (error) => {
    toast(error.message);
    endPreview();
    if (session.current.stale) session.undo();
  },
);

session.addEventListener("change", () => {
  if (session.started && session.current.stale) answers.want(session.current);
  else answers.cancel();
  showSoon();
});

// User actions

stage.addEventListener("point", ({ detail: { point, label } }) => {
  previews.cancel(); // the drawn preview stays until the answer arrives
  session.addPoint(point, label);
});
stage.addEventListener("box", ({ detail }) => session.setBox(detail));

function keep() {
  keepWhenAnswered = session.started && session.current.stale;
  session.keep();
}

function undo() {
  keepWhenAnswered = false;
  endPreview();
  session.undo();
}

function setTool(tool) {
  stage.tool = tool;
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-checked", button.dataset.tool === tool);
  }
}

async function open(file) {
  if (!file) return;
  photo?.close();
  search?.abort();
  const mine = (photo = new Photo(file));
  endPreview();
  session.open(mine);
  $("empty").hidden = true;
  $("toast").hidden = true;
  $("stage").classList.add("busy");
  $("stage").classList.remove("ready");
  $("file").replaceChildren(Object.assign(document.createElement("b"), { textContent: photo.name }));
  progress("Reading the photo");
  try {
    const seen = await mine.preview();
    if (photo !== mine) return;
    if (seen) stage.open(seen.url, seen.width, seen.height);
    await mine.send((sent) => photo === mine && progress(sent < 1 ? "Uploading" : "Encoding", sent < 1 ? sent : null));
    if (photo !== mine) return mine.close();
    stage.open(mine.shown?.url ?? "", mine.width, mine.height);
    $("file").append(`${mine.width} × ${mine.height}`);
    $("stage").classList.replace("busy", "ready");
    session.open(mine);
  } catch (error) {
    if (photo !== mine) return;
    photo = null;
    stage.close();
    $("file").textContent = "";
    $("stage").classList.remove("busy");
    $("empty").hidden = false;
    session.open(null);
    toast(error.message);
  } finally {
    if (photo === mine || photo === null) progress(null);
  }
}

/** Finds every object in the photo, and adds each object to the list as soon as it is found. */
async function findEverything() {
  if (!photo?.id || search) return;
  const mine = photo;
  const begun = session.begin();
  search = new AbortController();
  const stop = () => search?.abort();
  progress("Looking for every object", 0, stop);
  const drafts = [];
  const found = [];
  try {
    const lines = await mine.ask((id) => api.everything(id, { ...EVERYTHING, max_side: MAX_SIDE }, search.signal));
    for await (const { progress: passed, draft, mask } of lines) {
      if (draft) {
        drafts.push(asObject(draft));
        session.add(begun, [drafts.at(-1)], true);
      }
      if (mask) found.push(asObject(mask));
      const said = drafts.length ? `${drafts.length} objects found` : "Looking for every object";
      if (passed) progress(said, passed[0] / passed[1], stop);
    }
    session.replaceDrafts(begun, found);
    if (!found.length) toast("No distinct object was found. Click the object that you want.");
  } catch (error) {
    if (photo === mine) session.replaceDrafts(begun, drafts);
    if (error.name !== "AbortError") toast(error.message);
  } finally {
    search = null;
    if (photo === mine) progress(null);
  }
}

/** The object of a mask of the search: the mask for display, and the run lengths in the photo's size. */
function asObject(mask) {
  return { mask: { ...mask, rle: mask.display }, rle: mask.rle };
}

const ENDINGS = { labels: "labels.png", coco: "coco.json", svg: "svg", geojson: "geojson" };

/** Downloads the kept objects and the current object in a format. */
async function exportAs({ dataset: { format } }) {
  const { objects, current, colour } = session;
  const all = objects.map(({ name, colour, prompt, rle }) => ({ name, colour, ...(prompt ? chosen(prompt) : { rle }) }));
  if (session.started) all.push({ name: `Object ${session.state.made + 1}`, colour, ...chosen(current) });
  progress("Exporting");
  try {
    const request = { format, objects: all, crop: true, file_name: photo.name };
    const blob = await photo.ask((id) => api.exported(id, request));
    const ending = ENDINGS[format] ?? (all.length > 1 ? "cutouts.zip" : "cutout.png");
    const link = Object.assign(document.createElement("a"), { download: `${photo.stem}.${ending}` });
    link.href = URL.createObjectURL(blob);
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    toast(error.message);
  } finally {
    progress(null);
  }
}

function chosen(prompt) {
  return { prompt: wire(prompt), choice: prompt.choice };
}

// Controls

attachMenu($("export"), $("formats"), exportAs);

const click = (id, action) => $(id).addEventListener("click", action);
click("open", () => $("chooser").click());
click("choose", () => $("chooser").click());
click("undo", undo);
click("keep", keep);
click("everything", findEverything);
click("fit", () => stage.fit());
click("clear", () => session.clear());
click("help", () => $("shortcuts").showModal());
click("theme", toggleTheme);
$("chooser").addEventListener("change", () => {
  open($("chooser").files[0]);
  $("chooser").value = "";
});
for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => setTool(button.dataset.tool));
for (const button of document.querySelectorAll("[data-choice]")) button.addEventListener("click", () => session.choose(Number(button.dataset.choice)));

const SHORTCUTS = {
  n: keep,
  enter: keep,
  backspace: undo,
  escape: () => session.discard(),
  o: () => $("chooser").click(),
  m: () => $("everything").click(),
  a: () => setTool("add"),
  e: () => setTool("exclude"),
  b: () => setTool("box"),
  f: () => stage.fit(),
  0: () => stage.fit(),
  1: () => session.choose(0),
  2: () => session.choose(1),
  3: () => session.choose(2),
  "+": () => stage.zoom(1.25),
  "=": () => stage.zoom(1.25),
  "-": () => stage.zoom(0.8),
  "?": () => $("shortcuts").showModal(),
};

addEventListener("keydown", (event) => {
  if (event.target.closest("input, dialog") || $("shortcuts").open) return;
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) {
    if (key !== "z") return;
    event.preventDefault();
    if (event.shiftKey) session.redo();
    else undo();
  } else if (SHORTCUTS[key] && !event.altKey && !(key === "enter" && event.target.closest("button"))) {
    event.preventDefault();
    SHORTCUTS[key]();
  }
});

addEventListener("dragover", (event) => {
  event.preventDefault();
  $("stage").classList.add("over");
});
addEventListener("dragleave", (event) => !event.relatedTarget && $("stage").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("stage").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) open(file);
  else toast("That was not a file. Drop a photo from a folder, or copy the image and paste it here.");
});
addEventListener("paste", (event) => {
  const file = event.clipboardData.files[0];
  if (file) open(file);
});
addEventListener("pagehide", (event) => !event.persisted && photo?.close());

$("server").textContent = location.host;
writeKeys($("keys"), KEYS);
writeKeys($("all-keys"), [...KEYS, ...MORE_KEYS]);
show();
