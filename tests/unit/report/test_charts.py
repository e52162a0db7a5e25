import math
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_wsss.report.charts import (
    Plot,
    calibration_chart,
    confusion_chart,
    means_chart,
    mu_chart,
    scatter_chart,
    shade,
    ticks,
)


def elements(svg: str, tag: str, style: str = "") -> list[ET.Element]:
    found = ET.fromstring(svg).iter(tag)
    return [one for one in found if not style or style in one.get("class", "").split(" ")]


@given(st.floats(0, 90), st.floats(0.5, 100))
def test_ticks_are_few_round_and_inside(low, width):
    high = low + width
    found = ticks(low, high)
    assert found == sorted(found)
    assert all(low - 1e-6 <= value <= high + 1e-6 for value in found)
    assert len(found) <= 6
    if len(found) > 1:
        step = found[1] - found[0]
        leading = step / 10 ** math.floor(math.log10(step) + 1e-9)
        assert min(abs(leading - one) for one in (1, 2, 5)) < 1e-6


def test_ticks_of_a_usual_axis():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(53, 88, 8) == [55, 60, 65, 70, 75, 80, 85]


def test_shade_is_a_percentage_within_bounds():
    assert [shade(value) for value in (-1, 0, 0.254, 1, 2)] == ["0%", "0%", "25%", "100%", "100%"]


def test_plot_puts_the_corners_at_the_corners():
    plot = Plot("t", (0, 10), (0, 1), ("x", "y"))
    assert plot.at(0, 0) == (plot.left, plot.bottom)
    assert plot.at(10, 1) == (plot.right, plot.top)


def test_words_of_a_chart_are_escaped():
    plot = Plot('a "<b>', (0, 1), (0, 1), ("x & y", "<y>"))
    plot.text(0, 0, "1 < 2")
    plot.dot(0, 0, "mask", 'tip "<')
    root = ET.fromstring(plot.svg())
    assert root.get("aria-label") == 'a "<b>'
    assert {"x & y", "<y>", "1 < 2"} <= {one.text for one in root.iter("text")}


def test_means_chart_has_a_bar_a_group_and_its_number_of_images():
    table = pd.DataFrame(
        {"label": ["a", "b"], "mean": [0.5, 0.9], "error": [0.1, 0.3], "n": [7, 2]}
    )
    svg = means_chart("t", table, ("x", "y"), "mask")
    bars = elements(svg, "rect", "fill")
    heights = [float(bar.get("height")) for bar in bars]
    assert heights[1] / heights[0] == pytest.approx(1.8, abs=0.02)
    assert bars[0].get("data-tip") == "a: 50.0% ± 10.0 (n = 7)"
    assert {"n 7", "n 2"} <= {text.text for text in elements(svg, "text")}


def test_confusion_chart_gives_shares_of_the_rows():
    matrix = np.array([[90, 10, 0], [1, 999, 0], [0, 0, 0]])
    tips = [
        one.get("data-tip") for one in elements(confusion_chart("t", matrix, "abc"), "rect", "cell")
    ]
    # One pixel in a thousand is not drawn, nor is a class without ground truth.
    assert tips == ["90.0% of a labelled a", "10.0% of a labelled b", "99.9% of b labelled b"]


def test_calibration_chart_places_bins_at_their_mean_confidence():
    bins = pd.DataFrame(
        {
            "low": [0.5, 0.9],
            "high": [0.55, 1.0],
            "confidence": [0.52, 0.98],
            "pixels": [100, 300],
            "correct": [40, 297],
        }
    )
    tips = [one.get("data-tip") for one in elements(calibration_chart("t", bins), "circle")]
    assert tips == [
        "confidence 52.0%: 40.0% of 100 pixels right",
        "confidence 98.0%: 99.0% of 300 pixels right",
    ]


def test_the_bars_of_the_calibration_chart_have_a_scale_of_their_own():
    bins = pd.DataFrame(
        {"low": [0.5, 0.9], "high": [0.55, 1.0], "confidence": [0.52, 0.98],
         "pixels": [100, 300], "correct": [40, 297]}
    )  # fmt: skip
    svg = calibration_chart("t", bins)
    bars = elements(svg, "rect", "ghost")
    assert [bar.get("data-tip") for bar in bars] == ["25.0% of the pixels", "75.0% of the pixels"]
    # Of an area 50 high that ends at 80 %.
    assert [float(bar.get("height")) for bar in bars] == [
        pytest.approx(50 * share / 0.8, abs=0.11) for share in (0.25, 0.75)
    ]
    assert all(float(bar.get("y")) > 200 for bar in bars)  # below the curve's area
    ticks_of = [text.text for text in elements(svg, "text", "end")]
    assert ticks_of == ["0", "20", "40", "60", "80", "100", "0", "50"]


def test_mu_chart_marks_the_threshold():
    curve = pd.DataFrame(
        {"mu": [0.5, 0.95, 0.99], "kept": [1.0, 0.8, 0.0], "precision": [0.9, 0.97, math.nan]}
    )
    svg = mu_chart("t", curve, 0.95)
    assert [one.get("r") for one in elements(svg, "circle")] == ["3.5", "7"]
    assert [one.text for one in elements(svg, "text", "strong")] == [
        "μ = 0.95: 80.0% kept",
        "97.0% right",
    ]


def test_scatter_chart_takes_points_on_one_line():
    svg = scatter_chart("t", [(0.1, 0.5, "a"), (0.1, 0.5, "b")], ("x", "y"))
    assert len(elements(svg, "circle")) == 2
