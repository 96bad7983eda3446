"use strict";
// Everything can be read without this script; it adds sliders, sorting, filters and where a number comes from.
document.documentElement.classList.add("js");
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// Sliders

function cut(input) {
  input.parentElement.style.setProperty("--cut", `${input.value}%`);
  input.setAttribute("aria-valuetext", `${input.value} % degraded`);
}
for (const input of all(".slider input")) {
  cut(input);
  input.addEventListener("input", () => cut(input));
}

// Tables: one tab stop each, arrow keys move within. Headers sort.

const stop = (cell) => cell.querySelector("button") ?? cell;
const head = (table) => [...table.tHead.rows[0].cells];

function sort(table, column) {
  const down = head(table)[column].getAttribute("aria-sort") === "ascending";
  head(table).forEach((cell, at) => cell.setAttribute("aria-sort", at !== column ? "none" : down ? "descending" : "ascending"));
  const body = table.tBodies[0];
  const value = (row) => row.cells[column].dataset.value;
  const text = (row) => row.cells[column].textContent.trim();
  const compare = (one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === undefined && b === undefined) {
      return text(one).localeCompare(text(other), "en", { numeric: true }) * (down ? -1 : 1);
    }
    if (a === undefined || b === undefined) { return a === undefined ? 1 : -1; } // without a number: last
    return (a - b) * (down ? -1 : 1);
  };
  body.append(...[...body.rows].sort(compare));
}

function enter(table, cell) {
  all("[tabindex='0']", table).forEach((other) => { other.tabIndex = -1; });
  stop(cell).tabIndex = 0;
}
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
function move(event) {
  const cell = event.target.closest("th, td");
  const step = STEPS[event.key];
  if (!cell || !step) { return; }
  const rows = [...event.currentTarget.rows].filter((row) => !row.hidden);
  const next = rows[rows.indexOf(cell.parentElement) + step[0]]?.cells[cell.cellIndex + step[1]];
  event.preventDefault();
  if (next) {
    stop(next).tabIndex = -1;
    stop(next).focus();
  }
}
for (const table of all("table")) {
  table.setAttribute("role", "grid");
  table.closest(".scroll").removeAttribute("tabindex");
  head(table).forEach((cell, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.tabIndex = -1;
    button.append(...cell.childNodes);
    button.addEventListener("click", () => sort(table, column));
    cell.append(button);
    cell.setAttribute("aria-sort", "none");
  });
  enter(table, head(table)[0]);
  table.addEventListener("keydown", move);
  table.addEventListener("focusin", (event) => enter(table, event.target.closest("th, td")));
  table.addEventListener("click", (event) => { // a finger has no pointer to hover with
    const cell = event.target.closest("td");
    if (cell) {
      cell.tabIndex = -1;
      cell.focus();
    }
  });
}

// Where a number comes from

const about = document.getElementById("about");
let shown = null;
let leaving = 0;
function show(cell) {
  clearTimeout(leaving);
  hide();
  if (!cell?.dataset.about) { return; }
  shown = cell;
  about.innerHTML = document.getElementById(cell.dataset.about).innerHTML;
  about.hidden = false;
  cell.setAttribute("aria-describedby", "about");
  const place = cell.getBoundingClientRect();
  const box = about.getBoundingClientRect();
  const below = place.bottom + 4 + box.height < innerHeight || place.top < box.height + 4;
  about.style.top = `${below ? place.bottom + 4 : place.top - box.height - 4}px`;
  about.style.left = `${Math.max(8, Math.min(place.left, innerWidth - box.width - 8))}px`;
}
function hide() {
  shown?.removeAttribute("aria-describedby");
  shown = null;
  about.hidden = true;
}
const later = () => { leaving = setTimeout(hide, 200); }; // time to move the pointer onto it
document.addEventListener("mouseover", (event) => {
  const cell = event.target.closest("td[data-about]");
  if (cell && cell !== shown) { show(cell); } else if (cell || event.target.closest("#about")) { clearTimeout(leaving); }
});
document.addEventListener("mouseout", (event) => { if (event.target.closest("td[data-about], #about")) { later(); } });
document.addEventListener("focusin", (event) => show(event.target.closest("td")));
document.addEventListener("focusout", hide);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") { hide(); } });
document.addEventListener("scroll", hide, { passive: true });

// Filters

const form = document.querySelector(".filters");
function filter() {
  const wanted = [...new FormData(form)].filter(([, value]) => value);
  const fits = (element) => {
    const facts = JSON.parse(element.dataset.facts);
    return wanted.every(([key, value]) => !(key in facts) || facts[key] === value);
  };
  for (const block of all(".block")) {
    const rows = all("tr[data-facts]", block);
    rows.forEach((row) => { row.hidden = !fits(row); });
    block.hidden = !fits(block) || (rows.length > 0 && rows.every((row) => row.hidden));
  }
  all("figure[data-facts], details[data-facts]").forEach((each) => { each.hidden = !fits(each); });
  const rows = all(".block tbody tr");
  const visible = rows.filter((row) => !row.hidden && !row.closest(".block").hidden);
  form.querySelector("output").textContent = wanted.length ? `${visible.length} of ${rows.length} rows` : "";
}
if (form) {
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
}
