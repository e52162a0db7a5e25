import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clip_wsss.core.confidence import encode
from clip_wsss.core.errors import InputError
from clip_wsss.score.calibration import MUS, Calibration, mu_curve

VALUES = st.sampled_from([0, 0.6, 0.95, 0.99, 1]).map(np.float32)
NEAR = VALUES.flatmap(
    lambda x: st.sampled_from([x, *(np.nextafter(x, np.float32(t)) for t in (0, 1))])
)


@given(
    arrays.arrays(np.float32, (4, 5), elements=NEAR | st.floats(0, 1, width=32)),
    arrays.arrays(bool, (4, 5)),
    arrays.arrays(bool, (4, 5)),
)
def test_the_mu_curve_equals_thresholding_the_pixels(confidence, correct, counted):
    calibration = Calibration()
    calibration.add(encode(confidence), correct, counted)
    curve = mu_curve(calibration.table(), MUS)
    assert curve["mu"].tolist() == list(MUS)
    for mu, kept, precision in curve.itertuples(index=False):
        chosen = (confidence >= np.float32(mu)) & counted
        if counted.any():
            assert kept == pytest.approx(chosen.sum() / counted.sum(), abs=0)
        if chosen.any():
            assert precision == pytest.approx((correct & chosen).sum() / chosen.sum(), abs=0)
        else:
            assert np.isnan(precision)


def test_bins_by_hand():
    codes = encode(np.float32([[0.9501, 0.9499, 1.0, 0.3001, 0.9987]]))
    calibration = Calibration()
    right, counted = np.array([[True, False, True, True, True]]), np.ones((1, 5), bool)
    calibration.add(codes, right, counted)
    table = calibration.table()
    filled = table[table["pixels"] > 0]
    assert filled["lower"].tolist() == [0.3, 0.94, 0.95, 0.998, 1.0]
    assert filled["correct"].tolist() == [1, 0, 1, 1, 1]
    np.testing.assert_allclose(filled["confidence"], [0.325, 0.945, 0.955, 0.9985, 1], atol=1e-12)
    assert table["pixels"].sum() == 5
    assert table["confidence"].isna().sum() == len(table) - 5


def test_a_mu_between_edges_is_refused():
    with pytest.raises(InputError, match=r"mu: must be a step .* got 0\.12345"):
        mu_curve(Calibration().table(), [0.12345])
