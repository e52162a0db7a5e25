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

// ---- panels: every picture is in the page once, under its key

function figure(item, stage) {
  const cell = item.cells[stage.key];
  const caption = make("figcaption", {}, stage.title);
  if (cell === undefined || cell.startsWith("!"))
    return make("figure", { class: "missing" }, make("span", {}, (cell || "!none").slice(1)), caption);
  const image = make("img", {
    src: data.pictures[cell],
    alt: `${stage.title} of image ${item.id}: ${item.classes.map((c) => c.name).join(", ")}`,
    decoding: "async",
  });
  const button = make("button", { type: "button", class: `picture ${stage.kind}` }, image);
  if (stage.kind === "label") button.style.backgroundImage = `url(${data.pictures[item.cells.image]})`;
  return make("figure", { "data-stage": stage.key }, button, caption);
}

function panel(item, stages) {
  const chips = item.classes.map((c) => {
    const swatch = make("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = c.colour;
    return make("li", {}, swatch, c.name);
  });
  const head = make("header", {}, make("h4", {}, item.id), make("ul", {}, ...chips));
  if (item.score) head.append(make("span", { class: "score" }, item.score));
  const strip = make("div", { class: "strip" }, ...stages.map((stage) => figure(item, stage)));
  strip.style.setProperty("--stages", stages.length);
  const article = make("article", { class: "panel" }, head, strip);
  article.item = item;
  return article;
}

function showPanels(run) {
  const place = one("[data-panels]");
  place.replaceChildren(...data.panels[run].map((item) => panel(item, data.stages)));
  const extremes = one("[data-extremes]");
  if (!extremes) return;
  extremes.replaceChildren();
  for (const group of data.extremes[run] || []) {
    const stages = data.stages.filter((stage) => group.stages.includes(stage.key));
    const column = (title, items) =>
      make("div", {}, make("h5", {}, title), ...items.map((item) => panel(item, stages)));
    extremes.append(
      make("h4", { class: "group" }, group.title),
      make(
        "div",
        { class: "extremes" },
        column("Best", group.best),
        column("Worst", group.worst),
      ),
    );
  }
}

// ---- one run is chosen for the whole page

let chosen = data.start;

function choose(run) {
  chosen = run;
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

for (const control of all("[data-switch]"))
  control.addEventListener("change", (event) => choose(event.target.value));
for (const button of all("[data-choose]"))
  button.addEventListener("click", () => {
    choose(button.dataset.choose);
    one("#panels").scrollIntoView();
  });
one("[data-blend]").addEventListener("change", (event) =>
  document.body.classList.toggle("blend", event.target.checked),
);

// ---- tables sort by a column: numbers by their value, the rest by its text; empty cells last

function sortBy(table, column, ascending) {
  const body = table.tBodies[0];
  const key = (row) => {
    const cell = row.cells[column];
    return cell.dataset.value !== undefined ? Number(cell.dataset.value) : cell.textContent.trim();
  };
  // A dash may be followed by the reason why there is nothing.
  const blank = (value) => typeof value === "string" && (value === "" || value.startsWith("–"));
  const empty = (value) => blank(value) || Number.isNaN(value);
  const rows = [...body.rows].map((row) => [key(row), row]);
  rows.sort(([a], [b]) => {
    if (empty(a) || empty(b)) return empty(a) - empty(b);
    const order =
      typeof a === "number" && typeof b === "number"
        ? a - b
        : String(a).localeCompare(String(b), undefined, { numeric: true });
    return ascending ? order : -order;
  });
  body.append(...rows.map(([, row]) => row));
  for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
  table.tHead.rows[0].cells[column].setAttribute("aria-sort", ascending ? "ascending" : "descending");
}

for (const table of all("table.sortable"))
  for (const head of table.tHead.rows[0].cells)
    head.addEventListener("click", () => {
      const [before, column] = [head.getAttribute("aria-sort"), head.cellIndex];
      const rows = [...table.tBodies[0].rows];
      const figures = column > 0 && rows.some((row) => row.cells[column].dataset.value !== undefined);
      // Figures are asked for from the highest down, names from A on.
      sortBy(table, column, before ? before === "descending" : !figures);
    });

// ---- lightbox: left and right go through the stages, up and down through the images

const lightbox = one(".lightbox");
let shown = null;

function enlarge(button) {
  shown = button;
  const article = button.closest(".panel");
  const stage = data.stages.find((s) => s.key === button.parentElement.dataset.stage);
  const [under, over] = all("img", lightbox);
  over.src = one("img", button).src;
  over.alt = one("img", button).alt;
  over.className = `over ${stage.kind}`;
  if (stage.kind === "label") under.src = data.pictures[article.item.cells.image];
  else under.removeAttribute("src");
  const names = article.item.classes.map((c) => c.name).join(", ");
  one("figcaption", lightbox).replaceChildren(
    make("strong", {}, stage.title),
    ` ${[article.item.id, names, `run ${chosen}`].join(" · ")}`,
  );
  if (!lightbox.open) lightbox.showModal();
}

function step(by) {
  const buttons = all("button.picture", shown.closest(".strip"));
  enlarge(buttons[(buttons.indexOf(shown) + by + buttons.length) % buttons.length]);
}

function otherImage(by) {
  const panels = all(".panel", shown.closest("section"));
  const stage = shown.parentElement.dataset.stage;
  const next = panels[panels.indexOf(shown.closest(".panel")) + by];
  const button = next && one(`[data-stage="${stage}"] button`, next);
  if (button) enlarge(button);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.picture");
  if (button) enlarge(button);
});
lightbox.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.step) step(Number(button.dataset.step));
  else if (event.target.tagName !== "IMG") lightbox.close();
});
lightbox.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [step, -1], ArrowRight: [step, 1], ArrowUp: [otherImage, -1], ArrowDown: [otherImage, 1] };
  if (!moves[event.key]) return;
  event.preventDefault();
  const [move, by] = moves[event.key];
  move(by);
});
lightbox.addEventListener("close", () => shown?.focus());

// ---- tips at the marks of the charts

const tip = one(".tip");
document.addEventListener("pointerover", (event) => {
  const mark = event.target.closest?.("[data-tip]");
  tip.hidden = !mark;
  if (!mark) return;
  tip.textContent = mark.dataset.tip;
  const box = mark.getBoundingClientRect();
  const half = tip.offsetWidth / 2 + 8;
  const x = Math.min(Math.max(box.left + box.width / 2, half), innerWidth - half);
  tip.style.left = `${x}px`;
  tip.style.top = `${box.top < 60 ? box.bottom + 36 : box.top - 8}px`;
});

choose(data.start);
