// Judged tokens. Arrow keys and taps choose one; its probabilities then stand below the text.

import { drawn, element } from "./elements.js";
import { harm, percent, scoredRules } from "./words.js";

const CLASSES = { Unsafe: "r3", Controversial: "r2" };
const SOME_RISK = 0.2;
const MAX_DROPPED = 200; // of one text
let numMade = 0;

/** Return the class of a token: r3 unsafe, r2 controversial, r1 some risk, or none. */
export function riskClass({ risk_level: level, unsafe, controversial }) {
  return CLASSES[level] || (unsafe + controversial >= SOME_RISK ? "r1" : "");
}

/** Make the mark of a cut; the reason may not be known yet. */
export function cutMark(decision) {
  const { risk_level: level, error } = decision;
  const known = error ? "guard failed" : level === "Safe" ? "" : harm(decision);
  return element("span", "cut", known ? `cut: ${known}` : "cut");
}

export class TokenList {
  /**
   * @param root Where the tokens are shown.
   * @param label Its name for screen readers.
   * @param strip Whether a drawing of the risk over the tokens stands above them.
   */
  constructor(root, { label, strip = null }) {
    this.root = root;
    this.strip = strip;
    this.tokens = [];
    this.elements = [];
    this.first = 0; // position of the first token that is still shown
    this.chosen = -1;
    this.cut = null;
    this.text = element("div", "text");
    this.text.setAttribute("role", "listbox");
    this.text.setAttribute("aria-label", label);
    this.text.setAttribute("aria-orientation", "horizontal");
    this.text.tabIndex = 0;
    this.readout = element("p", "readout");
    this.readout.setAttribute("aria-live", "polite");
    this.text.addEventListener("keydown", (event) => this.move(event));
    this.text.addEventListener("focus", () => this.chosen < 0 && this.elements.length && this.choose(this.startingPlace()));
    this.text.addEventListener("click", (event) => {
      const index = this.elements.indexOf(event.target.closest(".token"));
      if (index >= 0) this.choose(index);
    });
    root.replaceChildren(...(strip ? [strip.root] : []), this.text, this.readout);
    if (strip) strip.onChoose = (index) => this.choose(index);
    this.clear();
  }

  clear() {
    this.tokens = [];
    this.elements = [];
    this.first = 0;
    this.cut = null;
    this.dropped = [];
    this.rest = element("span", "rest");
    this.rest.setAttribute("role", "presentation");
    this.text.replaceChildren(this.rest);
    this.text.hidden = true;
    this.unchoose();
    this.strip?.draw([], -1);
  }

  /** Put tokens from a position on, in place of those that were there. */
  put(start, tokens) {
    const from = Math.max(0, start - this.first);
    for (const old of this.elements.splice(from)) old.remove();
    this.cut?.remove();
    this.tokens.splice(from);
    if (this.chosen >= from) this.unchoose();
    for (const each of tokens) this.add(each);
    this.text.hidden = !this.elements.length;
    this.strip?.draw(this.tokens, -1);
  }

  add(each) {
    const risk = riskClass(each);
    const hasText = each.text !== null;
    const made = element("span", `token ${risk} ${hasText ? "" : "no-text"}`.trim(), each.text ?? "");
    made.id = `token-${(numMade += 1)}`;
    made.setAttribute("role", "option");
    made.setAttribute("aria-selected", "false");
    if (!each.text?.trim()) made.setAttribute("aria-label", `token ${this.first + this.tokens.length + 1}`);
    this.tokens.push(each);
    this.elements.push(made);
    this.text.insertBefore(made, this.rest);
  }

  /** Show text behind the last token that is not judged yet. */
  setRest(text) {
    this.rest.textContent = text;
  }

  /** Take out tokens that nobody got; whoever may see them sees them struck through, in front of what takes their place. */
  drop(start, { isShown }) {
    const from = Math.max(0, start - this.first);
    if (this.chosen >= from) this.unchoose();
    this.tokens.splice(from);
    this.cut?.remove();
    for (const old of this.elements.splice(from)) {
      if (isShown) {
        old.classList.add("withheld", "dropped");
        old.setAttribute("aria-disabled", "true");
        this.dropped.push(old);
      } else old.remove();
    }
    while (this.dropped.length > MAX_DROPPED) this.dropped.shift().remove();
  }

  /** Forget tokens at the beginning, so that no more than this many stay. */
  keep(most) {
    while (this.elements.length > most) {
      this.elements.shift().remove();
      this.tokens.shift();
      this.first += 1;
      this.chosen -= 1;
    }
    if (this.chosen < 0) this.unchoose();
  }

  scrollToEnd() {
    this.text.scrollTop = this.text.scrollHeight;
  }

