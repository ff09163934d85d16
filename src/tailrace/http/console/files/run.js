// One run: its row, its nodes, its events as they come.

import { cancelRun, getRun, now, Problem, readEvents } from "./api.js";
import { EventLog, TYPES } from "./events.js";
import { Following } from "./follow.js";
import { NodeList, Nodes } from "./nodes.js";
import { count, duration, el, fromTemplate, jsonBlock, put, sentence, shown, tell, timeOf } from "./text.js";

const ENDED = new Set(["finished", "failed", "cancelled"]);
// A run is followed from this many events before its end; what is before them is read when somebody asks.
const TAIL = 2000;
const LOOK_MS = 5000;
const LOOK_AFTER_EVENTS_MS = 1000;
const LOOK_MAX_MS = 60_000;
const TICK_MS = 250;
const LINES = {
  connecting: "connecting…",
  live: "live",
  reconnecting: "reconnecting…",
  paused: "paused while the tab is hidden",
  ended: "complete: the run has ended",
  stopped: "not followed",
};

/** Show a run in `root`, which is its own, until `close` is called. */
export class RunView {
  constructor(root, runId, tools) {
    root.append(fromTemplate("run"));
    Object.assign(this, { runId, tools, run: null, following: null, log: null, failures: 0, looking: null });
    this.leaving = new AbortController();
    this.nodes = new Nodes();
    Object.assign(this, { isStale: true, isLookDue: false, isStreamInTrouble: false });
    this.find = (selector) => root.querySelector(selector);
    this.nodeList = new NodeList(this.find(".nodes ul"));
    put(this.find("h1"), shown(runId));
    document.title = `${shown(runId)} – Tailrace`;
    this.find(".cancel").addEventListener("click", () => this.cancel());
    this.find(".part button").addEventListener("click", () => this.readEarlierNodes());
    this.find(".types").append(el("option", { value: "", text: "all" }), ...TYPES.map((type) => el("option", { text: type })));
    this.find(".types").addEventListener("change", ({ target }) => this.log?.show(target.value));
    this.ticking = setInterval(() => this.tick(), TICK_MS);
    this.lookOn();
  }

  close() {
    this.leaving.abort();
    this.following?.close();
    clearInterval(this.ticking);
    clearTimeout(this.timer);
  }

  /** The tab was shown or hidden. */
  seen(isSeen) {
    clearTimeout(this.timer);
    if (!isSeen) {
      this.following?.pause();
      return;
    }
    this.following?.open();
    this.lookOn();
  }

  /** Look at the row now, and again as long as it may change. */
  async lookOn() {
    clearTimeout(this.timer);
    try {
      const run = await this.look();
      this.leaving.signal.throwIfAborted(); // Who shares the answer may have left the page on it.
      this.failures = 0;
      if (!this.isStreamInTrouble) this.tools.notice(null);
      if (ENDED.has(run.state) && run.backlog === 0) return;
      this.lookIn(LOOK_MS);
    } catch (problem) {
      if (this.leaving.signal.aborted) return;
      this.failures += 1;
      this.trouble(problem);
      if (problem.passes) this.lookIn(Math.min(LOOK_MAX_MS, LOOK_MS * 2 ** (this.failures - 1)));
    }
  }

  lookIn(ms) {
    clearTimeout(this.timer);
    if (!document.hidden && !this.leaving.signal.aborted) this.timer = setTimeout(() => this.lookOn(), ms);
  }

  /** Ask for the row and draw it; who asks at the same moment shares the answer. */
  look() {
    this.looking ??= getRun(this.runId, this.leaving.signal)
      .then((run) => this.draw(run))
      .finally(() => (this.looking = null));
    return this.looking;
  }

  trouble(problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (this.tools.isRefused(problem)) return;
    const again = problem.passes ? " It is tried again." : "";
    this.tools.notice(`${sentence(problem.message)}${again}`);
  }

  /** Draw the row and return it; a view that was left throws, for the title and what is read out are the next one's. */
  draw(run) {
    this.leaving.signal.throwIfAborted();
    const before = this.run;
    this.run = run;
    if (before !== null && before.state !== run.state) this.tools.announce(`The run is ${run.state}`);
    const state = this.find(".state");
    put(state, run.state);
    state.dataset.state = run.state;
    document.title = `${run.state}: ${shown(run.runId)} – Tailrace`;
    const cancel = this.find(".cancel");
    cancel.hidden = ENDED.has(run.state);
    if (JSON.stringify(before) !== JSON.stringify(run)) this.drawFacts(run);
    if (before === null) this.begin(run);
    if (run.state === "finished" && this.find(".output").hidden) this.drawValue(".output", run.output, "Output");
    if (run.error) {
      this.find(".failure").hidden = false;
      put(this.find(".failure .class"), shown(run.error.class));
      put(this.find(".failure .message"), shown(run.error.message));
    }
    this.tick();
    return run;
  }

