"""The official ably-python as applications use it, on channels that a relay writes: python official.py ENDPOINT PORT KEY FORMAT CHANNEL...

Says {"attached": N} when it has all channels. When its stdin ends, all has been written: it says {"live": ..., "history": ...}, the
messages by channel, as they came piece by piece and as history() gives them.
"""

import asyncio
import json
import sys

from ably import AblyRealtime, AblyRest
from ably.types.message import MessageAction

ENDPOINT, PORT, KEY, FORMAT, *NAMES = sys.argv[1:]
PLACE = {"tls": False, "use_binary_protocol": FORMAT == "msgpack"}


class Reader:
    """A channel's messages as a reader sees them."""

    def __init__(self):
        self.messages, self.versions, self.news = {}, {}, asyncio.Event()

    def take(self, message):
        if message.version.serial <= self.versions.get(message.serial, ""):
            return
        self.versions[message.serial] = message.version.serial
        append = message.action == MessageAction.MESSAGE_APPEND
        before = self.messages[message.serial]["data"] if append else ""
        self.messages[message.serial] = sent(message) | {"data": before + (message.data or "")}
        self.news.set()

    async def until(self, fits):
        while not fits(self):
            self.news.clear()
            await self.news.wait()


def sent(message):
    return {"serial": message.serial, "name": message.name, "data": message.data, "extras": message.extras}


async def history(channel):
    page = await channel.history(limit=1000)
    messages = list(page.items)
    while page.has_next():
        page = await page.next()
        messages += page.items
    return messages


async def main():
    client = AblyRealtime(endpoint=f"{ENDPOINT}:{PORT}", key=KEY, **PLACE)
    rest = AblyRest(endpoint=ENDPOINT, port=int(PORT), key=KEY, use_token_auth=True, **PLACE)
    await client.connection.once_async("connected")
    readers = {name: Reader() for name in NAMES}
    for name, reader in readers.items():
        await client.channels.get(name).subscribe(reader.take)
    print(json.dumps({"attached": len(NAMES)}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    kept = {name: await history(rest.channels.get(name)) for name in NAMES}
    # What was sent may be on its way.
    for name, reader in readers.items():
        versions = [(message.serial, message.version.serial) for message in kept[name]]
        await reader.until(lambda reader: all(reader.versions.get(serial, "") >= version for serial, version in versions))
    live = {name: list(reader.messages.values()) for name, reader in readers.items()}
    print(json.dumps({"live": live, "history": {name: [sent(message) for message in kept[name]] for name in NAMES}}), flush=True)
    await client.close()
    await rest.close()


asyncio.run(main())
