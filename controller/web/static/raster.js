// Masks pixel by pixel: one byte a pixel, row by row, 0 where nothing is painted.

/** @typedef {{rows: number, columns: number, pixels: Uint8Array}} Mask */

/** @returns {Mask} */
export function emptyMask(rows, columns) {
  return { rows, columns, pixels: new Uint8Array(rows * columns) };
}

/**
 * Paint every pixel whose centre is no farther than half of `size` from the line between two places (y, x),
 * and the pixels under its ends.
 */
export function paintLine(mask, from, to, size, value) {
  const { rows, columns, pixels } = mask;
  const radius = size / 2;
  const [dy, dx] = [to[0] - from[0], to[1] - from[1]];
  const squared = dy * dy + dx * dx;
  const first = (a, b) => Math.max(0, Math.ceil(Math.min(a, b) - radius));
  const last = (a, b, most) => Math.min(most - 1, Math.floor(Math.max(a, b) + radius));
  for (let y = first(from[0], to[0]); y <= last(from[0], to[0], rows); y += 1) {
    for (let x = first(from[1], to[1]); x <= last(from[1], to[1], columns); x += 1) {
      const along = squared ? Math.min(1, Math.max(0, ((y - from[0]) * dy + (x - from[1]) * dx) / squared)) : 0;
      const [away_y, away_x] = [y - from[0] - along * dy, x - from[1] - along * dx];
      if (away_y * away_y + away_x * away_x <= radius * radius) pixels[y * columns + x] = value;
    }
  }
  for (const [y, x] of [from, to].map((place) => place.map(Math.round))) {
    if (y >= 0 && x >= 0 && y < rows && x < columns) pixels[y * columns + x] = value;
  }
}

/** Paint everything that is like the pixel at (y, x) and connected with it by its sides. */
export function flood(mask, y, x, value) {
  const { rows, columns, pixels } = mask;
  const old = pixels[y * columns + x];
  if (old === value) return;
  const todo = [y * columns + x];
  while (todo.length) {
    const at = todo.pop();
    if (pixels[at] !== old) continue;
    pixels[at] = value;
    const column = at % columns;
    if (column > 0) todo.push(at - 1);
    if (column < columns - 1) todo.push(at + 1);
    if (at >= columns) todo.push(at - columns);
    if (at < columns * (rows - 1)) todo.push(at + columns);
  }
}

/** Paint the pixels whose centres lie inside an outline of (y, x), by the even-odd rule. */
export function paintOutline(mask, vertices, value) {
  for (let y = 0; y < mask.rows; y += 1) {
    for (let x = 0; x < mask.columns; x += 1) {
      if (isInside(vertices, y, x)) mask.pixels[y * mask.columns + x] = value;
    }
  }
}

/** Whether (y, x) lies inside an outline, by the even-odd rule. */
export function isInside(vertices, y, x) {
  let inside = false;
  for (let i = 0, j = vertices.length - 1; i < vertices.length; j = i, i += 1) {
    const [y1, x1] = vertices[i];
    const [y2, x2] = vertices[j];
    if (y1 > y !== y2 > y && x < x1 + ((y - y1) * (x2 - x1)) / (y2 - y1)) inside = !inside;
  }
  return inside;
}

/** Return runs [value, how many], row by row. */
export function encodeRuns(pixels) {
  const runs = [];
  let start = 0;
  for (let i = 1; i <= pixels.length; i += 1) {
    if (i === pixels.length || pixels[i] !== pixels[start]) {
      runs.push([pixels[start], i - start]);
      start = i;
    }
  }
  return runs;
}

/** Call `visit(row, column, value)` for each painted pixel of a mask annotation, in pixels of the sample. */
export function eachPainted({ shape_yx: [, columns], origin_yx: [top, left] = [0, 0], runs }, visit) {
  let at = 0;
  for (const [value, length] of runs) {
    if (value) {
      for (let i = at; i < at + length; i += 1) visit(top + Math.floor(i / columns), left + (i % columns), value);
    }
    at += length;
  }
}

/** Whether places (y, x) enclose anything: at least three that lie on no common line. */
export function hasInside(vertices) {
  if (vertices.length < 3) return false;
  const [[y0, x0]] = vertices;
  let [far_y, far_x] = [0, 0];
  for (const [y, x] of vertices) {
    if (Math.hypot(y - y0, x - x0) > Math.hypot(far_y, far_x)) [far_y, far_x] = [y - y0, x - x0];
  }
  const length = Math.hypot(far_y, far_x);
  return vertices.some(([y, x]) => Math.abs((y - y0) * far_x - (x - x0) * far_y) > 1e-2 * length);
}
