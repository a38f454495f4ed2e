// The official ably-js as applications use it, on channels that a relay writes: node official.mjs ENDPOINT PORT KEY FORMAT CHANNEL...
// READER names the folder with the compiled reader for front ends. Says {"attached": N} when it has all channels. When its stdin
// ends, all has been written: it says {"live": …, "history": …, "followed": …}, each by channel. The first two have the messages,
// as they came piece by piece and as history() gives them; the last has the responses as the reader shows them. SCHEMA names the
// file that says which headers there are: each message must have such, and no others.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { Reader, connected, place } from './shared.mjs';

const { follow } = await import(pathToFileURL(`${process.env.READER}/ably.js`));

const { default: Ajv } = createRequire(`${process.env.ABLY_JS}/`)('ajv/dist/2020');
const isHeaders = new Ajv().compile({ ...JSON.parse(readFileSync(process.env.SCHEMA)), additionalProperties: false });

/** The message, whose headers are as they should be. */
function checked(message) {
  if (isHeaders(message.extras?.headers)) return message;
  throw new Error(`headers ${JSON.stringify(message.extras?.headers)}: ${JSON.stringify(isHeaders.errors)}`);
}

const { rest: names, ...where } = place();
const print = (line, done) => process.stdout.write(`${JSON.stringify(line)}\n`, done);
const byChannel = async (of) => Object.fromEntries(await Promise.all(names.map(async (name) => [name, await of(name)])));

/** Something that changes, and a way to wait until it is as it should be. */
class Watched {
  #waiting = [];

  changed() {
    for (const each of this.#waiting.splice(0)) each();
  }

  async until(fits) {
    while (!fits()) await new Promise((resolve) => this.#waiting.push(resolve));
  }
}

const watched = new Watched();
// The reader for front ends has channels of its own, as a page has.
const [plain, front] = [await connected(where), await connected(where)];

const readers = await byChannel(async (name) => {
  const reader = new Reader();
  const channel = plain.channels.get(name);
  await channel.subscribe((message) => {
    reader.apply(checked(message));
    watched.changed();
  });
  channel.on('update', ({ resumed }) => {
    if (!resumed) throw new Error(`something was missed on ${name}`);
  });
  return reader;
});

const responses = await byChannel(async (name) => {
  const shown = new Map();
  await follow(front.channels.get(name), (response) => {
    shown.set(`${response.part}/${response.responseId}`, response);
    watched.changed();
  });
  return shown;
});
print({ attached: names.length });

async function history(name) {
  const messages = [];
  for (let page = await plain.channels.get(name).history(); page; page = await page.next()) messages.push(...page.items.map(checked));
  return messages;
}

process.stdin.resume();
process.stdin.once('end', async () => {
  const kept = await byChannel(history);
  // What was sent may be on its way.
  const isNew = (name) => kept[name].every(({ serial, version }) => readers[name].messages.get(serial)?.version >= version.serial);
  const isShown = (name) => responses[name].size > 0 && [...responses[name].values()].every(({ complete }) => complete);
  await watched.until(() => names.every((name) => isNew(name) && isShown(name)));
  const asSent = ({ serial, name, data, text = data, extras, headers = extras?.headers }) => ({ serial, name, data: text, extras: { headers } });
  const said = {
    live: await byChannel((name) => [...readers[name].messages].map(([serial, message]) => asSent({ serial, ...message }))),
    history: await byChannel((name) => kept[name].map(asSent)),
    followed: await byChannel((name) => [...responses[name].values()]),
  };
  print(said, () => process.exit(0));
});
