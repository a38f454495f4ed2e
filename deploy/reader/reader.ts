// Puts responses together from the messages that tokenrelay writes to an Ably channel. No dependencies: copy this file.
//
// Give it every message that comes, live, rewound or from history, in any order and as often as they come: a message is known
// by its serial and guarded by its version, so repeats and overlaps do no harm. Say what comes from the history, which may be
// behind, and when continuity is lost.

/** What the header `status` says. All but the first two are final; `abandoned` may open again, and so may `failed`. */
export type Status =
  | 'streaming' | 'continued'
  | 'complete' | 'cancelled' | 'error' | 'abandoned' | 'failed' | 'superseded';

/** A message as ably-js hands it over (`message.append`), or as it travels (5). */
export interface Incoming {
  serial?: string | null;
  name?: string | null;
  action?: string | number | null;
  version?: { serial?: string | null } | null;
  data?: unknown;
  extras?: unknown;
}

/** A response, as far as it is known. */
export interface Response {
  readonly responseId: string;
  /** Choices of one request are parts of one response, from 0. */
  readonly part: number;
  readonly text: string;
  readonly status: Status;
  /** It is over, and all of it is here. */
  readonly complete: boolean;
  /** What `text` was before is not the beginning of what it is now: replace it on the screen instead of typing on. */
  readonly repaired: boolean;
  /** Something is missing, or may be, that came before the reader did: read the channel's history, until it is there. */
  readonly gap: boolean;
}

interface Headers {
  responseId?: string;
  part?: string;
  segment?: string;
  segments?: string;
  prev?: string;
  supersedes?: string;
  status?: Status;
  // Of messages that are tokens, or frame them.
  seq?: string;
  n?: string;
  epoch?: string;
  round?: string;
  length?: string;
  repair?: string;
}

interface Message {
  serial: string;
  name: string;
  version: string;
  text: string;
  headers: Headers;
  /**
   * What was appended since something may be missing, each with its version; nothing is missing if this is not there. Without
   * pieces nothing shows yet how far the history must have come.
   */
  loose?: readonly Piece[];
  deleted: boolean;
}

interface Known {
  id: string;
  part: number;
  serials: Set<string>;
  /** What was given last. */
  shown: string;
  /** Something of it has come live since something may be missing: its end will, too. */
  isLive: boolean;
}

interface Piece {
  version: string;
  text: string;
}

const ACTIONS: Record<string | number, 'create' | 'update' | 'delete' | 'append'> = {
  0: 'create', 1: 'update', 2: 'delete', 5: 'append',
  'message.create': 'create', 'message.update': 'update', 'message.delete': 'delete', 'message.append': 'append',
};

const OPEN: ReadonlySet<string> = new Set<Status>(['streaming', 'continued']);
const MAY_GO_ON: ReadonlySet<string> = new Set<Status>(['streaming', 'continued', 'abandoned', 'failed']);

/** The responses on a channel. */
export class Responses {
  #messages = new Map<string, Message>();
  #responses = new Map<string, Known>();

  /** Takes a message in that has come live, or with a rewind. Gives the response that has changed by it, if one has. */
  apply(message: Incoming): Response | undefined {
    return this.#apply([message], false)[0];
  }

  /** Takes in what was read from the history, oldest first. Gives the responses that have changed by it, each once. */
  applyHistory(messages: Iterable<Incoming>): Response[] {
    return this.#apply(messages, true);
  }

