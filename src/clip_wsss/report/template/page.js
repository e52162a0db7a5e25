"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// ---- what is chosen: a run for the whole page, a base, a filter; the address names them

const state = { run: data.start, base: "", filter: "" };

function readAddress() {
  const parts = location.hash.slice(1).split("&");
  const found = new URLSearchParams(parts.filter((part) => part.includes("=")).join("&"));
  const known = (name) => (data.runs.includes(name) ? name : undefined);
  return {
    place: decodeURIComponent(parts.find((part) => !part.includes("=")) || ""),
    run: known(found.get("run")),
    base: data.pairs[found.get("base")] ? found.get("base") : undefined,
    filter: found.get("filter") ?? undefined,
  };
}

function writeAddress(place = readAddress().place) {
  const said = new URLSearchParams({ run: state.run, base: state.base, filter: state.filter });
  for (const key of ["base", "filter"]) if (!state[key]) said.delete(key);
  history.replaceState(null, "", `#${place ? `${place}&` : ""}${said}`);
}

function showRun(run) {
  state.run = run;
  for (const input of all("[data-switch] input")) {
    input.checked = input.value === run;
    const [label, row] = [input.parentElement, input.closest("[data-switch]")];
    if (input.checked) row.scrollLeft = label.offsetLeft - (row.clientWidth - label.clientWidth) / 2;
  }
  for (const select of all("[data-switch] select")) select.value = run;
  const index = String(data.runs.indexOf(run));
  for (const block of all("[data-runs]"))
    block.hidden = !block.dataset.runs.split(" ").includes(index);
  for (const rung of all("[data-rung]")) rung.classList.toggle("current", rung.dataset.rung === run);
  for (const note of all("[data-note]")) note.textContent = data.notes[run] || "";
  showPanels(run);
}

function choose(run) {
  showRun(run);
  writeAddress();
}

for (const control of all("[data-switch]"))
  control.addEventListener("change", (event) => choose(event.target.value));
for (const button of all("[data-choose]"))
  button.addEventListener("click", () => {
    choose(button.dataset.choose);
    one("#panels").scrollIntoView();
  });

// ---- any run as the base of all others: cells of the page are kept, and come back

const surely = new Set(all(".delta.sure"));
const kept = new Map(all("[data-delta], [data-cell], [data-head]").map((cell) => [cell, cell.cloneNode(true)]));

function restore(cell) {
  cell.replaceChildren(...kept.get(cell).cloneNode(true).childNodes);
  if (kept.get(cell).dataset.value === undefined) delete cell.dataset.value;
  else cell.dataset.value = kept.get(cell).dataset.value;
}

function difference(said, base) {
  if (said.value === undefined) return ["–", make("small", {}, ` ${said.note}`)];
  const noise = said.sure ? "more than noise" : "within noise";
  const lines = [said.interval, noise, said.of, said.parts].filter(Boolean);
  return [said.text, make("small", {}, ` ${lines.join("\n")}`)];
}

function delta(said) {
  if (said.value === undefined) return [make("em", {}, said.note)];
  const words = `${said.of}, to ${said.base}${said.sure ? "" : ", within noise"}`;
  return [make("span", {}, said.text), " ", make("small", {}, said.interval), make("em", {}, words)];
}

function pin(base) {
  state.base = base;
  for (const select of all("[name=base]")) select.value = base;
  for (const cell of kept.keys()) {
    const run = cell.closest("[data-run]")?.dataset.run;
    restore(cell);
    const said = base ? data.pairs[base][run] : undefined;
    if (cell.dataset.delta !== undefined)
      cell.parentElement.classList.toggle("sure", base ? Boolean(said?.sure) : surely.has(cell.parentElement));
    if (!base) continue;
    if (cell.dataset.head !== undefined) {
      cell.textContent = `against ${base}`;
      continue;
    }
    if (cell.dataset.delta !== undefined) cell.replaceChildren(...(said ? delta(said) : []));
    else if (cell.dataset.cell === "difference") {
      cell.replaceChildren(...(said ? difference(said) : ["–"]));
      if (said?.value === undefined) delete cell.dataset.value;
      else cell.dataset.value = said.value;
    } else cell.textContent = said ? [said.base, said.differs].filter(Boolean).join(": ") : "–";
  }
}

// ---- the filter: runs whose name, note or settings hold all its words

const words = new Map(
  data.runs.map((run) => [run, all(`[data-run="${CSS.escape(run)}"]`).map((e) => e.textContent).join(" ")]),
);

function filter(text) {
  state.filter = text;
  const wanted = text.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (run) => wanted.every((word) => `${run} ${words.get(run)}`.toLowerCase().includes(word));
  const shown = new Set(data.runs.filter(fits));
  for (const element of all("[data-run]")) element.hidden = !shown.has(element.dataset.run);
  for (const output of all("[data-shown]"))
    output.textContent = wanted.length ? `${shown.size} of ${data.runs.length} runs` : "";
  const field = one("[name=filter]");
  if (field && field.value !== text) field.value = text;
}

for (const controls of all("[data-controls]")) {
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("input", (event) => {
    if (event.target.name === "filter") filter(event.target.value);
    else pin(event.target.value);
    writeAddress();
  });
}

// ---- start, and follow the address: a link to a section keeps what is chosen

function follow() {
  const said = readAddress();
  if (said.run && said.run !== state.run) showRun(said.run);
  if (said.base !== undefined && said.base !== state.base) pin(said.base);
  if (said.filter !== undefined && said.filter !== state.filter) filter(said.filter);
  return said.place;
}

addEventListener("hashchange", () => {
  const place = follow();
  if (place && !location.hash.includes("run=")) writeAddress(place);
  else if (place) document.getElementById(place)?.scrollIntoView();
});

function start() {
  showRun(readAddress().run || data.start);
  const place = follow();
  if (!place || !location.hash.includes("=")) return;
  // Pictures that have come in by then have moved the place.
  const go = () => document.getElementById(place)?.scrollIntoView({ behavior: "instant" });
  go();
  addEventListener("load", go);
}

