// The playground: judge a text at once or while it is written, or ask a guarded model.

import { call, events, open, withQuery } from "./calls.js";
import { button, element } from "./elements.js";
import { SAMPLES } from "./samples.js";
import { RiskStrip, TokenList, cutMark } from "./token_list.js";
import { verdictCard } from "./verdict_card.js";
import { describe, isStopped, measured } from "./words.js";

const WORD_MS = 60;

export class Playground {
  constructor(parts) {
    Object.assign(this, parts);
    this.strip = new RiskStrip();
    this.tokens = new TokenList(this.judged, { label: "Judged response, token by token", strip: this.strip });
    this.running = null;
    this.policies = new Map();
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.run((signal) => this.judge(signal));
    });
    this.write.addEventListener("click", () => this.run((signal) => this.judgeWhileWritten(signal)));
    this.ask.addEventListener("click", () => this.run((signal) => this.askModel(signal)));
    this.stop.addEventListener("click", () => this.running?.abort());
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
      if (event.key === "Escape" && this.running) this.running.abort();
    });
    this.samples.append(...SAMPLES.map((sample) => button(sample.name, "chip", () => this.try(sample))));
  }

  offer({ policies, upstream_states: upstreams }) {
    const chosen = this.policy.value;
    this.policy.replaceChildren(...policies.map((name) => new Option(name, name)));
    if (policies.includes(chosen)) this.policy.value = chosen;
    const names = Object.keys(upstreams);
    this.upstream.replaceChildren(...names.map((name) => new Option(name, name)));
    this.askRow.hidden = !names.length;
    const suggest = () => (this.model.value = upstreams[this.upstream.value]?.models[0] || "");
    this.upstream.addEventListener("change", suggest);
    suggest();
  }

  /** Learn the thresholds in force, to draw them beside the tokens. */
  know(policies) {
    this.policies = new Map(policies.map((each) => [each.name, each]));
  }

  try({ prompt, response, how }) {
    if (this.running) return;
    this.prompt.value = prompt;
    this.response.value = response;
    this.run((signal) => (how === "write" ? this.judgeWhileWritten(signal) : this.judge(signal)));
  }

  /** Do one thing at a time; it can be stopped, and what went wrong is told. */
  async run(work) {
    if (this.running) return;
    this.running = new AbortController();
    const { signal } = this.running;
    const focused = document.activeElement;
    const buttons = [...this.form.querySelectorAll("button")].filter((each) => each !== this.stop);
    buttons.forEach((each) => (each.disabled = true));
    this.stop.hidden = false;
    this.say("judging ...");
    this.card.replaceChildren();
    this.tokens.clear();
    this.answer.replaceChildren();
    this.strip.threshold = this.policies.get(this.policy.value)?.thresholds.response.Unsafe;
    try {
      await work(signal);
    } catch (error) {
      this.say(signal.aborted ? "stopped" : error.message, signal.aborted ? "" : "block");
    } finally {
      this.running = null;
      this.stop.hidden = true;
      buttons.forEach((each) => (each.disabled = false));
      if (document.activeElement === document.body) focused?.focus({ preventScroll: true });
    }
  }

  say(text, className = "") {
    this.outcome.textContent = text;
    this.outcome.className = `outcome ${className}`.trim();
  }

  /** Show a card; the sentence above it stays for screen readers only. */
  showCards(...cards) {
    this.card.replaceChildren(...cards);
    this.outcome.classList.toggle("unseen", cards.length > 0);
  }

  tell(decision, result = {}) {
    const judged = decision.side ? result[decision.side] : result.response || result.prompt;
    this.say(describe(decision) + (judged ? ` (${measured(judged)})` : ""), decision.action);
  }

  /** End what is running, and forget every text. */
  forget() {
    this.running?.abort();
    this.prompt.value = "";
    this.response.value = "";
    this.card.replaceChildren();
    this.answer.replaceChildren();
    this.tokens.clear();
    this.say("Choose a sample, or write a text and judge it.");
  }

  /** Return the request for what the form holds. */
  request() {
    const body = { policy: this.policy.value, verdicts: true };
    if (this.prompt.value) body.prompt = this.prompt.value;
    if (this.response.value) body.response = this.response.value;
    return { path: "/v1/guard", body };
  }

  async judge(signal) {
    const request = this.request();
    if (!request.body.prompt && !request.body.response) throw new Error("Write a prompt, a response, or both.");
    const answer = await call(request.path, { body: request.body, signal });
    if (answer.response) this.show(request.body.response, answer.response.verdicts, answer.decision);
    this.conclude(answer, request);
  }

  conclude(answer, request) {
    this.tell(answer.decision, answer);
    this.showCards(verdictCard(answer, request));
  }

  async judgeWhileWritten(signal) {
    if (!this.response.value) throw new Error("Write a response to judge.");
    const request = this.request();
    const opening = { policy: this.policy.value };
    if (this.prompt.value) opening.prompt = this.prompt.value;
    const opened = await call("/v1/streams", { body: opening, signal });
    const path = `/v1/streams/${encodeURIComponent(opened.stream)}`;
    const seen = { written: "", verdicts: [], decision: opened.decision };
    try {
      for (const word of this.response.value.match(/\s*\S+|\s+$/g) || []) {
        if (isStopped(seen.decision)) break;
        seen.written += word;
        this.take(seen, await call(`${path}/append`, { body: { text: word }, signal }));
        await pause(WORD_MS, signal);
      }
    } finally {
      const closed = await call(`${path}/close`, { body: {} }).catch(() => null);
      if (closed) this.conclude({ ...closed, policy: opened.policy }, request);
    }
    signal.throwIfAborted();
  }

  take(seen, answer) {
    for (const { verdict } of answer.events) {
      seen.verdicts.length = Math.min(seen.verdicts.length, verdict.position);
      seen.verdicts.push(verdict);
    }
    seen.decision = answer.decision;
    this.show(seen.written, seen.verdicts, seen.decision);
    this.tokens.scrollToEnd();
    if (isStopped(seen.decision)) this.tell(seen.decision); // the state of every word would be too much to hear
  }

  async askModel(signal) {
    if (!this.prompt.value) throw new Error("Write a prompt to ask.");
    const path = `/${encodeURIComponent(this.upstream.value)}/v1/chat/completions`;
    const body = { model: this.model.value, stream: true, messages: [{ role: "user", content: this.prompt.value }] };
    const said = element("span");
    this.answer.append(said);
    this.say("answering ...");
    let reason = null;
    const response = await open(path, { body, signal, isStream: true });
    for await (const data of events(response.body)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      for (const choice of chunk.choices || []) {
        said.textContent += choice.delta?.content || "";
        reason = choice.finish_reason || reason;
      }
    }
    signal.throwIfAborted();
    const isCut = reason === "content_filter";
    if (isCut) this.answer.append(cutMark({ risk_level: "Safe" }));
    this.say(isCut ? "block: the gateway cut the answer" : "allow: the whole answer was judged before it was shown", isCut ? "block" : "allow");
    await this.showLogged(response.headers.get("x-request-id"), { path, body });
  }

  /** Show the logged decision of a request as a card. */
  async showLogged(requestId, request) {
    if (!requestId) return;
    const { decisions } = await call(withQuery("/v1/decisions", { request_id: requestId, limit: 10 }));
    this.showCards(...decisions.map((each) => verdictCard(fromLog(each), request)));
  }

  /** Draw a text with its verdicts. Spans count characters, which JavaScript's strings do not. */
  show(text, verdicts, decision) {
    const characters = Array.from(text);
    let end = 0;
    const tokens = verdicts.map((verdict) => {
      const [, stop] = verdict.span || [end, end];
      const said = characters.slice(end, Math.max(end, stop)).join("");
      end = Math.max(end, stop);
      const { Unsafe: unsafe, Controversial: controversial } = verdict.probabilities;
      const { risk_level, category, rules } = verdict;
      return { text: said, risk_level, unsafe, controversial, category, rules };
    });
    this.tokens.put(0, tokens);
    this.tokens.setRest(characters.slice(end).join(""));
    if (isStopped(decision) && decision.side !== "prompt") {
      this.tokens.cutAt(this.tokens.runStart(Math.min(decision.position ?? 0, verdicts.length - 1)), decision);
    }
  }
}

/** Return a logged decision in the shape of an answer of the guard. */
export function fromLog(each) {
  const side = (name) =>
    each[`${name}_unsafe`] === null
      ? null
      : {
          risk_level: each[`${name}_risk_level`],
          category: each[`${name}_category`],
          probabilities: { Unsafe: each[`${name}_unsafe`], Controversial: each[`${name}_controversial`] },
          refusal: name === "response" ? each.refusal : null,
        };
  return {
    decision: { ...each, detector: each.details?.detector },
    prompt: side("prompt"),
    response: side("response"),
    policy: { name: each.policy, version: each.policy_version },
    num_tokens: each.num_tokens,
    guard_ms: each.guard_ms,
    writing_ms: each.writing_ms,
  };
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
