// The live view: one entry for each stream, tokens as they are judged.

import { call, events, Refused } from "./calls.js";
import { cut, describe, element, token } from "./tokens.js";

const MAX_STREAMS = 20;
const MAX_TOKENS = 1500; // of one entry; the oldest go
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15000;

export class LiveView {
  constructor({ list, empty, announcer, onDecision, onState }) {
    Object.assign(this, { list, empty, announcer, onDecision, onState });
    this.entries = new Map();
    this.pending = [];
  }

  /** Watch until the key is refused; reconnects by itself. */
  async watch() {
    let pause = FIRST_PAUSE_MS;
    for (;;) {
      try {
        const stream = await call("/v1/live", { isStream: true });
        this.onState("is-open", "live");
        pause = FIRST_PAUSE_MS;
        for await (const data of events(stream)) this.take(JSON.parse(data));
      } catch (error) {
        if (error instanceof Refused && (error.status === 401 || error.status === 403)) throw error;
      }
      this.onState("is-lost", "connection lost, trying again");
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
    }
  }

  /** Take an event; the page is drawn at most once a frame. */
  take(event) {
    if (!this.pending.length) setTimeout(() => this.draw(), 30);
    this.pending.push(event);
  }

  draw() {
    const events = this.pending;
    this.pending = [];
    for (const event of events) this.show(event);
  }

  show(event) {
    const key = `${event.tenant} ${event.stream_id}`;
    if (event.kind === "decided") {
      this.onDecision();
      const known = this.entries.get(key);
      if (known) known.decide(event);
      return;
    }
    let entry = this.entries.get(key);
    if (!entry || (event.kind === "opened" && entry.isOver)) entry = this.add(key, event);
    if (event.kind === "dropped" || (event.kind === "tokens" && !event.tokens.length)) entry.drop(event);
    else if (event.kind === "tokens") entry.put(event);
    if (isStopped(event) && !entry.isCut) {
      entry.stop(event);
      this.announcer.textContent = `A stream of ${event.endpoint} was cut.`;
    }
  }

  add(key, event) {
    this.entries.get(key)?.root.remove();
    const entry = new Entry(event);
    this.entries.delete(key);
    this.entries.set(key, entry);
    this.list.prepend(entry.root);
    this.empty.hidden = true;
    for (const [oldKey, old] of this.entries) {
      if (this.entries.size <= MAX_STREAMS) break;
      old.root.remove();
      this.entries.delete(oldKey);
    }
    return entry;
  }
}

function isStopped(event) {
  return event.action === "block" || event.action === "replace";
}

class Entry {
  constructor(event) {
    this.tokens = [];
    this.first = 0; // position of the first token that is still shown
    this.isCut = false;
    this.cut = null;
    this.isOver = false;
    this.root = element("li");
    const head = element("div", "head");
    head.append(element("span", "", event.endpoint), element("span", "", event.stream_id.slice(0, 24)));
    head.append(element("time", "", new Date(event.time).toLocaleTimeString([], { hour12: false })));
    this.state = element("span", "state", "being judged");
    head.append(this.state);
    this.text = element("div", "text");
    this.root.append(head, this.text);
  }

  put(event) {
    for (const old of this.tokens.splice(Math.max(0, event.start - this.first))) old.remove();
    for (const each of event.tokens) {
      const made = token(each.text, each.risk_level, each.unsafe, each.controversial, each.category);
      this.tokens.push(made);
      this.text.append(made);
    }
    while (this.tokens.length > MAX_TOKENS) {
      this.tokens.shift().remove();
      this.first += 1;
    }
    this.text.scrollTop = this.text.scrollHeight;
  }

  /** Take out tokens that were dropped, which nobody got; whoever may see them sees them struck through. */
  drop(event) {
    for (const old of this.tokens.splice(Math.max(0, event.start - this.first))) {
      if (event.kind === "dropped") old.classList.add("withheld");
      else old.remove();
    }
    if (this.isCut) this.cut.remove();
    this.isCut = false;
    this.state.textContent = "being changed";
  }

  /** Mark where it was cut: before the last tokens that are over the threshold. */
  stop(event) {
    this.isCut = true;
    let place = this.tokens.length;
    while (place > 0 && isOver(this.tokens[place - 1])) place -= 1;
    for (const late of this.tokens.slice(place)) late.classList.add("withheld");
    this.cut = cut(event);
    this.text.insertBefore(this.cut, this.tokens[place] || null);
    this.say(event);
  }

  decide(event) {
    this.isOver = true;
    if (isStopped(event) && !this.isCut) this.stop(event);
    else if (this.isCut) this.cut.textContent = cut(event).textContent; // it knows the reason
    this.say(event);
  }

  say(event) {
    this.state.className = `state action ${event.action}`;
    this.state.textContent = describe(event);
  }
}

function isOver(element) {
  return element.classList.contains("r3") || element.classList.contains("r2");
}
