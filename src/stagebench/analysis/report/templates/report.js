"use strict";
// Sort, filter and unfold the table of passes. Without this script all of it is shown, as it was measured.
const make = (name, text, more = {}) => Object.assign(document.createElement(name), { textContent: text }, more);
const inButton = (cell, run) => {
  const button = make("button", cell.textContent, { type: "button", onclick: () => run(button) });
  cell.replaceChildren(button);
  return button;
};

const keyOf = (body, column) => {
  const text = body.rows[0].cells[column]?.textContent ?? "";
  const number = Number(text.replaceAll(",", ""));
  return text === "" ? -Infinity : Number.isNaN(number) ? text : number;
};
const compare = (a, b) => (typeof a === typeof b ? (a > b) - (a < b) : typeof a === "number" ? -1 : 1);

for (const table of document.querySelectorAll("table.passes")) {
  const bodies = [...table.tBodies];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => inButton(head, () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const keys = new Map(bodies.map((body) => [body, keyOf(body, column)]));
    bodies.sort((a, b) => (down ? -1 : 1) * compare(keys.get(a), keys.get(b)));
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
    const wanted = field.value.toLowerCase();
    bodies.forEach((body) => { body.hidden = !body.textContent.toLowerCase().includes(wanted); });
    count.textContent = `${bodies.filter((body) => !body.hidden).length} of ${bodies.length} passes`;
  };
  const label = make("label", "Filter ");
  label.append(field);
  const find = make("div", "", { className: "find" });
  find.append(label, count);
  table.parentElement.before(find);
}

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
