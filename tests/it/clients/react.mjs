// The hook for front ends, in a document, on channels that play a script: node react.mjs
// READER names the folder with what the TypeScript compiler made of it.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { Channel, piece, settle, text, token } from './script.mjs';
import { say } from './shared.mjs';

const require = createRequire(`${process.env.READER}/`);
const { Window } = await import(pathToFileURL(require.resolve('happy-dom')));
const window = new Window();
Object.assign(globalThis, { window, document: window.document, navigator: window.navigator, IS_REACT_ACT_ENVIRONMENT: true });
const { act, createElement } = require('react');
const { createRoot } = require('react-dom/client');
const { renderToString } = require('react-dom/server');
const { useResponse } = await import(pathToFileURL(`${process.env.READER}/react.js`));

const of = (id, more) => ({ responseId: id, ...more });

/** Shows a response. Keeps everything that it painted, and what failed. */
function shown() {
  const [painted, errors] = [[], []];
  function Answer({ channel, id }) {
    const response = useResponse(channel, id, 0, (error) => errors.push(error.message));
    const line = response ? `${id}: ${response.text} (${response.status})` : `${id}: nothing`;
    painted.push(line);
    return createElement('p', {}, line);
  }
  const place = document.createElement('div');
  const root = createRoot(place);
  const show = (channel, id) => act(async () => root.render(createElement(Answer, { channel, id })));
  const happens = (what) => act(async () => {
    what();
    await settle();
  });
  return { show, happens, painted, errors, now: () => place.textContent, end: () => act(async () => root.unmount()) };
}

async function changesItsId() {
  const channel = new Channel();
  let read;
  channel.kept = () => new Promise((resolve) => (read = resolve));
  const { show, happens, painted, now, end } = shown();
  await show(channel, 'a');
  const readFirst = read;
  channel.kept = [text('b', 'b1', 'of b', 'complete', of('b'))];
  await show(channel, 'b');
  assert.equal(now(), 'b: of b (complete)');
  await happens(() => readFirst([text('a', 'a1', 'of a', 'streaming', of('a'))]));
  await happens(() => channel.say(piece('a', 'a2', ' more', 'streaming', of('a'))));
  assert.equal(now(), 'b: of b (complete)');
  // Not even for a moment.
  await show(channel, 'a');
  const wrong = painted.filter((line) => /^a: of b|^b: of a/.test(line));
  assert.deepEqual(wrong, []);
  await end();
  assert.equal(channel.listeners, 0);
  say('a component that turns to another response');
}

async function changesItsChannel() {
  const [one, other] = [new Channel(), new Channel()];
  one.kept = [text('m', 'm1', 'on one', 'complete')];
  const { show, painted, end } = shown();
  await show(one, 'r');
  assert.equal(painted.at(-1), 'r: on one (complete)');
  const before = painted.length;
  await show(other, 'r');
  assert.deepEqual(new Set(painted.slice(before)), new Set(['r: nothing']));
  await end();
  say('a component that turns to another channel');
}

async function tellsWhatFails() {
  const channel = new Channel();
  channel.kept = () => Promise.reject(new Error('not allowed'));
  const { show, happens, errors, now, end } = shown();
  await show(channel, 'a');
  await happens(() => {});
  assert.deepEqual(errors, ['not allowed']);
  // The next one is not disturbed by it.
  channel.kept = [];
  await show(channel, 'b');
  await happens(() => channel.say(text('b', 'b1', 'of b', 'complete', of('b'))));
  await happens(() => channel.say(text('a', 'a1', 'of a', 'complete', of('a'))));
  assert.equal(now(), 'b: of b (complete)');
  await end();
  assert.equal(channel.listeners, 0);
  say('a component whose history cannot be read');
}

async function showsAllKinds() {
  const channel = new Channel();
  const { show, happens, now, end } = shown();
  await show(channel, 'r');
  await happens(() => [token(0, 'one'), token(1, ' two')].forEach((message) => channel.say(message)));
  assert.equal(now(), 'r: one two (streaming)');
  await show(channel, 'long');
  await happens(() => channel.say(text('s0', 's0', 'one ', 'continued', of('long'))));
  await happens(() => channel.say(text('s1', 's1', 'two', 'streaming', of('long', { segment: '1', prev: 's0' }))));
  assert.equal(now(), 'long: one two (streaming)');
  await happens(() => channel.say(text('s1', 's2', 'TWO.', 'error', of('long', { segment: '1', prev: 's0', segments: '2' }))));
  assert.equal(now(), 'long: one TWO. (error)');
  await show(channel, 'c');
  await happens(() => channel.say(text('c', 'c1', 'never', 'cancelled', of('c'))));
  assert.equal(now(), 'c: never (cancelled)');
  await end();
  say('tokens, segments, a repair, an error, and what was cancelled');
}

async function rendersOnAServer() {
  const Answer = () => createElement('p', {}, useResponse(new Channel(), 'r')?.text ?? 'waiting');
  assert.equal(renderToString(createElement(Answer)), '<p>waiting</p>');
  say('a component on a server');
}

await changesItsId();
await changesItsChannel();
await tellsWhatFails();
await showsAllKinds();
await rendersOnAServer();
process.exit(0);
