// The flow of work: fetch a question, show it, take the answer, send it, and the next one.

import { get, post, releaseOnTheWayOut } from "./api.js";
import { button, byId, make, show, toast } from "./dom.js";
import { DrawingKind } from "./drawing.js";
import { listen } from "./gestures.js";
import { AnswerBar } from "./answer_bar.js";
import { ChoiceKind, GradesKind, ScoreKind, TagKind } from "./picking.js";
import { forget, remember, remembered } from "./resume.js";
import { Stopwatch } from "./stopwatch.js";
import { TaskPictures } from "./task_pictures.js";
import { PictureView } from "./view.js";

const KINDS = { tag: TagKind, grades: GradesKind, choice: ChoiceKind, score: ScoreKind };
/** Nobody sees a picture and answers it within this: the key was meant for the one before. */
const SETTLE_MS = 120;
const LOOK_AGAIN_MS = 2000;

export class Desk {
  /**
   * @param {{me: any, outbox: import("./outbox.js").Outbox, display: import("./contrast.js").Display,
   *          panel: import("./panel.js").DisplayPanel, space: {isHeld: boolean}, wishes: () => object,
   *          answered: (said: any) => void}} parts
   */
  constructor({ me, outbox, display, panel, space, wishes, answered }) {
    Object.assign(this, { me, outbox, display, panel, space, wishes, answered });
    this.stopwatch = new Stopwatch();
    this.bar = new AnswerBar(this);
    this.task = null;
    this.kind = null;
    this.held = null; // the question that waits while an earlier answer is changed
    this.trail = null; // my answers, newest first, while going back through them
    this.step = -1;
    this.views = [];
    this.pictures = null; // of the task that is shown
    this.turn = 0; // counts what is to be shown; what arrives for an earlier turn is not
    this.isReady = false;
    this.isPaused = false;
    this.renewed_ms = 0;
    display.addEventListener("change", () => this.#changeChannel());
  }

  /** Go on where a reload interrupted, or ask for the first question. */
  async start() {
    const saved = remembered(this.me.annotator.name);
    if (saved) {
      try {
        await post("/api/renew", { lease_id: saved.task.lease.id });
        this.renewed_ms = performance.now();
        await this.#show(saved.task, saved);
        return;
      } catch {
        // Somebody else has it by now, or it is answered.
      }
    }
    await this.next();
  }

  /** Ask for the next question; `insteadOf` gives another one back. @returns whether there is one */
  async next({ insteadOf } = {}) {
    const turn = this.#newTurn();
    try {
      const { task } = await post("/api/next", { ...this.wishes(), ...(insteadOf ? { instead_of: insteadOf } : {}) });
      if (turn !== this.turn) {
        if (task) releaseOnTheWayOut(task.lease.id);
        return false;
      }
      this.renewed_ms = performance.now();
      if (task) await this.#show(task);
      else this.#wait("Nothing to ask just now", "The next question appears here by itself.");
      return Boolean(task);
    } catch (error) {
      this.#fail(error);
      return false;
    }
  }

  // Showing.

  async #show(task, { reply = null, clock = {}, hasSeenProposal = false } = {}) {
    const turn = this.#newTurn();
    this.pictures = new TaskPictures(this.display);
    const firsts = await Promise.all(task.items.map((item) => this.pictures.load(item)));
    if (turn !== this.turn) {
      if (!task.revises && task !== this.held?.task) releaseOnTheWayOut(task.lease.id);
      return;
    }
    this.task = task;
    this.#layOut(task);
    this.display.begin();
    task.items.forEach((item, i) => this.views[i].show(item, firsts[i], { isNew: true }));
    this.panel.show(task.items[0], firsts[0][0]);
    this.#makeKind(task);
    this.hasSeenProposal = hasSeenProposal;
    if (reply) this.kind.load(reply);
    else this.#propose();
    this.bar.show();
    this.stopwatch.start(clock);
    if (this.isPaused || document.hidden) this.stopwatch.stop();
    this.isReady = true;
    this.shown_ms = performance.now();
    byId("stage").classList.remove("waiting");
    performance.mark("question shown");
    this.save();
    for (const item of task.items) {
      for (const { name } of item.channels) this.pictures.load(item, [name]).catch(() => {});
    }
  }

