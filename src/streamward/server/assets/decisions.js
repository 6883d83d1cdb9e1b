// Recent decisions: counts, filters, a table, and a drawer for each.

import { call, withQuery } from "./calls.js";
import { DecisionDrawer } from "./decision_detail.js";
import { actionMark, button, element, emptyRow, row } from "./elements.js";
import { clock, harm, milliseconds } from "./words.js";

const ACTIONS = ["allow", "flag", "replace", "block"];
const COLUMNS = ["Time", "Action", "Side", "Level and category", "Policy", "Endpoint", "Tokens", "Guard time", "Writing time"];
const CATEGORIES = [
  "Violent",
  "Non-violent Illegal Acts",
  "Sexual Content or Sexual Acts",
  "PII",
  "Suicide & Self-Harm",
  "Unethical Acts",
  "Politically Sensitive Topics",
  "Copyright Violation",
  "Jailbreak",
];
const ENDPOINTS = ["guard", "moderations", "chat", "streams", "gateway", "litellm"];

export class Decisions {
  constructor({ filters, body, more, status, dialog, actions, categories }) {
    Object.assign(this, { filters, body, more, status, actions, categories });
    this.drawer = new DecisionDrawer(dialog);
    this.policies = new Map();
    this.rows = [];
    this.isShown = false;
    fill(filters.elements.action, ACTIONS);
    fill(filters.elements.category, CATEGORIES);
    fill(filters.elements.endpoint, ENDPOINTS);
    filters.addEventListener("change", () => this.load());
    filters.addEventListener("submit", (event) => event.preventDefault());
    filters.addEventListener("reset", () => setTimeout(() => this.load()));
    more.addEventListener("click", () => this.load({ isMore: true }));
  }

  know(policies) {
    this.policies = new Map(policies.map((each) => [each.name, each]));
    fill(this.filters.elements.policy, policies.map((each) => each.name));
  }

  /** Read the decisions that the filters ask for. */
  async load({ isMore = false } = {}) {
    const wanted = Object.fromEntries(new FormData(this.filters));
    const before = isMore ? this.rows.at(-1)?.id : "";
    try {
      const { decisions, has_more: hasMore } = await call(withQuery("/v1/decisions", { ...wanted, before }));
      this.rows = isMore ? [...this.rows, ...decisions] : decisions;
      const made = (isMore ? decisions : this.rows).map((each) => this.row(each));
      if (isMore) this.body.append(...made);
      else this.body.replaceChildren(...(made.length ? made : [emptyRow("There is no such decision.", COLUMNS.length)]));
      this.more.hidden = !hasMore;
      this.status.textContent = `${this.rows.length}${hasMore ? " or more" : ""} decisions`;
    } catch (error) {
      this.status.textContent = error.message;
    }
  }

  row(each) {
    const opener = button(clock(each.time), "link", () => this.drawer.show(each, this.policies.get(each.policy)));
    opener.setAttribute("aria-label", `Details of the decision at ${clock(each.time)}`);
    opener.setAttribute("aria-haspopup", "dialog");
    const made = row(COLUMNS, [
      opener,
      actionMark(each.action),
      each.side || "",
      each.error ? `guard failed (${each.error})` : harm(each),
      each.policy,
      each.upstream ? `${each.endpoint}: ${each.upstream}` : each.endpoint,
      each.num_tokens,
      milliseconds(each.guard_ms) || "not measured",
      milliseconds(each.writing_ms),
    ]);
    made.addEventListener("click", (event) => event.target.closest("button") || opener.click());
    return made;
  }

  /** Show the counts of the last hour. */
  show({ actions, categories }) {
    this.actions.replaceChildren(
      ...ACTIONS.map((action) => {
        const figure = element("div");
        const term = element("dt");
        term.append(actionMark(action));
        figure.append(term, element("dd", "", String(actions[action] || 0)));
        return figure;
      })
    );
    const named = Object.entries(categories).map(([name, count]) => `${name} ${count}`);
    this.categories.textContent = named.length ? `By category: ${named.join(", ")}.` : "";
  }
}

function fill(select, names) {
  const chosen = select.value;
  select.replaceChildren(new Option("any", ""), ...names.map((name) => new Option(name, name)));
  select.value = names.includes(chosen) ? chosen : "";
}
