// The kinds of question that are answered by drawing: points, scribble, box, polygon, mask.

import { keyButton, make, toast } from "./dom.js";
import { AMBIGUOUS, NOTHING_HERE, channelsOf, colourOf } from "./colours.js";
import { Marks } from "./marks.js";
import { hasInside } from "./raster.js";
import { digitOf } from "./picking.js";

/** The tools of each kind of question, the one to begin with first. */
const TOOLS = {
  points: ["point", "erase"],
  scribble: ["scribble", "erase"],
  box: ["box", "erase"],
  polygon: ["polygon", "erase"],
  mask: ["brush", "erase", "fill", "polygon"],
};
const KEYS = { point: "B", scribble: "B", box: "B", brush: "B", polygon: "T", erase: "E", fill: "F" };
const LABELS = { point: "Point", scribble: "Stroke", box: "Box", brush: "Brush", polygon: "Outline", erase: "Erase", fill: "Fill" };
const HINTS = {
  points: "Click on each object. X marks background. Enter when done.",
  scribble: "Draw strokes inside objects; X: inside the background. Enter when done.",
  box: "Drag a tight box about each object. Enter when done.",
  polygon: "Drag about each object, or click its corners. Enter when done.",
  mask: "Paint. [ and ] change the brush, E erases, F fills, T outlines. Enter when done.",
};
/** These show all there is of something, unless the person says otherwise. */
const COMPLETE = new Set(["mask", "polygon", "box"]);
const CLOSE_PX = 9;

export class DrawingKind {
  constructor(task, { changed, view }) {
    const { kind } = task.request;
    const [item] = task.items;
    this.classes = task.classes;
    this.names = [...task.classes, NOTHING_HERE, AMBIGUOUS];
    this.changed = changed;
    this.view = view;
    this.isMask = kind === "mask";
    this.hint = HINTS[kind];
    this.needsEnter = true;
    this.marks = new Marks(item.rows, item.columns, this.names);
    this.tools = TOOLS[kind];
    this.tool = this.tools[0];
    this.name = this.classes[0];
    this.lastName = this.name;
    this.size = this.isMask ? Math.max(2, Math.round(item.columns / 16)) : 1;
    this.stroke = null; // what the pointer draws just now
    this.corners = []; // of an outline that is clicked corner by corner
    this.hasBegun = false; // whether the pointer that is down has changed something already
    this.pointer = null;
    this.coversAll = COMPLETE.has(kind);
    this.bar = make("div", { class: "bar drawing" }, this.#classButtons(), this.#toolButtons(), this.#coverage());
    this.layer = document.createElement("canvas");
    this.layer.width = item.columns;
    this.layer.height = item.rows;
    view.overlay = (context, picture) => this.draw(context, picture);
    this.#mark();
  }

  // What can be pressed.

  #classButtons() {
    const keys = [...this.classes.map((_, i) => (i < 9 ? String(i + 1) : "")), "X", "A"];
    const labels = [...this.classes, "background", "can't tell"];
    this.classMarks = this.names.map((name, i) => {
      const made = keyButton(keys[i], labels[i], () => this.#choose(name), { "data-class": name });
      made.style.setProperty("--colour", colourOf(this.classes, name));
      return made;
    });
    return make("div", { class: "group" }, ...this.classMarks);
  }

  #toolButtons() {
    this.toolMarks = this.tools.map((tool) =>
      keyButton(KEYS[tool], LABELS[tool], () => this.#take(tool), { "data-tool": tool }),
    );
    const extra = [keyButton("Ctrl Z", "Undo", () => this.undo()), keyButton("⇧ Ctrl Z", "Redo", () => this.redo())];
    if (this.tools.includes("brush") || this.tools.includes("scribble")) {
      this.sizeShown = make("output", { class: "size" });
      extra.unshift(keyButton("[", "−", () => this.#resize(-1), { "aria-label": "smaller" }), this.sizeShown);
      extra.splice(2, 0, keyButton("]", "+", () => this.#resize(1), { "aria-label": "larger" }));
    }
    return make("div", { class: "group" }, ...this.toolMarks, ...extra);
  }

  #coverage() {
    this.tick = make("input", { type: "checkbox", id: "covers-all" });
    this.tick.checked = this.coversAll;
    this.tick.addEventListener("change", () => {
      this.coversAll = this.tick.checked;
      this.tick.blur();
      this.changed();
    });
    const why =
      "Ticked: whatever you did not mark in the square is background, and is learned as that. " +
      "Not ticked: only your marks count, all other pixels stay unknown.";
    return make(
      "label",
      { class: "coverage", title: why, for: "covers-all" },
      this.tick,
      make("kbd", {}, "K"),
      make("span", {}, "Everything of these classes in the square is marked"),
    );
  }

  #choose(name) {
    if (name !== this.name) this.lastName = this.name;
    this.name = name;
    if (this.tool === "erase") this.tool = this.tools[0];
    this.#mark();
  }

  #take(tool) {
    this.tool = tool;
    this.corners = [];
    this.#mark();
  }

  #resize(step) {
    this.size = Math.min(64, Math.max(1, this.size + step));
    this.#mark();
  }

  #mark() {
    this.classMarks.forEach((made, i) => made.classList.toggle("chosen", this.names[i] === this.name));
    this.toolMarks.forEach((made, i) => made.classList.toggle("chosen", this.tools[i] === this.tool));
    if (this.sizeShown) this.sizeShown.textContent = `${this.size} px`;
    this.view.draw();
  }

