// How a judged token looks. Text is only ever set as text: what is judged may be hostile.

const LEVELS = { Unsafe: "r3", Controversial: "r2" };
const SOME_RISK = 0.2;

export function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Make the element of a token; without text it is a block. */
export function token(text, level, unsafe, controversial, category) {
  const risk = LEVELS[level] || (unsafe + controversial >= SOME_RISK ? "r1" : "");
  const made = element("span", `token ${risk} ${text ? "" : "no-text"}`.trim(), text || "");
  if (risk) {
    const kind = category ? `, ${category}` : "";
    made.title = `${level}${kind}: unsafe ${percent(unsafe)}, controversial ${percent(controversial)}`;
  }
  return made;
}

/** Make the mark of a cut; the reason may not be known yet. */
export function cut({ risk_level: level, category, error, rules }) {
  const known = error ? "guard failed" : level === "Safe" ? "" : reasons(level, category, rules);
  return element("span", "cut", known ? `cut: ${known}` : "cut");
}

/** Join what caused a decision; rules come as ids or as objects with an id. */
function reasons(level, category, rules) {
  const named = (rules || []).map((rule) => `rule ${rule.id || rule}`);
  return [level, category, ...named].filter(Boolean).join(", ");
}

export function percent(share) {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}

export function describe(decision) {
  const { action, side, risk_level: level, category, error, rules } = decision;
  if (error) return `${action}: the guard could not judge (${error})`;
  if (action === "allow") return "allow";
  if (!side) return action; // more is known with the last event
  return `${action}: the ${side} is ${reasons(level, category, rules)}`;
}

/** Say how probable harm is, beside the threshold from which on it counts. */
export function measured({ probabilities, thresholds }) {
  const { Unsafe: unsafe, Controversial: controversial } = probabilities;
  const beside = (name) => (thresholds[name] === undefined ? "" : `, threshold ${percent(thresholds[name])}`);
  const risky = `unsafe or controversial ${percent(unsafe + controversial)}${beside("Controversial")}`;
  return `unsafe ${percent(unsafe)}${beside("Unsafe")}; ${risky}`;
}
