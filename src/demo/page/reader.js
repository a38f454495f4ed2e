// Puts responses together from the messages that tokenrelay writes to an Ably channel. No dependencies: copy this file.
//
// Give it every message that comes, live, rewound or from history, in any order and as often as they come: a message is known
// by its serial and guarded by its version, so repeats and overlaps do no harm. Tell it when continuity is lost.
const ACTIONS = {
    0: 'create', 1: 'update', 2: 'delete', 5: 'append',
    'message.create': 'create', 'message.update': 'update', 'message.delete': 'delete', 'message.append': 'append',
};
const OPEN = new Set(['streaming', 'continued']);
const MAY_GO_ON = new Set(['streaming', 'continued', 'abandoned', 'failed']);
/** The responses on a channel. */
export class Responses {
    #messages = new Map();
    #responses = new Map();
    /** Takes a message in. Gives the response that has changed by it, if one has. */
    apply(incoming) {
        const message = this.#take(incoming);
        const id = message?.headers.responseId;
        if (message === undefined || id === undefined)
            return undefined;
        const key = keyOf(id, Number(message.headers.part ?? 0));
        const known = this.#responses.get(key) ?? { serials: new Set(), shown: '' };
        this.#responses.set(key, known);
        known.serials.add(message.serial);
        const response = this.#put(id, Number(message.headers.part ?? 0), known);
        known.shown = response.text;
        return response;
    }
    /** Messages have been missed: what may still be written may lack something until the history is read. */
    missed() {
        for (const message of this.#messages.values()) {
            if (MAY_GO_ON.has(message.headers.status ?? 'streaming'))
                message.loose = [];
        }
    }
    /** A response as it is now. */
    get(responseId, part = 0) {
        const known = this.#responses.get(keyOf(responseId, part));
        return known && this.#put(responseId, part, known);
    }
    /** Forgets a response that is not looked at any more. */
    forget(responseId, part = 0) {
        const key = keyOf(responseId, part);
        this.#responses.get(key)?.serials.forEach((serial) => this.#messages.delete(serial));
        this.#responses.delete(key);
    }
    /** The message that has changed, if it is news. */
    #take({ serial, name, action, version, data, extras }) {
        const kind = ACTIONS[action ?? 0];
        if (!serial || kind === undefined)
            return undefined;
        const newer = version?.serial ?? serial;
        const held = this.#messages.get(serial);
        const said = typeof data === 'string' ? data : undefined;
        if (held !== undefined && newer <= held.version)
            return kind === 'append' ? undefined : this.#complete(held, newer, said, extras);
        const isAppend = kind === 'append';
        const message = {
            serial,
            name: name ?? held?.name ?? '',
            version: newer,
            text: isAppend ? (held?.text ?? '') + (said ?? '') : said ?? held?.text ?? '',
            headers: headersOf(extras) ?? held?.headers ?? {},
            deleted: kind === 'delete',
        };
        const before = held === undefined ? [] : held.loose;
        if (isAppend && before !== undefined)
            message.loose = [...before, { version: newer, text: said ?? '' }];
        this.#messages.set(serial, message);
        return message;
    }
    /**
     * A full text that is not newer: it brings what was missed if it is no older than the first piece that came since. What it
     * does not have yet of those pieces is added.
     */
    #complete(held, version, text, extras) {
        const { loose } = held;
        if (loose === undefined || text === undefined || version < (loose[0]?.version ?? held.version))
            return undefined;
        held.text = text + loose.filter((piece) => piece.version > version).map((piece) => piece.text).join('');
        if (held.headers.responseId === undefined)
            held.headers = headersOf(extras) ?? held.headers;
        delete held.loose;
        return held;
    }
    /** Joins the messages of a response. */
    #put(responseId, part, { serials, shown }) {
        const messages = [...serials].map((serial) => this.#messages.get(serial)).filter((message) => !message.deleted);
        if (messages.some((message) => message.headers.seq !== undefined))
            return ordered(responseId, part, messages, shown);
        const replaced = new Set(messages.map((message) => message.headers.supersedes));
        const current = messages.filter((message) => !replaced.has(message.serial) && message.headers.status !== 'superseded');
        const chain = [];
        for (let before;; before = chain.at(-1).serial) {
            const next = pick(current.filter((message) => Number(message.headers.segment ?? 0) === chain.length), before);
            if (next === undefined)
                break;
            chain.push(next);
        }
        const last = chain.at(-1);
        const text = chain.map((message) => message.text).join('');
        const status = last === undefined || last.headers.status === 'continued' ? 'streaming' : last.headers.status ?? 'streaming';
        const beyond = current.some((message) => Number(message.headers.segment ?? 0) > chain.length);
        const gap = beyond || chain.length === 0 || chain.some((message) => message.loose !== undefined);
        const count = Number(last?.headers.segments ?? chain.length);
        return {
            responseId,
            part,
            text,
            status,
            complete: !OPEN.has(status) && status !== 'failed' && !gap && count === chain.length,
            repaired: !text.startsWith(shown),
            gap,
        };
    }
}
/**
 * Puts the tokens of a response in order: by `seq`, what comes twice left out. The newest full text whose parts are all there
 * stands for those that it holds. A hole is left out until the full text comes, before the `stop` at the latest.
 */
