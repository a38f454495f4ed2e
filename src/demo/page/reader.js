// A plain subscriber: Ably's realtime protocol as JSON over a WebSocket, only what a reader needs, no dependencies.
//
// A message is known by its serial and guarded by its version's serial: create sets, update replaces, append adds, delete
// deletes, and what is not newer than what is held is ignored. After a gap a channel is attached again with a rewind, which
// gives its messages in their latest versions. Where tokens are messages, the text is put together from them.

const ACTION = { CONNECTED: 4, DISCONNECTED: 6, ERROR: 9, ATTACH: 10, ATTACHED: 11, DETACH: 12, DETACHED: 13, MESSAGE: 15 };
const CREATE = 0, UPDATE = 1, DELETE = 2, APPEND = 5;
const RESUMED = 4;
const SILENCE_MAX_MS = 25_000;

export class Reader {
  #url; #socket; #key; #channels = new Map(); #pause = 0; #silence; #onMessage; #onState;

  /**
   * @param {string} url with everything but `resume`
   * @param {(channel: string, message: {serial: string, text: string, headers: object}) => void} onMessage after each change
   * @param {(state: 'connected' | 'waiting') => void} onState
   */
  constructor(url, onMessage, onState) {
    this.#url = url;
    this.#onMessage = onMessage;
    this.#onState = onState;
    this.#connect();
  }

  attach(name) {
    if (this.#channels.has(name)) return;
    const channel = { messages: new Map(), serial: undefined, rewind: true, seen: false };
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
        for (const message of frame.messages ?? []) this.#apply(frame.channel, channel, message);
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
    if (missed) this.#send({ action: ACTION.DETACH, channel: frame.channel });
  }

  #apply(name, channel, message) {
    if (!message.serial) return;
    const held = channel.messages.get(message.serial) ?? { serial: message.serial, version: '', text: '', headers: {} };
    const version = message.version?.serial ?? message.serial;
    if (version <= held.version) return;
    held.version = version;
    switch (message.action ?? CREATE) {
      case CREATE:
      case UPDATE:
        held.text = message.data ?? held.text;
        break;
      case APPEND:
        held.text += message.data ?? '';
        break;
      case DELETE:
        held.text = '';
        break;
    }
    held.headers = message.extras?.headers ?? held.headers;
    held.name = message.name ?? held.name;
    channel.messages.set(message.serial, held);
    const isToken = held.headers.seq !== undefined;
    this.#onMessage(name, isToken ? { ...held, text: inOrder(channel.messages.values(), held.headers) } : held);
  }
}

/**
 * The text of a response whose tokens are messages: in order by `seq`, each once. The newest full text whose parts are all
 * there stands for the tokens that it holds.
 */
function inOrder(messages, { responseId, part }) {
  const ours = [...messages].filter(({ headers }) => headers.responseId === responseId && headers.part === part);
  const number = (message, name) => Number(message.headers[name] ?? 0);
  const rounds = new Map();
  for (const message of ours.filter(({ name }) => name === 'response-complete')) {
    const key = `${message.headers.epoch}/${message.headers.round}`;
    rounds.set(key, (rounds.get(key) ?? new Map()).set(number(message, 'segment'), message));
  }
  const first = (parts, name) => number([...parts.values()][0], name);
  const newest = [...rounds.values()].sort((a, b) => first(b, 'epoch') - first(a, 'epoch') || first(b, 'round') - first(a, 'round'));
  const whole = newest.find((parts) => parts.size === first(parts, 'segments')) ?? new Map();
  let text = [...whole].sort(([a], [b]) => a - b).map(([, message]) => message.text).join('');
  let next = whole.size > 0 ? first(whole, 'n') : 0;
  for (const message of ours.filter(({ name }) => name === 'token' || name === 'stop').sort((a, b) => number(a, 'seq') - number(b, 'seq'))) {
    if (number(message, 'seq') < next) continue;
    text += message.text;
    next = number(message, 'seq') + number(message, 'n');
  }
  return text;
}
