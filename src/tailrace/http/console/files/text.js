// How values look: text that may be hostile, times, durations, JSON.

// Characters that would hide or turn what stands beside them are shown by their number.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
// A number that JavaScript might not give back as it was written.
const DELICATE = /[0-9][0-9.]{15}|[0-9][eE]/;
const PRETTY_MAX = 20_000;

const DAY_AND_TIME = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const TIME = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23",
});
const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const NUMBER = new Intl.NumberFormat("en");

/** Return the text with what cannot be seen written as \uXXXX. */
export function shown(text) {
  return String(text).replace(UNSEEN, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** Make an element: attributes, `text` and `class` by name, then children, which are elements or text. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name === "class") made.className = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Set an element's text if it is another: what has not changed is neither drawn nor read out again. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Tell a problem in an element, null for none. */
export function tell(element, text) {
  element.hidden = text === null;
  put(element, text ?? "");
}

/** Return a copy of what is in the page's template of this id. */
export function fromTemplate(id) {
  return document.getElementById(id).content.cloneNode(true);
}

/** Return the text as a sentence that ends. */
export function sentence(text) {
  return /[.!?…]$/.test(text) ? text : `${text}.`;
}

export function count(value) {
  return NUMBER.format(value);
}

/** Make a `time` of an RFC 3339 text or of milliseconds: local to read, UTC on hover; as a day, of an event, or as now. */
export function timeOf(moment, format = "day") {
  const date = new Date(moment);
  if (Number.isNaN(date.getTime())) return el("span", { text: "" });
  const iso = date.toISOString();
  const text = { day: DAY_AND_TIME, event: TIME, now: CLOCK }[format].format(date);
  return el("time", { datetime: iso, title: `${iso.replace("T", " ").replace("Z", "")} UTC`, text });
}

/** Return a duration in words; ms is rounded to what matters. */
export function duration(ms) {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return `${minutes} min ${whole % 60} s`;
}

export function bytes(length) {
  return length < 1000 ? `${length} characters` : `${NUMBER.format(Math.round(length / 1000))} k characters`;
}

/** Parse JSON; numbers that would be rounded are kept as they were written, where the browser can. */
export function parse(text) {
  if (!DELICATE.test(text) || !JSON.rawJSON) return JSON.parse(text);
  return JSON.parse(text, (_key, value, context) => {
    const isChanged = typeof value === "number" && context && context.source !== String(value);
    return isChanged ? JSON.rawJSON(context.source) : value;
  });
}

/** Make a block of pretty JSON; of a long one the beginning, and the rest when it is asked for. */
export function jsonBlock(value, label) {
  const text = shown(JSON.stringify(value, null, 2));
  const block = el("pre", { tabindex: "0", role: "region", "aria-label": label });
  if (text.length <= PRETTY_MAX) {
    block.textContent = text;
    return block;
  }
  const rest = el("button", { type: "button", class: "quiet", text: `Show all, ${bytes(text.length)}` });
  rest.addEventListener("click", () => block.replaceChildren(text));
  block.append(`${text.slice(0, PRETTY_MAX)}…\n`, rest);
  return block;
}
