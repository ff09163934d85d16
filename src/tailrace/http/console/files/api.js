// The API, asked as any client asks it: relative to this page, with a key when there is one.

import { parse } from "./text.js";

const RUNS = "api/agents/runs";
const PATIENCE_MS = 20_000;
// Of this page alone: another App on the same origin has a key of its own.
const KEPT_AS = `tailrace key of ${new URL(document.baseURI).pathname}`;

let key = kept();
let skewMs = 0;

/** What the server answered instead of what was asked for; `status` 0 when it answered nothing. */
export class Problem extends Error {
  constructor({ status, title, detail, errors = [], earliestFromSeq = null }) {
    super(detail ? `${title}: ${detail}` : title);
    Object.assign(this, { status, title, detail, errors: Array.isArray(errors) ? errors : [], earliestFromSeq });
  }

  /** Whether it may be gone in a moment. */
  get passes() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

export function hasKey() {
  return key !== null;
}

/** Use a key from now on and keep it as long as this tab; null forgets it. */
export function useKey(text) {
  key = text;
  try {
    if (text === null) sessionStorage.removeItem(KEPT_AS);
    else sessionStorage.setItem(KEPT_AS, text);
  } catch {
    // Storage is switched off: it is known until the page is left.
  }
}

/** The server's clock, as far as its answers tell it. */
export function now() {
  return Date.now() + skewMs;
}

function pathOf(runId, rest = "") {
  return `${RUNS}/${encodeURIComponent(runId)}${rest}`;
}

export function listRuns(query, signal) {
  return ask(`${RUNS}?${new URLSearchParams(query)}`, { signal });
}

export function getRun(runId, signal) {
  return ask(pathOf(runId), { signal });
}

export function cancelRun(runId) {
  return ask(pathOf(runId, "/cancel"), { method: "POST" });
}

export function startRun(body, idempotencyKey) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": idempotencyKey };
  return ask(RUNS, { method: "POST", body, headers });
}

/** Return the URL of a run's stream after a position; where keys are used, with a token made for it just now. */
export async function streamUrl(runId, position, signal) {
  const query = new URLSearchParams({ fromSeq: position });
  if (hasKey()) query.set("token", (await ask(pathOf(runId, "/stream-token"), { method: "POST", signal })).token);
  return new URL(`${pathOf(runId, "/stream")}?${query}`, document.baseURI);
}

/** Return the published events after `after` up to `upto`; pages of large events end early and are asked on. */
export async function readEvents(runId, after, upto, signal) {
  const events = [];
  while (after < upto) {
    const query = new URLSearchParams({ fromSeq: after, limit: Math.min(1000, upto - after) });
    const page = await ask(`${pathOf(runId, "/events")}?${query}`, { signal });
    if (page.events.length === 0) break;
    events.push(...page.events);
    after = page.nextFromSeq;
  }
  return events;
}

/** Ask whether events after a position can be had, and return nothing: it throws what is the matter. */
export async function tryEvents(runId, after, signal) {
  await ask(`${pathOf(runId, "/events")}?${new URLSearchParams({ fromSeq: after, limit: 1 })}`, { signal });
}

async function ask(path, { method = "GET", body, headers = {}, signal } = {}) {
  if (key !== null) headers.Authorization = `Bearer ${key}`;
  const bound = AbortSignal.timeout(PATIENCE_MS);
  const signals = signal ? AbortSignal.any([signal, bound]) : bound;
  let response;
  let text;
  try {
    response = await fetch(new URL(path, document.baseURI), { method, body, headers, signal: signals, cache: "no-store" });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem({ status: 0, title: "No answer", detail: "the server cannot be reached, or does not answer in time" });
  }
  const date = Date.parse(response.headers.get("date"));
  // The header tells whole seconds; less than two of them are no difference.
  if (date) skewMs = Math.abs(date - Date.now()) > 2000 ? date - Date.now() : 0;
  const found = parsed(text);
  if (response.ok && found !== null) return found;
  throw problemOf(response, found);
}

function problemOf(response, found) {
  if (found !== null && typeof found === "object" && typeof found.title === "string") {
    return new Problem({ ...found, status: response.status });
  }
  const title = response.ok ? "Not an answer of Tailrace" : `${response.status} ${response.statusText}`.trim();
  return new Problem({ status: response.ok ? 502 : response.status, title, detail: "something between here and Tailrace answered" });
}

function parsed(text) {
  try {
    return parse(text);
  } catch {
    return null;
  }
}

function kept() {
  try {
    return sessionStorage.getItem(KEPT_AS);
  } catch {
    return null;
  }
}
