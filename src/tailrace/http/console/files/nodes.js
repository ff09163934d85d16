// A run's nodes by name, each with how often it ran and how long it took.

import { TERMINAL } from "./follow.js";
import { count, duration, el, put, shown } from "./text.js";

// An agent may name a node after each of its items; no page shows more lines than this, no tab keeps more names.
const NAMES_MAX = 1000;
const ROWS_MAX = 100;

export class Nodes {
  constructor() {
    this.byName = new Map();
    this.others = 0;
    this.endedAt = null;
    this.firstAt = null;
    this.lastAt = null;
    this.wasResumed = false;
  }

  /** Take the next event of the run; anything but nodes, ends and resumptions is let pass. */
  take(event) {
    this.firstAt ??= event.ts;
    this.lastAt = event.ts;
    if (event.type === "NodeStarted") {
      this.of(event.name, event.ts)?.open.push(event.ts);
    } else if (event.type === "NodeFinished") {
      const node = this.of(event.name, event.ts);
      // Nodes of one name that run together are not told apart: the first that began is the first that ends.
      if (node?.open.length) close(node, node.open.shift(), event.ts);
      else node?.endings.push(event.ts);
    } else if (event.type === "DebugTrace" && event.fn === "run.resumed") {
      this.wasResumed = true;
      this.interrupt();
    } else if (TERMINAL.has(event.type)) {
      this.endedAt = event.ts;
      this.interrupt();
    }
  }

  /** Put what was found in earlier events of the same run before what is here. */
  follow(earlier) {
    const later = this.byName;
    this.byName = earlier.byName;
    this.others += earlier.others;
    this.firstAt = earlier.firstAt ?? this.firstAt;
    for (const [name, node] of later) {
      const into = this.of(name, node.firstAt);
      if (into === undefined) continue;
      for (const at of node.endings) if (into.open.length) close(into, into.open.shift(), at);
      into.lastAt = Math.max(into.lastAt, node.lastAt);
    }
    if (this.wasResumed) this.interrupt();
    for (const [name, node] of later) {
      const into = this.byName.get(name);
      if (into === undefined) continue;
      into.open.push(...node.open);
      into.times += node.times;
      into.totalMs += node.totalMs;
      into.longestMs = Math.max(into.longestMs, node.longestMs);
      into.interrupted += node.interrupted;
    }
    if (this.endedAt !== null) this.interrupt();
  }

  of(name, at) {
    let node = this.byName.get(name);
    if (node === undefined) {
      if (this.byName.size >= NAMES_MAX) {
        this.others += 1;
        return undefined;
      }
      node = { open: [], endings: [], times: 0, totalMs: 0, longestMs: 0, interrupted: 0, firstAt: at, lastAt: at };
      this.byName.set(name, node);
    }
    node.lastAt = at;
    return node;
  }

  /** The run ended, or went on elsewhere: what is open will not finish. */
  interrupt() {
    for (const node of this.byName.values()) {
      node.interrupted += node.open.length;
      node.open.length = 0;
    }
  }
}

/** Shows nodes in a list, a line each; only what has changed is touched. */
export class NodeList {
  constructor(list) {
    this.list = list;
    this.lines = new Map();
    this.more = el("li", { class: "muted" });
  }

  draw(nodes, nowMs) {
    const from = nodes.firstAt ?? nowMs;
    const upto = Math.max(nodes.endedAt ?? nowMs, nodes.lastAt ?? 0, from + 1);
    let drawn = 0;
    for (const [name, node] of nodes.byName) {
      if (++drawn > ROWS_MAX) break;
      const line = this.line(name);
      put(line.took, tookOf(node, nowMs));
      put(line.times, timesOf(node));
      const end = node.open.length ? upto : node.lastAt;
      // By the object model, which the page's policy allows; a style in markup it would not.
      line.bar.style.setProperty("--from", (node.firstAt - from) / (upto - from));
      line.bar.style.setProperty("--upto", (end - from) / (upto - from));
      line.item.classList.toggle("running", node.open.length > 0);
    }
    const left = nodes.byName.size - ROWS_MAX;
    if (left > 0) {
      put(this.more, `and ${count(left)} more names${nodes.others ? `, and ${count(nodes.others)} events of further ones` : ""}`);
      this.list.append(this.more);
    }
  }

  clear() {
    this.lines.clear();
    this.list.replaceChildren();
  }

  line(name) {
    let line = this.lines.get(name);
    if (line === undefined) {
      const [took, times, bar] = [el("span", { class: "took" }), el("span", { class: "times muted" }), el("i")];
      const track = el("span", { class: "track", "aria-hidden": "true" }, bar);
      const text = shown(name);
      const item = el("li", {}, el("span", { class: "name untrusted", title: text, text }), took, times, track);
      line = { item, took, times, bar };
      this.lines.set(name, line);
      this.list.append(item);
    }
    return line;
  }
}

function close(node, from, upto) {
  const ms = Math.max(0, upto - from);
  node.times += 1;
  node.totalMs += ms;
  node.longestMs = Math.max(node.longestMs, ms);
}

function tookOf(node, nowMs) {
  if (node.times > 0) return duration(node.totalMs);
  if (node.open.length > 0) return `${duration(nowMs - node.open[0])} so far`;
  return node.interrupted ? "did not finish" : "began earlier";
}

function timesOf(node) {
  const said = [];
  if (node.times > 1) said.push(`${count(node.times)} times, longest ${duration(node.longestMs)}`);
  if (node.times > 0 && node.open.length > 0) said.push(`${count(node.open.length)} running`);
  if (node.times > 0 && node.interrupted > 0) said.push(`${count(node.interrupted)} not finished`);
  return said.join(", ");
}
