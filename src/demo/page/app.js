// The page: cards that show what a subscriber gets, marks from the results topic, and switches for the emulator's faults.

import { Subscriber } from './subscriber.js';

const CARDS_MAX = 24;
/** A settled card stays at least this long, so that somebody can read it. */
const REST_MS = 1_500;

const SWITCHES = [
  { faults: ['reject=0.2'], name: 'Reject 20 %', about: 'one operation in five' },
  { faults: ['rate-limit=15'], name: 'Rate limit', about: '15 a second per connection' },
  { faults: ['lose-ack=0.02'], name: 'Lose acks', about: 'applied, then cut off unanswered' },
  { faults: ['drop=0.02'], name: 'Drop connections', about: 'at one operation in fifty' },
  { faults: ['refuse-resume=1'], name: 'Refuse resume', about: 'every reconnect starts anew' },
  { faults: ['drop=1', 'refuse-connections=true'], name: 'Outage', about: 'nobody gets in until it ends' },
];

const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat('en');

// ---- cards ---------------------------------------------------------------------------------------------------------

/** By response id and part. */
const cards = new Map();
const dirty = new Set();
const key = (id, part) => `${id}/${part}`;

class Card {
  settledAt = 0; text = ''; shown = ''; repairs = 0; sha256;

  constructor(about, part) {
    this.about = about;
    this.part = part;
    this.node = $('card').content.firstElementChild.cloneNode(true);
    this.said = this.node.querySelector('.said');
    this.node.querySelector('h3').textContent = about.question;
    this.node.querySelector('h3').dir = 'auto';
    this.node.querySelector('h3').lang = about.code;
    this.node.querySelector('.language').textContent = about.language;
    this.node.querySelector('.id').textContent = about.parts > 1 ? `${about.id} · part ${part}` : about.id;
    this.node.querySelector('.format').textContent = about.format === 'openai-chat' ? 'chat chunks' : 'own format';
    this.said.lang = about.code;
    this.state('streaming', 'streaming');
  }

  state(state, words) {
    this.node.dataset.state = state;
    this.node.querySelector('.state').textContent = words;
  }

  /** The subscriber has a new text; it is drawn with the next frame. */
  take({ text }) {
    this.text = text;
    dirty.add(this);
  }

  draw() {
    if (!this.text.startsWith(this.shown)) this.#drawHealed();
    else if (this.text.length > this.shown.length) this.#drawMore(this.text.slice(this.shown.length));
    this.shown = this.text;
    this.node.querySelector('.count').textContent = `${number.format(this.text.length)} characters`;
  }

  #drawMore(piece) {
    const last = this.said.lastChild;
    if (last?.nodeType === Node.TEXT_NODE) last.appendData(piece);
    else this.said.append(piece);
  }

  /** Shows what a full text changed: the piece between what begins and what ends alike. */
  #drawHealed() {
    const [was, is] = [this.shown, this.text];
    let head = 0;
    while (head < was.length && was[head] === is[head]) head++;
    let tail = 0;
    while (tail < was.length - head && tail < is.length - head && was.at(-1 - tail) === is.at(-1 - tail)) tail++;
    const mark = document.createElement('mark');
    mark.textContent = is.slice(head, is.length - tail);
    this.said.replaceChildren(is.slice(0, head), mark, is.slice(is.length - tail));
  }

  broken() {
    if (this.node.dataset.state === 'broken') return;
    this.state('broken', 'broken');
  }

  healed() {
    this.repairs++;
    this.node.querySelector('.mended').textContent = `mended ${this.repairs}×`;
    if (this.node.dataset.state !== 'broken') return;
    this.state('healed', 'mended');
    this.node.classList.remove('healing');
    requestAnimationFrame(() => this.node.classList.add('healing'));
  }

  settled(outcome, sha256) {
    this.settledAt = performance.now();
    this.sha256 = sha256;
    const failed = outcome === 'failed';
    this.state(failed ? 'failed' : 'settled', failed ? 'given up' : outcome);
    verify(this, 20);
  }
}

/** Compares the text on the card with the hash of what was produced. Delivery may lag behind the result a little. */
async function verify(card, tries) {
  if (!crypto.subtle || !card.sha256) return;
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(card.text));
  const hex = Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('');
  const check = card.node.querySelector('.check');
  if (hex === card.sha256) {
    check.textContent = '✓ exact';
    check.dataset.right = 'true';
  } else if (tries > 0) {
    setTimeout(() => verify(card, tries - 1), 250);
  } else {
    check.textContent = '✗ differs';
    check.dataset.right = 'false';
  }
}

