// Small helpers for the page. Text from the server only ever becomes text nodes, never markup.

export const byId = (id) => document.getElementById(id);

/**
 * Make an element.
 * @param {string} tag
 * @param {Object<string, any>} settings attributes; a function under a name like "onclick" listens
 * @param {...(Node|string|number|null|undefined)} children
 */
export function make(tag, settings = {}, ...children) {
  return fill(document.createElement(tag), settings, children);
}

/** Make an element of a drawing. */
export function makeSvg(tag, settings = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), settings, children);
}

function fill(element, settings, children) {
  for (const [name, value] of Object.entries(settings)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, String(value));
  }
  for (const child of children) {
    if (child != null) element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** Replace what an element holds. */
export function show(element, ...children) {
  element.replaceChildren(...children.filter((child) => child != null));
}

/** Say something that goes away by itself. `mood` is "note", "good" or "bad". */
export function toast(text, mood = "note") {
  const note = make("p", { class: `toast ${mood}` }, text);
  byId("toasts").append(note);
  setTimeout(() => note.remove(), mood === "bad" ? 9000 : 4000);
}

/** A button. */
export function button(label, action, settings = {}) {
  return make("button", { type: "button", onclick: action, ...settings }, label);
}

/** A button that shows its key. */
export function keyButton(key, label, action, settings = {}) {
  const made = button("", action, settings);
  if (key) made.append(make("kbd", {}, key));
  made.append(make("span", {}, label));
  return made;
}

const PREFIXES = [
  [1e-9, "n"],
  [1e-6, "µ"],
  [1e-3, "m"],
  [1, ""],
];
const UNITS = { _j_per_m2: "J/m²", _per_s: "/s", _m: "m", _s: "s", _w: "W", _j: "J" };

/** Write a number with a prefix: 6e-8 m is "60 nm". */
export function withUnit(value, unit) {
  const size = Math.abs(value);
  const [scale, prefix] = PREFIXES.findLast(([step]) => size >= step * 0.9995) ?? [1, ""];
  return `${Number((value / scale).toPrecision(3))} ${prefix}${unit}`;
}

/** Say a named value in words: ("resolution_m", 6e-8) is "resolution 60 nm". */
export function inWords(name, value) {
  const suffix = Object.keys(UNITS).find((ending) => name.endsWith(ending));
  const words = (suffix ? name.slice(0, -suffix.length) : name).replaceAll("_", " ");
  if (typeof value !== "number") return `${words} ${value}`;
  if (suffix) return `${words} ${withUnit(value, UNITS[suffix])}`;
  if (name.endsWith("fraction")) return `${words.replace(/ ?fraction$/, "")} ${Number((value * 100).toPrecision(3))} %`;
  return `${words} ${Number(value.toPrecision(4))}`;
}

/** Write seconds as people say them. */
export function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}
