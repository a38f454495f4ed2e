// Puts responses together from the messages that tokenrelay writes to an Ably channel. No dependencies: copy this file.
//
// Give it every message that comes, live, rewound or from history, in any order and as often as they come: a message is known
// by its serial and guarded by its version, so repeats and overlaps do no harm. Tell it when continuity is lost.

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
  /** Something is missing that came before the reader did: read the channel's history. */
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
}

interface Message {
  serial: string;
  name: string;
  version: string;
  text: string;
  headers: Headers;
  /** What was appended since something may be missing, each with its version; nothing is missing if there is none. */
  loose?: readonly Piece[];
  deleted: boolean;
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
  #responses = new Map<string, { serials: Set<string>; shown: string }>();

  /** Takes a message in. Gives the response that has changed by it, if one has. */
  apply(incoming: Incoming): Response | undefined {
    const message = this.#take(incoming);
    const id = message?.headers.responseId;
    if (message === undefined || id === undefined) return undefined;
    const key = keyOf(id, Number(message.headers.part ?? 0));
    const known = this.#responses.get(key) ?? { serials: new Set<string>(), shown: '' };
    this.#responses.set(key, known);
    known.serials.add(message.serial);
    const response = this.#put(id, Number(message.headers.part ?? 0), known);
    known.shown = response.text;
    return response;
  }

  /** Messages have been missed: what may still be written may lack something until the history is read. */
  missed(): void {
    for (const message of this.#messages.values()) {
      if (MAY_GO_ON.has(message.headers.status ?? 'streaming')) message.loose = [];
    }
  }

  /** A response as it is now. */
  get(responseId: string, part = 0): Response | undefined {
    const known = this.#responses.get(keyOf(responseId, part));
    return known && this.#put(responseId, part, known);
  }

  /** Forgets a response that is not looked at any more. */
  forget(responseId: string, part = 0): void {
    const key = keyOf(responseId, part);
    this.#responses.get(key)?.serials.forEach((serial) => this.#messages.delete(serial));
    this.#responses.delete(key);
  }

  /** The message that has changed, if it is news. */
  #take({ serial, name, action, version, data, extras }: Incoming): Message | undefined {
    const kind = ACTIONS[action ?? 0];
    if (!serial || kind === undefined) return undefined;
    const newer = version?.serial ?? serial;
    const held = this.#messages.get(serial);
    const said = typeof data === 'string' ? data : undefined;
    if (held !== undefined && newer <= held.version) return kind === 'append' ? undefined : this.#complete(held, newer, said, extras);
    const isAppend = kind === 'append';
    const message: Message = {
      serial,
      name: name ?? held?.name ?? '',
      version: newer,
      text: isAppend ? (held?.text ?? '') + (said ?? '') : said ?? held?.text ?? '',
      headers: headersOf(extras) ?? held?.headers ?? {},
      deleted: kind === 'delete',
    };
    const before = held === undefined ? [] : held.loose;
    if (isAppend && before !== undefined) message.loose = [...before, { version: newer, text: said ?? '' }];
    this.#messages.set(serial, message);
    return message;
  }

  /**
   * A full text that is not newer: it brings what was missed if it is no older than the first piece that came since. What it
   * does not have yet of those pieces is added.
   */
  #complete(held: Message, version: string, text: string | undefined, extras: unknown): Message | undefined {
    const { loose } = held;
    if (loose === undefined || text === undefined || version < (loose[0]?.version ?? held.version)) return undefined;
    held.text = text + loose.filter((piece) => piece.version > version).map((piece) => piece.text).join('');
    if (held.headers.responseId === undefined) held.headers = headersOf(extras) ?? held.headers;
    delete held.loose;
    return held;
  }

  /** Joins the messages of a response. */
  #put(responseId: string, part: number, { serials, shown }: { serials: Set<string>; shown: string }): Response {
    const messages = [...serials].map((serial) => this.#messages.get(serial)!).filter((message) => !message.deleted);
    if (messages.some((message) => message.headers.seq !== undefined)) return ordered(responseId, part, messages, shown);
    const replaced = new Set(messages.map((message) => message.headers.supersedes));
    const current = messages.filter((message) => !replaced.has(message.serial) && message.headers.status !== 'superseded');
    const chain: Message[] = [];
    for (let before: string | undefined; ; before = chain.at(-1)!.serial) {
      const next = pick(current.filter((message) => Number(message.headers.segment ?? 0) === chain.length), before);
      if (next === undefined) break;
      chain.push(next);
    }
    const last = chain.at(-1);
    const text = chain.map((message) => message.text).join('');
    const status = last === undefined || last.headers.status === 'continued' ? 'streaming' : last.headers.status ?? 'streaming';
    const beyond = current.some((message) => Number(message.headers.segment ?? 0) > chain.length);
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

/**
 * Puts the tokens of a response in order: by `seq`, what comes twice left out. The newest full text whose parts are all there
 * stands for those that it holds. A hole is left out until the full text comes, before the `stop` at the latest.
 */
function ordered(responseId: string, part: number, messages: Message[], shown: string): Response {
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
  const isWhole = isOver && number(stop.headers.length) === new TextEncoder().encode(text).length;
  // What was given up on is not all in the history either.
  const isGivenUp = isOver && stop.headers.status === 'failed';
  return {
    responseId,
    part,
    text,
    status: isOver ? stop.headers.status ?? 'streaming' : 'streaming',
    complete: isWhole && !isGivenUp,
    repaired: !text.startsWith(shown),
    gap: isOver && !isGivenUp ? !isWhole : !begins,
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

/** The message that follows: the one that says so, if there are several; else the oldest. */
function pick(candidates: Message[], before: string | undefined): Message | undefined {
  const oldestFirst = candidates.sort((a, b) => (a.serial < b.serial ? -1 : 1));
  return oldestFirst.find((message) => message.headers.prev === before) ?? oldestFirst[0];
}

function headersOf(extras: unknown): Headers | undefined {
  const headers = (extras as { headers?: Headers } | null | undefined)?.headers;
  return headers ?? undefined;
}

function keyOf(responseId: string, part: number): string {
  return `${part}/${responseId}`;
}
