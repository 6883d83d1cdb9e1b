// Puts the console together: asks for a key where one is needed, then starts its parts.

import { call, forgetKey, hasKey, Refused, rememberKey } from "./calls.js";
import { Decisions } from "./decisions.js";
import { LiveView } from "./live.js";
import { Playground } from "./playground.js";
import { Policies } from "./policies.js";
import { Status } from "./status.js";

const VIEWS = ["playground", "decisions", "policies", "status"];
const REFRESH_MS = 10000;
const AT_MOST_EVERY_MS = 2000;

const part = (id) => document.getElementById(id);
const connection = part("connection");

const playground = new Playground({
  form: part("play"),
  samples: part("samples"),
  prompt: part("prompt"),
  response: part("response"),
  policy: part("policy"),
  write: part("write"),
  stop: part("stop"),
  askRow: part("ask-row"),
  upstream: part("upstream"),
  model: part("model"),
  ask: part("ask"),
  outcome: part("outcome"),
  card: part("card"),
  answer: part("answer"),
  judged: part("judged"),
});
const decisions = new Decisions({
  filters: part("filters"),
  body: part("recent"),
  more: part("more"),
  status: part("decisions-status"),
  dialog: part("drawer"),
  actions: part("actions"),
  categories: part("categories"),
});
const policies = new Policies({
  list: part("policy-list"),
  form: part("compare"),
  first: part("first-policy"),
  second: part("second-policy"),
  prompt: part("compare-prompt"),
  response: part("compare-response"),
  status: part("compare-status"),
  results: part("compare-results"),
});
const status = new Status({
  guard: part("guard-state"),
  upstreams: part("upstream-state"),
  problems: part("problems"),
  latencies: part("latencies"),
  badge: part("guard-badge"),
});
const live = new LiveView({
  panel: part("live"),
  summary: part("live-summary"),
  list: part("streams"),
  announcer: part("announcer"),
  onDecision: refreshSoon,
  onState: say,
});

let refreshing = null;
let isOpen = false;

function say(className, text) {
  connection.className = `connection ${className}`;
  connection.textContent = text;
}

function askForKey(problem) {
  isOpen = false;
  live.stop();
  forgetKey();
  part("main").hidden = true;
  part("views").hidden = true;
  part("sign-out").hidden = true;
  part("facts").textContent = "";
  part("guard-badge").replaceChildren();
  part("drawer").close();
  for (const id of ["recent", "policy-list", "compare-results", "drawer"]) part(id).replaceChildren();
  playground.forget();
  for (const id of ["compare-prompt", "compare-response"]) part(id).value = "";
  part("sign-in").hidden = false;
  part("key-problem").textContent = problem;
  say("is-lost", "not signed in");
  part("key").focus();
}

function showView() {
  const wanted = location.hash.slice(1);
  const name = VIEWS.includes(wanted) ? wanted : VIEWS[0];
  for (const each of VIEWS) {
    part(each).hidden = each !== name;
    const link = part("views").querySelector(`[href="#${each}"]`);
    if (each === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = name === VIEWS[0] ? "Streamward" : `${name[0].toUpperCase()}${name.slice(1)} - Streamward`;
  if (name === "decisions" && isOpen) decisions.load();
}

/** Show the statistics again soon; many calls ask once. */
function refreshSoon() {
  if (refreshing) return;
  refreshing = setTimeout(async () => {
    refreshing = null;
    await refresh();
    if (isOpen && !part("decisions").hidden && decisions.rows.length <= 25) decisions.load();
  }, AT_MOST_EVERY_MS);
}

async function refresh() {
  if (!isOpen) return;
  try {
    const found = await call("/v1/stats");
    decisions.show(found.stats);
    status.show(found);
  } catch {
    // the live view says that the connection is lost
  }
}

async function start(isFirst) {
  let found, known;
  try {
    [found, known] = await Promise.all([call("/v1/stats"), call("/v1/policies")]);
  } catch (error) {
    if (!(error instanceof Refused)) {
      say("is-lost", "the service cannot be reached; reload to try again");
    } else if (error.status === 401) {
      askForKey(isFirst ? "" : error.message);
    } else {
      say("is-lost", error.message);
    }
    return;
  }
  isOpen = true;
  part("sign-in").hidden = true;
  part("main").hidden = false;
  part("views").hidden = false;
  part("sign-out").hidden = !hasKey();
  part("facts").textContent = `${found.guard}, ${found.is_admin ? "all tenants" : `tenant ${found.tenant}`}`;
  live.showsText = found.shows_text;
  part("live-note").textContent = found.shows_text
    ? "Text is shown while it is judged, and never kept for the console."
    : "This service shows no text here (console.live_text): each block is a token.";
  playground.offer(found);
  for (const each of [playground, decisions]) each.know(known);
  policies.show(known);
  decisions.show(found.stats);
  status.show(found);
  showView();
  live.watch().catch((error) => askForKey(error.message));
}

part("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  rememberKey(part("key").value.trim());
  part("key").value = "";
  start(false);
});
part("sign-out").addEventListener("click", () => askForKey(""));
part("use-playground").addEventListener("click", () => {
  part("compare-prompt").value = part("prompt").value;
  part("compare-response").value = part("response").value;
});
window.addEventListener("hashchange", () => {
  if (!VIEWS.includes(location.hash.slice(1))) return;
  showView();
  document.querySelector(`#${location.hash.slice(1)} h2`)?.focus();
});
setInterval(() => document.hidden || refresh(), REFRESH_MS);

showView();
start(true);
