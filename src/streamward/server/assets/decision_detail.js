// Everything that is logged of one decision, in a drawer.

import { actionMark, button, element, facts } from "./elements.js";
import { fromLog } from "./playground.js";
import { probabilityBars, timeBar } from "./probability_bar.js";
import { describe, harm, milliseconds, scoredRules } from "./words.js";

const SHOWN_ELSEWHERE = new Set(["guard_ms", "prompt_ms", "interventions", "detector"]);

export class DecisionDrawer {
  constructor(dialog) {
    this.dialog = dialog;
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
  }

  /** Show a decision; `policy` is the policy as it is now, if the caller may see it. */
  show(each, policy) {
    const head = element("div", "head");
    const title = element("h2", "", "Decision");
    title.id = "drawer-title";
    head.append(title, button("Close", "plain", () => this.dialog.close()));
    this.dialog.replaceChildren(head, ...parts(each, policy?.digest === each.policy_digest ? policy : null));
    this.dialog.showModal();
  }
}

function* parts(each, policy) {
  const judged = fromLog(each);
  const told = element("p", "told");
  told.append(actionMark(each.action));
  const reason = describe(judged.decision).slice(each.action.length + 2);
  if (reason) told.append(` ${reason}`);
  yield told;
  yield facts([
    ["Time", new Date(each.time).toLocaleString([], { hour12: false })],
    ["Level", each.risk_level],
    ["Category", each.category],
    ["Rules that fired", scoredRules(each.rules)],
    ["Detector", each.details?.detector],
    ["Error", each.error],
    ["Token at which it became final", each.position],
    ["Flagged characters", each.flagged_start === null ? "" : `${each.flagged_start} to ${each.flagged_end}`],
    ["Refusal", each.refusal === null ? "" : each.refusal ? "yes" : "no"],
  ]);
  for (const name of ["prompt", "response"]) {
    const side = judged[name];
    if (!side) continue;
    const thresholds = policy ? thresholdsOf(policy, name, side.category) : undefined;
    yield element("h3", "", `${name[0].toUpperCase()}${name.slice(1)}: ${harm(side)}`);
    yield probabilityBars({ ...side, thresholds });
  }
  const changes = each.details?.interventions || [];
  if (changes.length) {
    yield element("h3", "", "Changes in progress");
    const list = element("ol", "changes");
    list.append(...changes.map((one) => element("li", "", changed(one))));
    yield list;
  }
  yield element("h3", "", "Time");
  if (each.guard_ms !== null && each.writing_ms !== null) yield timeBar(each.guard_ms, each.writing_ms);
  yield facts([
    ["Waiting for the guard", milliseconds(each.guard_ms) || "not measured"],
    ["Writing the text", milliseconds(each.writing_ms)],
    ["From request to decision", milliseconds(each.latency_ms)],
    ["Tokens judged", each.num_tokens],
  ]);
  yield element("h3", "", "Policy and request");
  yield facts([
    ["Policy", `${each.policy}, version ${each.policy_version}`],
    ["Digest", each.policy_digest],
    ["Guard", each.guard],
    ["Endpoint", each.endpoint],
    ["Upstream", each.upstream],
    ["Model", each.model],
    ["Tenant", each.tenant],
    ["Key", each.key_id],
    ["Prompt, characters", each.prompt_chars],
    ["Response, characters", each.response_chars],
    ["Decision", each.id],
    ["Request", each.request_id],
    ["Stream", each.stream_id],
    ...Object.entries(each.details || {})
      .filter(([name]) => !SHOWN_ELSEWHERE.has(name))
      .map(([name, value]) => [name.replaceAll("_", " "), typeof value === "object" ? JSON.stringify(value) : String(value)]),
  ]);
}

function changed({ at_char: place, action, outcome, category, attempts, dropped_tokens: dropped }) {
  const why = category ? ` because of ${category}` : "";
  return `${action} at character ${place}${why}: ${outcome}, ${attempts} tried, ${dropped} tokens dropped`;
}

/** Return the thresholds of a side, with what a category changes. */
export function thresholdsOf(policy, side, category) {
  const special = policy[side].categories[category]?.thresholds || {};
  const found = { ...policy.thresholds[side] };
  if (typeof special.unsafe === "number") found.Unsafe = special.unsafe;
  if (typeof special.controversial === "number") found.Controversial = special.controversial;
  return found;
}
