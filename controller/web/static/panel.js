// The controls of how the picture looks: channel, contrast with its histogram, gamma, colours, overlay.

import { button, byId, keyButton, make, makeSvg, show } from "./dom.js";
import { TABLES, histogram } from "./contrast.js";

const STEPS = 1000;
const HEIGHT = 44;

export class DisplayPanel {
  /** @param {import("./contrast.js").Display} display */
  constructor(display) {
    this.display = display;
    this.item = null;
    this.picture = null;
    this.shape = null;
    this.channels = make("div", { class: "group" });
    this.plot = makeSvg("svg", { class: "histogram", preserveAspectRatio: "none" });
    this.low = this.#slider("black", 0, STEPS, (place) => this.#limit("low", place));
    this.high = this.#slider("white", 0, STEPS, (place) => this.#limit("high", place));
    this.gamma = this.#slider("gamma", -100, 100, (place) => display.set({ gamma: 10 ** (place / 200) }));
    this.opacity = this.#slider("overlay", 0, 100, (place) => display.set({ opacity: place / 100 }));
    this.lut = make("select", { "aria-label": "colour table" }, ...TABLES.map((name) => make("option", {}, name)));
    this.lut.addEventListener("change", () => {
      display.set({ lut: this.lut.value });
      this.lut.blur();
    });
    this.keep = make("input", { type: "checkbox" });
    this.keep.addEventListener("change", () => {
      const [low, high] = this.picture ? display.window(this.picture) : [null, null];
      display.set(this.keep.checked ? { keepsContrast: true, low, high } : { keepsContrast: false });
      this.keep.blur();
    });
    show(
      byId("display"),
      this.channels,
      this.plot,
      this.low.row,
      this.high.row,
      this.gamma.row,
      make("div", { class: "row" }, keyButton("C", "Auto", () => this.auto()), make("kbd", {}, "L"), this.lut),
      make("label", { class: "row", title: "Brightness can then be compared between pictures" }, this.keep,
        "keep the contrast for the next"),
      this.opacity.row,
    );
    display.addEventListener("change", () => this.refresh());
  }

  #slider(name, min, max, moved) {
    const input = make("input", { type: "range", min, max, "aria-label": name });
    const output = make("output", {});
    input.addEventListener("input", () => moved(Number(input.value)));
    return { row: make("label", { class: "slider" }, make("span", {}, name), input, output), input, output };
  }

  /** Show the controls of a picture. */
  show(item, picture) {
    this.item = item;
    if (picture !== this.picture) {
      this.picture = picture;
      this.shape = histogram(picture);
      this.#draw();
    }
    const names = item.channels.map((channel) => channel.name);
    const choices = names.map((name) =>
      button(name, () => this.display.set({ channel: name, isComposite: false }), {
        class: !this.display.isComposite && name === picture.name ? "chosen" : "",
      }),
    );
    if (detectors(item).length > 1) {
      choices.push(
        keyButton("M", "both", () => this.toggleComposite(), { class: this.display.isComposite ? "chosen" : "" }),
      );
    }
    show(this.channels, names.length > 1 ? make("kbd", {}, "D") : null, ...choices);
    this.refresh();
  }

  refresh() {
    if (!this.picture) return;
    const { display, shape } = this;
    const [low, high] = display.window(this.picture);
    const place = (value) => Math.round(((value - shape.low) / (shape.high - shape.low)) * STEPS);
    const set = ({ input, output }, value, text) => {
      input.value = String(value);
      output.textContent = text;
    };
    set(this.low, place(low), short(low));
    set(this.high, place(high), short(high));
    set(this.gamma, Math.round(200 * Math.log10(display.gamma)), display.gamma.toFixed(2));
    set(this.opacity, Math.round(display.opacity * 100), `${Math.round(display.opacity * 100)} %`);
    this.lut.value = display.lut;
    this.keep.checked = display.keepsContrast;
    this.lines?.forEach((line, i) => {
      const x = (Math.min(STEPS, Math.max(0, place([low, high][i]))) / STEPS) * shape.counts.length;
      line.setAttribute("x1", String(x));
      line.setAttribute("x2", String(x));
    });
  }

  #draw() {
    const { counts } = this.shape;
    this.plot.setAttribute("viewBox", `0 0 ${counts.length} ${HEIGHT}`);
    const most = Math.log1p(Math.max(...counts));
    const tops = [...counts].map((count, i) => {
      const y = HEIGHT - (HEIGHT - 2) * (Math.log1p(count) / most);
      return `L${i} ${y.toFixed(1)} L${i + 1} ${y.toFixed(1)}`;
    });
    this.lines = [0, 1].map(() => makeSvg("line", { y1: 0, y2: HEIGHT, class: "limit" }));
    show(this.plot, makeSvg("path", { d: `M0 ${HEIGHT} ${tops.join(" ")} L${counts.length} ${HEIGHT} Z` }), ...this.lines);
  }

  #limit(which, place) {
    const { display, shape } = this;
    let [low, high] = display.window(this.picture);
    const step = (shape.high - shape.low) / STEPS;
    const value = shape.low + place * step;
    if (which === "low") low = Math.min(value, high - step);
    else high = Math.max(value, low + step);
    display.set({ low, high });
  }

  auto() {
    this.display.set({ low: null, high: null, gamma: 1 });
  }

  /** Raw or denoised, or the next channel. */
  nextChannel() {
    const names = this.item?.channels.map((channel) => channel.name) ?? [];
    if (names.length < 2) return;
    const next = names[(names.indexOf(this.picture.name) + 1) % names.length];
    this.display.set({ channel: next, isComposite: false });
  }

  toggleComposite() {
    if (this.item && detectors(this.item).length > 1) this.display.set({ isComposite: !this.display.isComposite });
  }

  nextTable() {
    this.display.set({ lut: TABLES[(TABLES.indexOf(this.display.lut) + 1) % TABLES.length] });
  }
}

/** The channels that are not the same picture in another form. */
export function detectors(item) {
  return item.channels.filter((channel) => channel.name !== "denoised");
}

function short(value) {
  return String(Number(value.toPrecision(4)));
}