  key(event) {
    const digit = digitOf(event);
    const key = event.key.toLowerCase();
    if ((event.ctrlKey || event.metaKey) && (key === "z" || key === "y")) {
      if (key === "y" || event.shiftKey) this.redo();
      else this.undo();
      return true;
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    if (digit && digit <= this.classes.length) {
      this.#choose(this.classes[digit - 1]);
      return true;
    }
    const tool = this.tools.find((name) => KEYS[name].toLowerCase() === key);
    if (tool) this.#take(this.tool === tool && tool === "erase" ? this.tools[0] : tool);
    else if (key === "x") this.#choose(this.name === NOTHING_HERE ? this.lastName : NOTHING_HERE);
    else if (key === "a") this.#choose(this.name === AMBIGUOUS ? this.lastName : AMBIGUOUS);
    else if (key === "[") this.#resize(-1);
    else if (key === "]") this.#resize(1);
    else if (key === "k") this.tick.click();
    else if (key === "delete") this.#clear();
    else if (key === "escape" && this.corners.length) this.#dropCorners();
    else if (key === "enter" && this.corners.length) this.#close();
    else return false;
    return true;
  }

  undo() {
    if (this.corners.length) this.corners.pop();
    else this.marks.undo();
    this.#touched();
  }

  redo() {
    this.marks.redo();
    this.#touched();
  }

  #clear() {
    this.corners = [];
    this.marks.remember();
    this.marks.clear();
    this.#touched();
  }