/** A new response takes the place of the card that has rested longest, or a new one. */
function begin(about) {
  for (let part = 0; part < about.parts; part++) {
    const card = new Card(about, part);
    const rested = [...cards.values()].filter((each) => each.settledAt && performance.now() - each.settledAt > REST_MS);
    const oldest = rested.sort((a, b) => a.settledAt - b.settledAt)[0] ?? (cards.size >= CARDS_MAX ? cards.values().next().value : undefined);
    if (oldest) {
      oldest.node.replaceWith(card.node);
      forget(oldest);
    } else {
      $('responses').append(card.node);
    }
    cards.set(key(about.id, part), card);
  }
  subscriber?.attach(about.channel);
}

function forget(card) {
  cards.delete(key(card.about.id, card.part));
  dirty.delete(card);
  if (![...cards.values()].some((each) => each.about.channel === card.about.channel)) subscriber?.detach(card.about.channel);
}

function draw() {
  dirty.forEach((card) => card.draw());
  dirty.clear();
  requestAnimationFrame(draw);
}
requestAnimationFrame(draw);

// ---- what the demo says ----------------------------------------------------------------------------------------------

let subscriber;

function mark({ id, part, mark, outcome, sha256 }) {
  const card = cards.get(key(id, part));
  if (!card) return;
  if (mark === 'broken') card.broken();
  if (mark === 'healed') card.healed();
  if (mark === 'settled') card.settled(outcome, sha256);
}

function count(counters) {
  for (const name of ['rate', 'operations', 'failures', 'repairs', 'open', 'settled', 'wrong']) {
    const text = number.format(counters[name]);
    if ($(name).textContent !== text) $(name).textContent = text;
  }
  $('verdict').dataset.state = counters.wrong === 0 ? 'right' : 'wrong';
}

function link(state) {
  $('link').dataset.state = state;
  $('link').textContent = state === 'connected' ? 'this page is subscribed' : 'this page is reconnecting…';
}

const events = new EventSource('events');
events.addEventListener('hello', (event) => {
  const url = new URL(JSON.parse(event.data).subscribe, location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  subscriber ??= new Subscriber(url.href, (response) => cards.get(key(response.responseId, response.part))?.take(response), link);
});
events.addEventListener('begin', (event) => {
  const about = JSON.parse(event.data);
  if (!cards.has(key(about.id, 0))) begin(about);
});
events.addEventListener('mark', (event) => mark(JSON.parse(event.data)));
events.addEventListener('counters', (event) => count(JSON.parse(event.data)));
events.addEventListener('faults', (event) => showFaults(JSON.parse(event.data)));

// ---- switches --------------------------------------------------------------------------------------------------------

const switches = SWITCHES.map(({ faults, name, about }, index) => {
  const node = $('switch').content.firstElementChild.cloneNode(true);
  node.querySelector('b').textContent = name;
  node.querySelector('small').textContent = about;
  node.querySelector('kbd').textContent = index + 1;
  node.addEventListener('click', () => flip(index));
  $('switches').append(node);
  return { faults, name, node };
});

const isOn = ({ node }) => node.getAttribute('aria-checked') === 'true';

function flip(index) {
  const { node, name } = switches[index];
  node.setAttribute('aria-checked', String(!isOn(switches[index])));
  $('news').textContent = `${name}: ${isOn(switches[index]) ? 'on' : 'off'}`;
  put();
}

async function put() {
  const list = switches.filter(isOn).flatMap(({ faults }) => faults).join(',');
  const response = await fetch('faults', { method: 'PUT', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ list }) });
  if (!response.ok) $('news').textContent = `the demo refused: ${await response.text()}`;
}

function showFaults({ list }) {
  const on = new Set(list.split(','));
  for (const { faults, node } of switches) node.setAttribute('aria-checked', String(faults.every((fault) => on.has(fault))));
}

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.key >= '1' && event.key <= String(switches.length)) flip(Number(event.key) - 1);
  if (event.key === '0') {
    switches.forEach(({ node }) => node.setAttribute('aria-checked', 'false'));
    put();
  }
});
