// One run's stream, each event once and in order, through reconnections, expired tokens and restarts of the server.
//
// An EventSource reconnects by itself and sends the last id; it gives up for ever on any status but 200.  Then, and when
// an event is missing, another is opened with the position in the URL and a new token.  Whatever went wrong, the API is
// asked, for an EventSource cannot tell: 204 and 401 look the same to it.

import { Problem, streamUrl, tryEvents } from "./api.js";
import { parse } from "./text.js";

export const TERMINAL = new Set(["RunFinished", "RunFailed", "RunCancelled"]);
const BACKOFF_MIN_MS = 300;
const BACKOFF_MAX_MS = 30_000;
// The server answers what passes with 200 and an end: a stream is live when it has stayed this long, or sent an event.
const STAYED_MS = 1500;

export class Following {
  /**
   * @param position the last seq that is not wanted.
   * @param told `event(event, length)`, `state("connecting" | "live" | "reconnecting" | "paused" | "ended" | "stopped")`,
   *   `problem(problem)`, null when it is over, `gone(position)` when events up to there are nowhere any more, and
   *   `hasAll(position)`, a promise of whether the run has ended there.
   */
  constructor(runId, position, told) {
    this.runId = runId;
    this.position = position;
    this.told = told;
    this.failures = 0;
    this.source = null;
    this.leaving = new AbortController();
    this.timers = new Set();
    this.state = "";
    this.isAsking = false;
    this.isOpening = false;
  }

  /** Open the stream, or open it anew where it was left. */
  async open() {
    if (this.isOver || this.source !== null) return;
    this.is(this.failures > 0 ? "reconnecting" : "connecting");
    if (this.isOpening) return; // It goes on with the state above.
    this.isOpening = true;
    try {
      const url = await streamUrl(this.runId, this.position, this.leaving.signal);
      if (!this.isOver && this.state !== "paused") this.listen(url);
    } catch (problem) {
      this.failed(problem);
    } finally {
      this.isOpening = false;
    }
  }

  listen(url) {
    const source = new EventSource(url);
    this.source = source;
    source.onopen = () => this.later(STAYED_MS, () => source === this.source && source.readyState === 1 && this.isLive());
    source.onmessage = (message) => source === this.source && this.take(message);
    source.onerror = () => source === this.source && this.broken();
  }

  /** Leave the stream while nobody looks; `open` goes on. */
  pause() {
    if (this.isOver) return;
    this.drop();
    this.is("paused");
  }

  /** Leave it for good. */
  close() {
    this.drop();
    this.leaving.abort();
    if (!this.isOver) this.state = "stopped";
  }

  get isOver() {
    return this.state === "ended" || this.state === "stopped";
  }

  take(message) {
    const seq = Number(message.lastEventId);
    if (seq <= this.position) return;
    if (seq !== this.position + 1) {
      this.again(this.backoff());
      return;
    }
    this.position = seq;
    this.isLive();
    const event = parse(message.data);
    this.told.event(event, message.data.length);
    if (TERMINAL.has(event.type)) this.end();
  }

  broken() {
    if (this.source.readyState === EventSource.CLOSED) this.drop();
    this.is("reconnecting");
    this.explain();
  }

  /** Find out what is the matter, and open another stream if the browser has given this one up. */
  async explain() {
    if (this.isAsking) return;
    this.isAsking = true;
    try {
      if (await this.told.hasAll(this.position)) this.end();
      else await tryEvents(this.runId, this.position, this.leaving.signal);
      this.reopen();
    } catch (problem) {
      this.failed(problem);
    } finally {
      this.isAsking = false;
    }
  }

  failed(problem) {
    if (this.leaving.signal.aborted || this.isOver || !(problem instanceof Problem)) return;
    this.told.problem(problem);
    if (problem.status === 410 && problem.earliestFromSeq > this.position) {
      this.position = problem.earliestFromSeq;
      this.told.gone(this.position);
      this.drop();
    } else if (!problem.passes) {
      this.drop();
      this.is("stopped");
    }
    this.reopen();
  }

  /** Open another stream if there is none and there should be. */
  reopen() {
    if (this.source !== null || this.isOver || this.state === "paused") return;
    this.is("reconnecting");
    this.again(this.backoff());
  }

  again(delayMs) {
    this.drop();
    this.later(delayMs, () => this.state !== "paused" && this.open());
  }

  backoff() {
    this.failures += 1;
    return Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** this.failures) * (0.5 + Math.random() / 2);
  }

  isLive() {
    if (this.state === "live" || this.isOver) return;
    this.failures = 0;
    this.told.problem(null);
    this.is("live");
  }

  end() {
    if (this.isOver) return;
    this.drop();
    this.told.problem(null);
    this.is("ended");
  }

  drop() {
    this.source?.close();
    this.source = null;
    for (const timer of this.timers) clearTimeout(timer);
    this.timers.clear();
  }

  later(delayMs, action) {
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      action();
    }, delayMs);
    this.timers.add(timer);
  }

  is(state) {
    if (this.state === state) return;
    this.state = state;
    this.told.state(state);
  }
}