  /** Mark where the text was cut: what lies behind did not leave. */
  cutAt(index, decision) {
    this.cut?.remove();
    this.cut = cutMark(decision);
    this.cut.setAttribute("role", "option");
    this.cut.setAttribute("aria-disabled", "true");
    this.cut.setAttribute("aria-selected", "false");
    this.elements.forEach((each, place) => each.classList.toggle("withheld", place >= index));
    this.text.insertBefore(this.cut, this.elements[index] || this.rest);
    this.strip?.draw(this.tokens, index);
  }

  /** Return the first token of the run of risky ones that ends at an index, or before it. */
  runStart(index) {
    let start = Math.max(0, Math.min(index, this.elements.length));
    while (start > 0 && ["r2", "r3"].includes(riskClass(this.tokens[start - 1]))) start -= 1;
    return start;
  }

  startingPlace() {
    const worst = this.tokens.findIndex((each) => riskClass(each) === "r3");
    return worst >= 0 ? worst : 0;
  }

  move(event) {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    const last = this.elements.length - 1;
    if (last < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Escape") this.unchoose();
    else if (event.key === "Home") this.choose(0);
    else if (event.key === "End") this.choose(last);
    else if (steps[event.key]) this.choose(Math.max(0, Math.min(last, this.chosen + steps[event.key])));
    else return;
    event.preventDefault();
  }

  choose(index) {
    this.unchoose();
    const made = this.elements[index];
    if (!made) return;
    this.chosen = index;
    made.setAttribute("aria-selected", "true");
    made.scrollIntoView({ block: "nearest" });
    this.text.setAttribute("aria-activedescendant", made.id);
    this.readout.textContent = this.describe(index);
    this.readout.hidden = false;
    this.strip?.choose(index);
  }

  unchoose() {
    this.elements[this.chosen]?.setAttribute("aria-selected", "false");
    this.chosen = -1;
    this.text.removeAttribute("aria-activedescendant");
    this.readout.hidden = true;
    this.readout.textContent = "";
    this.strip?.choose(-1);
  }

  describe(index) {
    const { text, risk_level: level, category, unsafe, controversial, rules } = this.tokens[index];
    const said = text?.trim() ? `“${text.trim()}”, ` : "";
    const kind = category ? `, ${category}` : "";
    const fired = rules?.length ? ` Rules: ${scoredRules(rules)}.` : "";
    return (
      `${said}token ${this.first + index + 1}: ${level}${kind}. Unsafe ${percent(unsafe)}, ` +
      `controversial ${percent(controversial)}, safe ${percent(Math.max(0, 1 - unsafe - controversial))}.${fired}`
    );
  }
}

/** A drawing of the risk over the tokens: bars of P(Unsafe) and P(Unsafe) + P(Controversial), and the threshold. */
export class RiskStrip {
  constructor() {
    this.root = element("div", "strip");
    this.root.setAttribute("aria-hidden", "true"); // the tokens say the same
    this.picture = drawn("svg", { viewBox: "0 0 100 40", preserveAspectRatio: "none" });
    this.caption = element("span", "caption");
    this.root.append(this.picture, this.caption);
    this.root.hidden = true;
    this.onChoose = () => {};
    this.threshold = undefined;
    this.num = 0;
    this.picture.addEventListener("click", (event) => {
      const box = this.picture.getBoundingClientRect();
      this.onChoose(Math.min(this.num - 1, Math.floor(((event.clientX - box.left) / box.width) * this.num)));
    });
  }

  draw(tokens, cutAt) {
    this.num = tokens.length;
    this.root.hidden = !this.num;
    const width = Math.max(this.num, 12);
    this.picture.setAttribute("viewBox", `0 0 ${width} 40`);
    const parts = [];
    tokens.forEach(({ unsafe, controversial }, index) => {
      const risk = Math.min(1, unsafe + controversial);
      parts.push(drawn("rect", { class: "controversial", x: index + 0.1, y: 40 - 40 * risk, width: 0.8, height: 40 * risk }));
      parts.push(drawn("rect", { class: "unsafe", x: index + 0.1, y: 40 - 40 * unsafe, width: 0.8, height: 40 * unsafe }));
    });
    if (this.threshold !== undefined) {
      const y = 40 - 40 * this.threshold;
      parts.push(drawn("line", { class: "threshold", x1: 0, y1: y, x2: width, y2: y }));
    }
    if (cutAt >= 0) parts.push(drawn("line", { class: "cut-line", x1: cutAt, y1: 0, x2: cutAt, y2: 40 }));
    this.mark = drawn("rect", { class: "chosen", x: 0, y: 0, width: 1, height: 40, visibility: "hidden" });
    this.picture.replaceChildren(...parts, this.mark);
    const dashed = this.threshold === undefined ? "" : `; dashed: the threshold ${percent(this.threshold)}`;
    this.caption.textContent = `risk by token${dashed}`;
  }

  choose(index) {
    this.mark?.setAttribute("x", Math.max(0, index));
    this.mark?.setAttribute("visibility", index < 0 ? "hidden" : "visible");
  }
}
