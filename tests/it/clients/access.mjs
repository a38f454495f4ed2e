// Who may do what: keys, tokens, capabilities, the REST client: node access.mjs ENDPOINT PORT KEY FORMAT

import assert from 'node:assert/strict';
import { createHmac, randomUUID } from 'node:crypto';
import { Ably, connected, failure, options, place, say } from './shared.mjs';

const where = place();
const { key, ...keyless } = where;
const [keyName, secret] = key.split(':');
const rest = new Ably.Rest(options(where));

/** A client without our key, until it is connected or has failed for good. */
async function outcome(more) {
  const client = new Ably.Realtime(options(keyless, more));
  const { current, reason } = await new Promise((resolve) => client.connection.once(['connected', 'failed'], resolve));
  return { client, current, reason };
}

/** A JWT as anybody with the key can make it. */
function jwt(claims, by = secret) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const signed = `${part({ alg: 'HS256', typ: 'JWT', kid: keyName })}.${part({ iat: now, exp: now + 600, ...claims })}`;
  return `${signed}.${createHmac('sha256', by).update(signed).digest('base64url')}`;
}

async function keysAndTokens() {
  for (const [wrong, code] of [['app.key:wrong', 40101], ['app.other:secret', 40101]]) {
    const { current, reason } = await outcome({ key: wrong });
    assert.deepEqual([current, reason.code], ['failed', code]);
  }
  const details = await rest.auth.requestToken({ clientId: 'me', ttl: 60_000, capability: { 'ai:*': ['*'] } });
  assert.deepEqual([details.clientId, details.keyName, JSON.parse(details.capability)], ['me', keyName, { 'ai:*': ['*'] }]);
  assert.equal(details.expires - details.issued, 60_000);
  const { client, current } = await outcome({ tokenDetails: details });
  assert.deepEqual([current, client.auth.clientId], ['connected', 'me']);
  client.close();

  const request = await rest.auth.createTokenRequest({ clientId: 'you' });
  const again = await outcome({ authCallback: (_, give) => give(null, request) });
  assert.deepEqual([again.current, again.client.auth.clientId], ['connected', 'you']);
  again.client.close();

  const signed = await outcome({ token: jwt({ 'x-ably-clientId': 'jwt' }) });
  assert.deepEqual([signed.current, signed.client.auth.clientId], ['connected', 'jwt']);
  signed.client.close();
  const forged = await outcome({ token: jwt({}, 'other') });
  assert.equal(forged.current, 'failed');
  const mismatched = await outcome({ token: jwt({ 'x-ably-clientId': 'jwt' }), clientId: 'somebody' });
  assert.deepEqual([mismatched.current, mismatched.reason.code], ['failed', 40102]);
  say('connects with keys, tokens, token requests and JWTs, and fails without');
}

async function renewal() {
  let asked = 0;
  const client = await connected(keyless, {
    authCallback: (_, give) => give(null, jwt({ jti: randomUUID(), exp: Math.floor(Date.now() / 1000) + (asked++ ? 600 : 3) })),
  });
  const id = client.connection.id;
  await client.connection.once('update');
  assert.deepEqual([asked, client.connection.id, client.connection.state], [2, id, 'connected']);
  await client.auth.authorize();
  assert.deepEqual([asked, client.connection.id], [3, id]);
  client.close();
  const short = await outcome({ token: jwt({ exp: Math.floor(Date.now() / 1000) + 2 }) });
  assert.equal(short.current, 'connected');
  const { reason } = await new Promise((resolve) => short.client.connection.on(['failed', 'disconnected'], resolve));
  assert.ok([40142, 40171].includes(reason.code), `${reason}`);
  short.client.close();
  say('asks for another token before one ends, and ends with it');
}

