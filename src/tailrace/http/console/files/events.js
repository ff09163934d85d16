// The events of a run on the page: a window of some hundreds of them, however many there are.
//
// The newest are kept in memory, the others are read from the API when somebody asks.  What comes is put on the page in
// batches, at most one an animation frame; of a flood only what will still be seen is drawn at all.

import { readEvents } from "./api.js";
import { bytes, count, el, jsonBlock, put, shown, tell, timeOf } from "./text.js";

export const TYPES = [
  "RunStarted", "NodeStarted", "DebugTrace", "NodeFinished", "Custom", "RunFinished", "RunFailed", "RunCancelled",
];
const SHOWN_MAX = 300;
const BATCH = 60;
// Of a flood no batch is read anyway; drawn this far apart, they leave the tab its time for keys and scrolling.
const FLOOD_PACE_MS = 200;
const PAGE = 150;
// With a filter most of what is read may be left out; so much is read before one is told so.
const SEARCHED = 1000;
const KEPT_MAX = 2000;
const KEPT_MAX_LENGTH = 8_000_000;
const INLINE_MAX = 100;

export class EventLog {
  /** @param position the seq after which the events begin that `push` will be given. */
  constructor(section, runId, position, signal) {
    this.list = section.querySelector("ol");
    this.scroller = section.querySelector(".scroller");
    this.range = section.querySelector(".range");
    this.told = section.querySelector(".told");
    this.buttons = Object.fromEntries(
      ["oldest", "earlier", "later", "newest"].map((name) => [name, section.querySelector(`.${name}`)]),
    );
    Object.assign(this, { runId, signal, type: "", kept: [], keptLength: 0, last: position, floor: 0 });
    // On the page is whatever passes the filter of the events after `from` up to `upto`.
    Object.assign(this, { from: position, upto: position, following: true, pending: [], isReading: false });
    Object.assign(this, { isDue: false, isFlood: false });
    for (const [name, button] of Object.entries(this.buttons)) button.addEventListener("click", () => this[name]());
    this.say();
  }

  /** Take the next event; `length` is that of its text. */
  push(event, length) {
    this.last = event.seq;
    this.kept.push({ event, length });
    this.keptLength += length;
    while (this.kept.length > KEPT_MAX || (this.keptLength > KEPT_MAX_LENGTH && this.kept.length > SHOWN_MAX)) {
      this.keptLength -= this.kept.shift().length;
    }
    if (this.following && this.passes(event)) {
      this.pending.push(event);
      // In a tab that is not drawn they would gather for ever.
      if (this.pending.length > 2 * SHOWN_MAX) this.pending.splice(0, SHOWN_MAX);
    }
    this.soon();
  }

  /** Events up to here are nowhere any more, and none are expected before those after it. */
  beginAt(position) {
    this.floor = position;
    if (this.last < position) {
      Object.assign(this, { last: position, kept: [], keptLength: 0 });
      this.newest();
    }
  }

  show(type) {
    this.type = type;
    this.newest();
  }

  newest() {
    this.stopReading();
    const first = this.kept.length ? this.kept[0].event.seq - 1 : this.last;
    const found = this.kept.map(({ event }) => event).filter((event) => this.passes(event));
    const seen = found.slice(-SHOWN_MAX);
    Object.assign(this, { following: true, pending: [], from: seen.length < found.length ? seen[0].seq - 1 : first });
    this.upto = this.last;
    this.list.replaceChildren(...seen.map(line));
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.say();
  }

  oldest() {
    this.stopReading();
    this.list.replaceChildren();
    Object.assign(this, { following: false, pending: [], from: this.floor, upto: this.floor });
    this.scroller.scrollTop = 0;
    return this.later();
  }

  earlier() {
    return this.reading(async (signal) => {
      this.stay(); // Meanwhile nothing is taken away at the top.
      const after = Math.max(this.floor, this.from - (this.type ? SEARCHED : PAGE));
      const read = await readEvents(this.runId, after, this.from, signal);
      const found = read.filter((event) => this.passes(event));
      const added = found.slice(-SHOWN_MAX);
      this.from = added.length < found.length ? added[0].seq - 1 : after;
      const height = this.scroller.scrollHeight;
      this.list.prepend(...added.map(line));
      this.scroller.scrollTop += this.scroller.scrollHeight - height;
      if (this.trim("lastChild")) this.upto = seqOf(this.list.lastChild);
      this.following = this.upto >= this.last;
    });
  }

