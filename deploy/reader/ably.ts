// Follows a channel with ably-js: live, and whatever was there before.

import type { ErrorInfo, InboundMessage, RealtimeChannel } from 'ably';
import { Responses, type Response } from './reader.js';

/** Asked for history beyond the point where the channel was attached: the server does not know that point any more. */
const UNTIL_ATTACH_UNKNOWN = 40024;

/** The most that a page of history may have. */
const PAGE = 1_000;

/** The history may be behind by seconds. What it does not have after a minute it will not have. */
const PAUSE_MIN_MS = 250;
const PAUSE_MAX_MS = 30_000;

export interface Options {
  /**
   * Told when the history could not be read later, for a gap, which is then tried again; and when it has been read for a
   * minute and a gap is left, which then stays until the next full text.
   */
  failed?: (error: unknown) => void;
  /** Ends it at any time, also before `follow` is done. */
  signal?: AbortSignal;
}

/**
 * Calls `changed` with each response of `channel` as it changes, those that began before included. Is done when the history
 * was read, and ends with the function that it gives back; when the history cannot be read at first, it fails and has ended.
 * The key needs the capabilities `subscribe` and `history`.
 */
export async function follow(
  channel: RealtimeChannel,
  changed: (response: Response) => void,
  { failed = console.error, signal }: Options = {},
): Promise<() => void> {
  const follower = new Follower(channel, changed, failed);
  const stop = () => follower.stop();
  signal?.addEventListener('abort', stop, { once: true });
  if (signal?.aborted) stop();
  await follower.start().catch((error: unknown) => {
    if (follower.hasStopped) return;
    stop();
    throw error;
  });
  return stop;
}

class Follower {
  hasStopped = false;
  readonly #channel: RealtimeChannel;
  readonly #changed: (response: Response) => void;
  readonly #failed: (error: unknown) => void;
  readonly #responses = new Responses();
  /** Those of which a live message has shown that something is missing. */
  readonly #lacking = new Set<string>();
  #isReading = true;
  #isWanted = false;
  #rest: { end: () => void; isShortest: boolean } | undefined;

  constructor(channel: RealtimeChannel, changed: (response: Response) => void, failed: (error: unknown) => void) {
    this.#channel = channel;
    this.#changed = changed;
    this.#failed = failed;
  }

  /** Listens first and reads then: nothing is between them. */
  async start(): Promise<void> {
    if (this.hasStopped) return;
    await this.#channel.subscribe(this.#take);
    if (!this.hasStopped) {
      this.#channel.on('update', this.#continuity);
      this.#channel.on('attached', this.#continuity);
      await this.#read();
    }
    if (this.hasStopped) return this.stop();
    void this.#readOn();
  }

  stop(): void {
    this.hasStopped = true;
    this.#channel.unsubscribe(this.#take);
    this.#channel.off(this.#continuity);
    this.#rest?.end();
  }

  readonly #take = (message: InboundMessage) => {
    const response = this.hasStopped ? undefined : this.#responses.apply(message);
    if (response === undefined) return;
    const wasLacking = this.#lacking.has(keyOf(response));
    this.#show(response);
    if (!response.gap) return;
    this.#lacking.add(keyOf(response));
    // Not with each piece of a text; but with its end, behind which nothing comes that would want it.
    if (!wasLacking || response.status !== 'streaming') this.#want();
  };

  readonly #continuity = ({ resumed }: { resumed: boolean }) => {
    if (this.hasStopped) return;
    if (!resumed) {
      this.#responses.missed();
      this.#lacking.clear();
    }
    if (!resumed || this.#isWanted || this.#responses.hasGaps) this.#want();
  };

  #show(response: Response): void {
    if (!response.gap) this.#lacking.delete(keyOf(response));
    this.#changed(response);
  }

  /** Something is missing that was not before. What is being read already may be older than it. */
  #want(): void {
    this.#isWanted = true;
    if (this.#rest?.isShortest === false) this.#rest.end();
    if (!this.#isReading) void this.#readOn();
  }

  /** Reads at growing intervals until nothing is missing. */
  async #readOn(): Promise<void> {
    this.#isReading = true;
    let isRead = true;
    for (let pause = 0; ; ) {
      if (this.#isWanted) pause = 0;
      else if (!this.#responses.hasGaps) break;
      else if (isRead && pause === PAUSE_MAX_MS) {
        this.#failed(new Error('something is missing, or may be, that the history does not have'));
        break;
      }
      pause = Math.min(Math.max(2 * pause, PAUSE_MIN_MS), PAUSE_MAX_MS);
      await this.#sleep(PAUSE_MIN_MS, true);
      if (!this.#isWanted && pause > PAUSE_MIN_MS) await this.#sleep(pause - PAUSE_MIN_MS, false);
      // Whoever attaches the channel again lets it go on.
      if (this.#channel.state !== 'attached') break;
      if (this.#isWanted) pause = PAUSE_MIN_MS;
      this.#isWanted = false;
      isRead = await this.#read().then(() => true, (error: unknown) => this.#tell(error));
      if (this.hasStopped) return;
    }
    this.#isReading = false;
  }

  #tell(error: unknown): false {
    if (!this.hasStopped) this.#failed(error);
    return false;
  }

  /** A rest that is not the shortest ends when something is wanted. */
  #sleep(ms: number, isShortest: boolean): Promise<void> {
    if (this.hasStopped) return Promise.resolve();
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer);
        this.#rest = undefined;
        resolve();
      };
      const timer = setTimeout(end, ms);
      this.#rest = { end, isShortest };
    });
  }

  /** Reads everything that the channel keeps, the latest version of each message. */
  async #read(): Promise<void> {
    if (this.hasStopped) return;
    const messages = await this.#pages(true).catch((error: ErrorInfo) => {
      if (error.code !== UNTIL_ATTACH_UNKNOWN) throw error;
      return this.#pages(false);
    });
    if (this.hasStopped) return;
    // Pages come newest first. A text is shown when all of it was read, not as it would grow towards its beginning.
    for (const response of this.#responses.applyHistory(messages.reverse())) this.#show(response);
  }

  /** Newest first. */
  async #pages(untilAttach: boolean): Promise<InboundMessage[]> {
    const messages: InboundMessage[] = [];
    let page = await this.#channel.history({ untilAttach, limit: PAGE });
    for (;;) {
      messages.push(...page.items);
      const next = this.hasStopped ? null : await page.next();
      if (next === null) return messages;
      page = next;
    }
  }
}

function keyOf({ responseId, part }: Response): string {
  return `${part}/${responseId}`;
}
