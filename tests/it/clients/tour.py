"""What a client does, with the official ably-python: python tour.py ENDPOINT PORT KEY FORMAT

Realtime and REST are two clients: the first takes the port in its endpoint, the second refuses a key without TLS.
"""

import asyncio
import sys
import time
import urllib.request

from ably import AblyException, AblyRealtime, AblyRest
from ably.types.channeloptions import ChannelOptions
from ably.types.message import Message, MessageAction
from ably.types.operations import MessageOperation

ENDPOINT, PORT, KEY, FORMAT = sys.argv[1:5]
PLACE = {"tls": False, "use_binary_protocol": FORMAT == "msgpack"}


def say(text):
    print(f"ok: {text}", flush=True)


def realtime(**options):
    return AblyRealtime(endpoint=f"{ENDPOINT}:{PORT}", **PLACE, **({"key": KEY} | options))


def rest(**options):
    return AblyRest(endpoint=ENDPOINT, port=int(PORT), **PLACE, **({"key": KEY, "use_token_auth": True} | options))


def faults(json):
    request = urllib.request.Request(f"http://{ENDPOINT}:{PORT}/emulator/faults", json.encode(), method="PUT")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200


async def connected(**options):
    client = realtime(**options)
    await client.connection.once_async("connected")
    return client


async def failure(awaitable):
    try:
        await awaitable
    except AblyException as error:
        return error
    raise AssertionError("it should have failed")


async def until(fits):
    """Waits for what a subscriber or the server is to see."""
    while not fits():
        await asyncio.sleep(0.01)


async def read(channel, serial, text):
    """The message once it has that text: an append is acknowledged before its rollup ends."""
    while (message := await channel.get_message(serial)).data != text:
        await asyncio.sleep(0.01)
    return message


class Reader:
    """The texts of a channel's messages, as a subscriber sees them."""

    def __init__(self):
        self.events, self.texts, self.versions = [], {}, {}

    def take(self, message):
        self.events.append(message)
        if message.version.serial <= self.versions.get(message.serial, ""):
            return
        self.versions[message.serial] = message.version.serial
        append = message.action == MessageAction.MESSAGE_APPEND
        self.texts[message.serial] = (self.texts[message.serial] if append else "") + (message.data or "")


async def publishes(client, other):
    name = f"pub:{FORMAT} é/ä#1"
    seen = []
    await other.channels.get(name).subscribe(lambda message: seen.append(message))
    channel = client.channels.get(name)
    one = await channel.publish("greet", "hello")
    array = await channel.publish([Message("a", "1"), Message("b", {"j": [1, None, "ü"]})])
    await channel.publish("bytes", bytearray([0, 1, 255]))
    await channel.publish(Message("full", "🙂", extras={"headers": {"k": "v", "n": 1}}))
    await until(lambda: len(seen) == 5)
    assert [message.data for message in seen] == ["hello", "1", {"j": [1, None, "ü"]}, bytearray([0, 1, 255]), "🙂"]
    assert [message.name for message in seen] == ["greet", "a", "b", "bytes", "full"]
    assert one.serials + array.serials == [message.serial for message in seen[:3]]
    assert seen[4].extras == {"headers": {"k": "v", "n": 1}}
    assert all(message.action == MessageAction.MESSAGE_CREATE and message.client_id == "me" for message in seen)
    assert all(message.connection_id == client.connection.connection_details.connection_key.split("!")[0] for message in seen)
    say("publishes text, objects, bytes and arrays")


async def appends(client, other):
    name = f"ai:{FORMAT}-appends"
    reader = Reader()
    await other.channels.get(name).subscribe(reader.take)
    channel = client.channels.get(name)
    created = await channel.publish(Message("response", "", extras={"headers": {"status": "streaming"}}))
    [serial] = created.serials
    pieces = [f"{n}ü " for n in range(300)]
    results = await asyncio.gather(*(channel.append_message(Message(serial=serial, data=piece)) for piece in pieces))
    versions = [result.version_serial for result in results]
    assert versions == sorted(versions) and versions[0] > serial
    end = Message(serial=serial, data=".", extras={"headers": {"status": "complete"}})
    await channel.append_message(end, MessageOperation(description="end", metadata={"tokens": "300"}))
    text = "".join(pieces) + "."
    await until(lambda: reader.texts.get(serial) == text)
    last = reader.events[-1]
    assert last.action == MessageAction.MESSAGE_APPEND and last.name == "response"
    assert (last.version.description, last.version.metadata) == ("end", {"tokens": "300"})
    assert len(reader.events) < len(pieces)

    late = Reader()
    await client.channels.get(f"[?rewind=1]{name}").subscribe(late.take)
    await until(lambda: late.texts.get(serial) == text)
    assert late.events[0].action == MessageAction.MESSAGE_UPDATE
    rewound = Reader()
    params = ChannelOptions(params={"rewind": "1m"})
    third = await connected()
    await third.channels.get(name, params).subscribe(rewound.take)
    await until(lambda: rewound.texts.get(serial) == text)
    await third.close()
    say("appends, and newcomers get the whole")

    updated = await channel.update_message(Message(serial=serial, data="new"), MessageOperation(description="repair"))
    await until(lambda: reader.texts[serial] == "new")
    assert reader.versions[serial] == updated.version_serial
    await channel.delete_message(Message(serial=serial))
    await until(lambda: reader.events[-1].action == MessageAction.MESSAGE_DELETE)
    say("updates and deletes")
    return name, serial