  later() {
    return this.reading(async (signal) => {
      const kept = this.kept.length && this.kept[0].event.seq <= this.upto + 1;
      const upto = Math.min(this.last, this.upto + (this.type ? SEARCHED : PAGE));
      const read = kept ? this.kept.map(({ event }) => event) : await readEvents(this.runId, this.upto, upto, signal);
      const found = read.filter((event) => event.seq > this.upto && event.seq <= upto && this.passes(event));
      this.upto = upto;
      this.list.append(...found.slice(0, SHOWN_MAX).map(line));
      if (found.length > SHOWN_MAX) this.upto = found[SHOWN_MAX - 1].seq;
      if (this.trim("firstChild")) this.from = seqOf(this.list.firstChild) - 1;
      this.following = this.upto >= this.last;
    });
  }

  async reading(action) {
    if (this.isReading) return;
    const leaving = new AbortController();
    this.isReading = leaving;
    tell(this.told, null);
    this.say();
    try {
      await action(AbortSignal.any([this.signal, leaving.signal]));
    } catch (problem) {
      if (this.isReading !== leaving) return;
      if (problem.earliestFromSeq > this.floor) this.floor = problem.earliestFromSeq;
      tell(this.told, problem.message);
    } finally {
      if (this.isReading === leaving) {
        this.isReading = false;
        this.say();
      }
    }
  }

  stopReading() {
    if (this.isReading) this.isReading.abort();
    this.isReading = false;
    tell(this.told, null);
  }

  /** Show what is on the page, and let what is new be counted only. */
  stay() {
    Object.assign(this, { following: false, pending: [] });
  }

  /** Take away what is too much, and return whether there was any. */
  trim(end) {
    const wasFull = this.list.childElementCount > SHOWN_MAX;
    while (this.list.childElementCount > SHOWN_MAX) this.list[end].remove();
    return wasFull;
  }

  soon() {
    if (this.isDue) return;
    this.isDue = true;
    const frame = () => requestAnimationFrame(() => this.draw());
    if (this.isFlood) setTimeout(frame, FLOOD_PACE_MS);
    else frame();
  }

  draw() {
    this.isDue = false;
    this.isFlood = this.pending.length > SHOWN_MAX;
    if (this.signal.aborted) return;
    if (this.following) {
      const { scroller, list } = this;
      const isAtEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 40;
      if (this.isFlood) {
        this.pending.splice(0, this.pending.length - SHOWN_MAX);
        this.from = this.pending[0].seq - 1;
        list.replaceChildren();
      }
      const batch = this.pending.splice(0, BATCH);
      list.append(...batch.map(line));
      if (this.trim("firstChild")) this.from = seqOf(list.firstChild) - 1;
      this.upto = this.pending.length ? batch.at(-1).seq : this.last;
      if (isAtEnd) scroller.scrollTop = scroller.scrollHeight;
      if (this.pending.length) this.soon();
    }
    this.say();
  }

  passes(event) {
    return this.type === "" || event.type === this.type;
  }

  say() {
    const { from, upto, last, list, floor } = this;
    const events = upto > from ? `${count(from + 1)} to ${count(upto)} of ${count(last)}` : last ? `none of ${count(last)}` : "none yet";
    const filtered = this.type ? `${count(list.childElementCount)} of type ${this.type} among ` : "";
    put(this.range, this.isReading ? "reading…" : `${filtered}${events}${this.following ? "" : `; ${count(last - upto)} later`}`);
    const idle = !this.isReading;
    this.buttons.oldest.disabled = this.buttons.earlier.disabled = !(idle && from > floor);
    this.buttons.later.disabled = !(idle && !this.following && upto < last);
    this.buttons.newest.disabled = !(idle && !this.following);
  }
}

function seqOf(item) {
  return Number(item.dataset.seq);
}

function line(event) {
  const item = el("li", { "data-seq": event.seq });
  const what = el("span", { class: "what" });
  const name = event.name ?? event.fn;
  if (name !== undefined) what.append(el("span", { class: "name untrusted", text: shown(name) }));
  if (event.data !== undefined) what.append(" ", dataOf(event));
  item.append(
    el("span", { class: "seq", text: String(event.seq) }),
    timeOf(event.ts, "event"),
    el("span", { class: `type ${TYPES.includes(event.type) ? event.type : ""}`, text: shown(event.type) }),
    what,
  );
  return item;
}

function dataOf(event) {
  const text = JSON.stringify(event.data);
  if (text.length <= INLINE_MAX) return el("code", { class: "untrusted", text: shown(text) });
  const head = el("code", { class: "untrusted", text: `${shown(text.slice(0, INLINE_MAX))}…` });
  const made = el("details", {}, el("summary", {}, head, el("span", { class: "muted", text: ` ${bytes(text.length)}` })));
  // Made when it is opened: most never are.
  const open = () => {
    made.append(jsonBlock(event.data, `Data of event ${event.seq}`));
    made.scrollIntoView({ block: "nearest" });
  };
  made.addEventListener("toggle", open, { once: true });
  return made;
}
