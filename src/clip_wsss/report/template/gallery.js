// ---- panels: every picture is in the page once, under its key

function figure(item, stage) {
  const cell = item.cells[stage.key];
  const caption = make("figcaption", {}, stage.title);
  if (cell === undefined || cell.startsWith("!"))
    return make("figure", { class: "missing" }, make("span", {}, (cell || "!none").slice(1)), caption);
  const names = item.classes.map((label) => data.classes[label].name).join(", ");
  const image = make("img", { alt: `${stage.title} of image ${item.id}: ${names}`, decoding: "async" });
  const button = make("button", { type: "button" }, image);
  const made = make("figure", { "data-stage": stage.key }, button, caption);
  paint(made, item, stage);
  return made;
}

// A map of one class lies over the grey image, a mask and the hatching over the image.
function paint(made, item, stage) {
  const single = item.maps[stage.key]?.[item.shown];
  const button = one("button", made);
  const kind = single ? "single" : stage.kind;
  button.className = `picture ${kind}`;
  one("img", button).src = data.pictures[single || item.cells[stage.key]];
  const below = ["label", "over", "single"].includes(kind);
  button.style.setProperty("--below", below ? `url(${data.pictures[item.cells.image]})` : "none");
}

function swatch(label) {
  const mark = make("span", { class: "swatch", "aria-hidden": "true" });
  mark.style.background = data.classes[label].colour;
  return mark;
}

// The classes of an image; where maps of single classes are there, a button for each.
function chips(item, repaint) {
  const maps = Object.values(item.maps)[0] || {};
  const buttons = item.classes.map((label) => {
    const name = data.classes[label].name;
    if (!maps[label]) return make("li", {}, swatch(label), name);
    const button = make("button", { type: "button", "aria-pressed": "false", title: `CAM of ${name}` }, swatch(label), name);
    button.addEventListener("click", () => {
      item.shown = item.shown === label ? undefined : label;
      for (const other of all("button", button.closest("ul")))
        other.setAttribute("aria-pressed", String(other === button && item.shown === label));
      repaint();
    });
    return make("li", {}, button);
  });
  return make("ul", {}, ...buttons);
}

function panel(item, stages) {
  item.shown = undefined;
  const strip = make("div", { class: "strip", tabindex: "0", role: "group", "aria-label": `Stages of ${item.id}` },
    ...stages.map((stage) => figure(item, stage)));
  strip.style.setProperty("--stages", stages.length);
  const repaint = () => {
    for (const stage of stages) {
      const made = one(`[data-stage="${stage.key}"]`, strip);
      if (made) paint(made, item, stage);
    }
  };
  const head = make("header", {}, make("p", { class: "id" }, item.id), chips(item, repaint));
  if (item.score) head.append(make("span", { class: "score" }, item.score));
  const article = make("article", { class: "panel", "aria-label": `Image ${item.id}` }, head, strip);
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
      make("div", { class: "extremes" }, column("Best", group.best), column("Worst", group.worst)),
    );
  }
}

for (const box of all("[data-blend]"))
  box.addEventListener("change", (event) => document.body.classList.toggle("blend", event.target.checked));

// ---- the enlarged view: left and right go through the stages, up and down through the images

const lightbox = one(".lightbox");
let shown = null;

const percent = (share) => `${(100 * share).toFixed(1)} %`;

// What the picture is, and how right: of maps once they are labels at the run's power.
function described(item, stage) {
  const found = item.measures[stage.key] || {};
  const words = [item.id, `run ${state.run}`];
  if (stage.kind === "cam") words.push(item.shown ? `CAM of ${data.classes[item.shown].name}` : "the highest CAM");
  if (found.mu !== undefined) words.push(`μ = ${found.mu} keeps ${percent(found.kept)} of the pixels`);
  if (found.iou != null && stage.key !== "truth")
    words.push(`IoU ${percent(found.iou)}${stage.kind === "cam" ? " as labels" : ""}`);
  return ` ${words.join(" · ")}`;
}

function legend(item, stage) {
  if (stage.kind === "cam")
    return [make("li", {}, "0 ", make("span", { class: "scale heat", "aria-hidden": "true" }), " 1"), ...classes(item, stage)];
  if (stage.key === "dropped")
    return [make("li", {}, make("span", { class: "swatch hatched", "aria-hidden": "true" }), "dropped")];
  const ignored = stage.key === "truth" ? [make("li", {}, make("span", { class: "swatch void", "aria-hidden": "true" }), "ignored")] : [];
  return [...classes(item, stage), ...ignored];
}

function classes(item, stage) {
  return (item.measures[stage.key]?.classes || []).map(([label, iou]) => {
    const says = stage.key === "truth" ? "" : iou === null ? (item.measures.truth ? " not in the ground truth" : "") : ` ${percent(iou)}`;
    return make("li", {}, swatch(label), `${data.classes[label].name}${says}`);
  });
}

function enlarge(button) {
  shown = button;
  const item = button.closest(".panel").item;
  const stage = data.stages.find((s) => s.key === button.parentElement.dataset.stage);
  const [under, over] = all("img", lightbox);
  over.src = one("img", button).src;
  over.alt = one("img", button).alt;
  const kind = button.className.replace("picture ", "");
  over.className = `over ${kind}`;
  under.className = `under ${kind}`;
  if (["label", "over", "single"].includes(kind)) under.src = data.pictures[item.cells.image];
  else under.removeAttribute("src");
  one("[data-title]", lightbox).replaceChildren(make("strong", {}, stage.title), described(item, stage));
  one("[data-legend]", lightbox).replaceChildren(...legend(item, stage));
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

