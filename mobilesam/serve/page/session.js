// The user's work: the current object, the kept objects, undo and redo.

export const COLOURS = [
  "#2f86ff", "#ff6a3d", "#21b46b", "#b25cff", "#f0ad1b", "#11b3bd", "#ff4d8d", "#7a83ff", "#8dc149", "#d9632b",
];

const EMPTY = Object.freeze({ points: [], labels: [], box: null, choice: null, answer: null, stale: false });

/** The part of a prompt that is sent to the server. */
export function wire({ points, labels, box }) {
  return { ...(points.length && { points, labels }), ...(box && { box }) };
}

/** The mask to show for a prompt: the chosen candidate, or the best if none is chosen. */
export function shown({ answer, choice }) {
  return answer && (answer.masks.find((mask) => mask.index === (choice ?? answer.best)) ?? null);
}

/**
 * Every change makes a new state and keeps the old state, so that every change can be undone in the same way. Dispatches
 * "change". A state is {current, objects, made}:
 * - current: the prompt of the current object, {points, labels, box, choice, answer, stale}. stale means that answer
 *   belongs to the previous prompt.
 * - objects: the kept objects, each {key, name, colour, visible, mask, and prompt or rle}.
 * - made: the number of objects ever kept.
 */
export class Session extends EventTarget {
  photo = null;
  state = { current: EMPTY, objects: [], made: 0 };
  #past = [];
  #future = [];

  open(photo) {
    this.photo = photo;
    this.#past = [];
    this.#future = [];
    this.#set({ current: EMPTY, objects: [], made: 0 });
  }

  get current() {
    return this.state.current;
  }

  get objects() {
    return this.state.objects;
  }

  get started() {
    return this.current.points.length > 0 || this.current.box !== null;
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  get colour() {
    return COLOURS[this.state.made % COLOURS.length];
  }

  addPoint(point, label) {
    const { points, labels, box } = this.current;
    this.#prompt({ points: [...points, point], labels: [...labels, label], box });
  }

  setBox(box) {
    this.#prompt({ ...this.current, box });
  }

  #prompt(prompt) {
    this.#step({ current: { ...prompt, choice: null, answer: this.current.answer, stale: true } });
  }

  choose(choice) {
    if (this.current.answer && this.current.answer.masks.length > 1) this.#step({ current: { ...this.current, choice } });
  }

  /** Store the server's answer to the current prompt. This is not a step to undo. */
  setAnswer(answer) {
    this.#set({ ...this.state, current: { ...this.current, answer, stale: false } });
  }

  discard() {
    if (this.started) this.#step({ current: EMPTY });
  }

  /** Add the current object to the list and start the next object. Returns whether an object was added. */
  keep() {
    const mask = shown(this.current);
    if (!this.started || this.current.stale || !mask) return false;
    const { made } = this.state;
    const object = { key: made, name: `Object ${made + 1}`, colour: this.colour, visible: true, mask, prompt: this.current };
    this.#step({ current: EMPTY, objects: [...this.objects, object], made: made + 1 });
    return true;
  }

  /** Begin a step that adds objects over some time and is undone as a whole. Returns the argument `begun` for `add`. */
  begin() {
    this.#step({});
    return this.#past.length;
  }

  /**
   * Add objects {mask, rle} to the list. They are also added to the states after `begun`, so that undoing a later step does
   * not remove them. A draft is an object that `replaceDrafts` replaces.
   */
  add(begun, found, draft = false) {
    this.#join(begun, (state) => {
      const objects = found.map(({ mask, rle }, i) => {
        const key = state.made + i;
        return { key, name: `Object ${key + 1}`, colour: COLOURS[key % COLOURS.length], visible: true, mask, rle, draft };
      });
      return { ...state, objects: [...state.objects, ...objects], made: state.made + found.length };
    });
  }

  /** Replace all drafts by the objects {mask, rle}. */
  replaceDrafts(begun, found) {
    this.#join(begun, (state) => {
      const first = state.objects.find((object) => object.draft)?.key ?? state.made;
      const objects = state.objects.filter((object) => !object.draft);
      return { ...state, objects, made: Math.max(first, ...objects.map(({ key }) => key + 1)) };
    });
    this.add(begun, found);
  }

  #join(begun, join) {
    this.#past = this.#past.map((state, i) => (i < begun ? state : join(state)));
    this.#set(join(this.state));
  }

  remove(key) {
    this.#step({ objects: this.objects.filter((object) => object.key !== key) });
  }

  clear() {
    this.#step({ objects: [] });
  }

  rename(key, name) {
    this.#alter(key, { name });
  }

  toggle(key) {
    this.#alter(key, { visible: !this.objects.find((object) => object.key === key).visible });
  }

  #alter(key, change) {
    this.#step({ objects: this.objects.map((object) => (object.key === key ? { ...object, ...change } : object)) });
  }

  undo() {
    if (!this.canUndo) return;
    this.#future.push(this.state);
    this.#set(this.#past.pop());
  }

  redo() {
    if (!this.#future.length) return;
    this.#past.push(this.state);
    this.#set(this.#future.pop());
  }

  #step(change) {
    this.#past.push(this.state);
    this.#future = [];
    this.#set({ ...this.state, ...change });
  }

  #set(state) {
    this.state = state;
    this.dispatchEvent(new Event("change"));
  }
}
