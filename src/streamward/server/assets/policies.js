// Policies: their thresholds and actions, and two of them on one text.

import { call } from "./calls.js";
import { actionMark, drawn, element, facts, row } from "./elements.js";
import { verdictCard } from "./verdict_card.js";
import { percent } from "./words.js";

const SIDES = ["prompt", "response"];
const CATEGORY_COLUMNS = ["Category", "Side", "Unsafe", "Controversial"];

export class Policies {
  constructor({ list, form, first, second, prompt, response, status, results }) {
    Object.assign(this, { list, form, first, second, prompt, response, status, results });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.compare();
    });
  }

  show(policies) {
    this.list.replaceChildren(...policies.map(policyCard));
    const names = policies.map((each) => each.name);
    for (const [select, place] of [
      [this.first, 0],
      [this.second, Math.min(1, names.length - 1)],
    ]) {
      const chosen = select.value;
      select.replaceChildren(...names.map((name) => new Option(name, name)));
      select.value = names.includes(chosen) ? chosen : names[place];
    }
  }

  /** Judge one text under both policies. */
  async compare() {
    const body = {};
    if (this.prompt.value) body.prompt = this.prompt.value;
    if (this.response.value) body.response = this.response.value;
    if (!body.prompt && !body.response) {
      this.status.textContent = "Write a prompt, a response, or both.";
      return;
    }
    const button = this.form.querySelector("button");
    button.disabled = true;
    this.status.textContent = "judging ...";
    this.results.replaceChildren();
    try {
      const names = [this.first.value, this.second.value];
      const requests = names.map((policy) => ({ path: "/v1/guard", body: { ...body, policy } }));
      const answers = await Promise.all(requests.map(({ path, body }) => call(path, { body })));
      this.results.replaceChildren(
        ...answers.map((answer, index) => verdictCard({ ...answer, title: names[index] }, requests[index]))
      );
      this.status.textContent = difference(names, answers);
    } catch (error) {
      this.status.textContent = error.message;
    } finally {
      button.disabled = false;
    }
  }
}

function difference(names, answers) {
  const [one, other] = answers.map(({ decision }) => decision.action);
  return one === other ? `Both: ${one}.` : `${names[0]}: ${one}; ${names[1]}: ${other}.`;
}

function policyCard(policy) {
  const made = element("article", "panel policy");
  const title = element("h3", "", policy.name);
  if (policy.is_default) title.append(" ", element("span", "badge", "default"));
  made.append(title, element("p", "quiet", `version ${policy.version}, digest ${policy.digest}`));
  for (const side of SIDES) made.append(sidePart(policy, side));
  made.append(
    facts([
      ["If the guard fails, prompt", actionMark(policy.on_error.prompt)],
      ["If the guard fails, response", actionMark(policy.on_error.response)],
      ...policy.rules.map(rulePair),
      ["Detectors", policy.detectors.map(({ id, action }) => `${id} (${action})`).join(", ")],
    ])
  );
  const exceptions = SIDES.flatMap((side) =>
    Object.entries(policy[side].categories).map(([category, rule]) => [category, side, ...exception(rule)])
  );
  if (exceptions.length) made.append(exceptionTable(exceptions));
  return made;
}

function rulePair({ id, severity, threshold, actions }) {
  const said = element("span", "", `${severity} from ${percent(threshold)}: `);
  Object.entries(actions).forEach(([side, action], place) => said.append(place ? ", " : "", `${side} `, actionMark(action)));
  return [`Rule ${id}`, said];
}

function sidePart(policy, side) {
  const made = element("div", "side");
  made.append(element("h4", "", side[0].toUpperCase() + side.slice(1)));
  const own = policy.thresholds[side];
  const rules = policy[side];
  const scale = thresholdScale(own);
  if (scale) made.append(scale);
  const stated = (level, key) => {
    if (typeof own[level] !== "number") return "where it is the most probable level";
    const whose = typeof rules.thresholds[key] === "number" ? "this policy's" : "the guard's";
    return `from ${percent(own[level])} (${whose})`;
  };
  for (const [level, key, what] of [
    ["Unsafe", "unsafe", "P(Unsafe)"],
    ["Controversial", "controversial", "P(Unsafe) + P(Controversial)"],
  ]) {
    const line = element("p", "rule");
    line.append(element("strong", "", level), ` ${what} ${stated(level, key)}: `, actionMark(rules[key]));
    made.append(line);
  }
  const num = policy.consecutive_tokens[side];
  made.append(element("p", "quiet", num === 1 ? "One token over the threshold is enough." : `${num} successive tokens must be over the threshold.`));
  return made;
}

/** Draw both thresholds on one scale from 0 to 100 %. */
function thresholdScale({ Unsafe: unsafe, Controversial: controversial }) {
  if (unsafe === undefined && controversial === undefined) return null;
  const made = element("div", "scale");
  made.setAttribute("aria-hidden", "true"); // the rules below say the same
  const picture = drawn("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none" });
  picture.append(drawn("rect", { class: "track", x: 0, y: 0, width: 100, height: 10 }));
  made.append(picture);
  for (const [name, value] of [
    ["controversial", controversial],
    ["unsafe", unsafe],
  ]) {
    if (value === undefined) continue;
    const tick = element("span", `tick ${name}`);
    tick.style.left = `${100 * value}%`;
    made.append(tick);
  }
  return made;
}

function exception({ unsafe, controversial, thresholds }) {
  const said = (action, threshold) => {
    const made = element("span");
    if (action) made.append(actionMark(action));
    if (typeof threshold === "number") made.append(`${action ? " " : ""}from ${percent(threshold)}`);
    return made.childNodes.length ? made : "as above";
  };
  return [said(unsafe, thresholds.unsafe), said(controversial, thresholds.controversial)];
}

function exceptionTable(rows) {
  const made = element("table", "stacked");
  made.append(element("caption", "", "Exceptions by category"));
  const head = element("thead");
  const names = element("tr");
  for (const name of CATEGORY_COLUMNS) {
    const cell = element("th", "", name);
    cell.scope = "col";
    names.append(cell);
  }
  head.append(names);
  const body = element("tbody");
  body.append(...rows.map((each) => row(CATEGORY_COLUMNS, each)));
  made.append(head, body);
  return made;
}
