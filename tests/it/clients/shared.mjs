// What the programs around the official ably-js client share. ABLY_JS names the folder that it was installed in.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

export const Ably = createRequire(`${process.env.ABLY_JS}/`)('ably');

/** Options for a server on this machine. */
export function options({ endpoint, port, key, format = 'msgpack' }, more = {}) {
  return {
    ...(key && { key }),
    endpoint,
    port: Number(port),
    tls: false,
    useBinaryProtocol: format === 'msgpack',
    disableConnectivityCheck: true,
    disconnectedRetryTimeout: 500,
    logLevel: 0,
    ...more,
  };
}

/** What every program here is started with: endpoint, port, key, format. */
export function place() {
  const [endpoint, port, key, format, ...rest] = process.argv.slice(2);
  return { endpoint, port, key, format, rest };
}

/** A client that is connected. */
export async function connected(where, more) {
  const client = new Ably.Realtime(options(where, more));
  await client.connection.once('connected');
  return client;
}

/** The emulator's own interface. */
export async function emulator({ endpoint, port }, path, body) {
  const answer = await fetch(`http://${endpoint}:${port}/emulator/${path}`, body && { method: 'PUT', body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${path}: ${await answer.text()}`);
  return answer.json();
}

/** Collects events, and waits for one of them that fits: `await inbox.next((event) => …)`. */
export class Inbox {
  all = [];
  #waiting = [];

  add(event) {
    this.all.push(event);
    this.#waiting = this.#waiting.filter(({ fits, give }) => !fits(event) || give(event));
  }

  next(fits) {
    const there = this.all.find(fits);
    if (there) return Promise.resolve(there);
    return new Promise((resolve) => this.#waiting.push({ fits, give: (event) => void resolve(event) }));
  }
}

/** A channel's messages as a reader sees them: the text of each message by its serial. */
export class Reader {
  messages = new Map();

  /** Takes an event; says whether it was news. */
  apply({ action, serial, version, name, data, extras }) {
    const known = this.messages.get(serial);
    if (known && version.serial <= known.version) return false;
    const text = action === 'message.append' ? (known?.text ?? '') + data : data;
    this.messages.set(serial, { action, name, text, version: version.serial, headers: extras?.headers });
    return true;
  }
}

/** The module of the reader for front ends, as the demo's page has it. */
export function readerForFrontEnds() {
  const code = readFileSync(new URL('../../../src/demo/page/reader.js', import.meta.url));
  // Not by its path: there it would be a module only for browsers.
  return import(`data:text/javascript;base64,${code.toString('base64')}`);
}

/** The error that a promise ends with. */
export async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error('it should have failed');
}

/** Tells the test what was seen. */
export function say(text) {
  console.log(`ok: ${text}`);
}
