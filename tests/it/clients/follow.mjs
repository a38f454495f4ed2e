// The follower for front ends against a channel that plays a script: node follow.mjs
// READER names the folder with what the TypeScript compiler made of it.

import assert from 'node:assert/strict';
import { mock } from 'node:test';
import { pathToFileURL } from 'node:url';
import { Channel, piece, settle, text, token } from './script.mjs';
import { say } from './shared.mjs';

const { follow } = await import(pathToFileURL(`${process.env.READER}/ably.js`));

/** Follows a channel. Keeps all that is shown, and all that fails. */
async function followed(channel, options) {
  const [shown, errors] = [[], []];
  const stop = await follow(channel, (response) => shown.push(response), { failed: (error) => errors.push(error), ...options });
  const last = () => shown.at(-1) && (({ text, status, complete, gap }) => ({ text, status, complete, gap }))(shown.at(-1));
  return { shown, errors, stop, last };
}

/** Lets so much time pass. */
async function pass(ms) {
  await settle();
  for (let left = ms; left > 0; left -= 50) {
    mock.timers.tick(50);
    await settle();
  }
}

async function believesNoHistoryThatIsBehind() {
  const channel = new Channel();
  const { last, stop, errors } = await followed(channel);
  channel.say(text('m', 'v1', 'one'));
  channel.kept = [text('m', 'v1', 'one')];
  // ' two' is missed; the history does not have it for a while.
  channel.lose();
  await pass(1_000);
  channel.say(piece('m', 'v3', ' three', 'complete'));
  await pass(1_000);
  assert.deepEqual(last(), { text: 'one three', status: 'complete', complete: false, gap: true });
  channel.kept = [text('m', 'v3', 'one two three', 'complete')];
  await pass(4_000);
  assert.deepEqual(last(), { text: 'one two three', status: 'complete', complete: true, gap: false });
  const reads = channel.reads.length;
  await pass(60_000);
  assert.deepEqual([channel.reads.length, errors], [reads, []], 'nothing is missing any more');
  stop();
  say('a history that is behind what was missed');
}

async function findsAnEndThatWasMissed() {
  const channel = new Channel();
  const { last, stop } = await followed(channel);
  channel.say(text('m', 'v1', 'one'));
  channel.kept = [text('m', 'v1', 'one')];
  channel.lose();
  await pass(3_000);
  channel.kept = [text('m', 'v2', 'one two', 'complete')];
  await pass(10_000);
  assert.deepEqual(last(), { text: 'one two', status: 'complete', complete: true, gap: false });
  stop();
  say('an end that was missed');
}

async function triesAgainWhatFails() {
  const channel = new Channel();
  const { last, errors, stop } = await followed(channel);
  channel.kept = () => Promise.reject(new Error('away'));
  channel.say(piece('m', 'v2', ' two'));
  await pass(120_000);
  assert.ok(errors.length > 5 && errors.length < 12, `${errors.length} errors`);
  channel.kept = [text('m', 'v2', 'one two')];
  await pass(31_000);
  assert.deepEqual(last(), { text: 'one two', status: 'streaming', complete: false, gap: false });
  stop();
  say('a history that fails for a while');
}

async function endsReadingForWhatIsGone() {
  const channel = new Channel();
  const { errors, stop, last } = await followed(channel);
  // The history keeps only what is young.
  channel.kept = Array.from({ length: 100 }, (_, n) => token(1_099 - n, ' x'));
  for (let seq = 1_100; seq < 3_000; seq += 1) {
    channel.say(token(seq, ' x'));
    await pass(100);
  }
  assert.equal(last().gap, true);
  assert.ok(channel.reads.length < 12, `${channel.reads.length} readings`);
  assert.equal(errors.length, 1);
  channel.say(token(3_000, '', { seq: '3000', n: '0', status: 'complete', length: '1' }));
  await pass(1_000);
  assert.ok(channel.reads.length < 16, `${channel.reads.length} readings`);
  stop();
  say('tokens that no history has any more');
}

async function readsOnlyForWhatMayCome() {
  const channel = new Channel();
  channel.kept = [text('m', 'v2', 'over', 'complete'), { ...text('n', 'v3', undefined, 'streaming', { responseId: 'gone' }), action: 'message.delete' }];
  const { errors, stop } = await followed(channel);
  await pass(120_000);
  assert.deepEqual([channel.reads.length, errors], [1, []]);
  stop();
  say('a history in which all is over or deleted');
}

async function showsATextThatIsJoinedOnce() {
  const channel = new Channel();
  channel.kept = Array.from({ length: 2_500 }, (_, n) => token(2_499 - n, ` ${2_499 - n}`));
  const { shown, stop } = await followed(channel);
  assert.deepEqual(channel.reads, [{ untilAttach: true, limit: 1_000 }]);
  assert.equal(shown.length, 1);
  assert.equal(shown[0].text, Array.from({ length: 2_500 }, (_, n) => ` ${n}`).join(''));
  stop();
  say('many tokens at once');
}

async function stopsAtAnyTime() {
  // While it attaches, while it reads, while it waits.
  for (const when of ['attach', 'read', 'rest']) {
    const channel = new Channel();
    const stopping = new AbortController();
    if (when === 'read') channel.kept = () => new Promise((resolve) => void stopping.signal.addEventListener('abort', () => resolve([text('m', 'v', 'x')])));
    const following = followed(channel, { signal: stopping.signal });
    if (when !== 'attach') await settle();
    if (when === 'rest') {
      channel.say(piece('m', 'v2', ' two'));
      await pass(700);
    }
    stopping.abort();
    const { shown, errors } = await following;
    const reads = channel.reads.length;
    channel.say(text('m', 'v3', 'late'));
    await pass(60_000);
    assert.deepEqual([channel.listeners, channel.reads.length, errors, shown.length], [0, reads, [], when === 'rest' ? 1 : 0], when);
  }
  const channel = new Channel();
  channel.subscribe = () => Promise.reject(new Error('it was attached'));
  await followed(channel, { signal: AbortSignal.abort() });
  say('a follower that is stopped');
}

async function failsAtFirst() {
  const channel = new Channel();
  channel.kept = () => Promise.reject(new Error('not allowed'));
  await assert.rejects(followed(channel), /not allowed/);
  assert.equal(channel.listeners, 0);
  say('a history that cannot be read at all');
}

mock.timers.enable({ apis: ['setTimeout'] });
await believesNoHistoryThatIsBehind();
await findsAnEndThatWasMissed();
await triesAgainWhatFails();
await endsReadingForWhatIsGone();
await readsOnlyForWhatMayCome();
await showsATextThatIsJoinedOnce();
await stopsAtAnyTime();
await failsAtFirst();
process.exit(0);
