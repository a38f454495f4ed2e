// The relay that one would write oneself, with kafkajs and ably-js: node peer.mjs BOOTSTRAP PREFIX PORT
//
// A response is a message: its first token creates it, every further one is appended without waiting for the one before.
// Offsets are committed when everything below is answered and has its result. A response of which anything failed gets its
// full text at the end. It keeps nothing over a restart, joins nothing and paces nothing: that is what it is compared without.

import Ably from 'ably';
import { Kafka, logLevel } from 'kafkajs';

const [bootstrap, prefix, port] = process.argv.slice(2);
const TOKENS = `${prefix}.tokens`;
const RESULTS = `${prefix}.results`;
const IN_FLIGHT = 10_000;
const COMMIT_EVERY_MS = 150;
/** A send is one batch for each partition, and brokers take no batch above a megabyte. */
const RESULTS_MAX = 2_000;

const kafka = new Kafka({ clientId: 'peer', brokers: bootstrap.split(','), logLevel: logLevel.ERROR });
const consumer = kafka.consumer({ groupId: prefix });
const producer = kafka.producer();
const ably = new Ably.Realtime({
  token: 'app.key:token',
  endpoint: '127.0.0.1',
  port: Number(port),
  tls: false,
  useBinaryProtocol: true,
  disableConnectivityCheck: true,
  logLevel: 0,
});

/** Open responses by id. */
const responses = new Map();
/** Of each partition, the offsets that are not committed, in order. */
const partitions = new Map();
let results = [];
let inFlight = 0;
/** What waits for room, one for each partition at most. */
let waiting = [];

/** Sends an operation, and writes its result once it is answered. */
function operate(id, response, op, offset, send) {
  inFlight += 1;
  const operation = send().then(
    (answer) => {
      report(id, { op, outcome: 'acked', offset: offset.offset, serial: answer?.serials?.[0] ?? answer?.versionSerial });
      return answer;
    },
    (error) => {
      response.failed = true;
      report(id, { op, outcome: 'rejected', offset: offset.offset, error: { code: error.code, message: error.message } });
    },
  );
  return operation.finally(() => {
    offset.done = true;
    inFlight -= 1;
    if (inFlight < IN_FLIGHT) for (const wake of waiting.splice(0)) wake();
  });
}

function report(id, result) {
  results.push({ key: id, value: JSON.stringify({ responseId: id, ...result, at: new Date().toISOString() }) });
}

function token(id, text, offset) {
  let response = responses.get(id);
  if (!response) {
    const channel = ably.channels.get(`ai:${id}`);
    response = { channel, text, failed: false, operations: [] };
    responses.set(id, response);
    const message = { name: 'response', data: text, extras: { headers: { responseId: id, status: 'streaming' } } };
    const created = operate(id, response, 'create', offset, () => channel.publish(message));
    response.serial = created.then((answer) => answer?.serials?.[0]);
    response.operations.push(created);
    return;
  }
  response.text += text;
  const append = async () => response.channel.appendMessage({ serial: await response.serial, data: text });
  response.operations.push(operate(id, response, 'append', offset, append));
}

async function end(id, offset) {
  const response = responses.get(id);
  if (!response) {
    offset.done = true;
    return;
  }
  responses.delete(id);
  const headers = { responseId: id, status: 'complete' };
  await Promise.all(response.operations);
  const serial = await response.serial;
  await operate(id, response, response.failed ? 'update' : 'append', offset, () =>
    response.failed
      ? response.channel.updateMessage({ serial, data: response.text, extras: { headers } })
      : response.channel.appendMessage({ serial, data: '', extras: { headers } }),
  );
  ably.channels.release(response.channel.name);
}

async function commit() {
  const offsets = [];
  for (const [partition, open] of partitions) {
    const first = open.findIndex((offset) => !offset.done);
    const settled = open.splice(0, first < 0 ? open.length : first);
    if (settled.length > 0) {
      offsets.push({ topic: TOKENS, partition, offset: (BigInt(settled.at(-1).offset) + 1n).toString() });
    }
  }
  const written = results;
  results = [];
  while (written.length > 0) await producer.send({ topic: RESULTS, messages: written.splice(0, RESULTS_MAX) });
  if (offsets.length > 0) await consumer.commitOffsets(offsets);
}

async function commits() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, COMMIT_EVERY_MS));
    await commit();
  }
}

await ably.connection.once('connected');
await producer.connect();
await consumer.connect();
await consumer.subscribe({ topic: TOKENS, fromBeginning: true });
process.stdin.on('end', () => process.exit(1)).resume();
console.log('started');
await consumer.run({
  autoCommit: false,
  partitionsConsumedConcurrently: 2,
  eachBatch: async ({ batch, heartbeat }) => {
    let open = partitions.get(batch.partition);
    if (!open) partitions.set(batch.partition, (open = []));
    for (const { key, value, offset: number } of batch.messages) {
      while (inFlight >= IN_FLIGHT) await new Promise((resolve) => waiting.push(resolve));
      const offset = { offset: number, done: false };
      open.push(offset);
      const id = key.toString();
      const event = JSON.parse(value.toString());
      if (event.type === 'token') token(id, event.text, offset);
      else if (event.type === 'end') end(id, offset);
      else offset.done = true;
    }
    await heartbeat();
  },
});
await commits();
