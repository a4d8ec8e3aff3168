// Answers on their way. Each is kept in the browser until the server says that it has it, so neither a
// killed server nor a closed tab loses one. Its key makes sending it twice harmless.

import { post } from "./api.js";

const PREFIX = "stedfast.answer.";
const LONGEST_WAIT_S = 15;

export class Outbox {
  /**
   * @param {string} person whose answers these are: another person at this browser does not send them
   * @param {(waiting: number, error: Error|null) => void} onChange
   */
  constructor(person, onChange) {
    this.person = person;
    this.onChange = onChange;
    this.listeners = new Map();
    this.unsaved = new Map();
    this.sending = null;
    this.timer = 0; // of the next try
    this.failures = 0;
  }

  /** Answers that the server does not have yet, the oldest first. */
  waiting() {
    const found = [];
    for (let i = 0; i < localStorage.length; i += 1) {
      const name = localStorage.key(i);
      if (!name.startsWith(PREFIX)) continue;
      try {
        const entry = JSON.parse(localStorage.getItem(name));
        if (entry.person === this.person) found.push(entry);
      } catch {
        localStorage.removeItem(name);
      }
    }
    return [...found, ...this.unsaved.values()].sort((a, b) => a.at - b.at);
  }

  /**
   * Keep an answer and send it.
   * @returns {Promise<{said?: any, refused?: Error, kept?: boolean}>} what became of it at the first try
   */
  send(submission) {
    const entry = { person: this.person, at: Date.now(), submission };
    try {
      localStorage.setItem(PREFIX + submission.key, JSON.stringify(entry));
    } catch {
      this.unsaved.set(submission.key, entry); // the browser's storage is full: it still goes out
    }
    return new Promise((resolve) => {
      this.listeners.set(submission.key, resolve);
      this.flush();
    });
  }

  /** Send what waits, one after the other, until one cannot be sent. */
  async flush() {
    clearTimeout(this.timer);
    const before = this.sending;
    const turn = (async () => {
      await before;
      for (const entry of this.waiting()) {
        if (!(await this.#deliver(entry.submission))) return;
      }
    })();
    this.sending = turn;
    await turn;
  }

  /** Wait until everything was tried once. */
  async settled() {
    await this.sending;
  }

  async #deliver(submission) {
    const tell = this.listeners.get(submission.key) ?? (() => {});
    try {
      const said = await post("/api/answer", submission);
      this.failures = 0;
      this.#forget(submission.key);
      this.onChange(this.waiting().length, null);
      tell({ said });
    } catch (error) {
      if (!error.mayPass && error.status !== 401) {
        this.#forget(submission.key);
        this.onChange(this.waiting().length, null);
        tell({ refused: error });
        return true;
      }
      this.failures += 1;
      const wait_s = Math.min(LONGEST_WAIT_S, 2 ** (this.failures - 1));
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.flush(), 1000 * wait_s);
      this.onChange(this.waiting().length, error);
      tell({ kept: true, error });
      return false;
    }
    return true;
  }

  #forget(key) {
    localStorage.removeItem(PREFIX + key);
    this.unsaved.delete(key);
  }
}
