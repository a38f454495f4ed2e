// An ordinary subscriber: node subscriber.mjs ENDPOINT PORT KEY FORMAT CHANNEL...
// Says {"attached": N} when it has all channels, then each event as one line of JSON. When its stdin ends, it says
// {"texts": {CHANNEL: {SERIAL: {text, …}}}, "responses": {CHANNEL: [{responseId, text, …}]}} and ends: the messages as a plain
// reader has them, and the responses as the reader for front ends puts them together.

import { Reader, connected, place, readerForFrontEnds } from './shared.mjs';

const { Responses } = await readerForFrontEnds();

// As many as Ably allows on a connection.
const CHANNELS_PER_CONNECTION = 200;

const { rest: names, ...where } = place();
const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const readers = new Map(names.map((name) => [name, new Reader()]));
const fronts = new Map(names.map((name) => [name, { reader: new Responses(), seen: new Map() }]));
const channels = new Map();

async function follow(client, name) {
  const channel = client.channels.get(name);
  channels.set(name, channel);
  const { reader } = fronts.get(name);
  await channel.subscribe((message) => {
    take(name, message, 'live');
    keep(name, [reader.apply(message)]);
  });
  channel.on('update', async ({ resumed }) => {
    if (resumed) return;
    reader.missed();
    await catchUp(name);
  });
}

function take(name, message, from) {
  const { action, serial, version, data, extras } = message;
  const news = readers.get(name).apply(message);
  print({ channel: name, from, action, serial, version: version.serial, name: message.name, data, headers: extras?.headers, news });
}

function keep(name, responses) {
  const { seen } = fronts.get(name);
  for (const response of responses) if (response) seen.set(`${response.part}/${response.responseId}`, response);
}

/** Continuity was lost: what was missed is in the history. */
async function catchUp(name) {
  const messages = [];
  for (let page = await channels.get(name).history({ limit: 1_000 }); page; page = await page.next()) messages.push(...page.items);
  messages.reverse().forEach((message) => take(name, message, 'history'));
  keep(name, fronts.get(name).reader.applyHistory(messages));
}

const clients = [];
for (let from = 0; from < names.length; from += CHANNELS_PER_CONNECTION) {
  const client = await connected(where);
  clients.push(client);
  await Promise.all(names.slice(from, from + CHANNELS_PER_CONNECTION).map((name) => follow(client, name)));
}
print({ attached: names.length });

process.stdin.resume();
process.stdin.once('end', async () => {
  // All that will be written is there by now.
  for (const [name, { reader }] of fronts) if (reader.hasGaps) await catchUp(name);
  const texts = [...readers].map(([name, reader]) => [name, Object.fromEntries(reader.messages)]);
  const responses = [...fronts].map(([name, { seen }]) => [name, [...seen.values()]]);
  print({ texts: Object.fromEntries(texts), responses: Object.fromEntries(responses) });
  clients.forEach((client) => client.close());
});
