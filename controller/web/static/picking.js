// The kinds of question that are answered without drawing: tag, grades, choice, score.
// Every kind of question has the same face: `bar` to show, `key(event)`, `reply()`, `load(reply)`.

import { button, inWords, keyButton, make } from "./dom.js";
import { colourOf } from "./colours.js";

/** Return the number of the digit key that was pressed, with or without Shift; null if it is none. */
export function digitOf(event) {
  const match = /^(?:Digit|Numpad)([0-9])$/.exec(event.code ?? "");
  if (match) return Number(match[1]);
  return /^[0-9]$/.test(event.key) ? Number(event.key) : null;
}

/** @typedef {{outcome?: string, annotations?: any[], chosen?: number|null, score?: number|null}} Reply */

/** One class, or several: a key each. */
export class TagKind {
  constructor(task, { send, changed }) {
    this.classes = task.classes;
    this.severalAllowed = task.request.several;
    this.send = send;
    this.changed = changed;
    this.present = new Set();
    this.ambiguous = new Set();
    this.buttons = this.classes.map((name, i) => {
      const made = keyButton(i < 9 ? i + 1 : "", name, () => this.#press(name), { class: "answer", "data-class": name });
      made.style.setProperty("--colour", colourOf(this.classes, name));
      return made;
    });
    this.bar = make("div", { class: "bar tags" }, ...this.buttons);
    this.hint = this.severalAllowed
      ? "Choose all that are there, then Enter. Shift + key: looked for, cannot tell."
      : "One key answers.";
    this.needsEnter = this.severalAllowed;
    this.#mark();
  }

  key(event) {
    const digit = digitOf(event);
    if (!digit || digit > this.classes.length) return false;
    this.#press(this.classes[digit - 1], event.shiftKey);
    return true;
  }

  #press(name, isAmbiguous = false) {
    if (!this.severalAllowed) {
      this.present = new Set([name]);
      this.#mark();
      this.send(this.reply());
      return;
    }
    const [here, other] = isAmbiguous ? [this.ambiguous, this.present] : [this.present, this.ambiguous];
    other.delete(name);
    if (!here.delete(name)) here.add(name);
    this.#mark();
    this.changed();
  }

  #mark() {
    this.buttons.forEach((made, i) => {
      const name = this.classes[i];
      made.classList.toggle("chosen", this.present.has(name));
      made.classList.toggle("doubtful", this.ambiguous.has(name));
      made.setAttribute("aria-pressed", String(this.present.has(name)));
    });
  }

  load(reply) {
    const said = (reply.annotations ?? []).find((annotation) => annotation.kind === "tag");
    this.present = new Set((said?.present ?? []).filter((name) => this.classes.includes(name)));
    this.ambiguous = new Set(said?.ambiguous ?? []);
    this.#mark();
  }

  /** @returns {Reply | string} what is said, or what is missing */
  reply() {
    if (!this.present.size && !this.ambiguous.size) return "Choose what is there, or 0 for nothing here.";
    if (!this.severalAllowed) return { annotations: [{ kind: "tag", present: [...this.present] }] };
    const absent = this.classes.filter((name) => !this.present.has(name) && !this.ambiguous.has(name));
    const present = this.classes.filter((name) => this.present.has(name));
    return { annotations: [{ kind: "tag", present, absent, ambiguous: [...this.ambiguous] }] };
  }
}

const CYCLE = [0, 1, 0.5];

