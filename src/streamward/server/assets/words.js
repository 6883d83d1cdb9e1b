// Decisions and figures in words.

export function percent(share) {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}

export function milliseconds(value) {
  if (value === null || value === undefined) return "";
  return value >= 10000 ? `${(value / 1000).toFixed(1)} s` : `${value.toFixed(value >= 100 ? 0 : 1)} ms`;
}

export function clock(time) {
  return new Date(time).toLocaleTimeString([], { hour12: false });
}

export function isStopped({ action }) {
  return action === "block" || action === "replace";
}

/** Name the level, the kinds of harm, and the policy's rules that a text breaks. */
export function harm({ risk_level: level, category, categories, rules }) {
  const kinds = categories?.length ? categories : [category];
  return [level, ...kinds, ...firedRules(rules).map(({ id }) => `rule ${id}`)].filter(Boolean).join(", ");
}

/** Return rules that fired: answers name each as `[id, score]`, the log as an object, live events by its id alone. */
export function firedRules(rules) {
  return (rules || []).map((each) => {
    if (Array.isArray(each)) return { id: each[0], score: each[1] };
    return typeof each === "string" ? { id: each } : each;
  });
}

/** Name rules that fired, with their scores. */
export function scoredRules(rules) {
  return firedRules(rules)
    .map(({ id, score }) => (score === undefined ? id : `${id} ${score.toFixed(2)}`))
    .join(", ");
}

export function describe(decision) {
  const { action, side, error, detector } = decision;
  if (error) return `${action}: the guard could not judge (${error})`;
  if (detector) return `${action}: the detector ${detector} found something${side ? ` in the ${side}` : ""}`;
  if (action === "allow") return "allow";
  if (!side) return action; // more is known with the last event
  return `${action}: the ${side} is ${harm(decision)}`;
}

/** Return what a side's probabilities are held against: its name, the probability, the threshold and its level. */
export function measures({ probabilities, thresholds = {} }) {
  const { Unsafe: unsafe, Controversial: controversial } = probabilities;
  return [
    { name: "unsafe", value: unsafe, threshold: thresholds.Unsafe, level: "Unsafe" },
    {
      name: "unsafe or controversial",
      value: Math.min(1, unsafe + controversial),
      threshold: thresholds.Controversial,
      level: "Controversial",
    },
  ];
}

/** Say how probable harm is, beside the threshold from which on it counts. */
export function measured(side) {
  const beside = (threshold) => (threshold === undefined ? "" : `, threshold ${percent(threshold)}`);
  return measures(side)
    .map(({ name, value, threshold }) => `${name} ${percent(value)}${beside(threshold)}`)
    .join("; ");
}
