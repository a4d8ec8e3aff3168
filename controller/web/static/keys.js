// What the keys do; shown by "?".

import { button, byId, make, show } from "./dom.js";

const KEYS = [
  ["Answer", [
    ["1 – 9", "a class, an image, a score; while drawing: the class to draw"],
    ["0", "nothing here"],
    ["U", "unsure"],
    ["Enter", "send, where one key is not enough"],
    ["S", "later: another question first"],
    ["Shift S", "never ask me this one"],
    ["Backspace", "back to my last answer, again: to the one before"],
    ["Esc", "leave an earlier answer as it is"],
    ["P", "pause"],
  ]],
  ["Picture", [
    ["D", "raw or denoised, or the next channel"],
    ["M", "two channels in green and magenta; Shift M swaps the colours"],
    ["C", "contrast as it came"],
    ["L", "colour table"],
    ["O", "show or hide what is drawn"],
    ["Space + drag", "move"],
    ["wheel, + and −", "zoom"],
    ["Home", "all of it"],
  ]],
  ["Drawing", [
    ["B", "point, stroke, box or brush"],
    ["E", "erase"],
    ["F", "fill what is enclosed"],
    ["T", "outline"],
    ["[ and ]", "smaller and larger brush"],
    ["X", "background"],
    ["A", "cannot tell"],
    ["K", "everything is marked, or not"],
    ["Ctrl Z, Shift Ctrl Z", "undo, redo"],
    ["Delete", "remove all"],
  ]],
];

/** Open or close the list of keys. */
export function toggleHelp() {
  const dialog = byId("help");
  if (dialog.open) {
    dialog.close();
    return;
  }
  const groups = KEYS.map(([title, keys]) =>
    make(
      "section",
      {},
      make("h3", {}, title),
      make("dl", {}, ...keys.flatMap(([key, what]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, what)])),
    ),
  );
  show(dialog, make("h2", {}, "Keys"), make("div", { class: "columns" }, ...groups), button("Close", () => dialog.close()));
  dialog.showModal();
}
