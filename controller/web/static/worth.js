// The page that says what the seconds of annotation bought.

import { get } from "./api.js";
import { drawCurves } from "./chart.js";
import { byId, duration, inWords, make, show } from "./dom.js";
import { bars, facts } from "./progress.js";

const AGAIN_MS = 10_000;
/** Parts that have a form of their own; any other part becomes a table. */
const OWN = new Set(["curves", "measure", "ratio", "why", "bought", "short", "agreement", "notes"]);

async function refresh() {
  try {
    const [worth, status, me] = await Promise.all([get("/api/worth"), get("/api/status"), get("/api/me")]);
    draw(worth, status, me.schema?.classes ?? []);
  } catch (error) {
    byId("summary").textContent = error.words ?? String(error);
  }
  setTimeout(refresh, AGAIN_MS);
}

function draw(worth, status, classes) {
  const { counts, models = [] } = status;
  byId("summary").textContent =
    `${counts.answers} answers in ${duration(counts.answer_s)}; ${counts.open_live + counts.open_later} questions open.`;
  const rest = Object.entries(worth).filter(([name]) => !OWN.has(name));
  show(
    byId("parts"),
    part("Does asking cleverly help?", ...quality(worth)),
    part("What was bought", ...bought(worth, counts, classes)),
    part("Who agrees with whom", agreement(worth.agreement)),
    part("Models", models.length ? table(models.map(modelRow)) : quiet("No model was trained yet.")),
    ...(worth.notes?.length ? [part("Notes", ...worth.notes.map((note) => make("p", {}, note)))] : []),
    ...rest.map(([name, content]) => part(name.replaceAll("_", " "), anything(content))),
  );
}

function part(title, ...content) {
  return make("section", {}, make("h2", {}, title), ...content);
}

function quiet(text) {
  return make("p", { class: "quiet" }, text);
}

function quality({ curves = {}, measure = "quality", ratio, why }) {
  const drawn = Object.values(curves).some((points) => points?.length);
  const said = ratio
    ? `For the same ${measure} chance needs ${figure(ratio.value)} times the seconds that the strategy needs ` +
      `(95 % interval ${figure(ratio.low)} to ${figure(ratio.high)}).`
    : (why ?? "There are too few answers to tell.");
  return [make("p", {}, said), drawn ? drawCurves(curves, measure) : null];
}

function bought({ bought: list, short }, counts, classes) {
  const shown = [
    list?.length
      ? table(list.map((row) => ({ class: row.class, answers: row.answers, "time spent": duration(row.seconds ?? 0) })))
      : bars(counts.per_class, classes),
  ];
  if (short?.length) shown.push(make("p", {}, `Short of: ${short.map((one) => one.class ?? one).join(", ")}.`));
  return shown;
}

function agreement(rows) {
  if (!rows?.length) return quiet("Nobody has answered what another one answered.");
  return table(
    rows.map(({ first, second, measure, value, items, reason }) => ({
      who: second ? `${first} and ${second}` : (first ?? "all"),
      measure: measure ?? "",
      agreement: value == null ? (reason ?? "not known") : figure(value),
      items,
    })),
  );
}

function modelRow(model) {
  return {
    model: `${model.role} ${model.sha256.slice(0, 8)}`,
    verdict: model.verdict,
    answers: model.answers,
    "time spent": duration(model.answer_s),
    figures: Object.entries(model.metrics).map(([name, value]) => inWords(name, value)).join(", "),
    reason: model.reason,
  };
}

/** Show content of a form that this page does not know. */
function anything(content) {
  if (Array.isArray(content) && content.length && content.every((row) => row && typeof row === "object")) {
    return table(content);
  }
  if (content && typeof content === "object" && !Array.isArray(content)) {
    return facts(Object.entries(content).map(([name, value]) => [name.replaceAll("_", " "), cell(value)]));
  }
  return make("p", {}, cell(content));
}

function table(rows) {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  return make(
    "div",
    { class: "wide" },
    make(
      "table",
      {},
      make("thead", {}, make("tr", {}, ...names.map((name) => make("th", {}, name.replaceAll("_", " "))))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...names.map((name) => make("td", {}, cell(row[name])))))),
    ),
  );
}

function cell(value) {
  if (value == null) return "–";
  if (typeof value === "number") return figure(value);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function figure(value) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(3))) : "–";
}

refresh();