  #apply(messages: Iterable<Incoming>, isHistory: boolean): Response[] {
    const changed = new Set<Known>();
    for (const incoming of messages) {
      const message = this.#take(incoming, isHistory);
      const id = message?.headers.responseId;
      if (message === undefined || id === undefined) continue;
      const part = Number(message.headers.part ?? 0);
      const key = keyOf(id, part);
      const known = this.#responses.get(key) ?? { id, part, serials: new Set<string>(), shown: '', isLive: false };
      this.#responses.set(key, known);
      known.isLive ||= !isHistory;
      known.serials.add(message.serial);
      changed.add(known);
    }
    return [...changed].map((known) => {
      const response = this.#put(known);
      known.shown = response.text;
      return response;
    });
  }

  /** Messages have been missed: what may still be written may lack something until the history is read. */
  missed(): void {
    for (const message of this.#messages.values()) {
      if (MAY_GO_ON.has(statusOf(message))) message.loose = [];
    }
    for (const known of this.#responses.values()) known.isLive = false;
  }

  /** A response as it is now. */
  get(responseId: string, part = 0): Response | undefined {
    const known = this.#responses.get(keyOf(responseId, part));
    return known && this.#put(known);
  }

  /** Whether something is missing, or may be, of any response that was not deleted. */
  get hasGaps(): boolean {
    const isThere = (known: Known) => [...known.serials].some((serial) => !this.#messages.get(serial)!.deleted);
    return [...this.#responses.values()].some((known) => isThere(known) && this.#put(known).gap);
  }

  /** Forgets a response that is not looked at any more. */
  forget(responseId: string, part = 0): void {
    const key = keyOf(responseId, part);
    this.#responses.get(key)?.serials.forEach((serial) => this.#messages.delete(serial));
    this.#responses.delete(key);
  }

  /** The message that has changed, if it is news. */
  #take({ serial, name, action, version, data, extras }: Incoming, isHistory: boolean): Message | undefined {
    const kind = ACTIONS[action ?? 0];
    if (!serial || kind === undefined) return undefined;
    const newer = version?.serial ?? serial;
    const held = this.#messages.get(serial);
    const said = typeof data === 'string' ? data : undefined;
    const isAppend = kind === 'append';
    if (held !== undefined && newer <= held.version) {
      return isAppend || said === undefined ? undefined : complete(held, { version: newer, text: said }, headersOf(extras), isHistory);
    }
    const message: Message = {
      serial,
      name: name ?? held?.name ?? '',
      version: newer,
      text: isAppend ? (held?.text ?? '') + (said ?? '') : said ?? held?.text ?? '',
      headers: headersOf(extras) ?? held?.headers ?? {},
      deleted: kind === 'delete',
    };
    const loose = isAppend ? looseWith(held, { version: newer, text: said ?? '' }) : looseBehind(held, message, isHistory);
    if (loose !== undefined) message.loose = loose;
    this.#messages.set(serial, message);
    return message;
  }

  /** Joins the messages of a response. */
  #put(known: Known): Response {
    const { id: responseId, part, serials, shown } = known;
    const messages = [...serials].map((serial) => this.#messages.get(serial)!).filter((message) => !message.deleted);
    if (messages.some((message) => message.headers.seq !== undefined)) return ordered(known, messages);
    const replaced = new Set(messages.map((message) => message.headers.supersedes));
    const current = messages.filter((message) => !replaced.has(message.serial) && message.headers.status !== 'superseded');
    const chain: Message[] = [];
    let last: Message | undefined;
    // A text that got shorter ends before messages that are still there; one that was opened again goes on in newer ones.
    const follows = (message: Message) => last === undefined || OPEN.has(statusOf(last)) || message.version > last.version;
    for (;;) {
      const segment = current.filter((message) => Number(message.headers.segment ?? 0) === chain.length);
      const next = pick(segment.filter(follows), last?.serial);
      if (next === undefined) break;
      chain.push(next);
      last = next;
    }
    const text = chain.map((message) => message.text).join('');
    const status = last === undefined || statusOf(last) === 'continued' ? 'streaming' : statusOf(last);
    const beyond = current.some((message) => Number(message.headers.segment ?? 0) > chain.length && follows(message));
    const gap = beyond || chain.length === 0 || chain.some((message) => message.loose !== undefined);
    const count = Number(last?.headers.segments ?? chain.length);
    return {
      responseId,
      part,
      text,
      status,
      complete: !OPEN.has(status) && status !== 'failed' && !gap && count === chain.length,
      repaired: !text.startsWith(shown),
      gap,
    };
  }
}

/** The pieces of a message since something may be missing, with one more. What had ended was opened again by what is missing. */
function looseWith(held: Message | undefined, piece: Piece): readonly Piece[] | undefined {
  const before = held === undefined || (held.loose === undefined && !isWritten(held)) ? [] : held.loose;
  return before && [...before, piece];
}

/**
 * What may be missing behind a full text that is newer than what is held. What has come live says all that there was. The
 * history may be behind, and of what it lacks nothing need have come here: only where all has come since the message was
 * held, or a piece has come that it is not older than, is that known.
 */
function looseBehind(held: Message | undefined, text: Message, isHistory: boolean): readonly Piece[] | undefined {
  const isSure = held !== undefined && held.loose?.length !== 0;
  return isHistory && !isSure && isWritten(text) ? [] : undefined;
}

/**
 * A full text that is not newer than what is held: it brings what was missed if it is no older than the first piece that came
 * since. What it does not have yet of those pieces is added.
 */
function complete(held: Message, { version, text }: Piece, headers: Headers | undefined, isHistory: boolean): Message | undefined {
  const { loose } = held;
  if (loose === undefined || version < (loose[0]?.version ?? held.version)) return undefined;
  // The history had nothing newer yet, which does not say that there is nothing.
  if (loose.length === 0 && isHistory && isWritten(held)) return undefined;
  held.text = text + loose.filter((piece) => piece.version > version).map((piece) => piece.text).join('');
  if (held.headers.responseId === undefined) held.headers = headers ?? held.headers;
  delete held.loose;
  return held;
}

/** Whether pieces may follow without anything else before them: what had ended is opened again by a full text. */
function isWritten(message: Message): boolean {
  return statusOf(message) === 'streaming';
}

function statusOf({ headers }: Message): Status {
  return headers.status ?? 'streaming';
}

/**
 * Puts the tokens of a response in order: by `seq`, what comes twice left out. The newest full text whose parts are all there
 * stands for those that it holds. A hole is left out until the full text comes, before the `stop` at the latest.
 */
function ordered({ id: responseId, part, shown, isLive }: Known, messages: Message[]): Response {
  const named = (name: string) => messages.filter((message) => message.name === name);
  const whole = wholes(named('response-complete')).at(-1) ?? [];
  let text = whole.map((message) => message.text).join('');
  let next = number(whole[0]?.headers.n);
  // A stop holds what tokens without text came last.
  const pieces = [...named('token'), ...named('stop')].sort((a, b) => number(a.headers.seq) - number(b.headers.seq) || number(b.headers.n) - number(a.headers.n));
  const begins = whole.length > 0 || named('start').length > 0 || number(pieces[0]?.headers.seq) === 0;
  for (const { headers, text: piece } of pieces) {
    if (number(headers.seq) < next) continue;
    text += piece;
    next = number(headers.seq) + number(headers.n);
  }
  const stop = named('stop').sort(byRound).at(-1);
  const isOver = stop !== undefined && next <= number(stop.headers.seq) + number(stop.headers.n);
  // Where a full text was published, tokens do not stand for it: another text may be as long.
  const isThere = whole.length > 0 || stop?.headers.repair !== 'true';
  const isWhole = isOver && isThere && number(stop.headers.length) === new TextEncoder().encode(text).length;
  // What was given up on is not all in the history either.
  const isGivenUp = isOver && stop.headers.status === 'failed';
  return {
    responseId,
    part,
    text,
    status: isOver ? stop.headers.status ?? 'streaming' : 'streaming',
    complete: isWhole && !isGivenUp,
    repaired: !text.startsWith(shown),
    gap: isOver && !isGivenUp ? !isWhole : !begins || (!isOver && !isLive),
  };
}

/** The full texts whose parts are all there, each with its parts in order, oldest first. */
function wholes(parts: Message[]): Message[][] {
  const rounds = new Map<string, Message[]>();
  for (const message of parts.sort(byRound)) {
    const key = `${message.headers.epoch}/${message.headers.round}`;
    const others = rounds.get(key) ?? [];
    // A part that was published twice counts once.
    if (!others.some((other) => other.headers.segment === message.headers.segment)) others.push(message);
    rounds.set(key, others);
  }
  const inOrder = (a: Message, b: Message) => number(a.headers.segment) - number(b.headers.segment);
  return [...rounds.values()].filter((of) => of.length === number(of[0]!.headers.segments)).map((of) => of.sort(inOrder));
}

function byRound(a: Message, b: Message): number {
  return number(a.headers.epoch) - number(b.headers.epoch) || number(a.headers.round) - number(b.headers.round);
}

function number(header: string | undefined): number {
  return Number(header ?? 0);
}

/**
 * The message that follows: one that says so, if there are several. One create may have made two, when its answer was lost and
 * it came again; then the one that was written last is being written.
 */
function pick(candidates: Message[], before: string | undefined): Message | undefined {
  const following = candidates.filter((message) => message.headers.prev === before);
  const latestFirst = (following.length > 0 ? following : candidates).sort((a, b) => (a.version > b.version ? -1 : 1));
  return latestFirst[0];
}

function headersOf(extras: unknown): Headers | undefined {
  const headers = (extras as { headers?: Headers } | null | undefined)?.headers;
  return headers ?? undefined;
}

function keyOf(responseId: string, part: number): string {
  return `${part}/${responseId}`;
}