  #dropCorners() {
    this.corners = [];
    this.view.draw();
  }

  #touched() {
    this.view.draw();
    this.changed();
  }

  // What happens on the picture. Places are (y, x) in pixels of the sample.

  down(place) {
    if (!this.marks.holds(place, this.tool === "brush" || this.tool === "erase" ? this.size : 1)) return;
    const at = this.marks.clamp(place);
    if (this.tool === "polygon") {
      this.stroke = [at];
      return;
    }
    this.marks.remember();
    this.hasBegun = true;
    if (this.tool === "point") this.marks.add({ kind: "points", class_name: this.name, points_yx: [at] });
    else if (this.tool === "fill") this.marks.fill(at, this.#value());
    else if (this.tool === "erase" && !this.isMask) this.marks.removeAt(at, CLOSE_PX / this.view.zoom);
    else this.stroke = [at];
    if (this.stroke && this.isMask) this.#paint(place, place);
    this.#touched();
  }

  move(place) {
    this.pointer = place;
    if (this.stroke) {
      const last = this.stroke.at(-1);
      if (this.isMask && this.tool !== "polygon") {
        this.#paint(this.rawLast ?? last, place);
        this.stroke = [last];
      } else {
        const at = this.marks.clamp(place);
        const isFar = Math.hypot(at[0] - last[0], at[1] - last[1]) * this.view.zoom > 2;
        if (this.tool === "box") this.stroke = [this.stroke[0], at];
        else if (isFar) this.stroke.push(at);
      }
    }
    this.view.draw();
  }

  up() {
    const stroke = this.stroke;
    this.stroke = null;
    this.rawLast = null;
    this.hasBegun = false;
    if (!stroke) return;
    if (this.tool === "box") this.#finishBox(stroke);
    else if (this.tool === "polygon") this.#finishOutline(stroke);
    else if (this.tool === "scribble") {
      this.marks.add({ kind: "scribble", class_name: this.name, vertices_yx: stroke, width_px: this.size });
    }
    this.#touched();
  }

  /** A second finger came: what the first one began was not meant. */
  cancel() {
    if (this.hasBegun) this.marks.undo();
    this.hasBegun = false;
    this.stroke = null;
    this.rawLast = null;
    this.view.draw();
  }

  #value() {
    return 1 + this.names.indexOf(this.name);
  }

  #paint(from, to) {
    this.rawLast = to;
    this.marks.paint(from, to, this.size, this.tool === "erase" ? 0 : this.#value());
  }

  #finishBox([from, to]) {
    if (!to || !this.marks.addBox(from, to, this.name)) this.marks.undo();
  }

  #finishOutline(stroke) {
    if (stroke.length > 2) {
      this.#addOutline(stroke);
      return;
    }
    const at = stroke[0];
    const [first] = this.corners;
    const isClosed =
      this.corners.length > 2 && Math.hypot(at[0] - first[0], at[1] - first[1]) * this.view.zoom < CLOSE_PX;
    if (isClosed) this.#close();
    else this.corners.push(at);
  }

  #close() {
    const corners = this.corners;
    this.corners = [];
    this.#addOutline(corners);
    this.#touched();
  }

  #addOutline(vertices) {
    if (!hasInside(vertices)) {
      toast("An outline needs three corners that enclose something.", "bad");
      return;
    }
    this.marks.remember();
    if (this.isMask) this.marks.paintInside(vertices, this.#value());
    else this.marks.add({ kind: "polygon", class_name: this.name, vertices_yx: vertices });
  }

  // What is said.

  get hasMarks() {
    return !this.marks.isEmpty || this.corners.length > 0;
  }

  load(reply) {
    const annotations = reply.annotations ?? [];
    this.marks.load(annotations, this.isMask);
    if (annotations.length) {
      this.coversAll = annotations.every((one) => one.coverage === "image");
      this.tick.checked = this.coversAll;
    }
    this.#mark();
  }

  reply() {
    if (this.corners.length) return "The outline is still open: Enter closes it, Esc drops it.";
    if (this.marks.isEmpty) return "Nothing is marked. If there is nothing, answer 0.";
    return { annotations: this.marks.annotations(this.coversAll ? "image" : "marks") };
  }

  /** What there is so far, in the form of a reply. */
  draft() {
    return { annotations: this.marks.annotations(this.coversAll ? "image" : "marks") };
  }

  draw(context, view) {
    this.marks.draw(context, view, this.layer, (name) => colourOf(this.classes, name));
    const colour = colourOf(this.classes, this.name);
    const open = this.stroke && !(this.isMask && this.tool !== "polygon") ? this.stroke : this.corners;
    if (open.length) this.#drawOpen(context, view, open, colour);
    if (this.pointer && (this.tool === "brush" || (this.tool === "erase" && this.isMask))) {
      const [x, y] = view.pointOf(this.pointer);
      context.strokeStyle = this.tool === "erase" ? "#ffffff" : colour;
      context.lineWidth = 1.5;
      context.beginPath();
      context.arc(x, y, (this.size / 2) * view.zoom, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  #drawOpen(context, view, places, colour) {
    context.strokeStyle = colour;
    context.fillStyle = `rgba(${channelsOf(colour).join(", ")}, 0.25)`;
    context.lineWidth = this.tool === "scribble" ? Math.max(2, this.size * view.zoom) : 2;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    if (this.tool === "box" && places.length === 2) {
      const [[x0, y0], [x1, y1]] = places.map((place) => view.pointOf(place));
      context.rect(Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0));
    } else {
      for (const place of places) context.lineTo(...view.pointOf(place));
      if (this.pointer && this.corners.length) context.lineTo(...view.pointOf(this.pointer));
    }
    context.stroke();
    context.fillStyle = colour;
    for (const place of this.corners) {
      const [x, y] = view.pointOf(place);
      context.fillRect(x - 3, y - 3, 6, 6);
    }
  }
}
