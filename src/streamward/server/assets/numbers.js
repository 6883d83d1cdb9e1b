// Counts, latencies and the latest decisions.

import { call } from "./calls.js";
import { element } from "./tokens.js";

const SHOWN_ACTIONS = ["allow", "flag", "replace", "block"];
const AT_MOST_EVERY_MS = 2000;

export class Numbers {
  constructor({ actions, categories, latencies, recent }) {
    Object.assign(this, { actions, categories, latencies, recent });
    this.isWaiting = false;
  }

  /** Ask again soon; many calls ask once. */
  refresh() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    setTimeout(async () => {
      this.isWaiting = false;
      try {
        this.show((await call("/v1/overview")).numbers);
      } catch {
        // the live view says that the connection is lost
      }
    }, AT_MOST_EVERY_MS);
  }

  show(numbers) {
    this.actions.replaceChildren(
      ...SHOWN_ACTIONS.map((action) => {
        const figure = element("div");
        figure.append(element("dt", "", action), element("dd", action, String(numbers.actions[action] || 0)));
        return figure;
      })
    );
    const categories = Object.entries(numbers.categories).map(([name, count]) => row([name, count]));
    this.categories.replaceChildren(...(categories.length ? categories : [emptyRow("none", 2)]));
    const latencies = numbers.latencies.map((each) =>
      row([each.endpoint, each.count, ms(each.p50_ms), ms(each.p95_ms), ms(each.p99_ms)])
    );
    this.latencies.replaceChildren(...(latencies.length ? latencies : [emptyRow("none", 5)]));
    const recent = numbers.recent.map(decision);
    this.recent.replaceChildren(...(recent.length ? recent : [emptyRow("No decision was logged yet.", 8)]));
  }
}

function decision(each) {
  const made = row([
    new Date(each.time).toLocaleTimeString([], { hour12: false }),
    each.upstream ? `${each.endpoint}: ${each.upstream}` : each.endpoint,
    each.action,
    each.side || "",
    each.error ? `guard failed (${each.error})` : each.risk_level || "",
    [each.category, ...(each.rules || []).map((rule) => rule.id)].filter(Boolean).join(", "),
    each.num_tokens,
    ms(each.latency_ms),
  ]);
  made.children[2].className = `action ${each.action}`;
  return made;
}

function row(values) {
  const made = element("tr");
  values.forEach((value, index) => {
    const isNumber = index > 0 && (typeof value === "number" || /^[\d.]+$/.test(value));
    made.append(element("td", isNumber ? "number" : "", String(value)));
  });
  return made;
}

function emptyRow(text, columns) {
  const cell = element("td", "quiet", text);
  cell.colSpan = columns;
  const made = element("tr");
  made.append(cell);
  return made;
}

function ms(value) {
  return value >= 100 ? value.toFixed(0) : value.toFixed(1);
}
