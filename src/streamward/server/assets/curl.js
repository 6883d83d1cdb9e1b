// A request as a command line. The key is never in it: it is read from an environment variable.

import { hasKey } from "./calls.js";
import { button, element } from "./elements.js";

export function asCurl(path, body, { isAuthorized = false, origin = "" } = {}) {
  const lines = [`curl ${quoted(`${origin}${path}`)}`, "-H 'Content-Type: application/json'"];
  if (isAuthorized) lines.push('-H "Authorization: Bearer $STREAMWARD_API_KEY"');
  lines.push(`-d ${quoted(JSON.stringify(body))}`);
  return lines.join(" \\\n  ");
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Make a button that copies a request as a command; where the browser forbids that, the command is there to be chosen. */
export function curlPart(path, body) {
  const made = element("details", "curl");
  const command = asCurl(path, body, { isAuthorized: hasKey(), origin: location.origin });
  const text = element("pre", "", command);
  text.tabIndex = 0;
  const said = element("span", "quiet");
  said.setAttribute("role", "status");
  const copy = button("Copy as curl", "plain", async () => {
    try {
      await navigator.clipboard.writeText(command);
      said.textContent = "Copied.";
    } catch {
      made.open = true;
      said.textContent = "The browser does not allow copying; choose the text below.";
    }
  });
  made.append(element("summary", "", "Show as curl"), text);
  const whole = element("div", "curl-row");
  whole.append(copy, said, made);
  return whole;
}
