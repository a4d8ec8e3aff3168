// The question, and the buttons under the picture: those of its kind and those of every question.

import { byId, keyButton, make, show } from "./dom.js";

const PROPOSALS = "stedfast.proposals";

export class AnswerBar {
  /** @param {import("./desk.js").Desk} desk */
  constructor(desk) {
    this.desk = desk;
  }

  /** Whether a model's proposal is shown to begin with. */
  get wantsProposals() {
    try {
      return localStorage.getItem(PROPOSALS) !== "no";
    } catch {
      return true;
    }
  }

  /** Show the buttons of the question that is shown, or none. */
  show() {
    const { desk } = this;
    const { task, kind } = desk;
    document.body.classList.toggle("revising", Boolean(task?.revises));
    if (!task) {
      byId("question").textContent = desk.me.plan?.question ?? "Labels";
      byId("hint").textContent = "";
      show(byId("answers"), make("div", { class: "bar common" }, keyButton("⌫", "back", () => desk.back(), { class: "quiet" })));
      return;
    }
    byId("question").textContent = task.request.text;
    byId("hint").textContent = task.revises ? "You answered this before. Change it, or Esc to leave it." : kind.hint;
    const extras = [
      kind.needsEnter ? keyButton("↵", "Send", () => desk.finish(), { class: "send" }) : null,
      keyButton("0", kind.nothingHere ?? "nothing here", () => desk.say("nothing here"), { class: "answer plain" }),
      keyButton("U", "unsure", () => desk.say("unsure"), { class: "answer plain" }),
      task.revises
        ? keyButton("Esc", "leave it", () => desk.leave(), { class: "quiet" })
        : keyButton("S", "later", () => desk.skip(), { class: "quiet", title: "Another question first. Shift S: never ask me this one." }),
      keyButton("⌫", "back", () => desk.back(), { class: "quiet" }),
    ];
    show(
      byId("answers"),
      this.#proposal(task),
      kind.bar,
      make("div", { class: "bar common" }, ...extras),
    );
  }

  #proposal(task) {
    const proposal = task.items[0].prefill;
    if (!proposal) return null;
    const tick = make("input", { type: "checkbox", id: "proposal" });
    tick.checked = this.wantsProposals;
    tick.addEventListener("change", () => {
      localStorage.setItem(PROPOSALS, tick.checked ? "yes" : "no");
      tick.blur();
      this.desk.kind.load(tick.checked ? proposal : {});
      if (tick.checked) this.desk.hasSeenProposal = true;
      this.desk.save();
    });
    const text = "Begin with what the model drew, and correct it (changing this starts over)";
    return make("label", { class: "proposal" }, tick, make("span", {}, text));
  }
}
