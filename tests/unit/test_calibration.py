import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clip_wsss.calibration import MUS, Calibration, mu_curve
from clip_wsss.errors import InputError
from clip_wsss.imageio import read_confidence, write_confidence

STEPS = st.sampled_from([0, 39321, 62258, 62259, 64880, 65534, 65535]) | st.integers(0, 65535)


@settings(deadline=None)
@given(
    arrays.arrays(np.uint16, (4, 5), elements=STEPS),
    arrays.arrays(bool, (4, 5)),
    arrays.arrays(bool, (4, 5)),
)
def test_the_mu_curve_equals_thresholding_the_pixels(steps, correct, counted):
    confidence = (steps / 65535).astype(np.float32)
    calibration = Calibration()
    calibration.add(confidence, correct, counted)
    curve = mu_curve(calibration.table(), MUS)
    for mu, kept, precision in curve.itertuples(index=False):
        chosen = (confidence >= np.float32(mu)) & counted
        if counted.any():
            assert kept == pytest.approx(chosen.sum() / counted.sum(), abs=0)
        if chosen.any():
            assert precision == pytest.approx((correct & chosen).sum() / chosen.sum(), abs=0)
        else:
            assert np.isnan(precision)


def test_bins_by_hand(tmp_path):
    path = tmp_path / "a.png"
    write_confidence(path, np.array([[0.9501, 0.9499, 1.0, 0.3001]]))
    calibration = Calibration()
    right, counted = np.array([[True, False, True, True]]), np.ones((1, 4), bool)
    calibration.add(read_confidence(path), right, counted)
    table = calibration.table()
    filled = table[table["pixels"] > 0]
    assert filled["lower"].tolist() == [0.3, 0.949, 0.95, 1.0]
    assert filled["correct"].tolist() == [1, 0, 1, 1]
    np.testing.assert_allclose(filled["confidence"], [0.3001, 0.9499, 0.9501, 1], atol=1e-5)
    assert table["pixels"].sum() == 4
    assert table["confidence"].isna().sum() == len(table) - 4


def test_a_mu_between_edges_is_refused():
    with pytest.raises(InputError, match=r"mu: 0\.12345 is no edge"):
        mu_curve(Calibration().table(), [0.12345])
