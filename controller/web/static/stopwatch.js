// How long somebody works on a question. The clock stops after 20 s without any input, while the tab is
// hidden and during a pause; what it leaves out is kept apart as idle seconds.

export const IDLE_AFTER_S = 20;

export class Stopwatch {
  /** @param {() => number} now_s a clock that never goes back */
  constructor(now_s = () => performance.now() / 1000) {
    this.now_s = now_s;
    this.start();
  }

  /** Begin at 0, or go on from what was counted before a reload. */
  start({ elapsed_s = 0, idle_s = 0 } = {}) {
    this.elapsed_s = elapsed_s;
    this.idle_s = idle_s;
    this.isStopped = false;
    this.counted_s = this.now_s();
    this.input_s = this.counted_s;
  }

  /** Somebody touched a key, the mouse or the screen. */
  touch() {
    this.#count();
    this.input_s = this.now_s();
  }

  /** Stop until `go`. */
  stop() {
    this.#count();
    this.isStopped = true;
  }

  go() {
    this.#count();
    this.isStopped = false;
    this.input_s = this.now_s();
  }

  /** Whether nobody seems to be there. */
  get isIdle() {
    return this.isStopped || this.now_s() - this.input_s > IDLE_AFTER_S;
  }

  /** @returns {{elapsed_s: number, idle_s: number}} */
  read() {
    this.#count();
    return { elapsed_s: this.elapsed_s, idle_s: this.idle_s };
  }

  #count() {
    const now = this.now_s();
    const ends = this.isStopped ? this.counted_s : Math.min(now, this.input_s + IDLE_AFTER_S);
    const worked = Math.max(0, ends - this.counted_s);
    this.elapsed_s += worked;
    this.idle_s += Math.max(0, now - this.counted_s - worked);
    this.counted_s = now;
  }
}
