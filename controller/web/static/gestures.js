// Mouse, pen and fingers on a picture: one draws, Space or the middle button or two fingers move and zoom.

/**
 * Listen on a view.
 * @param {import("./view.js").PictureView} view
 * @param {() => null|{down: Function, move: Function, up: Function, cancel: Function}} drawing who draws, if anybody
 * @param {{isHeld: boolean}} space whether the space bar is down
 */
export function listen(view, drawing, space) {
  const { canvas } = view;
  const fingers = new Map();
  let isPanning = false;

  const at = (event) => [event.clientX, event.clientY];

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button > 1) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, at(event));
    if (fingers.size > 1) {
      if (!isPanning) drawing()?.cancel();
      isPanning = true;
    } else {
      isPanning = !drawing() || space.isHeld || event.button === 1;
      if (!isPanning) drawing().down(view.placeOf(event));
    }
    canvas.classList.toggle("panning", isPanning);
  });

  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before || !isPanning) {
      // The browser bundles movements; a fast stroke needs all of them.
      const all = event.getCoalescedEvents?.() ?? [];
      for (const one of all.length ? all : [event]) drawing()?.move(view.placeOf(one));
      return;
    }
    if (fingers.size === 1) {
      view.pan(event.clientX - before[0], event.clientY - before[1]);
    } else {
      pinch(view, before, at(event), [...fingers].find(([id]) => id !== event.pointerId)[1]);
    }
    fingers.set(event.pointerId, at(event));
  });

  const end = (event) => {
    if (!fingers.delete(event.pointerId)) return;
    if (!isPanning) {
      if (event.type === "pointercancel") drawing()?.cancel();
      else drawing()?.up();
    }
    if (!fingers.size) {
      isPanning = false;
      canvas.classList.remove("panning");
    }
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("dblclick", (event) => {
    if (!drawing()) view.fit();
    event.preventDefault();
  });
}

/** One of two fingers moved: zoom by how much farther apart they are, about the other one. */
function pinch(view, before, after, other) {
  const box = view.canvas.getBoundingClientRect();
  const distance = (point) => Math.max(1, Math.hypot(point[0] - other[0], point[1] - other[1]));
  view.zoomAt(other[0] - box.left, other[1] - box.top, distance(after) / distance(before));
}
