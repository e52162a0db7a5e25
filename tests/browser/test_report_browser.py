"""The report in a real browser, on a wide screen and on a phone."""

import importlib.util
import io
from base64 import b64decode
from pathlib import Path

import pandas as pd
import pytest
import synthetic
from chromium import CHROMIUM, Page
from PIL import Image

from clip_wsss.report.write import write_report
from clip_wsss.tables.write import write_tables

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    made = synthetic.build(tmp_path_factory.mktemp("browser"))
    write_tables(made.plan)
    out = made.root / "report.html"
    write_report(made.plan, made.dataset, out, {"commit": "0123abc"})
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Page(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser, report):
    browser.resize(1440, 900)
    browser.dark(False)
    browser.open(report)
    yield browser
    assert browser.problems == []
    assert browser.requests == [report.as_uri()]


def pictures(page, stage: str) -> list[str]:
    return page.run(
        f"[...document.querySelectorAll('[data-panels] [data-stage={stage}] img')]"
        ".map((image) => image.src)"
    )


def text(page, selector: str) -> str:
    return page.run(f"document.querySelector({selector!r}).textContent")


def test_it_loads_without_errors_and_shows_every_picture(page):
    assert page.run("document.title") == "demo: from labels to masks"
    assert len(pictures(page, "initial")) == 4
    broken = "[...document.images].filter((i) => i.src && !i.naturalWidth).length"
    assert page.run(f"Promise.all([...document.images].filter((i) => i.src).map((i) => i.decode()))"
                    f".then(() => {broken})") == 0  # fmt: skip
    assert page.run("[...document.images].every((i) => i.alt || !i.src)")


def test_switching_the_run_changes_pictures_charts_and_note(page):
    before = pictures(page, "initial")
    page.run("document.querySelector('[name=run-of-panels][value=plain]').click()")
    assert pictures(page, "image") != []
    assert pictures(page, "initial") != before
    assert pictures(page, "refined") == []
    assert "not part of this run" in text(page, "[data-panels]")
    assert text(page, "[data-note]") == "GradCAM of the class logit"
    visible = "[...document.querySelectorAll('[data-runs]')].filter((b) => !b.hidden)"
    assert page.run(f"{visible}.map((b) => b.dataset.runs)") == ["0"]
    # The other switch and the ladder follow.
    assert page.run("document.querySelector('[name=run-of-details]:checked').value") == "plain"
    assert page.run("document.querySelector('.rung.current').dataset.rung") == "plain"


def test_a_name_in_the_ladder_chooses_the_run(page):
    page.run("document.querySelector('[data-choose=softmax]').click()")
    assert page.run("document.querySelector('[name=run-of-panels]:checked').value") == "softmax"


def column(page, table: str, number: int) -> list[str]:
    return page.run(
        f"[...document.querySelectorAll('{table} tbody tr')].map((row) => "
        f"row.cells[{number}].dataset.value ?? row.cells[{number}].textContent)"
    )


def test_tables_sort_by_numbers_and_names_empty_cells_last(page):
    def click(number: int) -> str | None:
        head = f"document.querySelector('#table-ladder th:nth-child({number})')"
        page.run(f"{head}.querySelector('button').click()")
        return page.run(f"{head}.getAttribute('aria-sort')")

    assert click(9) == "descending"  # differences
    values = column(page, "#table-ladder", 8)
    numbers = list(map(float, values[:-2]))
    assert numbers == sorted(numbers, reverse=True)
    assert len(set(numbers)) == 3
    assert all(text.startswith("–") for text in values[-2:])
    assert click(9) == "ascending"
    again = column(page, "#table-ladder", 8)
    assert list(map(float, again[:-2])) == sorted(numbers)
    assert all(text.startswith("–") for text in again[-2:])
    assert click(1) == "ascending"
    assert column(page, "#table-ladder", 0) == ["caa", "crf", "plain", "seg-cgl", "softmax"]


