// Starts the page, and takes the keys.

import { get } from "./api.js";
import { Display } from "./contrast.js";
import { Desk } from "./desk.js";
import { button, byId, show, toast } from "./dom.js";
import { toggleHelp } from "./keys.js";
import { Outbox } from "./outbox.js";
import { DisplayPanel } from "./panel.js";
import { Progress } from "./progress.js";

const space = { isHeld: false };

async function start() {
  let me;
  try {
    me = await get("/api/me");
  } catch (error) {
    banner(`${error.words} Open the link that you were given again, or reload this page.`, "bad");
    byId("answers").append(button("Try again", () => location.reload()));
    return;
  }
  const outbox = new Outbox(me.annotator.name, tellWaiting);
  const display = new Display();
  const panel = new DisplayPanel(display);
  let desk = null;
  const progress = new Progress({
    me,
    changed: () => desk?.askAnew(),
    revisit: (answerId) => desk?.revisit(answerId).catch((error) => toast(error.words ?? String(error), "bad")),
  });
  if (!me.may_answer) {
    byId("question").textContent = "You may look, but not answer.";
    byId("hint").textContent = `${me.annotator.name} is ${me.annotator.role} here.`;
    return;
  }
  const wishes = () => progress.wishes();
  const answered = (said, task) => progress.tellWhy(said.why, task);
  desk = new Desk({ me, outbox, display, panel, space, wishes, answered });
  listenTo(desk, display, panel);
  outbox.flush();
  await desk.start();
  setInterval(() => desk.tick(), 5000);
}

function listenTo(desk, display, panel) {
  const touch = () => desk.stopwatch.touch();
  for (const name of ["keydown", "pointerdown", "pointermove", "wheel", "input"]) {
    document.addEventListener(name, touch, { passive: true, capture: true });
  }
  // What was clicked gives the keyboard back: Enter and Space are for the question again.
  document.addEventListener("click", (event) => {
    if (event.detail && document.activeElement?.matches("button, summary, input[type=checkbox]")) {
      document.activeElement.blur();
    }
  });
  document.addEventListener("keydown", (event) => press(event, desk, display, panel));
  document.addEventListener("keyup", (event) => {
    if (event.key === " ") space.isHeld = false;
  });
  window.addEventListener("blur", () => (space.isHeld = false));
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) desk.stopwatch.stop();
    else if (!desk.isPaused) desk.stopwatch.go();
  });
  window.addEventListener("pagehide", () => desk.close());
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload();
  });
  byId("pause").addEventListener("click", () => desk.togglePause());
  byId("keys").addEventListener("click", toggleHelp);
  setInterval(() => showClock(desk), 250);
}

function press(event, desk, display, panel) {
  const { target, key } = event;
  if (byId("help").open) {
    if (key === "?") toggleHelp();
    return;
  }
  if (target.matches?.("select, input[type=text]")) return;
  const isSlider = target.matches?.("input[type=range]");
  if (isSlider && /^(Arrow|Page|Home|End)/.test(key)) return;
  // Tab goes to the buttons, and there these two press them.
  if (target.matches?.("button, input[type=checkbox], summary, a") && (key === "Enter" || key === " ")) return;
  if (key === " ") {
    space.isHeld = true;
    event.preventDefault();
    return;
  }
  if (take(event, desk, display, panel)) event.preventDefault();
}

/** Do what a key says. @returns whether it says anything */
function take(event, desk, display, panel) {
  const { key } = event;
  if (desk.isPaused) {
    if (!["p", "P", "Enter", "Escape"].includes(key)) return false;
    desk.togglePause();
    return true;
  }
  if (key === "?") {
    toggleHelp();
    return true;
  }
  // A key that is held down answers once.
  if (event.repeat && !/^[[\]zy+-]$/i.test(key)) return false;
  if (desk.isReady && desk.kind.key(event)) return true;
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  const actions = {
    d: () => panel.nextChannel(),
    m: () => (event.shiftKey ? display.set({ isSwapped: !display.isSwapped }) : panel.toggleComposite()),
    c: () => panel.auto(),
    l: () => panel.nextTable(),
    o: () => display.set({ isOverlayShown: !display.isOverlayShown }),
    "+": () => desk.views.forEach((view) => view.zoomBy(1.25)),
    "=": () => desk.views.forEach((view) => view.zoomBy(1.25)),
    "-": () => desk.views.forEach((view) => view.zoomBy(0.8)),
    home: () => desk.views.forEach((view) => view.fit()),
    backspace: () => desk.back(),
    0: () => desk.say("nothing here"),
    u: () => desk.say("unsure"),
    enter: () => desk.finish(),
    s: () => desk.skip({ declines: event.shiftKey }),
    p: () => desk.togglePause(),
    escape: () => desk.leave(),
  };
  const needsQuestion = ["0", "u", "enter", "s", "p", "escape"];
  const name = event.code === "Numpad0" ? "0" : key.toLowerCase();
  if (!(name in actions) || (needsQuestion.includes(name) && !desk.isReady)) return false;
  actions[name]();
  return true;
}

function showClock(desk) {
  const seconds = desk.task ? Math.floor(desk.stopwatch.read().elapsed_s) : 0;
  byId("clock").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  byId("clock").classList.toggle("stopped", desk.stopwatch.isIdle);
}

function banner(text, mood = "") {
  const element = byId("banner");
  element.hidden = !text;
  element.className = mood;
  show(element, text);
}

function tellWaiting(count, error) {
  if (!count) {
    banner("");
    return;
  }
  const what = count === 1 ? "1 answer waits" : `${count} answers wait`;
  const why = error?.status === 401 ? "Open the link that you were given again." : (error?.words ?? "");
  banner(`${what} to be sent and is kept in this browser. ${why}`.replace("wait to be sent and is", "wait to be sent and are"), "bad");
}

start();