async function capabilities() {
  const capability = JSON.stringify({ 'ai:*': ['publish', 'subscribe', 'message-update-own'], 'log:x': ['history'] });
  const mine = await connected(keyless, { token: jwt({ 'x-ably-capability': capability, 'x-ably-clientId': 'me' }) });
  const yours = await connected(keyless, { token: jwt({ 'x-ably-capability': capability, 'x-ably-clientId': 'you' }) });
  const nobody = await connected(keyless, { token: jwt({ 'x-ably-capability': capability }) });
  const name = `ai:${where.format}-capable`;
  const channel = mine.channels.get(name);
  const { serials: [serial] } = await channel.publish('x', 'mine');
  await channel.appendMessage({ serial, data: '!' });
  assert.equal((await failure(yours.channels.get(name).appendMessage({ serial, data: '?' }))).code, 40160);
  assert.equal((await failure(nobody.channels.get(name).updateMessage({ serial, data: '?' }))).code, 40166);
  assert.equal((await failure(channel.deleteMessage({ serial }))).code, 40160);
  assert.equal((await failure(channel.history())).code, 40160);
  assert.equal((await failure(mine.channels.get('log:x').publish('x', 'y'))).code, 40160);
  assert.equal((await failure(mine.channels.get('log:x').attach())).code, 40160);
  assert.equal((await mine.channels.get('log:x').history()).items.length, 0);
  [mine, yours, nobody].forEach((client) => client.close());
  say('lets nobody do what their token does not allow');
}

async function twins() {
  assert.ok(Math.abs((await rest.time()) - Date.now()) < 60_000);
  const channel = rest.channels.get(`rest:${where.format} é/ä#1`);
  const { serials: [serial] } = await channel.publish({ name: 'n', data: 'one', extras: { headers: { a: 1 } } });
  await channel.publish([{ data: { j: 1 } }, { data: Buffer.from([0, 255]) }]);
  const appended = await channel.appendMessage({ serial, data: ' two' }, { description: 'more' });
  assert.ok(appended.versionSerial > serial);
  const message = await channel.getMessage(serial);
  assert.deepEqual([message.data, message.name, message.extras], ['one two', 'n', { headers: { a: 1 } }]);
  assert.deepEqual([message.action, message.version.serial, message.version.description], ['message.update', appended.versionSerial, 'more']);
  await channel.updateMessage({ serial, data: 'new' });
  await channel.deleteMessage({ serial });
  const actions = [];
  for (let page = await channel.getMessageVersions(serial, { limit: 2 }); page; page = await page.next()) {
    assert.ok(page.items.length <= 2);
    actions.push(...page.items.map(({ action }) => action));
  }
  assert.deepEqual(actions, ['message.create', 'message.update', 'message.delete']);
  const { items } = await channel.history({ direction: 'forwards' });
  assert.deepEqual(items.map(({ data }) => data?.j ?? (typeof data === 'string' ? data : [...data])), ['new', 1, [0, 255]]);

  const missing = await failure(channel.getMessage('none'));
  assert.deepEqual([missing.code, missing.statusCode], [40400, 404]);
  const fixed = rest.channels.get(`fixed:${where.format}`);
  const [kept] = (await fixed.publish('x', 'y')).serials;
  assert.equal((await failure(fixed.appendMessage({ serial: kept, data: 'z' }))).code, 93002);
  assert.equal((await failure(channel.publish({ data: 'x', extras: { nonsense: 1 } }))).code, 40032);
  assert.equal((await failure(new Ably.Rest(options(where, { key: 'app.key:wrong' })).time().then(() => new Ably.Rest(options(where, { key: 'app.key:wrong' })).channels.get('x').history()))).code, 40101);
  const named = new Ably.Rest(options(where, { clientId: 'rest' })).channels.get(`rest:named-${where.format}`);
  await named.publish('x', 'y');
  assert.equal((await named.history()).items[0].clientId, 'rest');
  assert.equal((await channel.status()).channelId, channel.name);

  const once = { id: 'base:0', data: 'once' };
  assert.deepEqual((await channel.publish(once)).serials, (await channel.publish(once)).serials);
  const [batch] = await rest.batchPublish([{ channels: [`batch:${where.format}`, ':bad'], messages: [{ data: 'b' }] }]);
  assert.deepEqual([batch.successCount, batch.failureCount, batch.results[1].error.code], [1, 1, 40010]);
  assert.equal((await rest.channels.get(`batch:${where.format}`).history()).items[0].data, 'b');
  say('does over REST what it does over the WebSocket');
}

await keysAndTokens();
await renewal();
await capabilities();
await twins();
process.exit(0);