def test_the_heat_map_sorts_classes_by_a_run(page):
    table = ".heats > :first-child table"
    page.run(f"document.querySelector('{table} th:nth-child(2) button').click()")
    values = column(page, table, 1)
    there = [float(value) for value in values if value != "–"]
    assert there == sorted(there, reverse=True)
    assert values[len(there) :] == ["–"] * (21 - len(there))
    page.run(f"document.querySelector('{table} th:nth-child(1) button').click()")
    assert column(page, table, 0) == [str(number) for number in range(1, 22)]


def test_a_picture_is_enlarged_and_keys_lead_on(page):
    page.run("document.querySelector('[data-panels] [data-stage=image] button').click()")
    caption = "document.querySelector('.lightbox figcaption strong').textContent"
    assert page.run("document.querySelector('.lightbox').open")
    assert page.run(caption) == "Image"
    page.press("ArrowRight")
    assert page.run(caption) == "Ground truth"
    first = page.run("document.querySelector('.lightbox .over').src")
    page.press("ArrowDown")
    assert page.run(caption) == "Ground truth"
    assert page.run("document.querySelector('.lightbox .over').src") != first
    page.press("ArrowUp")
    page.press("ArrowLeft")
    assert page.run(caption) == "Image"
    page.press("ArrowLeft")  # the first leads to the last
    assert page.run(caption) == "Dropped by μ"
    page.press("Escape")
    assert page.until("!document.querySelector('.lightbox').open")
    assert page.until("document.activeElement.className.startsWith('picture')")


def test_masks_can_lie_over_the_image(page):
    opacity = "getComputedStyle(document.querySelector('[data-stage=mask] img')).opacity"
    assert page.run(opacity) == "1"
    page.run("document.querySelector('[data-blend]').click()")
    assert float(page.run(opacity)) < 1


@pytest.mark.parametrize("width", [1440, 800, 390])
def test_no_screen_scrolls_sideways(page, width):
    page.resize(width, 844)
    assert page.run("document.documentElement.scrollWidth") <= width


def test_tables_and_formulas_fit_a_wide_screen(page):
    page.resize(1440, 900)
    cut = """[...document.querySelectorAll(".scroll, math")].filter(
      (e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.innerHTML.slice(0, 80))"""
    assert page.run(cut) == []


def test_dark_follows_the_system(page):
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.run(colour)
    page.dark(True)
    assert page.run(colour) != light


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_violation(page, width, dark):
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None:
        pytest.skip("needs axe-playwright-python, of the dev dependencies")
    axe = Path(found.submodule_search_locations[0], "axe.min.js").read_text(encoding="utf-8")
    page.resize(width, 900)
    page.dark(dark)
    page.run(f"{axe};0")
    run = """axe.run(document, {resultTypes: ["violations"]}).then((found) =>
      found.violations.map((one) => [one.id, ...one.nodes.slice(0, 3)
        .map((node) => `${node.target}: ${node.failureSummary}`)]))"""
    assert page.run(run) == []
    if page.run("Boolean(document.querySelector('[data-modes]'))"):
        page.run("document.querySelector('[name=mode][value=change]').click()")
        assert page.run(run) == []


@pytest.mark.parametrize("width", [1440, 390])
def test_text_of_charts_can_be_read(page, width):
    page.resize(width, 900)
    sizes = page.run("""[...document.querySelectorAll("svg text")]
      .filter((text) => text.getClientRects().length).map((text) => {
        const { a, b } = text.getScreenCTM();
        return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(a, b);
      })""")
    assert min(sizes) >= 9


def test_on_paper_nothing_is_cut_or_lies_over_anything(page):
    page.resize(703, 1000)  # A4 without its margins
    page.dark(True, media="print")
    try:
        assert page.run("document.documentElement.scrollWidth") <= 703
        cut = """[...document.querySelectorAll("main *")].filter((e) => !e.closest("svg, [hidden]")
          && e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 1)
          .map((e) => e.outerHTML.slice(0, 80))"""
        assert page.run(cut) == []
        scrolled = """[...document.querySelectorAll(".scroll, .strip, .chart")].filter(
          (e) => e.clientWidth && e.scrollWidth > e.clientWidth + 1).map((e) => e.className)"""
        assert page.run(scrolled) == []
        values = """[...document.querySelectorAll(".rung .value")].every((value) => {
          const box = value.getBoundingClientRect();
          return !box.width || [...value.closest(".rung").querySelectorAll(".who, .delta")].every(
            (other) => { const o = other.getBoundingClientRect();
              return o.right <= box.left || o.left >= box.right || o.bottom <= box.top + 1
                || o.top >= box.bottom; });
        })"""
        assert page.run(values)
        assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    finally:
        page.dark(False)


