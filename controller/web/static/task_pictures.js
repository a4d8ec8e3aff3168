// The pictures of one task: each is fetched once, also when two parts of the page want it.

import { fetchPicture } from "./api.js";
import { detectors } from "./panel.js";

export class TaskPictures {
  /** @param {import("./contrast.js").Display} display which says what channels are to be seen */
  constructor(display) {
    this.display = display;
    this.fetched = new Map();
  }

  /** Return the names of the channels of an item that are to be seen: one, or two on top of each other. */
  wanted(item) {
    const both = detectors(item);
    if (this.display.isComposite && both.length > 1) return both.slice(0, 2).map((channel) => channel.name);
    const names = item.channels.map((channel) => channel.name);
    return [names.includes(this.display.channel) ? this.display.channel : names[0]];
  }

  /** Fetch channels of an item, without names those that are to be seen. */
  load(item, names = this.wanted(item)) {
    return Promise.all(names.map((name) => this.#one(item, name)));
  }

  #one(item, name) {
    const key = `${item.sample_id}/${name}`;
    if (!this.fetched.has(key)) {
      const picture = fetchPicture(item.channels.find((channel) => channel.name === name));
      this.fetched.set(key, picture);
      picture.catch(() => this.fetched.delete(key)); // the next one who wants it tries again
    }
    return this.fetched.get(key);
  }
}
