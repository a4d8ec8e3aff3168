// Curves of quality against seconds, with their intervals.

import { duration, make, makeSvg } from "./dom.js";

const [WIDTH, HEIGHT] = [760, 320];
const EDGE = { left: 52, right: 14, top: 14, bottom: 40 };
const COLOURS = { policy: "#ffd479", random: "#56b4e9" };
const OTHERS = ["#19c39c", "#e58bc0", "#ff6e3a"];
const NAMES = { policy: "asked by the strategy", random: "asked by chance" };

/**
 * @param {Object<string, {seconds: number, value: number, low?: number, high?: number}[]>} curves
 * @param {string} measure what `value` is
 */
export function drawCurves(curves, measure) {
  const known = Object.entries(curves).map(([name, points]) => [name, (points ?? []).filter((p) => Number.isFinite(p.value))]);
  const drawn = known.filter(([, points]) => points.length);
  const all = drawn.flatMap(([, points]) => points);
  const most_s = Math.max(1, ...all.map((point) => point.seconds));
  const values = all.flatMap((point) => [point.value, point.low ?? point.value, point.high ?? point.value]);
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const room = Math.max(0.02, (high - low) * 0.08);
  [low, high] = [low - room, high + room];
  const x = (seconds) => EDGE.left + (seconds / most_s) * (WIDTH - EDGE.left - EDGE.right);
  const y = (value) => HEIGHT - EDGE.bottom - ((value - low) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const chart = makeSvg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${measure} against seconds` });
  for (const value of ticks(low, high)) {
    chart.append(
      makeSvg("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(value), y2: y(value) }),
      makeSvg("text", { x: EDGE.left - 8, y: y(value) + 4, "text-anchor": "end" }, Number(value.toPrecision(3))),
    );
  }
  for (const seconds of momentsUpTo(most_s)) {
    chart.append(makeSvg("text", { x: x(seconds), y: HEIGHT - 20, "text-anchor": "middle" }, duration(seconds)));
  }
  chart.append(makeSvg("text", { x: WIDTH / 2, y: HEIGHT - 3, "text-anchor": "middle" }, `seconds of annotation; ${measure}`));
  drawn.forEach(([name, points], i) => {
    const colour = COLOURS[name] ?? OTHERS[i % OTHERS.length];
    const band = points.filter((point) => point.low != null && point.high != null);
    if (band.length > 1) {
      const edge = [...band.map((p) => [x(p.seconds), y(p.high)]), ...band.toReversed().map((p) => [x(p.seconds), y(p.low)])];
      chart.append(makeSvg("polygon", { points: edge.map((place) => place.join(",")).join(" "), fill: colour, opacity: 0.18 }));
    }
    const line = points.map((point) => `${x(point.seconds)},${y(point.value)}`).join(" ");
    chart.append(makeSvg("polyline", { points: line, fill: "none", stroke: colour, "stroke-width": 2.5 }));
    for (const point of points) chart.append(makeSvg("circle", { cx: x(point.seconds), cy: y(point.value), r: 3, fill: colour }));
  });
  return make("figure", { class: "curves" }, chart, make("figcaption", {}, ...drawn.map(([name], i) => legend(name, i))));
}

function legend(name, i) {
  const dot = make("span", { class: "dot" });
  dot.style.background = COLOURS[name] ?? OTHERS[i % OTHERS.length];
  return make("span", { class: "legend" }, dot, NAMES[name] ?? name.replaceAll("_", " "));
}

/** Return about five round numbers between two. */
function ticks(low, high) {
  const rough = (high - low) / 5;
  const decade = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * decade).find((size) => size >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) found.push(value);
  return found;
}

/** Return moments that are easy to say. */
function momentsUpTo(most_s) {
  const step_s = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600].find((step) => most_s / step <= 6) ?? most_s / 5;
  const found = [];
  for (let moment_s = 0; moment_s <= most_s; moment_s += step_s) found.push(moment_s);
  return found;
}
