// Elements. Text is only ever set as text: what is judged may be hostile.

const SVG = "http://www.w3.org/2000/svg";

export function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Make an element of a drawing; its attributes are numbers, classes and names. */
export function drawn(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  return made;
}

export function button(text, className, onClick) {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

/** Make the name of an action with its shape: circle, triangle, diamond or square, so that colour is not needed. */
export function actionMark(action) {
  const made = element("span", `action ${action}`);
  made.append(element("span", "shape"), action);
  made.firstChild.setAttribute("aria-hidden", "true");
  return made;
}

/** Make a list of terms; pairs without a value are left out. */
export function facts(pairs, className = "facts") {
  const made = element("dl", className);
  for (const [term, value] of pairs) {
    if (value === null || value === undefined || value === "") continue;
    const pair = element("div");
    const said = element("dd");
    said.append(value instanceof Node ? value : String(value));
    pair.append(element("dt", "", term), said);
    made.append(pair);
  }
  return made;
}

/** Make a table row. On a narrow screen each cell stands under its column's name, which `data-name` repeats. */
export function row(names, values) {
  const made = element("tr");
  values.forEach((value, index) => {
    const cell = element("td");
    cell.dataset.name = names[index];
    cell.append(value instanceof Node ? value : String(value));
    if (typeof value === "number" || /^[\d.,]+( ms| %)?$/.test(value)) cell.className = "number";
    made.append(cell);
  });
  return made;
}

export function emptyRow(text, columns) {
  const cell = element("td", "quiet", text);
  cell.colSpan = columns;
  const made = element("tr", "empty");
  made.append(cell);
  return made;
}
