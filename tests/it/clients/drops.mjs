// Connections that drop with operations under way: node drops.mjs ENDPOINT PORT KEY FORMAT
// It switches the emulator's faults itself.

import assert from 'node:assert/strict';
import { Reader, connected, emulator, place, say } from './shared.mjs';

const where = place();
const faults = (list) => emulator(where, 'faults', list);
const stats = () => emulator(where, 'stats');

/** The message once the server has that much of it. */
async function settled(channel, serial, enough) {
  for (;;) {
    const message = await channel.getMessage(serial);
    if (enough(message.data)) return message.data;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Sends appends into faults until the connection drops, then into others. */
async function dropped(channel, client, serial, pieces, list, then = {}) {
  await faults(list);
  const calm = client.connection.once('disconnected').then(() => faults(then));
  const results = await Promise.allSettled(pieces.map((data) => channel.appendMessage({ serial, data })));
  await calm;
  return results;
}

const pieces = Array.from({ length: 40 }, (_, n) => `${n} `);
const text = pieces.join('');

async function once() {
  for (const way of ['socket', 'close', 'disconnected']) {
    for (const fault of ['lose-ack', 'drop']) {
      const name = `ai:${where.format}-${way}-${fault}`;
      const client = await connected(where);
      const subscriber = await connected(where);
      const reader = new Reader();
      await subscriber.channels.get(name).subscribe((message) => reader.apply(message));
      const channel = client.channels.get(name);
      const { serials: [serial] } = await channel.publish('x', '');
      const id = client.connection.id;
      const results = await dropped(channel, client, serial, pieces, { [fault]: 1, 'drop-as': way });
      assert.ok(results.every(({ status }) => status === 'fulfilled'), `${way} ${fault}: all are acknowledged`);
      assert.equal(client.connection.id, id, 'resumed');
      assert.equal(await settled(channel, serial, (data) => data.length >= text.length), text, 'each piece once');
      while (reader.messages.get(serial).text.length < text.length) await new Promise((resolve) => setTimeout(resolve, 20));
      assert.equal(reader.messages.get(serial).text, text);
      client.close();
      subscriber.close();
    }
  }
  const { resumed, repeated } = await stats();
  assert.ok(resumed >= 6 && repeated >= 1, JSON.stringify({ resumed, repeated }));
  say('a resumed connection has each operation once');
}

async function lost() {
  const client = await connected(where);
  const channel = client.channels.get(`ai:${where.format}-lost`);
  const { serials: [serial] } = await channel.publish('x', '');
  const id = client.connection.id;
  const results = await dropped(channel, client, serial, pieces, { 'lose-ack': 1, 'drop-as': 'socket', 'refuse-resume': 1 }, { 'refuse-resume': 1 });
  assert.ok(results.every(({ status }) => status === 'fulfilled'), 'the client sends all again');
  assert.notEqual(client.connection.id, id);
  assert.equal(client.connection.errorReason?.code ?? 80018, 80018);
  const doubled = await settled(channel, serial, (data) => data.length > text.length);
  assert.ok(doubled.endsWith(text) && doubled !== text, 'what was applied before is there twice');
  await channel.updateMessage({ serial, data: text });
  assert.equal(await settled(channel, serial, (data) => data === text), text);
  client.close();
  say('a connection that is not resumed repeats itself, and an update mends it');
}

async function missed() {
  const name = `ai:${where.format}-missed`;
  const publisher = await connected(where);
  const subscriber = await connected(where);
  const reader = new Reader();
  const source = publisher.channels.get(name);
  await subscriber.channels.get(name).subscribe((message) => reader.apply(message));
  const { serials: [serial] } = await source.publish('x', '');
  // The subscriber's own operation makes its connection drop; the pieces come while it is away.
  await faults({ drop: 1, 'drop-as': 'socket', 'reject-ops': [] });
  const gone = subscriber.connection.once('disconnected');
  const own = subscriber.channels.get(`${name}:own`).publish('x', 'y');
  await gone;
  await faults({ 'refuse-connections': true });
  await faults({});
  for (const data of pieces) await source.appendMessage({ serial, data });
  await own;
  await source.updateMessage({ serial, extras: { headers: { status: 'complete' } } });
  while (reader.messages.get(serial)?.headers?.status !== 'complete') await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(reader.messages.get(serial).text, text);
  publisher.close();
  subscriber.close();
  say('a subscriber that was away gets what it missed');
}

async function refused() {
  const client = await connected(where);
  const channel = client.channels.get(`ai:${where.format}-refused`);
  const { serials: [serial] } = await channel.publish('x', '');
  await faults({ reject: 0.5, 'reject-ops': ['append'], 'reject-fold': 1, seed: 3 });
  const results = await Promise.allSettled(pieces.map((data) => channel.appendMessage({ serial, data })));
  const codes = new Set(results.filter(({ status }) => status === 'rejected').map(({ reason }) => reason.code));
  assert.deepEqual([...codes], [50003]);
  await faults({});
  await channel.appendMessage({ serial, data: 'end' });
  const folded = await settled(channel, serial, (data) => data.endsWith('end'));
  assert.notEqual(folded, `${text}end`, 'joined in another order');
  assert.equal([...folded].sort().join(''), [...`${text}end`].sort().join(''), 'but none is lost');
  await faults({ 'rate-limit': 20 });
  const limited = await Promise.allSettled(pieces.map((data) => channel.publish('y', data)));
  assert.ok(limited.some(({ reason }) => reason?.code === 42911 && reason.statusCode === 429));
  await faults({ 'channel-rate-limit': 20 });
  const channelLimited = await Promise.allSettled(pieces.map((data) => channel.publish('y', data)));
  assert.ok(channelLimited.some(({ reason }) => reason?.code === 42913));
  await faults({ 'null-updates': 1 });
  assert.equal((await channel.updateMessage({ serial, data: text })).versionSerial, null);
  await faults({});
  assert.equal(client.connection.state, 'connected');
  client.close();
  say('refusals, limits and answers without a serial are as Ably gives them');
}

await once();
await lost();
await missed();
await refused();
process.exit(0);
