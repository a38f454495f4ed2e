// A response in a React component: const { text, status } = useResponse(channel, id) ?? {};

import { useCallback, useRef, useSyncExternalStore } from 'react';
import type { RealtimeChannel } from 'ably';
import { follow } from './ably.js';
import type { Response } from './reader.js';

/** The response of that id on `channel`, as it is now; `undefined` before anything of it is there. */
export function useResponse(channel: RealtimeChannel, responseId: string, part = 0): Response | undefined {
  const latest = useRef<Response | undefined>(undefined);
  const subscribe = useCallback(
    (render: () => void) => {
      latest.current = undefined;
      const following = follow(channel, (response) => {
        if (response.responseId !== responseId || response.part !== part) return;
        latest.current = response;
        render();
      });
      return () => void following.then((stop) => stop());
    },
    [channel, responseId, part],
  );
  return useSyncExternalStore(subscribe, () => latest.current);
}
