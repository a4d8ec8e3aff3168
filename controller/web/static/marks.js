// What was drawn on one sample: marks one by one, and a mask that is painted, with undo and redo.

import { channelsOf } from "./colours.js";
import { eachPainted, emptyMask, encodeRuns, flood, isInside, paintLine, paintOutline } from "./raster.js";

const MOST_STEPS = 100;
const MOST_STEP_BYTES = 64e6;

export class Marks {
  /**
   * @param {string[]} names classes that a mask may have; a pixel's value is 1 + its place here
   */
  constructor(rows, columns, names) {
    this.rows = rows;
    this.columns = columns;
    this.names = names;
    this.marks = [];
    this.mask = emptyMask(rows, columns);
    this.past = [];
    this.future = [];
  }

  get isEmpty() {
    return !this.marks.length && !this.mask.pixels.some((value) => value);
  }

  // Undo.

  #state() {
    return { marks: [...this.marks], pixels: this.mask.pixels.slice() };
  }

  #restore({ marks, pixels }) {
    this.marks = marks;
    this.mask.pixels = pixels;
  }

  /** Keep what is there, before it is changed. */
  remember() {
    const most = Math.max(5, Math.min(MOST_STEPS, Math.floor(MOST_STEP_BYTES / (this.rows * this.columns))));
    this.past.push(this.#state());
    if (this.past.length > most) this.past.shift();
    this.future = [];
  }

  undo() {
    if (!this.past.length) return;
    this.future.push(this.#state());
    this.#restore(this.past.pop());
  }

  redo() {
    if (!this.future.length) return;
    this.past.push(this.#state());
    this.#restore(this.future.pop());
  }

  // Changes. Places are (y, x) in pixels of the sample.

  /** Whether a place is in the sample, or so near that a brush reaches into it. */
  holds([y, x], size) {
    const reach = 0.5 + size / 2;
    return y >= -reach && x >= -reach && y <= this.rows - 1 + reach && x <= this.columns - 1 + reach;
  }

  clamp([y, x]) {
    const into = (value, count) => Number(Math.min(count - 0.5, Math.max(-0.5, value)).toFixed(2));
    return [into(y, this.rows), into(x, this.columns)];
  }

  add(mark) {
    this.marks.push(mark);
  }

  /** Add a box whose sides lie between pixels; false if it has no area. */
  addBox(from, to, class_name) {
    const edge = (value, count) => Math.min(count, Math.max(0, Math.round(value + 0.5))) - 0.5;
    const [y0, y1] = [edge(from[0], this.rows), edge(to[0], this.rows)].sort((a, b) => a - b);
    const [x0, x1] = [edge(from[1], this.columns), edge(to[1], this.columns)].sort((a, b) => a - b);
    if (y0 === y1 || x0 === x1) return false;
    this.add({ kind: "box", class_name, extent: { y_min: y0, x_min: x0, y_max: y1, x_max: x1 } });
    return true;
  }

  paint(from, to, size, value) {
    paintLine(this.mask, from, to, size, value);
  }

  paintInside(vertices, value) {
    paintOutline(this.mask, vertices, value);
  }

  fill([y, x], value) {
    const at = (place, count) => Math.min(count - 1, Math.max(0, Math.round(place)));
    flood(this.mask, at(y, this.rows), at(x, this.columns), value);
  }

  clear() {
    this.marks = [];
    this.mask = emptyMask(this.rows, this.columns);
  }

  /** Remove the newest mark at a place. */
  removeAt(place, reach) {
    for (let i = this.marks.length - 1; i >= 0; i -= 1) {
      if (touches(this.marks[i], place, reach)) {
        this.marks.splice(i, 1);
        return;
      }
    }
  }

  // To annotations and back.

  /** Take over annotations: of a proposal, of an earlier answer, or from before a reload. */
  load(annotations, isMask) {
    this.clear();
    this.past = [];
    this.future = [];
    for (const { weight, coverage, ...mark } of annotations) {
      if (mark.kind === "points") {
        for (const place of mark.points_yx) this.add({ ...mark, points_yx: [place] });
      } else if (isMask && mark.kind === "mask") {
        eachPainted(mark, (y, x, value) => {
          const name = mark.value_classes[mark.values === "classes" ? value - 1 : 0];
          this.mask.pixels[y * this.columns + x] = 1 + this.names.indexOf(name);
        });
      } else if (isMask && mark.kind === "polygon") {
        this.paintInside(mark.vertices_yx, 1 + this.names.indexOf(mark.class_name));
      } else if (mark.kind !== "tag" && mark.kind !== "grades") {
        this.add(mark);
      }
    }
  }

  /** Return what is drawn as annotations; points of one class are one of them. */
  annotations(coverage) {
    const found = [];
    const points = new Map();
    for (const mark of this.marks) {
      if (mark.kind !== "points") found.push({ ...mark, coverage });
      else if (points.has(mark.class_name)) points.get(mark.class_name).points_yx.push(...mark.points_yx);
      else {
        points.set(mark.class_name, { ...mark, points_yx: [...mark.points_yx], coverage });
        found.push(points.get(mark.class_name));
      }
    }
    const painted = this.#painted();
    return painted ? [...found, { ...painted, coverage }] : found;
  }

  #painted() {
    const used = [...new Set(this.mask.pixels)].filter((value) => value).sort((a, b) => a - b);
    if (!used.length) return null;
    const number = new Map([[0, 0], ...used.map((value, i) => [value, i + 1])]);
    return {
      kind: "mask",
      shape_yx: [this.rows, this.columns],
      runs: encodeRuns(this.mask.pixels).map(([value, length]) => [number.get(value), length]),
      values: "classes",
      value_classes: used.map((value) => this.names[value - 1]),
    };
  }

  // Drawing.

  draw(context, view, layer, colourOf) {
    const opacity = view.display.opacity;
    this.#drawMask(layer, colourOf, opacity);
    const [x, y] = view.pointOf([-0.5, -0.5]);
    context.drawImage(layer, x, y, this.columns * view.zoom, this.rows * view.zoom);
    context.lineJoin = context.lineCap = "round";
    for (const mark of this.marks) {
      const colour = colourOf(mark.class_name ?? mark.value_classes[0]);
      context.strokeStyle = colour;
      context.fillStyle = `rgba(${channelsOf(colour).join(", ")}, ${opacity * 0.6})`;
      drawMark(context, view, mark, opacity);
    }
  }

  #drawMask(layer, colourOf, opacity) {
    const image = new ImageData(this.columns, this.rows);
    const target = new Uint32Array(image.data.buffer);
    const colours = [0, ...this.names.map((name) => packed(colourOf(name), opacity))];
    const { pixels } = this.mask;
    for (let i = 0; i < pixels.length; i += 1) if (pixels[i]) target[i] = colours[pixels[i]];
    layer.getContext("2d").putImageData(image, 0, 0);
  }
}