/** How much of each class there is. */
export class GradesKind {
  constructor(task, { changed }) {
    this.classes = task.classes;
    this.changed = changed;
    this.hint = "A key for each class: clearly, partly, none; Shift + key: cannot tell. Then Enter.";
    this.needsEnter = true;
    this.rows = this.classes.map((name, i) => this.#row(name, i));
    this.bar = make("div", { class: "bar grades" }, ...this.rows.map((row) => row.element));
  }

  #row(name, i) {
    const slider = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: 0, "aria-label": name });
    const value = make("output", {}, "0 %");
    const doubt = button("can't tell", () => this.#doubt(row), { class: "small", "aria-pressed": "false" });
    const label = make("label", { class: "name" }, make("kbd", {}, i < 9 ? String(i + 1) : ""), make("span", {}, name));
    const element = make("div", { class: "grade", "data-class": name }, label, slider, value, doubt);
    element.style.setProperty("--colour", colourOf(this.classes, name));
    const row = { name, slider, value, doubt, element, isDoubtful: false };
    slider.addEventListener("input", () => this.#set(row, Number(slider.value)));
    return row;
  }

  #set(row, grade, isDoubtful = false) {
    row.slider.value = String(grade);
    row.isDoubtful = isDoubtful;
    row.value.textContent = isDoubtful ? "?" : `${Math.round(grade * 100)} %`;
    row.element.classList.toggle("doubtful", isDoubtful);
    row.doubt.setAttribute("aria-pressed", String(isDoubtful));
    this.changed();
  }

  #doubt(row) {
    this.#set(row, Number(row.slider.value), !row.isDoubtful);
  }

  key(event) {
    const digit = digitOf(event);
    if (!digit || digit > this.rows.length) return false;
    const row = this.rows[digit - 1];
    if (event.shiftKey) this.#doubt(row);
    else this.#set(row, CYCLE[(CYCLE.indexOf(Number(row.slider.value)) + 1) % CYCLE.length]);
    row.slider.focus();
    return true;
  }

  load(reply) {
    const said = (reply.annotations ?? []).find((annotation) => annotation.kind === "grades");
    for (const row of this.rows) {
      this.#set(row, said?.grades?.[row.name] ?? 0, said?.ambiguous?.includes(row.name) ?? false);
    }
  }

  reply() {
    const sure = this.rows.filter((row) => !row.isDoubtful);
    if (!sure.length) return "If you cannot tell for any class, answer U: unsure.";
    const grades = Object.fromEntries(sure.map((row) => [row.name, Number(row.slider.value)]));
    const ambiguous = this.rows.filter((row) => row.isDoubtful).map((row) => row.name);
    return { annotations: [{ kind: "grades", grades, ambiguous }] };
  }
}

/** One of several images. */
export class ChoiceKind {
  constructor(task, { send }) {
    this.count = task.items.length;
    this.send = send;
    this.chosen = null;
    this.hint = "One key picks an image.";
    this.nothingHere = "none of them";
    this.buttons = task.items.map((item, i) => {
      const values = Object.entries(item.values ?? {}).map(([name, value]) => inWords(name, value));
      const made = keyButton(i < 9 ? i + 1 : "", values.join(" · ") || `image ${i + 1}`, () => this.#press(i));
      made.classList.add("answer");
      return made;
    });
    // The buttons stand under their images; see desk.js.
    this.bar = make("div", { class: "bar" });
  }

  key(event) {
    const digit = digitOf(event);
    if (!digit || digit > this.count) return false;
    this.#press(digit - 1);
    return true;
  }

  #press(number) {
    this.load({ chosen: number });
    this.send(this.reply());
  }

  load(reply) {
    this.chosen = reply.chosen ?? null;
    this.buttons.forEach((made, i) => made.classList.toggle("chosen", i === this.chosen));
  }

  reply() {
    return this.chosen === null ? `Pick one of the ${this.count} images.` : { chosen: this.chosen };
  }
}

/** A number from 0 to 1 for the image as a whole. */
export class ScoreKind {
  constructor(task, { send, changed }) {
    this.send = send;
    this.hint = "1 is the worst, 9 the best; one key answers. Or set the slider and press Enter.";
    this.needsEnter = true;
    this.slider = make("input", { type: "range", min: 0, max: 1, step: 0.01, value: 0.5, "aria-label": "score" });
    this.value = make("output", {}, "0.50");
    this.isSet = false; // a slider that nobody touched says nothing
    this.slider.addEventListener("input", () => {
      this.isSet = true;
      this.value.textContent = Number(this.slider.value).toFixed(2);
      changed();
    });
    const keys = Array.from({ length: 9 }, (_, i) =>
      keyButton(i + 1, "", () => this.#press(i + 1), { "aria-label": `score ${i / 8}`, class: "step" }),
    );
    this.bar = make(
      "div",
      { class: "bar score" },
      make("div", { class: "slide" }, make("span", {}, "worst"), this.slider, make("span", {}, "best"), this.value),
      make("div", { class: "steps" }, ...keys),
    );
  }

  key(event) {
    const digit = digitOf(event);
    if (!digit) return false;
    this.#press(digit);
    return true;
  }

  #press(digit) {
    this.load({ score: (digit - 1) / 8 });
    this.send(this.reply());
  }

  load(reply) {
    this.slider.value = String(reply.score ?? 0.5);
    this.value.textContent = Number(this.slider.value).toFixed(2);
    this.isSet = reply.score != null;
    if (this.isSet) this.exact = { shown: this.slider.value, score: reply.score };
  }

  reply() {
    if (!this.isSet) return "Press a key from 1 to 9, or set the slider.";
    // The slider rounds; a key means exactly what it says.
    const score = this.exact?.shown === this.slider.value ? this.exact.score : Number(this.slider.value);
    return { score };
  }
}

