"""The report in a real browser, on a wide screen and on a phone."""

import pytest
import synthetic
from chromium import CHROMIUM, Page

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
    assert page.run(caption) == "Confidence"
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


def test_dark_follows_the_system(page):
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.run(colour)
    page.dark(True)
    assert page.run(colour) != light


def test_text_has_contrast_in_light_and_dark(page):
    script = """(() => {
      const parse = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
      const light = (rgb) => {
        const [r, g, b] = rgb.map((v) => v / 255)
          .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const paper = light(parse(getComputedStyle(document.body).backgroundColor));
      return ["body", ".intro", ".lead", ".delta", ".caption", "a[href='#panels']"].map((s) => {
        const ink = light(parse(getComputedStyle(document.querySelector(s)).color));
        return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
      });
    })()"""
    for dark in (False, True):
        page.dark(dark)
        assert min(page.run(script)) >= 4.5
