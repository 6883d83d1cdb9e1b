// Puts the page together: asks for a key where one is needed, then starts its parts.

import { call, forgetKey, Refused, rememberKey } from "./calls.js";
import { LiveView } from "./live.js";
import { Numbers } from "./numbers.js";
import { Playground } from "./playground.js";

const part = (id) => document.getElementById(id);
const connection = part("connection");

const numbers = new Numbers({
  actions: part("actions"),
  categories: part("categories"),
  latencies: part("latencies"),
  recent: part("recent"),
});
const live = new LiveView({
  list: part("streams"),
  empty: part("live-empty"),
  announcer: part("announcer"),
  onDecision: () => numbers.refresh(),
  onState: say,
});
const playground = new Playground({
  form: part("play"),
  prompt: part("prompt"),
  response: part("response"),
  policy: part("policy"),
  write: part("write"),
  askRow: part("ask-row"),
  upstream: part("upstream"),
  model: part("model"),
  ask: part("ask"),
  outcome: part("outcome"),
  judged: part("judged"),
});

function say(className, text) {
  connection.className = `connection ${className}`;
  connection.textContent = text;
}

function askForKey(problem) {
  forgetKey();
  part("main").hidden = true;
  part("key-form").hidden = false;
  part("key-problem").textContent = problem;
  say("is-lost", "not signed in");
  part("key").focus();
}

async function start(isFirst) {
  let overview;
  try {
    overview = await call("/v1/overview");
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
  part("key-form").hidden = true;
  part("main").hidden = false;
  const whose = overview.is_admin ? "all tenants" : `tenant ${overview.tenant}`;
  part("facts").textContent = `guard ${overview.guard}, ${whose}`;
  part("live-note").textContent = overview.shows_text
    ? "Text is shown while it is judged, and never kept for this page."
    : "This service shows no text here (page.live_text): each block is a token.";
  playground.offer(overview);
  numbers.show(overview.numbers);
  live.watch().catch((error) => askForKey(error.message));
}

part("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  rememberKey(part("key").value.trim());
  part("key").value = "";
  start(false);
});

start(true);