function ordered(responseId, part, messages, shown) {
    const named = (name) => messages.filter((message) => message.name === name);
    const whole = wholes(named('response-complete')).at(-1) ?? [];
    let text = whole.map((message) => message.text).join('');
    let next = number(whole[0]?.headers.n);
    // A stop holds what tokens without text came last.
    const pieces = [...named('token'), ...named('stop')].sort((a, b) => number(a.headers.seq) - number(b.headers.seq) || number(b.headers.n) - number(a.headers.n));
    const begins = whole.length > 0 || named('start').length > 0 || number(pieces[0]?.headers.seq) === 0;
    for (const { headers, text: piece } of pieces) {
        if (number(headers.seq) < next)
            continue;
        text += piece;
        next = number(headers.seq) + number(headers.n);
    }
    const stop = named('stop').sort(byRound).at(-1);
    const isOver = stop !== undefined && next <= number(stop.headers.seq) + number(stop.headers.n);
    const isWhole = isOver && number(stop.headers.length) === new TextEncoder().encode(text).length;
    // What was given up on is not all in the history either.
    const isGivenUp = isOver && stop.headers.status === 'failed';
    return {
        responseId,
        part,
        text,
        status: isOver ? stop.headers.status ?? 'streaming' : 'streaming',
        complete: isWhole && !isGivenUp,
        repaired: !text.startsWith(shown),
        gap: isOver && !isGivenUp ? !isWhole : !begins,
    };
}
/** The full texts whose parts are all there, each with its parts in order, oldest first. */
function wholes(parts) {
    const rounds = new Map();
    for (const message of parts.sort(byRound)) {
        const key = `${message.headers.epoch}/${message.headers.round}`;
        const others = rounds.get(key) ?? [];
        // A part that was published twice counts once.
        if (!others.some((other) => other.headers.segment === message.headers.segment))
            others.push(message);
        rounds.set(key, others);
    }
    const inOrder = (a, b) => number(a.headers.segment) - number(b.headers.segment);
    return [...rounds.values()].filter((of) => of.length === number(of[0].headers.segments)).map((of) => of.sort(inOrder));
}
function byRound(a, b) {
    return number(a.headers.epoch) - number(b.headers.epoch) || number(a.headers.round) - number(b.headers.round);
}
function number(header) {
    return Number(header ?? 0);
}
/** The message that follows: the one that says so, if there are several; else the oldest. */
function pick(candidates, before) {
    const oldestFirst = candidates.sort((a, b) => (a.serial < b.serial ? -1 : 1));
    return oldestFirst.find((message) => message.headers.prev === before) ?? oldestFirst[0];
}
function headersOf(extras) {
    const headers = extras?.headers;
    return headers ?? undefined;
}
function keyOf(responseId, part) {
    return `${part}/${responseId}`;
}
