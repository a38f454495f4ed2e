// The code in readers.md, as it is there. READER names the folder with the compiled reader, DOCS the document.

import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { pathToFileURL } from 'node:url';

const [out, folder] = [process.env.READER, dirname(process.env.READER)];

function block(language) {
  const blocks = readFileSync(process.env.DOCS, 'utf8').split(`\`\`\`${language}\n`).slice(1);
  if (blocks.length !== 1) throw new Error(`${blocks.length} blocks of ${language}`);
  return blocks[0].split('```')[0];
}

function replaced(text, what, by) {
  if (!text.includes(what)) throw new Error(`the example has no ${what}`);
  return text.replace(what, by);
}

/** Runs the first example on a channel, with a client of these options. Gives what ends it. */
export async function runExample(channel, options, render) {
  globalThis.render = render;
  const code = replaced(replaced(block('js'), "{ authUrl: '/ably-token' }", JSON.stringify(options)), 'ai:chat-42', channel);
  writeFileSync(`${out}/example.js`, `${code}\nexport { client, stop };\n`);
  const { client, stop } = await import(pathToFileURL(`${out}/example.js`));
  return () => {
    stop();
    client.close();
  };
}

/** The component of the second example. */
export async function component() {
  writeFileSync(`${folder}/answer.jsx`, block('jsx'));
  const compilerOptions = { target: 'es2022', module: 'nodenext', jsx: 'react-jsx', allowJs: true, skipLibCheck: true, outDir: 'out', types: [] };
  writeFileSync(`${folder}/answer.json`, JSON.stringify({ compilerOptions, files: ['answer.jsx'] }));
  execFileSync('node', ['node_modules/typescript/bin/tsc', '-p', 'answer.json'], { cwd: folder, stdio: 'inherit' });
  return (await import(pathToFileURL(`${out}/answer.js`))).Answer;
}