def address(page) -> str:
    return page.run("location.hash")


def test_the_address_names_the_run_and_brings_it_back(page, report):
    page.open(report, "panels&run=plain&base=crf&filter=c")
    assert page.run("document.querySelector('[name=run-of-panels]:checked').value") == "plain"
    assert page.run("document.querySelector('[name=base]').value") == "crf"
    assert page.run("document.querySelector('[name=filter]').value") == "c"
    top = "Math.abs(document.querySelector('#panels').getBoundingClientRect().top)"
    assert page.until(f"{top} < 200")
    page.run("document.querySelector('[name=run-of-panels][value=softmax]').click()")
    assert address(page) == "#panels&run=softmax&base=crf&filter=c"
    page.run("document.querySelector('nav a[href=\"#classes\"]').click()")
    assert page.until("location.hash === '#classes&run=softmax&base=crf&filter=c'")
    page.run("location.hash = '#run=caa'")
    assert page.until("document.querySelector('[name=run-of-panels]:checked').value === 'caa'")


def test_an_unknown_run_in_the_address_changes_nothing(page, report):
    page.open(report, "run=nobody&base=nothing")
    assert page.run("document.querySelector('[name=run-of-panels]:checked').value") == "seg-cgl"


DELTAS = (
    "[...document.querySelectorAll('.rung .delta [data-delta]')].map((d) => d.textContent.trim())"
)
SURE = "[...document.querySelectorAll('.delta.sure')].length"


def choose_base(page, base: str) -> None:
    page.run(f"""(() => {{
      const select = document.querySelector('[name=base]');
      select.value = '{base}';
      select.dispatchEvent(new Event('input', {{ bubbles: true }}));
    }})()""")


def test_any_run_can_be_pinned_as_the_base(page):
    before, sure, table = page.run(DELTAS), page.run(SURE), column(page, "#table-ladder", 8)
    choose_base(page, "plain")
    pinned = page.run(DELTAS)
    said = page.run("data.pairs.plain")
    assert pinned[0] == ""
    assert all("to plain" in words for words in pinned[1:])
    values = column(page, "#table-ladder", 8)
    assert [float(value) for value in values[1:]] == [
        pytest.approx(said[run]["value"]) for run in ("softmax", "caa", "crf", "seg-cgl")
    ]
    assert page.run(SURE) == sum(one["sure"] for one in said.values())
    differs = column(page, "#table-ladder", 1)[3]
    assert differs.startswith("plain: ")
    assert "target: logit → softmax" in differs
    choose_base(page, "")
    assert page.run(DELTAS) == before
    assert page.run(SURE) == sure
    assert column(page, "#table-ladder", 8) == table


def test_the_filter_leaves_runs_that_hold_its_words(page):
    page.run("""(() => {
      const field = document.querySelector('[name=filter]');
      field.value = 'dense crf';
      field.dispatchEvent(new Event('input', { bubbles: true }));
    })()""")
    shown = "[...document.querySelectorAll('.rung')].filter((r) => !r.hidden)"
    assert page.run(f"{shown}.map((r) => r.dataset.rung)") == ["crf"]
    rows = (
        "[...document.querySelectorAll('#table-ladder tbody tr')].filter((r) => !r.hidden).length"
    )
    assert page.run(rows) == 1
    assert text(page, "[data-shown]") == "1 of 5 runs"
    assert "filter=dense" in address(page)


