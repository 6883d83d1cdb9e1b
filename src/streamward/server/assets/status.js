// State of the service: guard, upstreams, and how long decisions take.

import { element, emptyRow, facts, row } from "./elements.js";
import { milliseconds } from "./words.js";

const COLUMNS = ["Endpoint", "Decisions", "Guard p50", "Guard p95", "Guard p99", "Whole p50", "Whole p95", "Whole p99"];

export class Status {
  constructor({ guard, upstreams, problems, latencies, badge }) {
    Object.assign(this, { guard, upstreams, problems, latencies, badge });
  }

  show({ guard, health, load, upstream_states: upstreams, stats }) {
    const isReady = health.status === "ready";
    const numBad = health.problems.length + health.warnings.length;
    this.badge.replaceChildren(state(isReady && !numBad ? "good" : isReady ? "warning" : "bad", isReady ? `guard ready${warned(health)}` : "guard not ready"));
    this.guard.replaceChildren(
      facts([
        ["Guard", guard],
        ["State", state(isReady ? "good" : "bad", health.status)],
        ["Requests being worked on", load.num_in_flight],
        ["Longest wait at this moment", milliseconds(load.guard_wait_s * 1000)],
        ["Time without progress while work waits", milliseconds(load.guard_step_s * 1000)],
      ])
    );
    this.problems.replaceChildren(
      ...[...health.problems, ...health.warnings].map((each) => element("li", "", each))
    );
    this.problems.hidden = !numBad;
    const names = Object.entries(upstreams);
    this.upstreams.replaceChildren(
      names.length
        ? facts(
            names.map(([name, { models, is_reachable: isReachable }]) => {
              const said = element("span");
              said.append(state(isReachable ? "good" : "bad", isReachable ? "reachable" : "takes no connections"));
              said.append(element("span", "quiet", models.length ? `; models: ${models.join(", ")}` : "; any model"));
              return [name, said];
            })
          )
        : element("p", "quiet", "No upstream is configured, or none that this key may reach.")
    );
    const rows = stats.latencies.map((each) =>
      row(COLUMNS, [
        each.endpoint,
        each.count,
        ...[each.guard_p50_ms, each.guard_p95_ms, each.guard_p99_ms].map((value) => milliseconds(value) || "not measured"),
        ...[each.p50_ms, each.p95_ms, each.p99_ms].map(milliseconds),
      ])
    );
    this.latencies.replaceChildren(...(rows.length ? rows : [emptyRow("Nothing was judged in the last hour.", COLUMNS.length)]));
  }
}

function warned({ warnings: { length } }) {
  return length ? `, ${length} ${length === 1 ? "warning" : "warnings"}` : "";
}

function state(kind, text) {
  const made = element("span", `condition ${kind}`);
  const shape = element("span", "shape");
  shape.setAttribute("aria-hidden", "true");
  made.append(shape, text);
  return made;
}
