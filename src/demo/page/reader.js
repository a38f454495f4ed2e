// Puts responses together from the messages that tokenrelay writes to an Ably channel. No dependencies: copy this file.
//
// Give it every message that comes, live, rewound or from history, in any order and as often as they come: a message is known
// by its serial and guarded by its version, so repeats and overlaps do no harm. Say what comes from the history, which may be
// behind, and when continuity is lost.
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
    /** Takes a message in that has come live, or with a rewind. Gives the response that has changed by it, if one has. */
    apply(message) {
        return this.#apply([message], false)[0];
    }
    /** Takes in what was read from the history, oldest first. Gives the responses that have changed by it, each once. */
    applyHistory(messages) {
        return this.#apply(messages, true);
    }
    #apply(messages, isHistory) {
        const changed = new Set();
        for (const incoming of messages) {
            const message = this.#take(incoming, isHistory);
            const id = message?.headers.responseId;
            if (message === undefined || id === undefined)
                continue;
            const part = Number(message.headers.part ?? 0);
            const key = keyOf(id, part);
            const known = this.#responses.get(key) ?? { id, part, serials: new Set(), shown: '', isLive: false };
            this.#responses.set(key, known);
            known.isLive ||= !isHistory;
            known.serials.add(message.serial);
            changed.add(known);
        }
        return [...changed].map((known) => {
            const response = this.#put(known);
            known.shown = response.text;
            return response;
        });
    }
    /** Messages have been missed: what may still be written may lack something until the history is read. */
    missed() {
        for (const message of this.#messages.values()) {
            if (MAY_GO_ON.has(statusOf(message)))
                message.loose = [];
        }
        for (const known of this.#responses.values())
            known.isLive = false;
    }
    /** A response as it is now. */
    get(responseId, part = 0) {
        const known = this.#responses.get(keyOf(responseId, part));
        return known && this.#put(known);
    }
    /** Whether something is missing, or may be, of any response that was not deleted. */
    get hasGaps() {
        const isThere = (known) => [...known.serials].some((serial) => !this.#messages.get(serial).deleted);
        return [...this.#responses.values()].some((known) => isThere(known) && this.#put(known).gap);
    }
    /** Forgets a response that is not looked at any more. */
    forget(responseId, part = 0) {
        const key = keyOf(responseId, part);
        this.#responses.get(key)?.serials.forEach((serial) => this.#messages.delete(serial));
        this.#responses.delete(key);
    }
    /** The message that has changed, if it is news. */
    #take({ serial, name, action, version, data, extras }, isHistory) {
        const kind = ACTIONS[action ?? 0];
        if (!serial || kind === undefined)
            return undefined;
        const newer = version?.serial ?? serial;
        const held = this.#messages.get(serial);
        const said = typeof data === 'string' ? data : undefined;
        const isAppend = kind === 'append';
        if (held !== undefined && newer <= held.version) {
            return isAppend || said === undefined ? undefined : complete(held, { version: newer, text: said }, headersOf(extras), isHistory);
        }
        const message = {
            serial,
            name: name ?? held?.name ?? '',
            version: newer,
            text: isAppend ? (held?.text ?? '') + (said ?? '') : said ?? held?.text ?? '',
            headers: headersOf(extras) ?? held?.headers ?? {},
            deleted: kind === 'delete',
        };
        const loose = isAppend ? looseWith(held, { version: newer, text: said ?? '' }) : looseBehind(held, message, isHistory);
        if (loose !== undefined)
            message.loose = loose;
        this.#messages.set(serial, message);
        return message;
    }
    /** Joins the messages of a response. */
    #put(known) {
        const { id: responseId, part, serials, shown } = known;
        const messages = [...serials].map((serial) => this.#messages.get(serial)).filter((message) => !message.deleted);
        if (messages.some((message) => message.headers.seq !== undefined))
            return ordered(known, messages);
        const replaced = new Set(messages.map((message) => message.headers.supersedes));
        const current = messages.filter((message) => !replaced.has(message.serial) && message.headers.status !== 'superseded');
        const chain = [];
        let last;
        // A text that got shorter ends before messages that are still there; one that was opened again goes on in newer ones.
        const follows = (message) => last === undefined || OPEN.has(statusOf(last)) || message.version > last.version;
        for (;;) {
            const segment = current.filter((message) => Number(message.headers.segment ?? 0) === chain.length);
            const next = pick(segment.filter(follows), last?.serial);
            if (next === undefined)
                break;
            chain.push(next);
            last = next;
        }
        const text = chain.map((message) => message.text).join('');
        const status = last === undefined || statusOf(last) === 'continued' ? 'streaming' : statusOf(last);
        const beyond = current.some((message) => Number(message.headers.segment ?? 0) > chain.length && follows(message));
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
/** The pieces of a message since something may be missing, with one more. What had ended was opened again by what is missing. */
function looseWith(held, piece) {
    const before = held === undefined || (held.loose === undefined && !isWritten(held)) ? [] : held.loose;
    return before && [...before, piece];
}
/**
 * What may be missing behind a full text that is newer than what is held. What has come live says all that there was. The
 * history may be behind, and of what it lacks nothing need have come here: only where all has come since the message was
 * held, or a piece has come that it is not older than, is that known.
 */
function looseBehind(held, text, isHistory) {
    const isSure = held !== undefined && held.loose?.length !== 0;
    return isHistory && !isSure && isWritten(text) ? [] : undefined;
}
/**
 * A full text that is not newer than what is held: it brings what was missed if it is no older than the first piece that came
 * since. What it does not have yet of those pieces is added.
 */
function complete(held, { version, text }, headers, isHistory) {
    const { loose } = held;
    if (loose === undefined || version < (loose[0]?.version ?? held.version))
        return undefined;
    // The history had nothing newer yet, which does not say that there is nothing.
    if (loose.length === 0 && isHistory && isWritten(held))
        return undefined;
    held.text = text + loose.filter((piece) => piece.version > version).map((piece) => piece.text).join('');
    if (held.headers.responseId === undefined)
        held.headers = headers ?? held.headers;
    delete held.loose;
    return held;
}
/** Whether pieces may follow without anything else before them: what had ended is opened again by a full text. */
function isWritten(message) {
    return statusOf(message) === 'streaming';
}
function statusOf({ headers }) {
    return headers.status ?? 'streaming';
}
/**
 * Puts the tokens of a response in order: by `seq`, what comes twice left out. The newest full text whose parts are all there
 * stands for those that it holds. A hole is left out until the full text comes, before the `stop` at the latest.
 */
function ordered({ id: responseId, part, shown, isLive }, messages) {
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
    // Where a full text was published, tokens do not stand for it: another text may be as long.
    const isThere = whole.length > 0 || stop?.headers.repair !== 'true';
    const isWhole = isOver && isThere && number(stop.headers.length) === new TextEncoder().encode(text).length;
    // What was given up on is not all in the history either.
    const isGivenUp = isOver && stop.headers.status === 'failed';
    return {
        responseId,
        part,
        text,
        status: isOver ? stop.headers.status ?? 'streaming' : 'streaming',
        complete: isWhole && !isGivenUp,
        repaired: !text.startsWith(shown),
        gap: isOver && !isGivenUp ? !isWhole : !begins || (!isOver && !isLive),
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
/**
 * The message that follows: one that says so, if there are several. One create may have made two, when its answer was lost and
 * it came again; then the one that was written last is being written.
 */
function pick(candidates, before) {
    const following = candidates.filter((message) => message.headers.prev === before);
    const latestFirst = (following.length > 0 ? following : candidates).sort((a, b) => (a.version > b.version ? -1 : 1));
    return latestFirst[0];
}
function headersOf(extras) {
    const headers = extras?.headers;
    return headers ?? undefined;
}
function keyOf(responseId, part) {
    return `${part}/${responseId}`;
}
