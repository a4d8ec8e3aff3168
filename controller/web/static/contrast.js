// How pixels become colours: window, gamma and colour table. The pixels themselves stay as they are.

export const TABLES = ["gray", "fire", "green"];

// Corners of ImageJ's "Fire", evenly spaced.
const FIRE = [
  [0, 0, 0], [0, 0, 61], [36, 0, 131], [86, 0, 190], [130, 0, 195], [163, 0, 162], [193, 0, 108], [219, 27, 55],
  [240, 77, 12], [253, 123, 0], [255, 162, 0], [255, 195, 0], [255, 223, 33], [255, 245, 120], [255, 255, 201],
  [255, 255, 255],
];

const made = new Map();

/** Return 256 colours as numbers 0xAABBGGRR, as the bytes of an image lie in memory. */
function table(name) {
  if (!made.has(name)) {
    const colours = new Uint32Array(256);
    for (let level = 0; level < 256; level += 1) {
      const [red, green, blue] = colourOf(name, level);
      colours[level] = ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    }
    made.set(name, colours);
  }
  return made.get(name);
}

function colourOf(name, level) {
  if (name === "green") return [0, level, 0];
  if (name === "magenta") return [level, 0, level];
  if (name !== "fire") return [level, level, level];
  const place = (level / 255) * (FIRE.length - 1);
  const low = Math.min(Math.floor(place), FIRE.length - 2);
  return FIRE[low].map((value, i) => Math.round(value + (FIRE[low + 1][i] - value) * (place - low)));
}

/** Everything that a person can set about how a picture looks; kept for the next visit. */
export class Display extends EventTarget {
  constructor() {
    super();
    this.channel = "raw";
    this.isComposite = false;
    this.isSwapped = false;
    this.low = null;
    this.high = null;
    this.gamma = 1;
    this.lut = "gray";
    this.opacity = 0.5;
    this.isOverlayShown = true;
    this.keepsContrast = false;
    try {
      Object.assign(this, JSON.parse(localStorage.getItem("stedfast.display") ?? "{}"));
    } catch {
      // What another version wrote there is no loss.
    }
  }

  /** Change settings by name, and draw again. */
  set(changes) {
    Object.assign(this, changes);
    const { channel, gamma, lut, opacity, keepsContrast } = this;
    try {
      localStorage.setItem("stedfast.display", JSON.stringify({ channel, gamma, lut, opacity, keepsContrast }));
    } catch {
      // A browser that keeps nothing shows it all the same.
    }
    this.dispatchEvent(new Event("change"));
  }

  /** Begin a new picture: with the window that the server computed, unless the person holds on to theirs. */
  begin() {
    this.isOverlayShown = true;
    if (!this.keepsContrast) this.set({ low: null, high: null });
  }

  /** @returns {[number, number]} the values that are shown as black and as white */
  window(picture) {
    const low = this.low ?? picture.window[0];
    const high = this.high ?? picture.window[1];
    return [low, high > low ? high : low + 1e-6];
  }

  /** What is stored with an answer. */
  record(picture, zoom) {
    const [low, high] = picture ? this.window(picture) : [null, null];
    return {
      channel: this.isComposite ? "composite" : (picture?.name ?? this.channel),
      low,
      high,
      gamma: this.gamma,
      lut: this.isComposite ? "green and magenta" : this.lut,
      zoom,
      is_swapped: this.isSwapped,
    };
  }
}

const STEPS = 1024;

/** Return a function from a value to a level 0..255. */
function levels([low, high], gamma) {
  const curve = new Uint8Array(STEPS + 1);
  for (let i = 0; i <= STEPS; i += 1) curve[i] = Math.round(255 * (i / STEPS) ** gamma);
  const scale = STEPS / (high - low);
  return (value) => {
    const place = (value - low) * scale;
    return curve[place > 0 ? (place < STEPS ? place | 0 : STEPS) : 0];
  };
}

/** Paint a picture, or two on top of each other, into an image. @returns {ImageData} */
export function paint(pictures, display) {
  const { rows, columns } = pictures[0];
  const image = new ImageData(columns, rows);
  const target = new Uint32Array(image.data.buffer);
  if (pictures.length === 1) {
    const colours = table(display.lut);
    const { pixels } = pictures[0];
    const level = levels(display.window(pictures[0]), display.gamma);
    for (let i = 0; i < target.length; i += 1) target[i] = colours[level(pixels[i])];
    return image;
  }
  const names = display.isSwapped ? ["magenta", "green"] : ["green", "magenta"];
  pictures.slice(0, 2).forEach((picture, number) => {
    if (picture.rows !== rows || picture.columns !== columns) return;
    const colours = table(names[number]);
    const level = levels(picture.window, display.gamma);
    // The two tables share no colour, so that adding is the same as putting the bits together.
    for (let i = 0; i < target.length; i += 1) target[i] |= colours[level(picture.pixels[i])];
  });
  return image;
}

/** Return how often values occur, and from where to where the sliders reach. */
export function histogram(picture, most = 100) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of picture.pixels) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (!(low <= high)) [low, high] = [0, 1];
  low = Math.min(low, picture.window[0]);
  high = Math.max(high, picture.window[1], low + 1e-6);
  // Bars of whole numbers hold equally many of them: otherwise there are gaps that mean nothing.
  const step = picture.pixels instanceof Uint16Array ? Math.ceil((high - low) / most) : (high - low) / most;
  const bins = Math.ceil((high - low) / step);
  high = low + bins * step;
  const counts = new Float64Array(bins);
  const scale = bins / (high - low);
  for (const value of picture.pixels) {
    const bin = Math.floor((value - low) * scale);
    if (bin >= 0) counts[Math.min(bins - 1, bin)] += 1;
  }
  return { counts, low, high };
}
