"""Figures of seen and unseen classes: by hand, against a slow twin, and in the tables."""

import io
import json

import numpy as np
import pandas as pd
import pytest

from clip_wsss.score.measurements import Reader, difference
from clip_wsss.score.zero_shot import PARTS, HeldOut

NAMES = ("background", "cat", "dog", "cow")
# Of one image: pixels by truth (rows) and prediction; IoU 1/2, 2/4, 1/6 and 3/4.
TABLE = np.array([[4, 0, 2, 0], [0, 2, 0, 1], [2, 1, 1, 0], [0, 0, 0, 3]])


def counts_of(tables):
    """The counts of images, each a confusion matrix."""
    lines = [
        (f"image{number:02}", truth, said, table[truth, said])
        for number, table in enumerate(tables)
        for truth, said in zip(*np.nonzero(table), strict=True)
    ]
    return pd.DataFrame(lines, columns=["id", "truth", "prediction", "pixels"])


class Memory:
    """A results folder of several seeds: score.json and counts."""

    def __init__(self, *seeds):
        self.files = {}
        for seed, tables in enumerate(seeds):
            info = {"stage": "segmentation", "dataset": "tiny", "split": "val", "seed": seed}
            info |= {"images": len(tables), "iou": dict.fromkeys(NAMES, 0.0)}
            self.files[f"seed{seed}/score.json"] = json.dumps(info).encode()
            file = io.BytesIO()
            counts_of(tables).to_parquet(file)
            self.files[f"seed{seed}/counts.parquet"] = file.getvalue()

    def open(self, name):
        return io.BytesIO(self.files[name])

    def figure(self, held_out, resamples=40):
        reader = Reader(self, resamples, 7, held_out)
        return reader.figure("segmentation", [one for one in self.files if "json" in one])


def values(figure):
    return [figure.parts[part][0] for part in PARTS]


def test_by_hand_of_four_classes():
    """With the background seen, and without its pixels: then dogs have no false alarms of it."""
    found = values(Memory([TABLE]).figure(HeldOut(("dog", "cow"))))
    seen, unseen = (4 / 8 + 2 / 4) / 2, (1 / 6 + 3 / 4) / 2
    assert found == pytest.approx([seen, unseen, 2 * seen * unseen / (seen + unseen)])
    found = values(Memory([TABLE]).figure(HeldOut(("dog", "cow"), "ignored")))
    seen, unseen = 2 / 4, (1 / 4 + 3 / 4) / 2
    assert found == pytest.approx([seen, unseen, 2 * seen * unseen / (seen + unseen)])


@pytest.mark.parametrize("missed", ["seen", "unseen"])
def test_the_harmonic_mean_is_0_if_either_is(missed):
    table = np.zeros((4, 4), int)
    table[0, 0] = 0 if missed == "seen" else 5
    table[3, 3] = 5 if missed == "seen" else 0
    table[1 if missed == "seen" else 3, 2] = 4  # called a dog
    seen, unseen, both = values(Memory([table]).figure(HeldOut(("dog", "cow"))))
    assert (both, min(seen, unseen)) == (0, 0)
    assert max(seen, unseen) > 0


def test_no_class_of_a_kind_with_ground_truth_is_not_0():
    table = np.diag([5, 5, 0, 0])
    seen, unseen, both = values(Memory([table]).figure(HeldOut(("dog", "cow"))))
    assert seen == 1
    assert np.isnan([unseen, both]).all()


def images(seed, number=12):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 9, (4, 4)) * rng.integers(0, 2, (4, 1)) for _ in range(number)]


def twin(tables, held_out, resamples, seed):
    """(R, 3), one resample of the images after the other."""
    generator = np.random.Generator(np.random.PCG64(seed))
    unseen = [name in held_out.unseen for name in NAMES]
    found = []
    for _ in range(resamples):
        drawn = generator.integers(len(tables), size=len(tables))
        total = sum(tables[place] for place in drawn).astype(float)
        if held_out.background == "ignored":
            total[0] = 0
        ious = {True: [], False: []}
        for place in range(4):
            truth, said, hit = total[place].sum(), total[:, place].sum(), total[place, place]
            if truth:
                ious[unseen[place]].append(hit / (truth + said - hit))
        s, u = (sum(one) / len(one) if one else np.nan for one in (ious[False], ious[True]))
        found.append((s, u, 2 * s * u / (s + u) if s + u else 0.0 * (s + u)))
    return np.array(found)


@pytest.mark.parametrize("background", ["seen", "ignored"])
def test_intervals_equal_the_slow_twin(background):
    held_out = HeldOut(("dog", "cow"), background)
    tables = images(1)
    figure = Memory(tables).figure(held_out, 200)
    samples = twin(tables, held_out, 200, 7)
    np.testing.assert_allclose(figure.part_samples, samples)
    for column, part in zip(samples.T, PARTS, strict=True):
        around = figure.parts[part][1]
        assert (around.low, around.high) == pytest.approx(np.nanquantile(column, [0.025, 0.975]))


def test_differences_are_paired_and_cover_the_seeds():
    held_out = HeldOut(("cow",))
    first, second = Memory(images(1), images(2)), Memory(images(3), images(4))
    one, other = first.figure(held_out), second.figure(held_out)
    found = difference(one, other)
    assert found.seeds
    for place, part in enumerate(PARTS):
        value, around = found.parts[part]
        assert value == pytest.approx(values(one)[place] - values(other)[place])
        gap = one.part_samples[:, place] - other.part_samples[:, place]
        assert (around.low, around.high) == pytest.approx(np.nanquantile(gap, [0.025, 0.975]))
    assert difference(one, one).parts["unseen"] == (0, type(around)(0, 0))


def test_without_unseen_classes_there_are_no_parts():
    figure = Memory(images(1)).figure(None)
    assert figure.parts == {}
    assert difference(figure, figure).parts == {}
