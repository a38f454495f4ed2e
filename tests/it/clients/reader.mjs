// The reader for front ends, as its page shows it: node reader.mjs ENDPOINT PORT KEY FORMAT
// READER names the folder with what the TypeScript compiler made of it, VECTORS the file with its vectors.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { component, runExample } from './docs.mjs';
import { connected, emulator, options, place, say } from './shared.mjs';

const load = (name) => import(pathToFileURL(`${process.env.READER}/${name}`));
const { Responses } = await load('reader.js');
const { follow } = await load('ably.js');

for (const { name, steps } of JSON.parse(readFileSync(process.env.VECTORS))) {
  const responses = new Responses();
  steps.forEach(({ message, history, missed, response }, step) => {
    if (missed) return responses.missed();
    const changed = history ? responses.applyHistory([message])[0] : responses.apply(message);
    assert.deepEqual(changed ?? null, response, `${name}, step ${step}`);
    if (response) assert.deepEqual({ ...responses.get(response.responseId, response.part), repaired: response.repaired }, response);
  });
}
say('the vectors');

const where = place();
const relay = await connected(where);
const headers = (responseId, more) => ({ headers: { responseId, part: '0', segment: '0', createId: responseId, status: 'streaming', ...more } });

/** A response as the relay writes it. */
class Stream {
  constructor(name, responseId, client = relay) {
    this.client = client;
    this.channel = client.channels.get(name);
    this.responseId = responseId;
  }

  async create(data, more) {
    const { serials } = await this.channel.publish({ name: 'response', data, extras: headers(this.responseId, more) });
    [this.serial] = serials;
  }

  append(data, more) {
    return this.channel.appendMessage({ serial: this.serial, name: 'response', data, extras: headers(this.responseId, more) });
  }

  update(data, more) {
    return this.channel.updateMessage({ serial: this.serial, name: 'response', data, extras: headers(this.responseId, more) });
  }
}

/** What a follower has been told last, and a way to wait for more. */
function latest() {
  const waiting = [];
  const seen = new Map();
  const changed = (response) => {
    seen.set(response.responseId, response);
    for (const each of waiting.splice(0)) each();
  };
  const until = async (id, fits) => {
    while (!seen.has(id) || !fits(seen.get(id))) await new Promise((resolve) => waiting.push(resolve));
    return seen.get(id);
  };
  return { changed, until };
}

const reader = await connected(where);

async function follows() {
  const name = 'ai:live';
  const { changed, until } = latest();
  const stop = await follow(reader.channels.get(name), changed);
  const stream = new Stream(name, 'a');
  await stream.create('Hello');
  for (const token of [' ', 'wide', ' ', 'world']) void stream.append(token);
  await until('a', ({ text }) => text === 'Hello wide world');
  await stream.update('Hello, world');
  assert.equal((await until('a', ({ text }) => text === 'Hello, world')).repaired, true);
  await stream.append('!', { status: 'complete' });
  const { complete, repaired, gap } = await until('a', ({ complete }) => complete);
  assert.deepEqual({ complete, repaired, gap }, { complete: true, repaired: false, gap: false });
  stop();
  say('a response that is followed from its beginning');
}

async function comesLate() {
  const name = 'ai:late';
  const stream = new Stream(name, 'b');
  await stream.create('This was ');
  await stream.append('there ');
  await new Stream(name, 'before').create('over', { status: 'complete' });
  const late = await connected(where);
  const { changed, until } = latest();
  const following = follow(late.channels.get(name), changed);
  for (const token of ['before', ' ', 'me']) void stream.append(token);
  const stop = await following;
  await stream.append('.', { status: 'complete' });
  assert.equal((await until('b', ({ complete }) => complete)).text, 'This was there before me.');
  assert.equal((await until('before', ({ complete }) => complete)).text, 'over');
  stop();
  late.close();
  say('responses that began before their reader came');
}

async function losesContinuity() {
  const name = 'ai:gap';
  const stream = new Stream(name, 'c');
  await stream.create('one');
  const lossy = await connected(where);
  const { changed, until } = latest();
  const stop = await follow(lossy.channels.get(name), changed);
  await until('c', ({ text }) => text === 'one');
  await emulator(where, 'faults', { drop: 1, 'refuse-resume': 1 });
  const reconnected = new Promise((resolve) => lossy.connection.once('disconnected', resolve));
  void lossy.channels.get('ai:elsewhere').publish('x', 'x').catch(() => {});
  await reconnected;
  await emulator(where, 'faults', { 'refuse-resume': 1 });
  await stream.append(' two');
  await stream.update('one, two', { status: 'complete' });
  assert.equal((await until('c', ({ complete }) => complete)).text, 'one, two');
  stop();
  lossy.close();
  await emulator(where, 'faults', {});
  say('a reader that missed something');
}

async function rewinds() {
  const name = 'ai:rewound';
  const stream = new Stream(name, 'f');
  await stream.create('There was ');
  await stream.append('something');
  const late = await connected(where);
  const responses = new Responses();
  const { changed, until } = latest();
  const channel = late.channels.get(name, { params: { rewind: '2m' } });
  await channel.subscribe((message) => {
    const response = responses.apply(message);
    if (response) changed(response);
  });
  await stream.append('.', { status: 'complete' });
  const { text, gap } = await until('f', ({ complete }) => complete);
  assert.deepEqual({ text, gap }, { text: 'There was something.', gap: false });
  late.close();
  // Who follows with a rewind sees what the history does not have yet.
  await emulator(where, 'faults', { 'history-lag': 3_600_000 });
  const later = await connected(where);
  const followed = latest();
  const stop = await follow(later.channels.get(name, { params: { rewind: '2m' } }), followed.changed);
  assert.equal((await followed.until('f', ({ complete }) => complete)).text, 'There was something.');
  stop();
  later.close();
  await emulator(where, 'faults', {});
  say('a response that was rewound');
}

