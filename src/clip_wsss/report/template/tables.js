// ---- tables sort by a column: numbers by their value, the rest by its text; empty cells last

function sortBy(table, column, ascending) {
  const body = table.tBodies[0];
  const change = table.classList.contains("changes") && column > 1;
  const key = (row) => {
    const cell = row.cells[column];
    if (change) return Number(cell.dataset.change ?? NaN);
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

// ---- classes: IoU, or the change from the base

for (const modes of all("[data-modes]"))
  modes.addEventListener("change", (event) => {
    const change = event.target.value === "change";
    for (const table of all("table.heat")) {
      table.classList.toggle("changes", change);
      for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
    }
    for (const note of all("[data-mode-note]")) note.hidden = !change;
  });

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

