// The playground: judge a text at once or while it is written, or ask a guarded model.

import { call, events } from "./calls.js";
import { cut, describe, element, measured, token } from "./tokens.js";

const WORD_MS = 60;

export class Playground {
  constructor(parts) {
    Object.assign(this, parts);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.run(() => this.judge());
    });
    this.write.addEventListener("click", () => this.run(() => this.judgeWhileWritten()));
    this.ask.addEventListener("click", () => this.run(() => this.askModel()));
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
  }

  offer({ policies, upstreams }) {
    this.policy.replaceChildren(...policies.map((name) => new Option(name, name)));
    const names = Object.keys(upstreams);
    this.upstream.replaceChildren(...names.map((name) => new Option(name, name)));
    this.askRow.hidden = !names.length;
    const suggest = () => (this.model.value = upstreams[this.upstream.value]?.[0] || "");
    this.upstream.addEventListener("change", suggest);
    suggest();
  }

  /** Do one thing at a time, and say what went wrong. */
  async run(work) {
    const buttons = this.form.querySelectorAll("button");
    buttons.forEach((button) => (button.disabled = true));
    this.say("judging ...", "");
    this.judged.replaceChildren();
    try {
      await work();
    } catch (error) {
      this.say(error.message, "block");
    } finally {
      buttons.forEach((button) => (button.disabled = false));
    }
  }

  say(text, className) {
    this.outcome.textContent = text;
    this.outcome.className = `outcome ${className}`;
  }

  tell(decision, result = {}) {
    const judged = decision.side ? result[decision.side] : result.response || result.prompt;
    this.say(describe(decision) + (judged ? ` (${measured(judged)})` : ""), decision.action);
  }

  async judge() {
    const body = { policy: this.policy.value, verdicts: true };
    if (this.prompt.value) body.prompt = this.prompt.value;
    if (this.response.value) body.response = this.response.value;
    if (!body.prompt && !body.response) throw new Error("Write a prompt, a response, or both.");
    const answer = await call("/v1/guard", { body });
    this.tell(answer.decision, answer);
    if (answer.response) this.show(body.response, answer.response.verdicts, answer.decision);
  }

  async judgeWhileWritten() {
    if (!this.response.value) throw new Error("Write a response to judge.");
    const opening = { policy: this.policy.value };
    if (this.prompt.value) opening.prompt = this.prompt.value;
    const opened = await call("/v1/streams", { body: opening });
    const path = `/v1/streams/${encodeURIComponent(opened.stream)}`;
    let decision = opened.decision;
    let written = "";
    const verdicts = [];
    try {
      for (const word of this.response.value.match(/\s*\S+|\s+$/g) || []) {
        if (isStopped(decision)) break;
        written += word;
        const answer = await call(`${path}/append`, { body: { text: word } });
        for (const { verdict } of answer.events) {
          verdicts.length = Math.min(verdicts.length, verdict.position);
          verdicts.push(verdict);
        }
        decision = answer.decision;
        this.show(written, verdicts, decision);
        this.tell(decision);
        await new Promise((resolve) => setTimeout(resolve, WORD_MS));
      }
    } finally {
      const closed = await call(`${path}/close`, { body: {} }).catch(() => null);
      if (closed) this.tell(closed.decision, closed);
    }
  }

  async askModel() {
    if (!this.prompt.value) throw new Error("Write a prompt to ask.");
    const path = `/${encodeURIComponent(this.upstream.value)}/v1/chat/completions`;
    const body = { model: this.model.value, stream: true, messages: [{ role: "user", content: this.prompt.value }] };
    const answer = element("span");
    this.judged.append(answer);
    this.say("answering ...", "");
    let reason = null;
    for await (const data of events(await call(path, { body, isStream: true }))) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      for (const choice of chunk.choices || []) {
        answer.textContent += choice.delta?.content || "";
        reason = choice.finish_reason || reason;
      }
    }
    if (reason === "content_filter") {
      this.judged.append(element("span", "cut", "cut"));
      this.say("block: the gateway cut the answer", "block");
    } else {
      this.say("allow: the whole answer was judged before it was shown", "allow");
    }
  }

  /** Draw a text with its verdicts. Spans count characters, which JavaScript's strings do not. */
  show(text, verdicts, decision) {
    const characters = Array.from(text);
    const isCut = isStopped(decision) && decision.side !== "prompt";
    const cutAt = isCut ? cutPosition(verdicts, decision.position) : verdicts.length;
    const parts = [];
    let end = 0;
    verdicts.forEach((verdict, index) => {
      if (index === cutAt) parts.push(cut(decision));
      const [start, stop] = verdict.span || [end, end];
      if (start > end) parts.push(document.createTextNode(characters.slice(end, start).join("")));
      const said = characters.slice(Math.max(start, end), stop).join("");
      end = Math.max(end, stop);
      if (!said) return;
      const { Unsafe: unsafe, Controversial: controversial } = verdict.probabilities;
      const made = token(said, verdict.risk_level, unsafe, controversial, verdict.category);
      if (index >= cutAt) made.classList.add("withheld");
      parts.push(made);
    });
    parts.push(document.createTextNode(characters.slice(end).join("")));
    this.judged.replaceChildren(...parts);
  }
}

function isStopped(decision) {
  return decision.action === "block" || decision.action === "replace";
}

/** Return the index of the first token of the run that was decided at a position. */
function cutPosition(verdicts, position) {
  let index = Math.min(position ?? 0, verdicts.length - 1);
  while (index > 0 && verdicts[index - 1].risk_level !== "Safe") index -= 1;
  return index;
}