  #layOut(task) {
    const stage = byId("stage");
    stage.dataset.kind = task.request.kind;
    if (this.views.length === task.items.length && task.items.length === 1) return;
    this.views.forEach((view) => view.close());
    this.views = task.items.map(() => {
      const view = new PictureView(this.display, { hover: (text) => (byId("value").textContent = text) });
      listen(view, () => (this.isReady && !this.isPaused && this.kind instanceof DrawingKind ? this.kind : null), this.space);
      return view;
    });
    stage.classList.toggle("many", task.items.length > 1);
    show(stage, ...this.views.map((view) => make("figure", {}, view.canvas)));
  }

  #makeKind(task) {
    const services = { send: (reply) => this.send(reply), changed: () => this.save(), view: this.views[0] };
    this.views[0].overlay = null;
    const Kind = KINDS[task.request.kind] ?? DrawingKind;
    this.kind = new Kind(task, services);
    if (!(this.kind instanceof ChoiceKind)) return;
    this.views.forEach((view, i) => {
      view.canvas.parentElement.querySelector("button")?.remove();
      view.canvas.after(this.kind.buttons[i]);
    });
  }

  #propose() {
    const proposal = this.task.items[0].prefill;
    if (!proposal || !this.bar.wantsProposals) return;
    this.kind.load(proposal);
    this.hasSeenProposal = true;
  }

  async #changeChannel() {
    if (!this.isReady) return;
    const turn = this.turn;
    try {
      for (const [i, item] of this.task.items.entries()) {
        const names = this.pictures.wanted(item);
        if (names.join() === this.views[i].pictures.map((picture) => picture.name).join()) continue;
        const pictures = await this.pictures.load(item, names);
        if (turn !== this.turn) return;
        this.views[i].show(item, pictures, { isNew: false });
        if (i === 0) this.panel.show(item, pictures[0]);
      }
    } catch (error) {
      toast(error.words ?? String(error), "bad");
    }
  }

  #newTurn() {
    this.turn += 1;
    this.isReady = false;
    clearTimeout(this.again);
    return this.turn;
  }

  /** Nothing can be answered now: say why, and look again. */
  #wait(title, text, action = null) {
    this.task = null;
    this.kind = null;
    this.save();
    byId("stage").classList.add("waiting");
    this.views.forEach((view) => view.close());
    this.views = [];
    show(byId("stage"), make("div", { class: "cover" }, make("h2", {}, title), make("p", {}, text), action));
    this.bar.show();
    if (action) return;
    const look = () => {
      // A tab that nobody sees takes no question from others.
      if (document.hidden) this.again = setTimeout(look, LOOK_AGAIN_MS);
      else this.next();
    };
    this.again = setTimeout(look, LOOK_AGAIN_MS);
  }

  #fail(error) {
    if (error.status === 401) {
      this.#wait("This link does not open the page any more", "Open the link that you were given again.",
        button("Try again", () => location.reload()));
    } else if (error.status === 403) {
      this.#wait("You may look, but not answer", error.words, button("Try again", () => location.reload()));
    } else if (error.mayPass) {
      const title = error.status === 0 ? error.message.replace(/\.$/, "") : "The server is in trouble";
      const why = error.status === 0 ? "" : `${error.words} `;
      this.#wait(title, `${why}This page tries again by itself; what you answered is kept.`);
    } else {
      this.#wait("This question cannot be shown", error.words, button("Try again", () => this.next()));
    }
  }

  // Answering.

  /** Send what was said, and show the next question. */
  async send(reply) {
    if (!this.isReady || this.isPaused || performance.now() - this.shown_ms < SETTLE_MS) return;
    const { task } = this;
    const isDrawn = this.kind instanceof DrawingKind && reply.annotations;
    this.isReady = false;
    performance.mark("answered");
    const outcome = this.outbox.send(this.#submission(task, reply));
    this.trail = null;
    forget(); // a reload must not show it again
    if (!isDrawn) this.task = null; // it is no longer ours to give back
    const told = outcome.then((result) => this.#hear(result, task));
    // What was drawn stays until the server has looked at it; what took one key need not wait.
    const mayBeLate = performance.now() - this.renewed_ms > task.lease.lease_s * 800;
    if ((isDrawn || mayBeLate) && !(await told) && isDrawn) {
      this.isReady = true;
      this.save();
      return;
    }
    if (this.held) await this.#takeUp();
    else await this.next();
  }

  #submission(task, reply) {
    const { elapsed_s, idle_s } = this.stopwatch.read();
    const picture = this.views[0].pictures[0];
    return {
      key: newKey(),
      lease_id: task.lease.id,
      reply: { outcome: "answered", ...reply },
      elapsed_s: Number(elapsed_s.toFixed(3)),
      idle_s: Number(idle_s.toFixed(3)),
      display: this.display.record(picture, this.views[0].zoom),
      prefill_sha256: this.hasSeenProposal ? task.items[0].prefill.model_sha256 : null,
      client: "web page",
      revises: task.revises ?? null,
    };
  }

  /** Tell what became of an answer. @returns whether the question is done with */
  #hear({ said, refused }, task) {
    if (said) this.answered(said, task);
    if (!refused) return true;
    if (refused.status === 409) {
      toast(`Not stored: “${task.request.text}” had gone to somebody else meanwhile.`, "bad");
      return true;
    }
    toast(`Not stored: ${refused.words}`, "bad");
    return false;
  }

  /** Send what is set or drawn. */
  finish() {
    const reply = this.kind.reply();
    if (typeof reply === "string") toast(reply);
    else this.send(reply);
  }

  say(outcome) {
    if (this.kind?.hasMarks) {
      toast("Something is marked. Enter sends it; Delete removes it.");
      return;
    }
    this.send({ outcome });
  }

  /** Another question first, or never this one again. */
  async skip({ declines = false } = {}) {
    if (!this.isReady) return;
    if (this.held) {
      await this.#takeUp();
      return;
    }
    const old = this.task.lease.id;
    if (declines) {
      this.#newTurn();
      await post("/api/release", { lease_id: old, declines: true }).catch((error) => toast(error.words, "bad"));
      await this.next();
      return;
    }
    // The next one is asked for first: given back first, this one would be the next one.
    const { task: before, kind } = this;
    const draft = kind.draft?.() ?? null;
    const clock = this.stopwatch.read();
    if (await this.next()) {
      releaseOnTheWayOut(old);
    } else {
      toast("There is no other question just now.");
      await this.#show(before, { reply: draft, clock });
    }
  }

  // Going back.

  /** Show my last answer; again: the one before. */
  async back() {
    try {
      await this.outbox.settled();
      if (!this.trail) {
        const found = await get("/api/history?limit=50");
        this.trail = found.filter((answer) => answer.is_kept && answer.request_id);
        this.step = -1;
      }
      if (this.step + 1 >= this.trail.length) {
        toast(this.trail.length ? "That is the first of your last answers." : "You have not answered anything yet.");
        return;
      }
      this.step += 1;
      await this.revisit(this.trail[this.step].answer_id);
    } catch (error) {
      toast(error.words ?? String(error), "bad");
    }
  }

  /** Show an earlier answer, to be changed. */
  async revisit(answerId) {
    const task = await post("/api/revisit", { answer_id: answerId });
    if (!this.held && this.isReady && !this.task.revises) this.held = this.#state();
    await this.#show(task, { reply: task.reply });
  }

  /** Give back what is shown, because the person wants to be asked something else. */
  async askAnew() {
    const { lease } = this.held?.task ?? this.task ?? {};
    this.held = null;
    await this.next({ insteadOf: lease?.id });
  }

  /** Leave an earlier answer as it is. */
  async leave() {
    if (this.task?.revises) {
      this.trail = null;
      await this.#takeUp();
    }
  }

  async #takeUp() {
    const { held } = this;
    this.held = null;
    if (!held) {
      await this.next();
      return;
    }
    try {
      await this.#renew(held.task);
      await this.#show(held.task, held);
    } catch {
      await this.next();
    }
  }

  // Leases, pauses, reloads.

  #state() {
    const draft = this.kind.draft ? this.kind.draft() : this.kind.reply();
    return {
      task: this.task,
      reply: typeof draft === "string" ? null : draft,
      clock: this.stopwatch.read(),
      hasSeenProposal: this.hasSeenProposal,
    };
  }

  async #renew(task) {
    await post("/api/renew", { lease_id: task.lease.id });
    this.renewed_ms = performance.now();
  }

  /** Hold on to the question while somebody works on it; called every few seconds. */
  async tick() {
    const { task } = this;
    if (!this.isReady || task.revises || this.stopwatch.isIdle) return;
    if (performance.now() - this.renewed_ms < (task.lease.lease_s * 1000) / 3) return;
    try {
      await this.#renew(task);
    } catch (error) {
      if (error.status !== 409 || task !== this.task || !this.isReady) return;
      toast("This question has gone to somebody else meanwhile.", "bad");
      await this.next();
    }
  }

  togglePause() {
    if (!this.isReady) return;
    this.isPaused = !this.isPaused;
    document.body.classList.toggle("paused", this.isPaused);
    show(byId("pause"), make("kbd", {}, "P"), make("span", {}, this.isPaused ? "Go on" : "Pause"));
    if (this.isPaused) this.stopwatch.stop();
    else {
      this.stopwatch.go();
      this.renewed_ms = -Infinity;
      this.tick();
    }
  }

  /** Keep what is done so far, for a reload of this tab. */
  save() {
    const state = this.held ?? (this.isReady && !this.task.revises ? this.#state() : null);
    if (state) remember(this.me.annotator.name, state);
    else if (!this.task) forget();
  }

  /** The tab closes: others may have the question. */
  close() {
    this.save();
    for (const task of [this.task, this.held?.task]) if (task && !task.revises) releaseOnTheWayOut(task.lease.id);
  }
}

/** Return a new name for an answer. `crypto.randomUUID` is missing where a lab has no certificate. */
function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
