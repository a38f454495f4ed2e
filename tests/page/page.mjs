// Looks at the demo's page with a real browser: node page.mjs URL BROWSER [SCREENSHOT]
// Says what it saw on stdout and ends with 0 if all of it was right.

import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

const [url, executablePath, screenshot] = process.argv.slice(2);
const PATIENCE = { timeout: 60_000 };
const browser = await chromium.launch({
  executablePath,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});

try {
  const page = await browser.newPage({ viewport: { width: 1440, height: 960 } });
  const complaints = [];
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('request', (request) => new URL(request.url()).hostname === '127.0.0.1' || complaints.push(`asked ${request.url()}`));
  const say = (text) => console.log(`ok: ${text}`);

  const answer = await page.goto(url);
  const policy = answer.headers()['content-security-policy'];
  assert.match(policy, /^default-src 'none'; script-src 'self'; style-src 'self';/);
  await page.evaluate(watch);

  await page.waitForFunction(() => document.querySelectorAll('.card').length >= 8, null, PATIENCE);
  await page.waitForFunction(() => [...window.seen.values()].filter((card) => card.lengths.size > 5).length >= 4, null, PATIENCE);
  say('texts stream into cards');
  await page.waitForFunction(() => [...window.seen.values()].some((card) => card.checks.has('✓ exact')), null, PATIENCE);
  say('a settled card is exact');

  await page.keyboard.press('1');
  assert.equal(await page.getByRole('switch', { name: /Reject/ }).getAttribute('aria-checked'), 'true');
  await page.waitForFunction(async () => (await (await fetch('faults')).json()).list.includes('reject='), null, PATIENCE);
  await page.waitForFunction(() => [...window.seen.values()].some((card) => card.states.includes('broken')), null, PATIENCE);
  say('a refused operation marks its card broken');
  if (screenshot) await shoot(page, screenshot);
  await page.waitForFunction(() => [...window.seen.values()].some(healedAfterBroken), null, PATIENCE);
  say('a broken card heals');
  await page.waitForFunction(() => [...window.seen.values()].some((card) => healedAfterBroken(card) && card.checks.has('✓ exact')), null, PATIENCE);
  say('a mended card is exact in the end');

  const dropping = page.getByRole('switch', { name: /Drop connections/ });
  await dropping.focus();
  await page.keyboard.press('Space');
  assert.equal(await dropping.getAttribute('aria-checked'), 'true');
  await page.waitForFunction(async () => (await (await fetch('faults')).json()).list.includes('drop='), null, PATIENCE);
  await page.keyboard.press('0');
  await page.waitForFunction(async () => (await (await fetch('faults')).json()).list === '', null, PATIENCE);
  say('switches work by keyboard');

  const settled = () => page.evaluate(() => Number(document.getElementById('settled').textContent.replaceAll(',', '')));
  const before = await settled();
  await page.waitForFunction((before) => Number(document.getElementById('settled').textContent.replaceAll(',', '')) > before + 5, before, PATIENCE);
  assert.equal(await page.locator('#wrong').textContent(), '0');
  say('no text is wrong');
  const reconnects = (text) => /WebSocket|ERR_CONNECTION/.test(text); // the connections that the page was told to lose
  assert.deepEqual(complaints.filter((text) => !reconnects(text)), []);
  say('the browser has nothing to complain about');
} finally {
  await browser.close();
}

/** Runs in the page: keeps what each card was, since cards give way to others. */
function watch() {
  window.seen = new Map();
  window.healedAfterBroken = (card) => card.states.includes('broken') && card.states.indexOf('healed') > card.states.indexOf('broken');
  const look = () => {
    for (const node of document.querySelectorAll('.card')) {
      const id = node.querySelector('.id').textContent;
      const card = window.seen.get(id) ?? { states: [], lengths: new Set(), checks: new Set() };
      window.seen.set(id, card);
      if (card.states.at(-1) !== node.dataset.state) card.states.push(node.dataset.state);
      card.lengths.add(node.querySelector('.said').textContent.length);
      card.checks.add(node.querySelector('.check').textContent);
    }
  };
  new MutationObserver(look).observe(document.getElementById('responses'), { subtree: true, childList: true, characterData: true, attributes: true });
  look();
}

/** Waits for a moment that shows both kinds of card. */
async function shoot(page, path) {
  const both = () => document.querySelector('[data-state="broken"]') && document.querySelector('[data-state="healed"]');
  await page.waitForFunction(both, null, { timeout: 20_000 }).catch(() => {});
  await page.screenshot({ path });
}
