// A colour for each class, apart for eyes of all kinds (after Okabe and Ito), on pictures in grey.

const COLOURS = ["#56b4e9", "#e69f00", "#19c39c", "#f0e442", "#e58bc0", "#ff6e3a", "#8f9bff", "#b5e655", "#d0a984"];
export const NOTHING_HERE = "nothing here";
export const AMBIGUOUS = "ambiguous";

/** Return the colour of a class among the classes of a task. */
export function colourOf(classes, name) {
  if (name === NOTHING_HERE) return "#9fb0c0";
  if (name === AMBIGUOUS) return "#ff5cf4";
  return COLOURS[Math.max(0, classes.indexOf(name)) % COLOURS.length];
}

/** Return a colour's red, green and blue, 0..255. */
export function channelsOf(colour) {
  return [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
}
