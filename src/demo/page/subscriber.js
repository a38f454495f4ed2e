// A plain subscriber: Ably's realtime protocol as JSON over a WebSocket, only what a page needs.
//
// What messages say is for the reader that other front ends use, too. After a gap a channel is attached again with a rewind,
// which gives its messages in their latest versions.

import { Responses } from './reader.js';

const ACTION = { CONNECTED: 4, DISCONNECTED: 6, ERROR: 9, ATTACH: 10, ATTACHED: 11, DETACH: 12, DETACHED: 13, MESSAGE: 15 };
const RESUMED = 4;
const SILENCE_MAX_MS = 25_000;

export class Subscriber {
  #url; #socket; #key; #channels = new Map(); #pause = 0; #silence; #onResponse; #onState;

  /**
   * @param {string} url with everything but `resume`
   * @param {(response: import('../../../deploy/reader/reader.ts').Response) => void} onResponse after each change
   * @param {(state: 'connected' | 'waiting') => void} onState
   */
  constructor(url, onResponse, onState) {
    this.#url = url;
    this.#onResponse = onResponse;
    this.#onState = onState;
    this.#connect();
  }

  attach(name) {
    if (this.#channels.has(name)) return;
    const channel = { responses: new Responses(), serial: undefined, rewind: true, seen: false };
    this.#channels.set(name, channel);
    this.#attach(name, channel);
  }

  detach(name) {
    if (this.#channels.delete(name)) this.#send({ action: ACTION.DETACH, channel: name });
  }

  #connect() {
    const url = new URL(this.#url);
    if (this.#key) url.searchParams.set('resume', this.#key);
    const socket = new WebSocket(url);
    this.#socket = socket;
    this.#listen(socket);
    socket.onmessage = (event) => {
      if (socket !== this.#socket) return;
      this.#listen(socket);
      this.#take(JSON.parse(event.data));
    };
    socket.onclose = () => this.#lost(socket);
  }

  /** A server that says nothing for too long is gone. */
  #listen(socket) {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#lost(socket), SILENCE_MAX_MS);
  }

  #lost(socket) {
    if (socket !== this.#socket) return;
    this.#socket = undefined;
    clearTimeout(this.#silence);
    socket.close();
    this.#onState('waiting');
    this.#pause = Math.min(Math.max(this.#pause * 2, 100), 2_000);
    setTimeout(() => this.#connect(), this.#pause);
  }

  #send(frame) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(frame));
  }

  #attach(name, channel) {
    const frame = { action: ACTION.ATTACH, channel: name };
    if (channel.rewind) frame.params = { rewind: '100' };
    else if (channel.serial) frame.channelSerial = channel.serial;
    this.#send(frame);
  }

  #take(frame) {
    const channel = this.#channels.get(frame.channel);
    switch (frame.action) {
      case ACTION.CONNECTED:
        this.#key = frame.connectionDetails?.connectionKey ?? frame.connectionKey;
        this.#pause = 0;
        this.#onState('connected');
        this.#channels.forEach((each, name) => this.#attach(name, each));
        break;
      case ACTION.ATTACHED:
        if (channel) this.#attached(frame, channel);
        break;
      case ACTION.DETACHED:
        if (channel) this.#attach(frame.channel, channel);
        break;
      case ACTION.MESSAGE:
        if (!channel) break;
        channel.serial = frame.channelSerial ?? channel.serial;
        for (const message of frame.messages ?? []) {
          const response = channel.responses.apply(message);
          if (response) this.#onResponse(response);
        }
        break;
      case ACTION.ERROR:
        if (frame.channel == null) this.#key = undefined;
        this.#lost(this.#socket);
        break;
      case ACTION.DISCONNECTED:
        this.#lost(this.#socket);
        break;
    }
  }

  #attached(frame, channel) {
    const missed = channel.seen && !channel.rewind && !((frame.flags ?? 0) & RESUMED);
    channel.seen = true;
    channel.rewind = missed;
    channel.serial = missed ? undefined : frame.channelSerial;
    if (!missed) return;
    channel.responses.missed();
    this.#send({ action: ACTION.DETACH, channel: frame.channel });
  }
}
