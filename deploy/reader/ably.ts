// Follows a channel with ably-js: live, and whatever was there before.

import type { ErrorInfo, InboundMessage, RealtimeChannel } from 'ably';
import { Responses, type Response } from './reader.js';

/** Asked for history beyond the point where the channel was attached: the server does not know that point any more. */
const UNTIL_ATTACH_UNKNOWN = 40024;

/**
 * Calls `changed` with each response of `channel` as it changes, those that began before included. Ends with the function
 * that it gives back. The key needs the capabilities `subscribe` and `history`. When the history cannot be read later, for a
 * gap, `failed` is told; the gap stays until the next full text.
 */
export async function follow(
  channel: RealtimeChannel,
  changed: (response: Response) => void,
  failed: (error: unknown) => void = console.error,
): Promise<() => void> {
  const responses = new Responses();
  let stopped = false;
  let wanted = false;
  let reading: Promise<void> | undefined;

  const take = (message: InboundMessage) => {
    const response = stopped ? undefined : responses.apply(message);
    if (response !== undefined) changed(response);
    return response;
  };
  const takeLive = (message: InboundMessage) => {
    if (take(message)?.gap) catchUp().catch(failed);
  };
  // One at a time. What shows a gap while the history is being read may be newer than what is read.
  const catchUp = () => {
    wanted = true;
    reading ??= readAllWanted().finally(() => (reading = undefined));
    return reading;
  };
  const readAllWanted = async () => {
    while (wanted && !stopped) {
      wanted = false;
      await readAll(channel, take);
    }
  };
  const continuity = ({ resumed }: { resumed: boolean }) => {
    if (resumed) return;
    responses.missed();
    catchUp().catch(failed);
  };

  await channel.subscribe(takeLive);
  channel.on('update', continuity);
  channel.on('attached', continuity);
  await catchUp();
  return () => {
    stopped = true;
    channel.unsubscribe(takeLive);
    channel.off(continuity);
  };
}

/** Everything that the channel keeps, the latest version of each message. */
async function readAll(channel: RealtimeChannel, take: (message: InboundMessage) => unknown): Promise<void> {
  const read = async (untilAttach: boolean) => {
    let page = await channel.history({ untilAttach });
    for (;;) {
      page.items.forEach(take);
      const next = await page.next();
      if (next === null) return;
      page = next;
    }
  };
  await read(true).catch((error: ErrorInfo) => {
    if (error.code !== UNTIL_ATTACH_UNKNOWN) throw error;
    return read(false);
  });
}
