// A response in a React component: const { text, status } = useResponse(channel, id) ?? {};

import { useCallback, useEffect, useRef, useSyncExternalStore } from 'react';
import type { RealtimeChannel } from 'ably';
import { follow } from './ably.js';
import type { Response } from './reader.js';

/**
 * The response of that id on `channel`, as it is now; `undefined` before anything of it is there. `failed` is told what
 * `follow` tells, and when the history cannot be read at first: nothing more comes then.
 */
export function useResponse(
  channel: RealtimeChannel,
  responseId: string,
  part = 0,
  failed: (error: unknown) => void = console.error,
): Response | undefined {
  const latest = useRef<{ channel: RealtimeChannel; response: Response } | undefined>(undefined);
  const tell = useRef(failed);
  useEffect(() => void (tell.current = failed));
  const subscribe = useCallback(
    (render: () => void) => {
      // Ends what is followed at once, in whatever it is doing: what comes later is not for this component any more.
      const ending = new AbortController();
      const fail = (error: unknown) => tell.current(error);
      const take = (response: Response) => {
        if (response.responseId !== responseId || response.part !== part) return;
        latest.current = { channel, response };
        render();
      };
      follow(channel, take, { failed: fail, signal: ending.signal }).catch(fail);
      return () => ending.abort();
    },
    [channel, responseId, part],
  );
  // What is there may be of what was shown before.
  const now = () => {
    const { channel: of, response } = latest.current ?? {};
    return of === channel && response?.responseId === responseId && response.part === part ? response : undefined;
  };
  return useSyncExternalStore(subscribe, now, () => undefined);
}