/** Subscribers miss things and are told, get old things again, whole messages for pieces; history knows no attachment. */
const LOSSY = { 'whole-pieces': 0.1, 'lose-deliveries': 0.1, 'repeat-deliveries': 0.2, 'refuse-until-attach': true };
/** What is read is what was there seconds before. */
const BEHIND = { 'read-lag': 2_000, 'history-lag': 1_000 };
const NUMBERS = Array.from({ length: 300 }, (_, number) => ` ${number}`);

async function missesPieces() {
  for (const [seed, more] of [{}, {}, BEHIND, BEHIND].entries()) {
    const [id, name] = [`g${seed}`, `ai:lossy-${seed}`];
    await emulator(where, 'faults', { ...LOSSY, ...more, seed });
    const { changed, until } = latest();
    const stop = await follow(reader.channels.get(name), changed);
    const stream = new Stream(name, id, await connected(where, { transportParams: { appendRollupWindow: '0' } }));
    await stream.create('0');
    for (const piece of NUMBERS) await stream.append(piece);
    await stream.append('.', { status: 'complete' });
    assert.equal((await until(id, ({ complete }) => complete)).text, `0${NUMBERS.join('')}.`);
    stop();
    stream.client.close();
  }
  say('a text of which pieces were missed');
}

async function missesTokens() {
  const id = 'h';
  await emulator(where, 'faults', { ...LOSSY, seed: 4 });
  const { changed, until } = latest();
  const stop = await follow(reader.channels.get('ai:tokens'), changed);
  const publish = (name, data, status, more) =>
    relay.channels.get('ai:tokens').publish({ name, data, extras: headers(id, { status, epoch: '1', ...more }) });
  await publish('start', '', 'streaming', { seq: '0', n: '0' });
  for (const [seq, piece] of NUMBERS.entries()) await publish('token', piece, 'streaming', { seq: `${seq}`, n: '1' });
  const text = NUMBERS.join('');
  await publish('stop', '', 'complete', { seq: `${NUMBERS.length}`, n: '0', round: '1', tokens: `${NUMBERS.length}`, length: `${text.length}` });
  assert.equal((await until(id, ({ complete }) => complete)).text, text);
  stop();
  await emulator(where, 'faults', {});
  say('tokens of which some were missed');
}

async function goesOn() {
  const name = 'ai:long';
  const { changed, until } = latest();
  const stop = await follow(reader.channels.get(name), changed);
  const [first, second] = [new Stream(name, 'd'), new Stream(name, 'd')];
  await first.create('one ');
  await first.append('two ', { status: 'continued' });
  await second.create('three', { segment: '1', prev: first.serial });
  await second.append('.', { segment: '1', prev: first.serial, status: 'complete', segments: '2' });
  assert.equal((await until('d', ({ complete }) => complete)).text, 'one two three.');
  stop();
  say('a text in several messages');
}

async function endsOtherwise() {
  const { changed, until } = latest();
  const stop = await follow(reader.channels.get('ai:ends'), changed);
  for (const status of ['cancelled', 'error']) {
    const stream = new Stream('ai:ends', status);
    await stream.create('Not all');
    await stream.append('', { status });
    const { text, complete } = await until(status, (response) => response.status === status);
    assert.deepEqual({ text, complete }, { text: 'Not all', complete: true });
  }
  stop();
  say('responses that end otherwise');
}

async function runsTheExample() {
  const name = 'ai:example';
  const [texts, { changed, until }] = [new Map(), latest()];
  const end = await runExample(name, options(where), (key, text) => {
    texts.set(key, text);
    changed({ responseId: key, text });
  });
  const [one, other] = [new Stream(name, 'x'), new Stream(name, 'x')];
  await one.create('heads');
  await other.create('tails', { part: '1' });
  await until('x/1', ({ text }) => text === 'tails');
  assert.deepEqual([...texts], [['x/0', 'heads'], ['x/1', 'tails']]);
  end();
  say('the example that the document shows');
}

async function renders() {
  const require = createRequire(`${process.env.READER}/`);
  const { Window } = await import(pathToFileURL(require.resolve('happy-dom')));
  const window = new Window();
  Object.assign(globalThis, { window, document: window.document, navigator: window.navigator });
  const { createElement } = require('react');
  const { createRoot } = require('react-dom/client');
  const channel = reader.channels.get('ai:react');
  const Answer = await component();
  const place = document.createElement('div');
  const root = createRoot(place);
  root.render(createElement(Answer, { channel, id: 'e' }));
  const stream = new Stream('ai:react', 'e');
  await stream.create('On ');
  await stream.append('the ');
  await stream.append('screen', { status: 'complete' });
  await new Promise((resolve) => {
    const shows = () => place.querySelector('p')?.dataset.status === 'complete' && resolve(observer.disconnect());
    const observer = new window.MutationObserver(shows);
    observer.observe(place, { childList: true, subtree: true, attributes: true, characterData: true });
    shows();
  });
  assert.equal(place.textContent, 'On the screen');
  root.unmount();
  say('the component that the document shows');
}

await follows();
await comesLate();
await losesContinuity();
await rewinds();
await missesPieces();
await missesTokens();
await goesOn();
await endsOtherwise();
await runsTheExample();
await renders();
reader.close();
relay.close();
process.exit(0);