def test_a_class_of_an_image_shows_its_own_cam(page):
    number = page.run("""[...document.querySelectorAll('[data-panels] .panel')]
      .findIndex((panel) => panel.querySelectorAll('header button').length > 1)""")
    panel = f"document.querySelectorAll('[data-panels] .panel')[{number}]"
    button = f"{panel}.querySelectorAll('header button')[1]"
    picture = f"{panel}.querySelector('[data-stage=refined] img').src"
    mask = f"{panel}.querySelector('[data-stage=mask] img').src"
    before, masked = page.run(picture), page.run(mask)
    page.run(f"{button}.click()")
    own = page.run(picture)
    assert own != before
    assert page.run(mask) == masked
    assert page.run(f"{button}.getAttribute('aria-pressed')") == "true"
    item = f"{panel}.item"
    assert own == page.run(f"data.pictures[{item}.maps.refined[{item}.classes[1]]]")
    page.run(f"{panel}.querySelector('[data-stage=refined] button').click()")
    name = page.run(f"data.classes[{item}.classes[1]].name")
    assert f"CAM of {name}" in text(page, ".lightbox [data-title]")
    page.press("Escape")
    page.run(f"{button}.click()")
    assert page.run(picture) == before


def test_the_enlarged_view_has_the_iou_and_the_colours(page):
    page.run("document.querySelector('[data-panels] [data-stage=mask] button').click()")
    item = page.run("document.querySelector('[data-panels] .panel').item")
    found = item["measures"]["mask"]
    assert f"IoU {100 * found['iou']:.1f} %" in text(page, ".lightbox [data-title]")
    names = page.run("data.classes.map((one) => one.name)")
    legend = page.run(
        "[...document.querySelectorAll('.lightbox [data-legend] li')].map((l) => l.textContent)"
    )
    assert legend == [
        f"{names[label]} {100 * iou:.1f} %"
        if iou is not None
        else f"{names[label]} not in the ground truth"
        for label, iou in found["classes"]
    ]
    page.press("ArrowRight")
    assert "μ = 0.95 keeps" in text(page, ".lightbox [data-title]")
    page.press("Escape")


def test_classes_show_their_change_and_sort_by_it(page):
    table = ".heats > :first-child table"
    page.run("document.querySelector('[name=mode][value=change]').click()")
    cell = f"document.querySelector('{table} tbody tr').cells[3]"
    visible = f"[...{cell}.children].filter((c) => getComputedStyle(c).display !== 'none')"
    assert page.run(f"{visible}.map((c) => c.className.split(' ')[0])") == ["change"]
    page.run(f"document.querySelector('{table} th:nth-child(4) button').click()")
    values = page.run(
        f"[...document.querySelectorAll('{table} tbody tr')].map((r) => r.cells[3].dataset.change)"
    )
    there = [float(value) for value in values if value is not None]
    assert there == sorted(there, reverse=True)
    assert len(there) > 1


def saved(page, selector: str) -> str:
    """Click a button and return what it would save, as a data URL."""
    return page.run(f"""new Promise((done) => {{
      const make = URL.createObjectURL;
      URL.createObjectURL = (blob) => {{
        const reader = new FileReader();
        reader.onload = () => done(reader.result);
        reader.readAsDataURL(blob);
        URL.createObjectURL = make;
        return "data:,";
      }};
      document.querySelector("{selector}").click();
    }})""")


def test_tables_and_charts_are_saved_as_csv(page):
    head, text = saved(page, "[data-csv=ladder-ladder]").split(",", 1)
    assert head.startswith("data:text/csv")
    table = pd.read_csv(io.BytesIO(b64decode(text)))
    assert table["run"].tolist() == ["plain", "softmax", "caa", "crf", "seg-cgl"]
    count = "document.querySelectorAll('[data-png]').length"
    assert page.run(f"[...document.querySelectorAll('[data-png]')].filter((b) =>"
                    f" document.getElementById(b.dataset.png)).length === {count}")  # fmt: skip


@pytest.mark.parametrize("which", ["ladder-ladder", "table-ladder", "heat-labels", "chart-1-2"])
def test_tables_and_charts_are_saved_as_png(page, which):
    page.run("document.querySelector('[name=run-of-panels][value=plain]').click()")
    head, data = saved(page, f"[data-png={which}]").split(",", 1)
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(b64decode(data))) as image:
        width = page.run(f"document.getElementById('{which}').getBoundingClientRect().width")
        assert image.width >= 2 * width
        colours = image.convert("RGB").getcolors(1 << 24)
    assert len(colours) > 20  # it is drawn, and in colours
    assert max(colours)[1] == (255, 255, 255)
