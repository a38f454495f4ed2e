// A channel that plays a script, and what may be on it.

/** Lets everything happen that waits for nothing but its turn. */
export const settle = () => new Promise((resolve) => setImmediate(resolve));

export const text = (serial, version, data, status = 'streaming', more = {}) =>
  ({ serial, action: 'message.update', version: { serial: version }, data, extras: { headers: { responseId: 'r', part: '0', segment: '0', status, ...more } } });
export const piece = (...of) => ({ ...text(...of), action: 'message.append' });
export const token = (seq, data, more) =>
  ({ serial: `t${String(seq).padStart(6, '0')}`, action: 'message.create', name: 'token', data,
    extras: { headers: { responseId: 'r', part: '0', segment: '0', status: 'streaming', seq: `${seq}`, n: '1', epoch: '1', ...more } } });

/** A channel of ably-js, as far as a follower needs it. */
export class Channel {
  state = 'attached';
  /** Newest first; a function in its place is called for each reading. */
  kept = [];
  reads = [];
  #listeners = new Set();
  #onState = new Set();

  async subscribe(listener) {
    this.#listeners.add(listener);
  }

  unsubscribe(listener) {
    this.#listeners.delete(listener);
  }

  on(_, listener) {
    this.#onState.add(listener);
  }

  off(listener) {
    this.#onState.delete(listener);
  }

  get listeners() {
    return this.#listeners.size + this.#onState.size;
  }

  async history(params) {
    this.reads.push(params);
    const kept = typeof this.kept === 'function' ? await this.kept(params) : this.kept;
    const { limit = 100 } = params;
    const page = (from) => ({
      items: kept.slice(from, from + limit),
      next: async () => (from + limit < kept.length ? page(from + limit) : null),
    });
    return page(0);
  }

  say(message) {
    for (const listener of this.#listeners) listener(message);
  }

  lose() {
    for (const listener of this.#onState) listener({ resumed: false });
  }
}