  drawFacts(run) {
    this.took = el("span");
    const facts = [["Agent", el("span", { class: "untrusted", text: shown(run.agent) })], ["Created", timeOf(run.createdAt)]];
    if (run.startedAt) facts.push(["Started", timeOf(run.startedAt)]);
    if (run.finishedAt) facts.push(["Ended", timeOf(run.finishedAt)]);
    if (run.startedAt) facts.push(["Took", this.took]);
    if (run.cancelRequestedAt) facts.push(["Cancel asked for", timeOf(run.cancelRequestedAt)]);
    facts.push(["Last seq", count(run.lastSeq)], ["Next seq", count(run.nextSeq)], ["Backlog", count(run.backlog)]);
    const pairs = facts.map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", {}, value)));
    this.find(".facts").replaceChildren(...pairs);
    this.find(".facts").dataset.lastSeq = run.lastSeq;
  }

  drawValue(selector, value, label) {
    const section = this.find(selector);
    section.hidden = false;
    section.append(value === null ? el("p", { class: "muted", text: "none" }) : jsonBlock(value, label));
  }

  /** Draw what never changes, and follow the run. */
  begin(run) {
    this.find(".body").hidden = false;
    this.drawValue(".input", run.input, "Input");
    const position = Math.max(0, run.nextSeq - 1 - TAIL);
    this.log = new EventLog(this.find(".log"), this.runId, position, this.leaving.signal);
    this.tellPart(position);
    this.following = new Following(this.runId, position, {
      event: (event, length) => this.take(event, length),
      state: (state) => {
        put(this.find(".line"), LINES[state]);
        if (state === "ended") this.tick();
      },
      problem: (problem) => {
        this.isStreamInTrouble = problem !== null;
        if (problem === null) this.tools.notice(null);
        else this.trouble(problem);
      },
      gone: (gone) => {
        this.log.beginAt(gone);
        tell(this.find(".log .told"), `Events up to ${count(gone)} are gone for good.`);
      },
      hasAll: async (seq) => {
        const row = await this.look();
        // Purged and started again, or the database is an earlier one: it is another run of this name.
        if (row.lastSeq < seq) {
          this.tools.again();
          return false;
        }
        return ENDED.has(row.state) && seq >= row.lastSeq;
      },
    });
    if (document.hidden) this.following.pause();
    else this.following.open();
  }

  take(event, length) {
    this.nodes.take(event);
    this.isStale = true;
    this.log.push(event, length);
    if (this.isLookDue) return;
    this.isLookDue = true;
    setTimeout(() => {
      this.isLookDue = false;
      if (!this.leaving.signal.aborted && !document.hidden) this.lookOn();
    }, LOOK_AFTER_EVENTS_MS);
  }

  /** Draw what goes on by itself: durations of what runs. */
  tick() {
    const { run, nodes } = this;
    if (document.hidden || run === null) return;
    if (run.startedAt) {
      put(this.took, duration((run.finishedAt ? Date.parse(run.finishedAt) : now()) - Date.parse(run.startedAt)));
    }
    if (!this.isStale && nodes.endedAt !== null) return;
    this.isStale = false;
    this.find(".none").hidden = nodes.byName.size > 0;
    if (this.position > 0) put(this.find(".none"), "There is none among them.");
    else put(this.find(".none"), nodes.endedAt === null ? "None yet." : "None.");
    this.nodeList.draw(nodes, now());
  }

  tellPart(position) {
    const part = this.find(".part");
    part.hidden = position === 0;
    if (position > 0) put(part.firstElementChild, `Nodes of the events after ${count(position)}.`);
    this.position = position;
  }

  /** Read all events before those that were followed, for their nodes alone. */
  async readEarlierNodes() {
    const [part, button] = [this.find(".part"), this.find(".part button")];
    const earlier = new Nodes();
    const upto = this.position;
    button.disabled = true;
    try {
      for (let after = this.log.floor; after < upto; after += 1000) {
        put(part.firstElementChild, `Reading events: ${count(after)} of ${count(upto)}…`);
        const events = await readEvents(this.runId, after, Math.min(upto, after + 1000), this.leaving.signal);
        for (const event of events) earlier.take(event);
      }
      this.nodes.follow(earlier);
      this.nodeList.clear();
      this.isStale = true;
      this.tellPart(0);
      this.tick();
    } catch (problem) {
      if (this.leaving.signal.aborted) return;
      this.tellPart(upto);
      this.trouble(problem);
    } finally {
      button.disabled = false;
    }
  }

  async cancel() {
    if (!(await this.tools.confirm(shown(this.runId))) || this.leaving.signal.aborted) return;
    const [button, told] = [this.find(".cancel"), this.find(".told")];
    button.disabled = true;
    try {
      // Sent whether or not the page is left: somebody said yes.
      const run = this.draw(await cancelRun(this.runId));
      const isOver = run.state === "cancelled";
      tell(told, isOver ? "The run is cancelled." : "Cancelling is accepted: the run ends when its agent has let go.");
      this.lookIn(LOOK_AFTER_EVENTS_MS);
    } catch (problem) {
      if (this.leaving.signal.aborted) return;
      if (!(problem instanceof Problem)) throw problem;
      if (!this.tools.isRefused(problem)) tell(told, `Not cancelled. ${shown(sentence(problem.message))}`);
      if (problem.status === 409) this.lookOn();
    } finally {
      button.disabled = false;
    }
  }
}
