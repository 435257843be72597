// What the user has done: the object under way, the objects kept, and the way back.

export const COLOURS = [
  "#2f86ff", "#ff6a3d", "#21b46b", "#b25cff", "#f0ad1b", "#11b3bd", "#ff4d8d", "#7a83ff", "#8dc149", "#d9632b",
];

const EMPTY = Object.freeze({ points: [], labels: [], box: null, choice: null, answer: null, stale: false });

/** What the server needs of a prompt. */
export function wire({ points, labels, box }) {
  return { ...(points.length && { points, labels }), ...(box && { box }) };
}

/** The mask of a prompt's answer that is shown: the chosen candidate, else the best. */
export function shown({ answer, choice }) {
  return answer && (answer.masks.find((mask) => mask.index === (choice ?? answer.best)) ?? null);
}

/**
 * Every change makes a new state and keeps the old one, so taking back works for all of them alike. Dispatches
 * "change". A state: {current, objects, made}; current a prompt {points, labels, box, choice, answer,
 * stale: the answer is that of the prompt before}; objects of
 * {key, name, colour, visible, mask, prompt or rle}; made, how many objects there have been.
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

  /** The server's answer to the current prompt; no step of its own. */
  setAnswer(answer) {
    this.#set({ ...this.state, current: { ...this.current, answer, stale: false } });
  }

  discard() {
    if (this.started) this.#step({ current: EMPTY });
  }

  /** The current object joins the list, and the next begins. Returns whether there was one. */
  keep() {
    const mask = shown(this.current);
    if (!this.started || this.current.stale || !mask) return false;
    const { made } = this.state;
    const object = { key: made, name: `Object ${made + 1}`, colour: this.colour, visible: true, mask, prompt: this.current };
    this.#step({ current: EMPTY, objects: [...this.objects, object], made: made + 1 });
    return true;
  }

  /** Something was found that will come in pieces: one step to take back for all. Returns what `add` needs. */
  begin() {
    this.#step({});
    return this.#past.length;
  }

  /** Objects of {mask, rle} join the list, also in the states since `begun`, so that taking those back leaves them. */
  add(begun, found) {
    const join = (state) => {
      const objects = found.map(({ mask, rle }, i) => {
        const key = state.made + i;
        return { key, name: `Object ${key + 1}`, colour: COLOURS[key % COLOURS.length], visible: true, mask, rle };
      });
      return { ...state, objects: [...state.objects, ...objects], made: state.made + found.length };
    };
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
