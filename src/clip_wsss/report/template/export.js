// ---- CSV and PNG of tables and charts, made here: the page asks for nothing

function download(name, blob) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// The element as it is, with the page's styles, in a picture of SVG; always in light colours.
function pictured(element) {
  const box = element.getBoundingClientRect();
  const [width, height] = [Math.ceil(Math.max(box.width, element.scrollWidth)) + 32, Math.ceil(box.height) + 32];
  const copy = element.cloneNode(true);
  for (const extra of all(".saves, pre[hidden]", copy)) extra.remove();
  const style = make("style", {}, `${one("style").textContent.replace(/@media \(prefers-color-scheme: dark\)/g, "@media not all")}
    html, body { background: none } .exported { width: ${width - 32}px; padding: 16px; background: #fff; --paper: #fff; box-sizing: content-box }`);
  const body = make("div", { class: "exported", xmlns: "http://www.w3.org/1999/xhtml" }, style, copy);
  body.style.font = getComputedStyle(document.body).font;
  body.style.color = "var(--ink)";
  const text = new XMLSerializer().serializeToString(body);
  const view = Math.max(innerWidth, width);
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${view}" height="${height}"><foreignObject width="${view}" height="${height}">${text}</foreignObject></svg>`;
  return { svg, width, height };
}

async function png(element) {
  const { svg, width, height } = pictured(element);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const canvas = make("canvas", { width: 2 * width, height: 2 * height });
  const pen = canvas.getContext("2d");
  pen.scale(2, 2);
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, width, height);
  pen.drawImage(image, 0, 0);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

const nameOf = (id) => `${document.title.split(":")[0]}-${id}`;

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-csv], [data-png]");
  if (!button) return;
  const { csv: table, png: drawing } = button.dataset;
  if (table) {
    const text = one(`[data-of="${CSS.escape(table)}"]`).textContent;
    download(`${nameOf(table)}.csv`, new Blob([text], { type: "text/csv;charset=utf-8" }));
    return;
  }
  const element = document.getElementById(drawing);
  try {
    download(`${nameOf(drawing)}.png`, await png(element));
  } catch {
    // Browsers that do not let a page read such a picture get it as SVG.
    download(`${nameOf(drawing)}.svg`, new Blob([pictured(element).svg], { type: "image/svg+xml" }));
  }
});

start();
