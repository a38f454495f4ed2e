// Everything that a client does on channels, over the WebSocket: node channels.mjs ENDPOINT PORT KEY FORMAT

import assert from 'node:assert/strict';
import { Inbox, Reader, connected, failure, place, say } from './shared.mjs';

const where = place();
const client = await connected(where, { clientId: 'me' });
assert.match(client.connection.id, /\w+/);
assert.equal(client.auth.clientId, 'me');
assert.ok((await client.connection.ping()) >= 0);
say('connects and pings');

const other = await connected(where);

/** A channel of the second client whose events land in an inbox. */
async function watch(name, channelOptions, by = other) {
  const inbox = new Inbox();
  const channel = by.channels.get(name, channelOptions);
  await channel.subscribe((message) => inbox.add(message));
  return { inbox, channel };
}

/** The message once it has that text: an append is acknowledged before its rollup ends. */
async function reads(channel, serial, text) {
  for (;;) {
    const message = await channel.getMessage(serial);
    if (message.data === text) return message;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

async function publishes() {
  const name = `pub:${where.format} é/ä#1`;
  const { inbox } = await watch(name);
  const channel = client.channels.get(name);
  const one = await channel.publish('greet', 'hello');
  const array = await channel.publish([{ name: 'a', data: '1' }, { name: 'b', data: { j: [1, null, 'ü'] } }]);
  await channel.publish('bytes', Buffer.from([0, 1, 255]));
  await channel.publish({ name: 'full', data: '🙂', extras: { headers: { k: 'v', n: 1, yes: true } } });
  await channel.publish(null, null);
  await channel.publish('', '');
  await channel.publish('last', '');
  await inbox.next(({ name }) => name === 'last');
  const seen = inbox.all;
  assert.deepEqual(seen.map(({ name }) => name ?? null).slice(0, 5), ['greet', 'a', 'b', 'bytes', 'full']);
  assert.deepEqual(seen.slice(0, 3).map(({ data }) => data), ['hello', '1', { j: [1, null, 'ü'] }]);
  assert.deepEqual([...seen[3].data], [0, 1, 255]);
  assert.equal(seen[4].data, '🙂');
  assert.deepEqual(seen[4].extras, { headers: { k: 'v', n: 1, yes: true } });
  assert.deepEqual([...one.serials, ...array.serials], seen.slice(0, 3).map(({ serial }) => serial));
  for (const message of seen) {
    assert.equal(message.action, 'message.create');
    assert.equal(message.clientId, 'me');
    assert.equal(message.connectionId, client.connection.id);
    assert.equal(message.version.serial, message.serial);
    assert.ok(Math.abs(message.timestamp - Date.now()) < 60_000 && message.id);
  }
  const serials = seen.map(({ serial }) => serial);
  assert.deepEqual(serials, [...serials].sort(), 'serials rise');
  assert.equal(new Set(seen.map(({ id }) => id)).size, seen.length);
  say('publishes text, objects, bytes and arrays');
}

async function appends() {
  const name = `ai:${where.format}-appends`;
  const { inbox } = await watch(name);
  const channel = client.channels.get(name);
  const extras = { headers: { responseId: 'r1', status: 'streaming' } };
  const { serials: [serial] } = await channel.publish({ name: 'response', data: '', extras });
  const pieces = Array.from({ length: 300 }, (_, n) => `${n}ü `);
  const results = await Promise.all(pieces.map((data) => channel.appendMessage({ serial, data })));
  const versions = results.map(({ versionSerial }) => versionSerial);
  assert.ok(versions.every((version, n) => version > serial && (n === 0 || version >= versions[n - 1])), 'versions rise');
  const done = { headers: { responseId: 'r1', status: 'complete' } };
  await channel.appendMessage({ serial, data: '.', extras: done }, { description: 'end', metadata: { tokens: '300' } });
  const end = await inbox.next(({ extras }) => extras?.headers?.status === 'complete');
  assert.deepEqual([end.action, end.version.description, end.version.metadata], ['message.append', 'end', { tokens: '300' }]);
  assert.equal(end.version.clientId, 'me');

  const text = `${pieces.join('')}.`;
  const reader = new Reader();
  inbox.all.forEach((message) => assert.ok(reader.apply(message), 'every event is news'));
  assert.equal(reader.messages.get(serial).text, text);
  const [create, ...deltas] = inbox.all;
  assert.deepEqual([create.action, create.data], ['message.create', '']);
  assert.ok(deltas.every((delta) => delta.action === 'message.append' && delta.name === 'response' && delta.timestamp === create.timestamp));
  assert.ok(deltas.length > 1 && deltas.length < pieces.length, `${deltas.length} deltas for ${pieces.length} appends`);
  say('rolls appends up');

  const late = await watch(name, {}, client);
  await channel.appendMessage({ serial, data: '!' });
  const first = await late.inbox.next(() => true);
  assert.deepEqual([first.action, first.data, first.extras], ['message.update', `${text}!`, done], 'the first is whole');
  const whole = await watch(name, { params: { appendMode: 'full' } }, await connected(where));
  await channel.appendMessage({ serial, data: '?' });
  await channel.appendMessage({ serial, data: '?' });
  await whole.inbox.next(({ data }) => data.endsWith('!??'));
  assert.ok(whole.inbox.all.every(({ action }) => action === 'message.update'));
  assert.equal((await late.inbox.next(({ version }) => version.serial > first.version.serial)).action, 'message.append');
  say('gives newcomers the whole, then pieces');
  return { name, serial, text: `${text}!??` };
}

async function mutations({ name, serial, text }) {
  const channel = client.channels.get(name);
  const { inbox } = await watch(name);
  const operation = { description: 'repair', metadata: { why: 'test' } };
  const { versionSerial } = await channel.updateMessage({ serial, data: 'new', extras: { headers: { x: 1 } } }, operation);
  const update = await inbox.next(({ action }) => action === 'message.update');
  assert.deepEqual([update.serial, update.data, update.name, update.extras], [serial, 'new', 'response', { headers: { x: 1 } }]);
  assert.deepEqual([update.version.serial, update.version.description, update.version.metadata], [versionSerial, 'repair', { why: 'test' }]);
  await channel.appendMessage({ serial, data: 'er' });
  await reads(channel, serial, 'newer');

  await channel.deleteMessage({ serial }, { description: 'gone' });
  const gone = await inbox.next(({ action }) => action === 'message.delete');
  assert.deepEqual([gone.serial, gone.version.description], [serial, 'gone']);
  assert.equal((await channel.getMessage(serial)).action, 'message.delete');

  const versions = (await channel.getMessageVersions(serial)).items;
  assert.deepEqual(versions.map(({ action }) => action), ['message.create', 'message.update', 'message.delete']);
  assert.ok(versions.every(({ version }, n) => n === 0 || version.serial > versions[n - 1].version.serial), 'oldest first');
  assert.equal(text.length > 1000, true);
  say('updates, deletes, and reads versions');
}

async function order() {
  const name = `ai:${where.format}-order`;
  const { inbox } = await watch(name);
  const channel = client.channels.get(name);
  const { serials } = await channel.publish(['a', 'b', 'c'].map((data) => ({ data })));
  const steps = serials.flatMap((serial, n) => Array.from({ length: 50 }, (_, at) => ({ serial, data: `${n}.${at} ` })));
  await Promise.all(steps.sort((a, b) => a.data.length - b.data.length).map((step) => channel.appendMessage(step)));
  await Promise.all(serials.map((serial) => channel.updateMessage({ serial, extras: { headers: { status: 'complete' } } })));
  await Promise.all(serials.map((serial) => inbox.next((event) => event.serial === serial && event.action === 'message.update')));
  const reader = new Reader();
  inbox.all.forEach((message) => reader.apply(message));
  for (const [n, serial] of serials.entries()) {
    const expected = 'abc'[n] + steps.filter((step) => step.serial === serial).map(({ data }) => data).join('');
    await reads(channel, serial, expected);
    assert.equal(reader.messages.get(serial).text, expected);
  }
  say('keeps the order of appends to several messages');
}

async function history() {
  const name = `his:${where.format}`;
  const channel = client.channels.get(name);
  const { serials } = await channel.publish(Array.from({ length: 5 }, (_, n) => ({ name: `n${n}`, data: `${n}` })));
  await channel.appendMessage({ serial: serials[1], data: '+' });
  await reads(channel, serials[1], '1+');
  for (const direction of ['forwards', 'backwards']) {
    const pages = [];
    for (let page = await channel.history({ limit: 2, direction }); page; page = await page.next()) pages.push(page.items);
    assert.deepEqual(pages.map((page) => page.length), [2, 2, 1]);
    const texts = pages.flat().map(({ data }) => data);
    assert.deepEqual(direction === 'forwards' ? texts : texts.reverse(), ['0', '1+', '2', '3', '4']);
  }
  const [edited] = (await channel.history({ limit: 1, start: 1, end: Date.now() + 60_000, direction: 'forwards' })).items;
  assert.equal(edited.serial, serials[0]);
  assert.equal((await channel.history({ end: 5 })).items.length, 0);

  const { inbox } = await watch(name, { params: { rewind: '2' } });
  await inbox.next(({ data }) => data === '4');
  assert.deepEqual(inbox.all.map(({ data }) => data), ['3', '4']);
  const qualified = await watch(`[?rewind=1m]${name}`, {}, client);
  await qualified.inbox.next(({ data }) => data === '4');
  assert.deepEqual(qualified.inbox.all.map(({ action }) => action), ['create', 'update', 'create', 'create', 'create'].map((action) => `message.${action}`));

  await client.channels.get(name).attach();
  await other.channels.get(name).publish('after', '5');
  const until = await client.channels.get(name).history({ untilAttach: true, direction: 'backwards' });
  assert.deepEqual(until.items.map(({ data }) => data), ['4', '3', '2', '1+', '0']);
  say('pages through history, rewinds, and reads until the attach');
}

async function attachments() {
  const name = `att:${where.format}`;
  const { inbox, channel } = await watch(name);
  await channel.detach();
  await client.channels.get(name).publish('unseen', 'x');
  await channel.subscribe((message) => inbox.add(message));
  await channel.attach();
  await client.channels.get(name).publish('seen', 'y');
  await inbox.next(({ name }) => name === 'seen');
  assert.ok(inbox.all.every(({ name }) => name === 'seen'));

  const quiet = await connected(where, { echoMessages: false });
  const own = await watch(name, {}, quiet);
  await quiet.channels.get(name).publish('own', 'z');
  await channel.publish('foreign', 'z');
  await own.inbox.next(({ name }) => name === 'foreign');
  assert.ok(own.inbox.all.every(({ name }) => name === 'foreign'), 'no echo');

  const tooMany = await connected(where);
  const attach = (n) => tooMany.channels.get(`${name}:${n}`).attach();
  await Promise.all(Array.from({ length: 200 }, (_, n) => attach(n)));
  assert.equal((await failure(attach(200))).code, 90010);
  assert.equal((await failure(other.channels.get(':bad').attach())).code, 40010);
  say('attaches, detaches, and no further than 200 channels');
}

async function refusals() {
  const fixed = client.channels.get(`fixed:${where.format}`);
  const { serials: [serial] } = await fixed.publish('x', 'created');
  for (const change of ['appendMessage', 'updateMessage', 'deleteMessage']) {
    assert.equal((await failure(fixed[change]({ serial, data: 'y' }))).code, 93002);
  }
  assert.equal((await fixed.getMessage(serial)).data, 'created');

  const channel = client.channels.get(`ref:${where.format}`);
  const half = 'ü'.repeat(16_000);
  const { serials: [large] } = await channel.publish('large', half);
  await channel.appendMessage({ serial: large, data: half });
  const refused = await failure(channel.appendMessage({ serial: large, data: half }));
  assert.deepEqual([refused.code, refused.statusCode], [40009, 413]);
  assert.equal((await failure(channel.updateMessage({ serial: large, data: half + half + half }))).code, 40009);
  assert.equal((await failure(channel.publish('x', half + half + half))).code, 40009);
  await reads(channel, large, half + half);

  assert.equal((await failure(channel.appendMessage({ serial: 'none', data: 'x' }))).code, 40400);
  assert.equal((await failure(channel.getMessage('none'))).code, 40400);
  assert.equal((await failure(channel.appendMessage({ serial: large, data: Buffer.from([1]) }))).code, 40013);
  assert.equal((await failure(channel.publish([{ id: 'a:0', data: '' }, { id: 'b:1', data: '' }]))).code, 40031);
  assert.equal((await failure(channel.publish({ data: '', extras: { unknown: 1 } }))).code, 40032);
  assert.equal((await failure(channel.publish({ data: '', clientId: 'you' }))).code, 40012);
  const again = { id: 'once:0', data: 'once' };
  assert.deepEqual((await channel.publish(again)).serials, (await channel.publish(again)).serials, 'known by its id');
  assert.equal((await channel.history()).items.filter(({ data }) => data === 'once').length, 1);
  assert.equal(client.connection.state, 'connected', 'refusals cost no connection');
  say('refuses what Ably refuses, with its codes');
}

await publishes();
await mutations(await appends());
await order();
await history();
await attachments();
await refusals();

client.close();
await client.connection.once('closed');
say('closes');
process.exit(0);
