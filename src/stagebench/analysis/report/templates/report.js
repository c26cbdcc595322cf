"use strict";
// Sort, filter and unfold the table of passes. Without this script all of it is shown, as it was measured.
const make = (name, text, more = {}) => Object.assign(document.createElement(name), { textContent: text }, more);
const inButton = (cell, run) => {
  const button = make("button", cell.textContent, { type: "button", onclick: () => run(button) });
  cell.replaceChildren(button);
  return button;
};

// Numbers come before words, and passes without a value last, whichever way they are sorted.
const keyOf = (body, column) => {
  const text = body.rows[0].cells[column]?.textContent ?? "";
  const number = Number(text.replaceAll(",", ""));
  return text === "" ? [2, 0] : Number.isNaN(number) ? [1, text] : [0, number];
};
const compare = ([kind, a], [other, b], way) => kind - other || way * ((a > b) - (a < b));

for (const table of document.querySelectorAll("table.passes")) {
  const bodies = [...table.tBodies];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => inButton(head, () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const keys = new Map(bodies.map((body) => [body, keyOf(body, column)]));
    bodies.sort((a, b) => compare(keys.get(a), keys.get(b), down ? -1 : 1));
    table.append(...bodies);
  }));

  for (const body of bodies.filter((each) => each.rows.length > 1)) {
    const more = body.rows[1];
    more.hidden = true;
    inButton(body.rows[0].cells[0], (button) => {
      more.hidden = !more.hidden;
      button.ariaExpanded = String(!more.hidden);
    }).ariaExpanded = "false";
  }

  const count = make("span", `${bodies.length} passes`, { role: "status" });
  const field = make("input", "", { type: "search" });
  field.oninput = () => {
    const words = field.value.toLowerCase().split(" ");
    bodies.forEach((body) => { body.hidden = !words.every((word) => body.textContent.toLowerCase().includes(word)); });
    count.textContent = `${bodies.filter((body) => !body.hidden).length} of ${bodies.length} passes`;
  };
  const label = make("label", "Filter ");
  label.append(field);
  const find = make("div", "", { className: "find" });
  find.append(label, count);
  table.parentElement.before(find);
}

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
