// The live view: one entry for each stream, tokens as they are judged. It shrinks to a line while nothing happens.

import { call, events, Refused } from "./calls.js";
import { actionMark, element } from "./elements.js";
import { TokenList } from "./token_list.js";
import { clock, describe, isStopped, milliseconds } from "./words.js";

const MAX_STREAMS = 20;
const MAX_TOKENS = 1500; // of one entry; the oldest go
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15000;
const IDLE_MS = 30000;

export class LiveView {
  constructor({ panel, summary, list, announcer, onDecision, onState }) {
    Object.assign(this, { panel, summary, list, announcer, onDecision, onState });
    this.showsText = false;
    this.entries = new Map();
    this.pending = [];
    this.stopping = null;
    this.idle = null;
    this.isPinned = false; // opened or closed by hand
    summary.addEventListener("click", () => (this.isPinned = true));
    this.tally();
  }

  /** Watch until the key is refused or `stop` is called; reconnects by itself. */
  async watch() {
    this.stopping = new AbortController();
    const { signal } = this.stopping;
    let pause = FIRST_PAUSE_MS;
    while (!signal.aborted) {
      try {
        const stream = await call("/v1/live", { isStream: true, signal });
        this.onState("is-open", "live");
        pause = FIRST_PAUSE_MS;
        for await (const data of events(stream)) this.take(JSON.parse(data));
      } catch (error) {
        if (error instanceof Refused && (error.status === 401 || error.status === 403)) throw error;
      }
      if (signal.aborted) return;
      this.onState("is-lost", "connection lost, trying again");
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
    }
  }

  /** End the watch, and forget what was seen. */
  stop() {
    this.stopping?.abort();
    this.pending = [];
    this.entries.clear();
    this.list.replaceChildren();
    this.tally();
  }

  /** Take an event; the page is drawn at most once a frame. */
  take(event) {
    if (!this.pending.length) setTimeout(() => this.draw(), 30);
    this.pending.push(event);
  }

  draw() {
    const taken = this.pending;
    this.pending = [];
    for (const event of taken) this.show(event);
    if (taken.length) this.tally();
  }

  /** Say how much there is to see; open when something happens, close when nothing has for a while. */
  tally() {
    const all = [...this.entries.values()];
    const running = all.filter((each) => !each.isOver).length;
    const words = running ? `${running} being judged` : "nothing is being judged";
    this.summary.textContent = `Live: ${words}${all.length ? `, ${all.length - running} recent` : ""}`;
    clearTimeout(this.idle);
    if (this.isPinned) return;
    if (all.length) this.panel.open = true;
    this.idle = setTimeout(() => !this.isPinned && (this.panel.open = false), IDLE_MS);
  }

  show(event) {
    const key = `${event.tenant} ${event.stream_id}`;
    if (event.kind === "decided") {
      this.onDecision();
      this.entries.get(key)?.decide(event);
      return;
    }
    let entry = this.entries.get(key);
    if (!entry || (event.kind === "opened" && entry.isOver)) entry = this.add(key, event);
    if (event.kind === "dropped" || (event.kind === "tokens" && !event.tokens.length)) entry.drop(event);
    else if (event.kind === "tokens") entry.put(event, this.showsText);
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
    for (const [oldKey, old] of this.entries) {
      if (this.entries.size <= MAX_STREAMS) break;
      old.root.remove();
      this.entries.delete(oldKey);
    }
    return entry;
  }
}

class Entry {
  constructor(event) {
    this.isCut = false;
    this.isOver = false;
    this.root = element("li");
    const head = element("div", "head");
    head.append(element("span", "", event.endpoint), element("code", "", event.stream_id.slice(0, 24)));
    head.append(element("time", "", clock(event.time)));
    this.state = element("span", "state", "being judged");
    head.append(this.state);
    const body = element("div");
    this.root.append(head, body);
    this.tokens = new TokenList(body, { label: `Tokens of ${event.endpoint} ${event.stream_id.slice(0, 24)}` });
  }

  put(event, showsText) {
    this.tokens.put(
      event.start,
      event.tokens.map((each) => ({ ...each, text: showsText ? each.text : null }))
    );
    this.tokens.keep(MAX_TOKENS);
    this.tokens.scrollToEnd();
  }

  /** Take out tokens that were dropped while the answer was changed; the service shows them to admins only. */
  drop(event) {
    this.tokens.drop(event.start, { isShown: event.kind === "dropped" });
    this.isCut = false;
    this.state.textContent = "being changed";
  }

  /** Mark where it was cut: before the last tokens that are over the threshold. */
  stop(event) {
    this.isCut = true;
    this.cutAt = this.tokens.runStart(this.tokens.elements.length);
    this.tokens.cutAt(this.cutAt, event);
    this.say(event);
  }

  decide(event) {
    this.isOver = true;
    if (isStopped(event)) this.isCut ? this.tokens.cutAt(this.cutAt, event) : this.stop(event); // it knows the reason
    this.say(event);
  }

  say(event) {
    const mark = actionMark(event.action);
    const reason = describe(event).slice(event.action.length);
    if (reason) mark.append(reason);
    this.state.replaceChildren(mark);
    const took = milliseconds(event.guard_ms);
    if (took) this.state.append(element("span", "quiet", ` guard ${took}`));
  }
}
