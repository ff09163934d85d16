// The form that starts a run.

import { Problem, startRun } from "./api.js";
import { linkTo } from "./list.js";
import { el, fromTemplate, sentence, shown, tell } from "./text.js";

const FIELDS = ["agent", "input", "runId"];

export class StartView {
  constructor(root, tools) {
    root.append(fromTemplate("start"));
    this.tools = tools;
    this.form = root.querySelector("form");
    this.told = root.querySelector(".told");
    this.sent = { body: null, key: null };
    this.leaving = new AbortController();
    document.title = "Start a run – Tailrace";
    this.form.addEventListener("submit", (submitted) => {
      submitted.preventDefault();
      this.start();
    });
    tools.notice(null);
  }

  close() {
    this.leaving.abort();
  }

  seen() {}

  async start() {
    this.clear();
    const body = this.body();
    if (body === null) return;
    const button = this.form.querySelector("button");
    button.disabled = true;
    try {
      const run = await startRun(body, this.keyFor(body));
      if (!this.leaving.signal.aborted) location.hash = linkTo(run.runId);
    } catch (problem) {
      if (this.leaving.signal.aborted) return;
      if (!(problem instanceof Problem)) throw problem;
      if (!this.tools.isRefused(problem, { stays: true })) this.tell(problem);
    } finally {
      button.disabled = false;
    }
  }

  /** Return the body as it is written, so that no number is rounded on its way; null when a field is wrong. */
  body() {
    const { agent, input, runId } = this.form.elements;
    const members = [`"agent":${JSON.stringify(agent.value)}`];
    if (agent.value === "") return this.fault("agent", "Name the agent to run.");
    if (input.value.trim() !== "") {
      try {
        JSON.parse(input.value);
      } catch (error) {
        return this.fault("input", `This is not JSON: ${shown(error.message)}`);
      }
      members.push(`"input":${input.value}`);
    }
    if (runId.value !== "") members.push(`"runId":${JSON.stringify(runId.value)}`);
    return `{${members.join(",")}}`;
  }

  /** Return a key for this body: sent again after an answer that was lost, it starts no second run. */
  keyFor(body) {
    if (this.sent.body !== body) {
      const random = [...crypto.getRandomValues(new Uint8Array(16))];
      this.sent = { body, key: `console-${random.map((byte) => byte.toString(16).padStart(2, "0")).join("")}` };
    }
    return this.sent.key;
  }

  tell(problem) {
    this.told.hidden = false;
    this.told.replaceChildren(el("p", { text: `Not started. ${shown(sentence(problem.message))}` }));
    const places = el("ul");
    for (const { pointer, detail } of problem.errors) {
      const item = el("li", {}, el("code", { class: "untrusted", text: shown(pointer || "/") }), " ", shown(detail));
      places.append(item);
      const field = FIELDS.find((name) => pointer === `/${name}` || String(pointer).startsWith(`/${name}/`));
      if (field) this.fault(field, `${pointer} ${detail}`);
    }
    if (problem.errors.length) this.told.append(places);
    if (problem.passes) this.told.append(el("p", { text: "Sent again as it is, it starts one run, not two." }));
  }

  fault(field, text) {
    tell(this.form.querySelector(`#${field}-fault`), shown(text));
    this.form.elements[field].setAttribute("aria-invalid", "true");
    if (!this.form.querySelector("[aria-invalid]:focus")) this.form.elements[field].focus();
    return null;
  }

  clear() {
    this.told.hidden = true;
    for (const field of FIELDS) {
      tell(this.form.querySelector(`#${field}-fault`), null);
      this.form.elements[field].removeAttribute("aria-invalid");
    }
  }
}
