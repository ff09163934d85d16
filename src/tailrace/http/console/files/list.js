// The newest runs, refreshed while somebody looks.

import { listRuns, now, Problem } from "./api.js";
import { count, duration, el, fromTemplate, put, sentence, shown, tell, timeOf } from "./text.js";

const PAGE = 50;
const REFRESH_MS = 5000;
const REFRESH_MAX_MS = 60_000;

/** Show the list in `root`, which is its own, until `close` is called; `query` holds its filters and cursor. */
export class ListView {
  constructor(root, query, tools) {
    root.append(fromTemplate("list"));
    Object.assign(this, { query, tools, failures: 0, rows: new Map() });
    this.leaving = new AbortController();
    this.find = (selector) => root.querySelector(selector);
    this.form = this.find(".filters");
    this.form.elements.state.value = query.get("state") ?? "";
    this.form.elements.agent.value = query.get("agent") ?? "";
    this.form.addEventListener("submit", (submitted) => {
      submitted.preventDefault();
      this.filter();
    });
    this.form.addEventListener("change", () => this.filter());
    document.title = "Runs – Tailrace";
    this.refresh();
  }

  close() {
    this.leaving.abort();
    clearTimeout(this.timer);
  }

  /** The tab was shown or hidden. */
  seen(isSeen) {
    clearTimeout(this.timer);
    if (isSeen) this.refresh();
  }

  filter() {
    const { state, agent } = this.form.elements;
    const fragment = fragmentOf({ state: state.value, agent: agent.value });
    if (location.hash !== fragment) location.hash = fragment;
  }

  async refresh() {
    clearTimeout(this.timer);
    let waitMs = REFRESH_MS;
    try {
      const page = await listRuns(queryOf(this.query), this.leaving.signal);
      this.failures = 0;
      this.tools.notice(null);
      this.draw(page);
    } catch (problem) {
      if (this.leaving.signal.aborted) return;
      if (!(problem instanceof Problem)) throw problem;
      if (this.tools.isRefused(problem)) return;
      this.failures += 1;
      waitMs = Math.min(REFRESH_MAX_MS, REFRESH_MS * 2 ** (this.failures - 1));
      const again = problem.passes ? ` It is tried again in ${Math.round(waitMs / 1000)} s.` : "";
      const places = problem.errors.map(({ pointer, detail }) => `${pointer} ${detail}`).join("; ");
      this.tools.notice(`${sentence(problem.message + (places && ` (${places})`))}${again}`);
      if (!problem.passes) return;
    }
    if (!document.hidden && !this.leaving.signal.aborted) this.timer = setTimeout(() => this.refresh(), waitMs);
  }

  draw({ runs, nextCursor }) {
    const body = this.find("tbody");
    const before = this.rows;
    this.rows = new Map(runs.map((run) => [run.runId, before.get(run.runId) ?? newRow(run)]));
    for (const [runId, row] of before) if (!this.rows.has(runId)) row.remove();
    let place = body.firstChild;
    for (const run of runs) {
      const row = this.rows.get(run.runId);
      fill(row, run);
      // Rows that stay where they are keep the focus.
      if (row === place) place = place.nextSibling;
      else body.insertBefore(row, place);
    }
    const isFiltered = this.query.get("state") || this.query.get("agent");
    const none = isFiltered ? "No runs are like this." : "No runs yet.";
    tell(this.find(".empty"), runs.length ? null : none);
    this.find(".fresh").replaceChildren("as of ", timeOf(now(), "now"));
    const { older, newest } = { older: this.find(".older"), newest: this.find(".newest") };
    const filters = { state: this.query.get("state"), agent: this.query.get("agent") };
    older.hidden = nextCursor === null;
    older.href = fragmentOf({ ...filters, cursor: nextCursor });
    newest.hidden = !this.query.get("cursor");
    newest.href = fragmentOf(filters);
    this.tools.agents(runs.map((run) => run.agent));
  }
}

/** Return the page's fragment for a run. */
export function linkTo(runId) {
  return fragmentOf({ run: runId });
}

function fragmentOf(values) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) if (value) query.set(name, value);
  return `#${query}`;
}

function queryOf(query) {
  const found = { limit: PAGE };
  for (const name of ["state", "agent", "cursor"]) if (query.get(name)) found[name] = query.get(name);
  return found;
}

function newRow(run) {
  const link = el("a", { href: linkTo(run.runId), class: "untrusted", text: shown(run.runId), title: shown(run.runId) });
  const cells = ["state", "id", "agent", "started", "took", "number last", "number backlog"];
  const row = el("tr", { role: "row" }, ...cells.map((name) => el("td", { role: "cell", class: name })));
  row.querySelector(".state").append(el("span", { class: "state" }));
  row.querySelector(".id").append(link);
  const agent = shown(run.agent);
  row.querySelector(".agent").append(el("span", { class: "untrusted", text: agent, title: agent }));
  return row;
}

function fill(row, run) {
  const state = row.querySelector("span.state");
  put(state, run.state);
  state.dataset.state = run.state;
  const started = row.querySelector(".started");
  if (started.dataset.at !== String(run.startedAt)) {
    started.dataset.at = run.startedAt;
    started.replaceChildren(run.startedAt ? timeOf(run.startedAt) : "not yet");
  }
  const upto = run.finishedAt ? Date.parse(run.finishedAt) : now();
  put(row.querySelector(".took"), run.startedAt ? duration(upto - Date.parse(run.startedAt)) : "");
  put(row.querySelector(".last"), count(run.lastSeq));
  put(row.querySelector(".backlog"), count(run.backlog));
  row.classList.toggle("behind", run.backlog > 0);
}
