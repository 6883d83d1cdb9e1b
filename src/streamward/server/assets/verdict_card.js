// A verdict as a card: what to do, why, how close it was, and how to ask for it again.

import { curlPart } from "./curl.js";
import { actionMark, element, facts } from "./elements.js";
import { probabilityBars } from "./probability_bar.js";
import { describe, harm, measures, milliseconds, scoredRules } from "./words.js";

/**
 * Make a card.
 *
 * @param verdict The decision; the sides as the service returns them; name of the policy; tokens; time of the guard.
 * @param request Path and body that ask for it again; none: it cannot be asked for again.
 */
export function verdictCard(verdict, request = null) {
  const { decision, policy, num_tokens: tokens, guard_ms: guardMs, writing_ms: writingMs, title } = verdict;
  const made = element("article", `card ${decision.action}`);
  const head = element("div", "head");
  head.append(actionMark(decision.action));
  const reason = describe(decision);
  if (reason !== decision.action) head.append(element("span", "reason", reason.slice(decision.action.length + 2)));
  if (title) made.append(element("p", "title", title));
  made.append(head);
  const sides = ["prompt", "response"].filter((name) => verdict[name]?.probabilities);
  made.append(
    facts([
      ["Level", decision.error ? "" : decision.risk_level],
      ["Category", decision.category],
      ["Rules that fired", scoredRules(decision.rules)],
      ["Detectors", found(verdict.findings) || decision.detector],
      ["Policy", policy && (policy.version ? `${policy.name}, version ${policy.version}` : policy.name)],
      ["Tokens", tokens],
      ["Guard time", milliseconds(guardMs)],
      ["Writing time", milliseconds(writingMs)],
      ["Refusal", refusalOf(verdict.response)],
    ])
  );
  for (const name of sides) made.append(sidePart(name, verdict[name]));
  for (const [name, text] of Object.entries(verdict.masked || {})) {
    const isChanged = verdict.findings?.some(({ path, action }) => path === name && action === "mask");
    if (isChanged) made.append(element("p", "message", `Masked ${name}: ${text}`));
  }
  if (decision.message) made.append(element("p", "message", `Said instead: ${decision.message}`));
  if (request) made.append(curlPart(request.path, request.body));
  return made;
}

function sidePart(name, side) {
  const made = element("div", "side");
  const level = side.risk_level ? `: ${harm(side)}` : "";
  made.append(element("p", "title", `${name[0].toUpperCase()}${name.slice(1)}${level}`), probabilityBars(side));
  if (side.risk_level === "Safe" && isAlone(side)) {
    made.append(element("p", "quiet", "One token was this risky; the policy asks for more of them in a row."));
  }
  return made;
}

/** Return whether a side was passed though its riskiest token was over the threshold. */
function isAlone({ probabilities, thresholds = {} }) {
  const [unsafe, risky] = measures({ probabilities, thresholds });
  return [unsafe, risky].some(({ value, threshold }) => value >= (threshold ?? 0.5));
}

function refusalOf(response) {
  if (response?.refusal === true) return "yes, the response declines to help";
  return response?.refusal === false ? "no" : "";
}

/** Count what the policy's detectors found. */
function found(findings = []) {
  const counts = new Map();
  for (const { id, action } of findings) {
    const name = `${id} (${action})`;
    counts.set(name, (counts.get(name) || 0) + 1);
  }
  return [...counts].map(([name, count]) => (count > 1 ? `${name} ${count} times` : name)).join(", ");
}
