// What the page's fragment names is shown: the list, a run, the form that starts one; and whoever needs a key is asked.

import { hasKey, useKey } from "./api.js";
import { ListView } from "./list.js";
import { RunView } from "./run.js";
import { StartView } from "./start.js";
import { el, put, sentence, shown, tell } from "./text.js";

const AGENTS_MAX = 200;
const VISIBLE_ASCII = /^[!-~]+$/;

const byId = (id) => document.getElementById(id);
const main = byId("main");
const keyButton = byId("forget");
let view = null;

const tools = {
  /** Tell above the page what is the matter, null for nothing. */
  notice: (text) => tell(byId("notice"), text === null ? null : shown(text)),
  /** Show the same anew, from nothing. */
  again: () => route(),
  announce: (text) => put(byId("announcer"), text),
  confirm,
  /** Offer these names where an agent is asked for. */
  agents(names) {
    const list = byId("agents");
    const known = new Set([...list.options].map((option) => option.value));
    for (const name of new Set(names)) {
      if (!known.has(name) && list.options.length < AGENTS_MAX) list.append(el("option", { value: name }));
    }
  },
  /** Whether the server wants a key, or another one; if so it is asked for, and then the view begins anew. */
  isRefused(problem, { stays = false } = {}) {
    if (problem.status !== 401) return false;
    tools.notice(sentence(problem.message));
    askForKey(problem, stays);
    return true;
  },
};

function route() {
  const query = new URLSearchParams(location.hash.slice(1));
  const name = query.get("run") ? "run" : query.has("start") ? "start" : "list";
  view?.close();
  const question = byId("confirm");
  if (question.open) question.close("no"); // It was about what is left now.
  tools.notice(null);
  // Of this view alone: whatever still comes to the one before finds nothing here.
  const root = el("div");
  main.replaceChildren(root);
  for (const link of document.querySelectorAll("header nav a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  keyButton.hidden = !hasKey() && keyButton.hidden;
  put(keyButton, hasKey() ? "Forget the key" : "Enter a key");
  if (name === "run") view = new RunView(root, query.get("run"), tools);
  else if (name === "start") view = new StartView(root, tools);
  else view = new ListView(root, query, tools);
}

function askForKey(problem, stays) {
  const dialog = byId("key");
  keyButton.hidden = false;
  put(dialog.querySelector(".why"), problem && hasKey() ? shown(sentence(problem.message)) : "Runs are shown to those who have one.");
  dialog.dataset.stays = stays ? "yes" : "";
  tell(dialog.querySelector(".fault"), null);
  if (!dialog.open) dialog.showModal();
}

function takeKey(submitted) {
  const [dialog, field] = [byId("key"), byId("key-field")];
  const key = field.value.trim();
  if (!VISIBLE_ASCII.test(key)) {
    submitted.preventDefault();
    tell(dialog.querySelector(".fault"), "A key is one word of letters, digits and underscores.");
    return;
  }
  field.value = "";
  useKey(key);
  tools.notice(null);
  // A form that was filled in is not thrown away: its button sends it with the key.
  if (dialog.dataset.stays) put(keyButton, "Forget the key");
  else route();
}

/** Ask whether a run is to be cancelled. */
function confirm(runId) {
  const dialog = byId("confirm");
  put(dialog.querySelector(".which"), runId);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

byId("key").querySelector("form").addEventListener("submit", takeKey);
byId("key").querySelector(".leave").addEventListener("click", () => byId("key").close());
keyButton.addEventListener("click", () => {
  if (!hasKey()) {
    askForKey(null, false);
    return;
  }
  useKey(null);
  route();
});
window.addEventListener("hashchange", () => {
  route();
  main.focus({ preventScroll: true });
  window.scrollTo(0, 0);
});
document.addEventListener("visibilitychange", () => view?.seen(!document.hidden));
route();