function packed(colour, opacity) {
  const [red, green, blue] = channelsOf(colour);
  return ((Math.round(255 * opacity) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

function drawMark(context, view, mark, opacity) {
  context.lineWidth = 2;
  if (mark.kind === "points") {
    for (const place of mark.points_yx) drawPoint(context, ...view.pointOf(place));
    return;
  }
  if (mark.kind === "mask") {
    eachPainted(mark, (row, column) => {
      context.fillRect(...view.pointOf([row - 0.5, column - 0.5]), view.zoom, view.zoom);
    });
    return;
  }
  context.beginPath();
  if (mark.kind === "box") {
    const { y_min, x_min, y_max, x_max } = mark.extent;
    context.rect(...view.pointOf([y_min, x_min]), (x_max - x_min) * view.zoom, (y_max - y_min) * view.zoom);
  } else {
    for (const place of mark.vertices_yx) context.lineTo(...view.pointOf(place));
  }
  if (mark.kind === "scribble") {
    context.lineWidth = Math.max(2, (mark.width_px ?? 1) * view.zoom);
    if (mark.vertices_yx.length === 1) context.lineTo(...view.pointOf(mark.vertices_yx[0]));
    context.globalAlpha = Math.max(0.15, opacity);
    context.stroke();
    context.globalAlpha = 1;
    return;
  }
  if (mark.kind === "polygon") context.closePath();
  context.fill("evenodd");
  context.stroke();
}

function drawPoint(context, x, y) {
  const colour = context.strokeStyle;
  context.beginPath();
  context.arc(x, y, 6, 0, 2 * Math.PI);
  context.lineWidth = 5;
  context.strokeStyle = "rgba(0, 0, 0, 0.75)";
  context.stroke();
  context.lineWidth = 2.5;
  context.strokeStyle = colour;
  context.stroke();
  context.beginPath();
  context.arc(x, y, 1.2, 0, 2 * Math.PI);
  context.stroke();
}

function touches(mark, [y, x], reach) {
  if (mark.kind === "points") return mark.points_yx.some((place) => Math.hypot(place[0] - y, place[1] - x) <= reach);
  if (mark.kind === "box") {
    const { y_min, x_min, y_max, x_max } = mark.extent;
    return y >= y_min && y <= y_max && x >= x_min && x <= x_max;
  }
  if (mark.kind === "polygon") return isInside(mark.vertices_yx, y, x);
  if (mark.kind === "mask") {
    let isHit = false;
    eachPainted(mark, (row, column) => {
      isHit ||= Math.round(y) === row && Math.round(x) === column;
    });
    return isHit;
  }
  const places = mark.vertices_yx;
  return places.some((place, i) => {
    const other = places[Math.min(i + 1, places.length - 1)];
    return distance([y, x], place, other) <= reach + (mark.width_px ?? 1) / 2;
  });
}

function distance([y, x], [y0, x0], [y1, x1]) {
  const squared = (y1 - y0) ** 2 + (x1 - x0) ** 2;
  const along = squared ? Math.min(1, Math.max(0, ((y - y0) * (y1 - y0) + (x - x0) * (x1 - x0)) / squared)) : 0;
  return Math.hypot(y - y0 - along * (y1 - y0), x - x0 - along * (x1 - x0));
}
