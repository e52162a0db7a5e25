"""Charts of the report as SVG that follows the page's colours, and a grid of pictures as PNG.

The SVG carries classes and no colours (report.css gives them for light and dark), and no times,
so the same numbers give the same text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them, 1, 2 or 5 times a power of ten."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    step = next((step * m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= count), step * 10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def shade(value: float) -> str:
    """A value in [0, 1] as the percentage of the heat map's colour, for `--h` of report.css."""
    return f"{min(max(value, 0.0), 1.0):.0%}"


class Plot:
    """An SVG chart with two linear axes.

    Args:
        title: read out by a screen reader.
        x, y: range of each axis.
        labels: what the axes show.
        names: text of the ticks at x = 0, 1, … (else numbers).
        percent: axes (of "xy") whose ticks are given in per cent.
        size: width and height in the units of the view box.
        top, bottom: of the area between the axes; None: all that the ticks and labels leave.
        marks: about as many ticks on the y axis.
    """

    def __init__(
        self,
        title: str,
        x: tuple[float, float],
        y: tuple[float, float],
        labels: tuple[str, str],
        names: Sequence[str] | None = None,
        percent: str = "xy",
        size: tuple[int, int] = (340, 236),
        top: int = 12,
        bottom: int | None = None,
        marks: int = 5,
    ):
        self.title, self.x, self.y, self.size = title, x, y, size
        self.left, self.right, self.top = 48, size[0] - 12, top
        self.bottom = size[1] - 44 if bottom is None else bottom
        self._marks = marks
        self._parts: list[str] = []
        self._axes(labels, names, percent)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Place of a point in the view box."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            round(self.left + across * (self.right - self.left), 1),
            round(self.bottom - up * (self.bottom - self.top), 1),
        )

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Join points."""
        places = " ".join(f"{x:g},{y:g}" for x, y in (self.at(*point) for point in points))
        self._parts.append(f'<polyline class="{style}" points="{places}"/>')

    def dot(self, x: float, y: float, style: str, tip: str, radius: float = 4.5) -> None:
        """A round mark with a tip for the pointer."""
        cx, cy = self.at(x, y)
        self._parts.append(
            f'<circle class="dot {style}" cx="{cx:g}" cy="{cy:g}" r="{radius:g}" '
            f'data-tip="{escape(tip)}"/>'
        )

    def bar(
        self, x: tuple[float, float], y: tuple[float, float], style: str, tip: str = ""
    ) -> None:
        """A rectangle between two corners."""
        (x0, y0), (x1, y1) = self.at(x[0], y[0]), self.at(x[1], y[1])
        tip = f' data-tip="{escape(tip)}"' if tip else ""
        self._parts.append(
            f'<rect class="{style}" x="{x0:g}" y="{y1:g}" width="{x1 - x0:.1f}" '
            f'height="{y0 - y1:.1f}"{tip}/>'
        )

    def text(self, x: float, y: float, words: str, style: str = "note", shift=(0, 0)) -> None:
        """Words at a point, moved by `shift` units of the view box."""
        px, py = self.at(x, y)
        place = f'x="{px + shift[0]:g}" y="{py + shift[1]:g}"'
        self._parts.append(f'<text class="{style}" {place}>{escape(words)}</text>')

    def svg(self, *below: Plot) -> str:
        """The whole chart, with other areas of the same size in it."""
        parts = [part for plot in (self, *below) for part in plot._parts]
        return (
            f'<svg class="plot" role="img" aria-label="{escape(self.title)}" '
            f'viewBox="0 0 {self.size[0]} {self.size[1]}">{"".join(parts)}</svg>'
        )

    def _axes(self, labels, names, percent: str) -> None:
        add = self._parts.append
        for value in ticks(*self.y, self._marks):
            _, y = self.at(self.x[0], value)
            add(f'<path class="grid" d="M{self.left} {y:g}H{self.right}"/>')
            add(f'<text class="tick end" x="{self.left - 8}" y="{y + 4:g}">'
                f"{_number(value, 'y' in percent)}</text>")  # fmt: skip
        places = (
            enumerate(names)
            if names
            else ((value, _number(value, "x" in percent)) for value in ticks(*self.x))
        )
        for value, words in places:
            x, _ = self.at(value, self.y[0])
            add(f'<text class="tick mid" x="{x:g}" y="{self.bottom + 18}">{escape(words)}</text>')
        add(f'<path class="axis" d="M{self.left} {self.bottom}H{self.right}"/>')
        middle = (self.left + self.right) / 2
        place = f'x="{middle:g}" y="{self.bottom + 38}"'
        add(f'<text class="label mid" {place}>{escape(labels[0])}</text>')
        up = (self.top + self.bottom) / 2
        add(f'<text class="label mid" transform="translate(12 {up:g}) rotate(-90)">'
            f"{escape(labels[1])}</text>")  # fmt: skip


def _number(value: float, percent: bool) -> str:
    return f"{value * 100:g}" if percent else f"{value:g}"


def means_chart(title: str, table: pd.DataFrame, labels: tuple[str, str], style: str) -> str:
    """Means with their errors in named groups (what `breakdown.by_size` returns), as SVG."""
    plot = Plot(
        title, (-0.5, len(table) - 0.5), (0, 1), labels, names=list(table["label"]), percent="y"
    )
    for at, row in enumerate(table.itertuples()):
        low, high = max(row.mean - row.error, 0), min(row.mean + row.error, 1)
        tip = f"{row.label}: {row.mean:.1%} ± {row.error * 100:.1f} (n = {row.n})"
        plot.bar((at - 0.3, at + 0.3), (0, row.mean), f"fill faint {style}", tip)
        plot.line([(at, low), (at, high)], f"whisker {style}")
        plot.dot(at, row.mean, style, tip)
        plot.text(at, 0, f"n {row.n}", "note mid", shift=(0, -6))
    return plot.svg()


def calibration_chart(title: str, bins: pd.DataFrame) -> str:
    """Share of right pixels against confidence; below, on a scale of its own, where they are.

    Args:
        title: read out by a screen reader.
        bins: what `breakdown.coarse` returns.
    """
    size, parts = (340, 300), bins["pixels"] / bins["pixels"].sum()
    plot = Plot(title, (0, 1), (0, 1), ("", "of these right, %"), size=size, bottom=176)
    plot.line([(0, 0), (1, 1)], "diagonal")
    points = [(row.confidence, row.correct / row.pixels) for row in bins.itertuples()]
    plot.line(points, "line mask")
    for (x, y), row in zip(points, bins.itertuples(), strict=True):
        plot.dot(x, y, "mask", f"confidence {x:.1%}: {y:.1%} of {row.pixels:,} pixels right", 4)
    most = math.ceil(parts.max() * 10 - 1e-9) / 10
    labels = ("confidence, %", "pixels, %")
    below = Plot(title, (0, 1), (0, most), labels, size=size, top=206, bottom=256, marks=2)
    for row, part in zip(bins.itertuples(), parts, strict=True):
        below.bar((row.low, row.high), (0, part), "fill ghost", f"{part:.1%} of the pixels")
    return plot.svg(below)


def mu_chart(title: str, curve: pd.DataFrame, mu: float) -> str:
    """Precision against the share of kept pixels, a dot a threshold.

    Args:
        title: read out by a screen reader.
        curve: what `calibration.mu_curve` returns.
        mu: the threshold to mark, one of the curve's.
    """
    curve = curve.dropna()
    across, up = (_twentieths(curve[column]) for column in ("kept", "precision"))
    plot = Plot(title, across, up, ("pixels kept, %", "of these right, %"))
    plot.line(list(zip(curve["kept"], curve["precision"], strict=True)), "line mask")
    for row in curve.itertuples():
        words = f"μ = {row.mu:g}: {row.kept:.1%} kept, {row.precision:.1%} right"
        marked = row.mu == mu
        plot.dot(row.kept, row.precision, "mask", words, 7 if marked else 3.5)
        if marked:
            side, shift = ("end", -12) if row.kept > sum(across) / 2 else ("start", 12)
            for line, said in enumerate(words.split(", ")):
                shifts = (shift, 18 + 14 * line)
                plot.text(row.kept, row.precision, said, f"note strong {side}", shifts)
    return plot.svg()


def _twentieths(values: pd.Series) -> tuple[float, float]:
    """The range of shares, widened to multiples of 5 %."""
    low, high = math.floor(values.min() * 20 - 1e-9), math.ceil(values.max() * 20 + 1e-9)
    return max(low, 0) / 20, min(high, 20) / 20


def scatter_chart(
    title: str, points: Sequence[tuple[float, float, str]], labels: tuple[str, str]
) -> str:
    """Points with a tip each; y is a share, x a number."""
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    plot = Plot(title, _around(xs), _around(ys), labels, percent="y")
    for x, y, tip in points:
        plot.dot(x, y, "initial", tip, 5)
    return plot.svg()


def _around(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.12 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def confusion_chart(title: str, matrix: np.ndarray, names: Sequence[str]) -> str:
    """Share of every class's pixels that a prediction got, as SVG.

    Args:
        title: read out by a screen reader.
        matrix: (C + 1, C + 2) pixels by ground truth and prediction; the last column, of
            unlabelled pixels, is drawn where there are any.
        names: the C + 1 classes, the background first.
    """
    unlabelled = matrix[:, len(names) :].any()
    columns = [*names, "unlabelled"] if unlabelled else list(names)
    cell = max(11, min(24, 620 // len(columns)))
    edge, side, across = 92, cell * len(names), cell * len(columns)
    rows = matrix.sum(axis=1)
    parts = []
    style = "tick" if cell >= 14 else "tick small"
    for i, name in enumerate(columns):
        place = edge + (i + 0.5) * cell
        if i < len(names):
            parts.append(
                f'<text class="{style} end" x="{edge - 8}" y="{place + 4:g}">{escape(name)}</text>'
            )
        parts.append(
            f'<text class="{style}" transform="translate({place + 4:g} {edge - 8}) rotate(-60)">'
            f"{escape(name)}</text>"
        )
    for i, j in np.argwhere(matrix > 0):
        share = matrix[i, j] / rows[i]
        if share < 0.005:
            continue
        x, y = edge + j * cell, edge + i * cell
        tip = f"{share:.1%} of {names[i]} labelled {columns[j]}"
        parts.append(
            f'<rect class="cell" style="--h:{shade(share)}" x="{x}" y="{y}" width="{cell - 1}" '
            f'height="{cell - 1}" data-tip="{escape(tip)}"/>'
        )
        if cell >= 20 and share >= 0.05:
            parts.append(
                f'<text class="share" '
                f'x="{x + (cell - 1) / 2:g}" y="{y + cell / 2 + 3:g}">{share * 100:.0f}</text>'
            )
    parts.insert(0, f'<rect class="frame" x="{edge}" y="{edge}" width="{across}" height="{side}"/>')
    width = edge + across + 40
    scale = 0.86 if cell >= 14 else 1  # text of 9 pixels at least
    return (
        f'<svg class="matrix" role="img" aria-label="{escape(title)}" '
        f'viewBox="0 0 {width} {edge + side + 4}" style="min-width:{width * scale:.0f}px">'
        f"{''.join(parts)}</svg>"
    )