async def refusals(client):
    fixed = client.channels.get(f"fixed:{FORMAT}")
    [serial] = (await fixed.publish("x", "y")).serials
    assert (await failure(fixed.append_message(Message(serial=serial, data="z")))).code == 93002
    channel = client.channels.get(f"ref:{FORMAT}")
    [serial] = (await channel.publish("x", "y" * 40_000)).serials
    error = await failure(channel.append_message(Message(serial=serial, data="y" * 40_000)))
    assert (error.code, error.status_code) == (40009, 413), error
    assert (await failure(channel.append_message(Message(serial="none", data="x")))).code == 40400
    say("gets Ably's codes")


async def drops(client, other):
    name = f"ai:{FORMAT}-drops"
    reader = Reader()
    await other.channels.get(name).subscribe(reader.take)
    channel = client.channels.get(name)
    [serial] = (await channel.publish("x", "")).serials
    pieces = [f"{n} " for n in range(20)]
    # It loses what was under way at a DISCONNECTED frame, so only the socket is dropped here.
    faults('{"lose-ack": 1, "drop-as": "socket"}')
    under_way = asyncio.gather(*(channel.append_message(Message(serial=serial, data=piece)) for piece in pieces))
    await client.connection.once_async("disconnected")
    faults("{}")
    await under_way
    await until(lambda: reader.texts.get(serial) == "".join(pieces))
    say("resumes, and each operation is there once")


async def twins(name, serial):
    client = rest()
    assert abs(await client.time() - time.time() * 1000) < 60_000
    versions = (await client.channels.get(name).get_message_versions(serial)).items
    assert [version.action for version in versions] == [
        MessageAction.MESSAGE_CREATE, MessageAction.MESSAGE_UPDATE, MessageAction.MESSAGE_DELETE]

    channel = client.channels.get(f"rest:{FORMAT} é ä")
    [serial] = (await channel.publish(Message("n", "one", extras={"headers": {"a": 1}}))).serials
    await channel.publish([Message(data={"j": 1}), Message(data=bytearray([0, 255]))])
    appended = await channel.append_message(Message(serial=serial, data=" two"), MessageOperation(description="more"))
    message = await channel.get_message(serial)
    assert (message.data, message.name, message.extras) == ("one two", "n", {"headers": {"a": 1}})
    assert message.version.serial == appended.version_serial and message.version.description == "more"
    await channel.update_message(Message(serial=serial, data="new"))
    assert (await read(channel, serial, "new")).action == MessageAction.MESSAGE_UPDATE

    texts, page = [], await channel.history(limit=2, direction="forwards")
    while True:
        texts += [item.data for item in page.items]
        if not page.has_next():
            break
        page = await page.next()
    assert texts == ["new", {"j": 1}, bytearray([0, 255])], texts
    assert (await failure(channel.get_message("none"))).code == 40400
    assert (await channel.status()).channel_id == channel.name

    token = await client.auth.request_token(token_params={"client_id": "py", "ttl": 60_000})
    assert token.client_id == "py"
    by_token = rest(key=None, use_token_auth=None, token_details=token)
    await by_token.channels.get(f"rest:{FORMAT}-token").publish("x", "y")
    items = (await by_token.channels.get(f"rest:{FORMAT}-token").history()).items
    assert [(item.client_id, item.data) for item in items] == [("py", "y")]
    await by_token.close()
    await client.close()
    say("does over REST what it does over the WebSocket")


async def main():
    client, other = await connected(client_id="me"), await connected()
    assert await client.connection.ping() >= 0
    say("connects and pings")
    await publishes(client, other)
    name, serial = await appends(client, other)
    await refusals(client)
    await drops(client, other)
    await twins(name, serial)
    wrong = realtime(key="app.key:wrong")
    await wrong.connection.once_async("failed")
    assert wrong.connection.error_reason.code == 40101
    await other.close()
    await client.close()
    assert client.connection.state == "closed"
    say("closes")


asyncio.run(main())
