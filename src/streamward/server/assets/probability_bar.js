// Probabilities as bars with their thresholds drawn in.

import { drawn, element } from "./elements.js";
import { measures, percent } from "./words.js";

// Guards without thresholds of their own name the most probable level.
const MOST_PROBABLE = {
  Unsafe: "no threshold: Unsafe where it is the most probable level",
  Controversial: "no threshold: harmful where Safe is not the most probable level",
};
const STROKES = { Unsafe: "unsafe", Controversial: "controversial" };

/** Make the bars of one side: P(Unsafe), and P(Unsafe) + P(Controversial). */
export function probabilityBars(side) {
  const made = element("div", "bars");
  const knowsThresholds = side.thresholds !== undefined;
  made.append(...measures(side).map((each) => bar(each, knowsThresholds)));
  return made;
}

function bar({ name, value, threshold, level }, knowsThresholds) {
  const isOver = threshold !== undefined && value >= threshold;
  const made = element("div", "bar");
  const said =
    threshold === undefined
      ? knowsThresholds
        ? MOST_PROBABLE[level]
        : ""
      : `${isOver ? "reaches" : "below"} the threshold ${percent(threshold)}`;
  const picture = drawn("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img" });
  picture.setAttribute("aria-label", `${name} ${percent(value)}${said ? `, ${said}` : ""}`);
  picture.append(drawn("rect", { class: "track", x: 0, y: 0, width: 100, height: 10 }));
  picture.append(drawn("rect", { class: `fill ${STROKES[level]}`, x: 0, y: 0, width: 100 * value, height: 10 }));
  const place = element("div", "place");
  place.append(picture);
  if (threshold !== undefined) {
    const tick = element("span", "tick");
    tick.style.left = `${100 * threshold}%`;
    place.append(tick);
  }
  const figure = element("span", isOver ? "figure over" : "figure", percent(value));
  made.append(element("span", "name", name), figure, place);
  if (said) made.append(element("span", "said", said));
  for (const each of made.children) if (each !== place) each.setAttribute("aria-hidden", "true"); // the picture says it
  return made;
}

/** Make a bar of two times that add up: waiting for the guard, and the rest. */
export function timeBar(guardMs, restMs) {
  const whole = guardMs + restMs || 1;
  const picture = drawn("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", class: "times" });
  picture.setAttribute("aria-hidden", "true");
  picture.append(drawn("rect", { class: "track", x: 0, y: 0, width: 100, height: 10 }));
  picture.append(drawn("rect", { class: "fill guard", x: 0, y: 0, width: (100 * guardMs) / whole, height: 10 }));
  return picture;
}
