// A picture on a canvas: zoom, pan, the outline of the crop in its context, a scale bar.
// Positions in the sample are (y, x) in pixels, the centre of its first pixel at (0, 0).

import { make, withUnit } from "./dom.js";
import { paint } from "./contrast.js";

const MARGIN = 10;
const MOST_ZOOM = 80;

export class PictureView {
  /**
   * @param {import("./contrast.js").Display} display
   * @param {{hover?: (text: string) => void}} listeners
   */
  constructor(display, { hover = () => {} } = {}) {
    this.canvas = make("canvas", { class: "picture", tabindex: "-1" });
    this.display = display;
    this.hover = hover;
    this.item = null;
    this.pictures = [];
    this.overlay = null;
    this.image = document.createElement("canvas");
    this.zoom = 1;
    this.left = 0;
    this.top = 0;
    this.isFitted = true;
    this.isWaiting = false;
    this.observer = new ResizeObserver(() => this.#resize());
    this.observer.observe(this.canvas);
    this.repainting = () => this.repaint();
    display.addEventListener("change", this.repainting);
    this.canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.canvas.addEventListener("pointermove", (event) => this.#tell(event));
    this.canvas.addEventListener("pointerleave", () => this.hover(""));
  }

  /** Show a sample in one channel, or in two that are put together. The zoom stays where it is. */
  show(item, pictures, { isNew }) {
    this.item = item;
    this.pictures = pictures;
    if (isNew) {
      this.#resize();
      this.fit();
    }
    this.repaint();
  }

  /** Make all of the picture fit. */
  fit() {
    const picture = this.pictures[0];
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!picture || !width) return;
    this.zoom = Math.min((width - MARGIN) / picture.columns, (height - MARGIN) / picture.rows);
    this.left = (width - picture.columns * this.zoom) / 2 + picture.origin[1] * this.zoom;
    this.top = (height - picture.rows * this.zoom) / 2 + picture.origin[0] * this.zoom;
    this.isFitted = true;
    this.draw();
  }

  /** Zoom so that the place under a point of the canvas stays where it is. */
  zoomAt(x, y, factor) {
    const zoom = Math.min(MOST_ZOOM, Math.max(0.25, this.zoom * factor));
    const change = zoom / this.zoom;
    this.left = x - (x - this.left) * change;
    this.top = y - (y - this.top) * change;
    this.zoom = zoom;
    this.isFitted = false;
    this.draw();
  }

  /** Zoom about the middle. */
  zoomBy(factor) {
    this.zoomAt(this.canvas.clientWidth / 2, this.canvas.clientHeight / 2, factor);
  }

  pan(x, y) {
    this.left += x;
    this.top += y;
    this.isFitted = false;
    this.draw();
  }

  /** @returns {[number, number]} where in the sample, (y, x), an event happened */
  placeOf(event) {
    const box = this.canvas.getBoundingClientRect();
    return this.placeAt(event.clientX - box.left, event.clientY - box.top);
  }

  placeAt(x, y) {
    return [(y - this.top) / this.zoom - 0.5, (x - this.left) / this.zoom - 0.5];
  }

  /** @returns {[number, number]} where on the canvas, (x, y), a place of the sample is */
  pointOf([y, x]) {
    return [this.left + (x + 0.5) * this.zoom, this.top + (y + 0.5) * this.zoom];
  }

  /** Colour the pixels anew. */
  repaint() {
    if (!this.pictures.length) return;
    const image = paint(this.pictures, this.display);
    this.image.width = image.width;
    this.image.height = image.height;
    this.image.getContext("2d").putImageData(image, 0, 0);
    this.draw();
  }

  /** Draw soon, once for many changes. */
  draw() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      this.#draw();
    });
  }

  /** Stop listening; the canvas is taken away. */
  close() {
    this.observer.disconnect();
    this.display.removeEventListener("change", this.repainting);
  }

  #draw() {
    const picture = this.pictures[0];
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!picture || !width) return;
    const context = this.canvas.getContext("2d");
    const density = this.canvas.width / width;
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, width, height);
    context.imageSmoothingEnabled = false;
    const [top, left] = [this.top - picture.origin[0] * this.zoom, this.left - picture.origin[1] * this.zoom];
    context.drawImage(this.image, left, top, picture.columns * this.zoom, picture.rows * this.zoom);
    this.#dimContext(context, left, top, picture);
    if (this.overlay && this.display.isOverlayShown) this.overlay(context, this);
    this.#drawScale(context, width, height);
  }

  #dimContext(context, left, top, picture) {
    const [x, y] = this.pointOf([-0.5, -0.5]);
    const [width, height] = [this.item.columns * this.zoom, this.item.rows * this.zoom];
    if (picture.columns === this.item.columns && picture.rows === this.item.rows) return;
    context.fillStyle = "rgba(12, 16, 22, 0.5)";
    context.beginPath();
    context.rect(left, top, picture.columns * this.zoom, picture.rows * this.zoom);
    context.rect(x, y, width, height);
    context.fill("evenodd");
    context.strokeStyle = "rgba(0, 0, 0, 0.7)";
    context.lineWidth = 4;
    context.strokeRect(x, y, width, height);
    context.strokeStyle = "#ffd479";
    context.lineWidth = 1.5;
    context.strokeRect(x, y, width, height);
  }

  #drawScale(context, width, height) {
    const metres = this.item.pixel_size_m;
    if (!(metres > 0)) return;
    const most_m = ((width / 4) * metres) / this.zoom;
    const decade_m = 10 ** Math.floor(Math.log10(most_m));
    const length_m = [5, 2, 1].map((times) => times * decade_m).find((length) => length <= most_m) ?? decade_m;
    const length = (length_m / metres) * this.zoom;
    const [right, bottom] = [width - 16, height - 14];
    const label = withUnit(length_m, "m");
    context.font = "600 12px system-ui, sans-serif";
    context.textAlign = "center";
    const half = Math.max(length, context.measureText(label).width) / 2 + 7;
    context.fillStyle = "rgba(8, 11, 15, 0.6)";
    context.fillRect(right - length / 2 - half, bottom - 21, 2 * half, 30);
    context.fillStyle = "#ffffff";
    context.fillRect(right - length, bottom, length, 3);
    context.fillText(label, right - length / 2, bottom - 6);
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const density = window.devicePixelRatio || 1;
    if (!width || !height) return;
    if (this.canvas.width === Math.round(width * density) && this.canvas.height === Math.round(height * density)) return;
    this.canvas.width = Math.round(width * density);
    this.canvas.height = Math.round(height * density);
    if (this.isFitted) this.fit();
    this.draw();
  }

  #wheel(event) {
    event.preventDefault();
    const box = this.canvas.getBoundingClientRect();
    this.zoomAt(event.clientX - box.left, event.clientY - box.top, Math.exp(-Math.sign(event.deltaY) * 0.18));
  }

  #tell(event) {
    const picture = this.pictures[0];
    if (!picture) return;
    const [y, x] = this.placeOf(event).map(Math.round);
    const [row, column] = [y + picture.origin[0], x + picture.origin[1]];
    if (row < 0 || column < 0 || row >= picture.rows || column >= picture.columns) {
      this.hover("");
      return;
    }
    const values = this.pictures.map((one) => Number(one.pixels[row * picture.columns + column].toPrecision(6)));
    this.hover(`y ${y}, x ${x}: ${values.join(" | ")}`);
  }
}
