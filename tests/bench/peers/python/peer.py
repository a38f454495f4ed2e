"""The relay that one would write oneself, with confluent-kafka and ably-python: python peer.py BOOTSTRAP PREFIX PORT

A response is a message: its first token creates it, every further one is appended without waiting for the one before.
Offsets are committed when everything below is answered and has its result. A response of which anything failed gets its
full text at the end. It keeps nothing over a restart, joins nothing and paces nothing: that is what it is compared without.
"""

import asyncio
import json
import os
import sys
import threading
import time

from ably import AblyRealtime
from ably.types.message import Message
from confluent_kafka import Consumer, Producer, TopicPartition

BOOTSTRAP, PREFIX, PORT = sys.argv[1:4]
TOKENS, RESULTS = f"{PREFIX}.tokens", f"{PREFIX}.results"
IN_FLIGHT = 10_000
COMMIT_EVERY = 0.15


class Response:
    def __init__(self, channel, text):
        self.channel, self.text, self.failed, self.operations = channel, text, False, []
        self.serial = asyncio.get_running_loop().create_future()


class Offset:
    __slots__ = ("done", "number")

    def __init__(self, number):
        self.number, self.done = number, False


class Peer:
    def __init__(self):
        self.consumer = Consumer(
            {
                "bootstrap.servers": BOOTSTRAP,
                "group.id": PREFIX,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
            }
        )
        self.producer = Producer({"bootstrap.servers": BOOTSTRAP, "linger.ms": 5})
        self.responses, self.partitions, self.tasks = {}, {}, set()
        self.room = asyncio.Event()

    async def operate(self, key, response, op, offset, send):
        """Sends an operation, and writes its result once it is answered."""
        result = {"responseId": key, "op": op, "offset": offset.number}
        answer = None
        try:
            answer = await send
            result["outcome"] = "acked"
        except Exception as error:  # whatever it is, the text is in doubt
            response.failed = True
            result.update(outcome="rejected", error=str(error))
        result["at"] = time.time()
        self.producer.produce(RESULTS, key=key, value=json.dumps(result))
        self.producer.poll(0)
        offset.done = True
        return answer

    def begin(self, work):
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.ended)
        return task

    def ended(self, task):
        self.tasks.discard(task)
        if len(self.tasks) < IN_FLIGHT:
            self.room.set()

    async def create(self, key, response, text, offset):
        headers = {"responseId": key, "status": "streaming"}
        message = Message("response", text, extras={"headers": headers})
        answer = await self.operate(key, response, "create", offset, response.channel.publish(message))
        response.serial.set_result(answer.serials[0] if answer else None)

    async def append(self, key, response, text, offset):
        serial = await response.serial
        message = Message(serial=serial, data=text)
        await self.operate(key, response, "append", offset, response.channel.append_message(message))

    async def end(self, key, response, offset):
        await asyncio.gather(*response.operations)
        serial = await response.serial
        extras = {"headers": {"responseId": key, "status": "complete"}}
        if response.failed:
            update = response.channel.update_message(Message(serial=serial, data=response.text, extras=extras))
            await self.operate(key, response, "update", offset, update)
        else:
            last = response.channel.append_message(Message(serial=serial, data="", extras=extras))
            await self.operate(key, response, "append", offset, last)
        self.ably.channels.release(response.channel.name)

    def take(self, message):
        offset = Offset(message.offset())
        self.partitions.setdefault(message.partition(), []).append(offset)
        key, event = message.key().decode(), json.loads(message.value())
        response = self.responses.get(key)
        if event["type"] == "token" and response is None:
            response = self.responses[key] = Response(self.ably.channels.get(f"ai:{key}"), event["text"])
            response.operations.append(self.begin(self.create(key, response, event["text"], offset)))
        elif event["type"] == "token":
            response.text += event["text"]
            response.operations.append(self.begin(self.append(key, response, event["text"], offset)))
        elif event["type"] == "end" and response is not None:
            self.begin(self.end(key, self.responses.pop(key), offset))
        else:
            offset.done = True

    async def commits(self):
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(COMMIT_EVERY)
            offsets = []
            for partition, open_offsets in self.partitions.items():
                settled = 0
                while settled < len(open_offsets) and open_offsets[settled].done:
                    settled += 1
                if settled:
                    offsets.append(TopicPartition(TOKENS, partition, open_offsets[settled - 1].number + 1))
                    del open_offsets[:settled]
            if offsets:
                await loop.run_in_executor(None, self.producer.flush)
                self.consumer.commit(offsets=offsets, asynchronous=True)

    async def run(self):
        loop = asyncio.get_running_loop()
        self.ably = AblyRealtime(endpoint=f"127.0.0.1:{PORT}", token="app.key:token", tls=False, use_binary_protocol=True)
        await self.ably.connection.once_async("connected")
        self.consumer.subscribe([TOKENS])
        print("started", flush=True)
        committing = asyncio.create_task(self.commits())
        while not committing.done():
            for message in await loop.run_in_executor(None, self.consumer.consume, 500, 0.1):
                if message.error():
                    raise RuntimeError(message.error())
                self.take(message)
            while len(self.tasks) >= IN_FLIGHT:
                self.room.clear()
                await self.room.wait()
        await committing


def end_with_parent():
    sys.stdin.read()
    os._exit(1)


threading.Thread(target=end_with_parent, daemon=True).start()
asyncio.run(Peer().run())
