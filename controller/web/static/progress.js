// What the side panel tells: how far the work is, what the answers changed, and my last answers.

import { get } from "./api.js";
import { byId, button, duration, inWords, make, show } from "./dom.js";
import { AMBIGUOUS, NOTHING_HERE, colourOf } from "./colours.js";

const POLL_MS = 2000;
const KINDS = {
  everything: {},
  "quick ones": { kinds: ["tag", "grades", "choice", "score"] },
  "those to draw": { kinds: ["points", "scribble", "box", "polygon", "mask"] },
  "only of now": { live_only: true },
};
const WISH = "stedfast.wish";

export class Progress {
  /** @param {{me: any, changed: () => void, revisit: (answerId: string) => void}} parts */
  constructor({ me, changed, revisit }) {
    Object.assign(this, { me, revisit });
    this.waiting = 0;
    this.status = null;
    this.wish = make("select", { "aria-label": "what to be asked" }, ...Object.keys(KINDS).map((name) => make("option", {}, name)));
    this.wish.value = stored(WISH) in KINDS ? stored(WISH) : "everything";
    this.wish.addEventListener("change", () => {
      localStorage.setItem(WISH, this.wish.value);
      this.wish.blur();
      changed();
    });
    byId("history-box").addEventListener("toggle", () => this.refreshHistory());
    this.#poll();
  }

  /** What this person wants to be asked. */
  wishes() {
    return KINDS[this.wish.value] ?? {};
  }

  async #poll() {
    if (!document.hidden) await this.refresh();
    setTimeout(() => this.#poll(), POLL_MS);
  }

  async refresh() {
    try {
      this.status = await get("/api/status");
      this.#show();
    } catch {
      // The desk says when the server is gone; old figures are better than none.
    }
  }

  /** Tell why something was asked, now that it is answered. */
  tellWhy(why) {
    byId("why").textContent = why ? reasonOf(why) : "";
    this.refreshHistory();
  }

  async refreshHistory() {
    if (!byId("history-box").open) return;
    try {
      const answers = (await get("/api/history?limit=50")).filter((answer) => answer.is_kept);
      show(byId("history"), ...answers.slice(0, 12).map((answer) => this.#historyLine(answer)));
    } catch {
      // It is asked for again with the next answer.
    }
  }

  #historyLine(answer) {
    const told = answer.outcome === "answered" && answer.told.length ? answer.told.join(", ") : said(answer);
    const line = button("", () => this.revisit(answer.answer_id), { class: "line", title: answer.text });
    line.append(make("span", {}, told), make("small", {}, `${answer.kind} · ${duration(answer.elapsed_s)}`));
    return make("li", {}, line);
  }

  #show() {
    const { counts, mine, models = [], workers = [], session, events = [] } = this.status;
    const classes = this.me.schema?.classes ?? [];
    byId("mine").textContent = `${mine.answers} answered`;
    const open = counts.open_live + counts.open_later;
    show(
      byId("progress"),
      facts([
        ["I answered", `${mine.answers} in ${duration(mine.seconds)}`],
        ["everybody", `${counts.answers} in ${duration(counts.answer_s)}`],
        ["open", `${open} (${counts.open_live} of now)`],
        session ? ["session", `${session.name ?? ""} ${session.state ?? ""}`] : null,
        session?.cycles != null ? ["cycles", session.cycles] : null,
      ]),
      bars(counts.per_class, classes),
      make("label", { class: "row" }, "ask me", this.wish),
      ...workers.filter((worker) => worker.is_late || worker.state === "failed").map(workerLine),
    );
    show(byId("changes"), ...changes(models, events), make("p", {}, make("a", { href: "/worth" }, "What the seconds bought")));
  }
}

function said({ outcome, kind }) {
  return outcome === "answered" ? kind : outcome;
}

function stored(name) {
  try {
    return localStorage.getItem(name) ?? "";
  } catch {
    return "";
  }
}

/** Return rows of a name and a value. */
export function facts(rows) {
  return make("dl", { class: "facts" },
    ...rows.filter(Boolean).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

/** Return a bar for each class: how many answers say that it is there. */
export function bars(perClass, classes) {
  const names = [...classes, ...Object.keys(perClass).filter((name) => !classes.includes(name))];
  const most = Math.max(1, ...Object.values(perClass));
  return make("div", { class: "bars" }, ...names.map((name) => {
    const count = perClass[name] ?? 0;
    const bar = make("span", { class: "fill" });
    bar.style.width = `${(100 * count) / most}%`;
    bar.style.background = classes.includes(name) ? colourOf(classes, name) : colourOf(classes, NOTHING_HERE);
    return make("div", { class: "count" }, make("span", { class: "name" }, name === AMBIGUOUS ? "unsure" : name), make("span", { class: "track" }, bar),
      make("output", {}, count));
  }));
}

function workerLine(worker) {
  const text = worker.state === "failed" ? `failed: ${worker.message}` : `no sign of life for ${duration(worker.age_s)}`;
  return make("p", { class: "bad" }, `${worker.name} ${text}`);
}

function changes(models, events) {
  if (!models.length && !events.length) {
    return [make("p", { class: "quiet" }, "Nothing yet: a model learns when there are enough answers.")];
  }
  const told = models.slice(0, 4).map((model) =>
    make("div", { class: `model ${model.verdict}` },
      make("strong", {}, `${model.role} ${model.sha256.slice(0, 8)} ${model.verdict}`),
      make("p", {}, `${model.answers} answers, ${duration(model.answer_s)}. ${model.reason}`),
      make("p", { class: "metrics" }, Object.entries(model.metrics).slice(0, 4).map(([name, value]) => inWords(name, value)).join(" · "))),
  );
  const lately = events.slice(-4).reverse().map((event) => make("li", {}, eventText(event)));
  return [...told, lately.length ? make("ul", { class: "events" }, ...lately) : null];
}

function eventText({ what, detail }) {
  const rest = Object.entries(detail ?? {})
    .filter(([, value]) => ["string", "number"].includes(typeof value))
    .map(([name, value]) => inWords(name, /sha256$/.test(name) ? String(value).slice(0, 8) : value));
  return [what.replaceAll("_", " "), ...rest].join(", ");
}

/** Say why a question was asked. Only afterwards: before, it would colour the answer. */
function reasonOf({ arm, strategy, score, reason, predicted_class: predicted }) {
  const took = predicted ? ` The model took it for “${predicted}”.` : "";
  if (arm === "random_audit") return `The last one was picked by chance, to judge the models fairly.${took}`;
  if (arm === "session") return `The session itself asked the last one${reason ? `: ${reason}` : ""}.${took}`;
  if (arm === "import") return `The last one was brought along.${took}`;
  if (!strategy || strategy === "none") return reason ? `The last one was asked because: ${reason}.${took}` : took.trim();
  return `${strategy} picked the last one (${Number((score ?? 0).toPrecision(3))})${reason ? `: ${reason}` : ""}.${took}`;
}
