"""Codes of confidences: exact edges, so that comparing codes is comparing numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_wsss.core.confidence import DECIMAL_EDGES, EDGES, check_mu, decode, encode
from clip_wsss.core.errors import InputError

AROUND = np.concatenate([EDGES, *(np.nextafter(EDGES, np.float32(to)) for to in (0, 1))])
FLOATS = st.floats(0, 1, width=32)


def test_the_edges_are_those_that_one_would_write():
    assert len(EDGES) == 70
    assert EDGES.dtype == np.float32
    written = [f"{edge:g}" for edge in DECIMAL_EDGES]
    assert written[:3] + written[9:13] == ["0", "0.05", "0.1", "0.45", "0.5", "0.51", "0.52"]
    assert written[57:63] == ["0.97", "0.98", "0.99", "0.991", "0.992", "0.993"]
    assert written[-1] == "1"
    assert [np.float32(float(word)) for word in written] == EDGES.tolist()
    for edges in (EDGES, DECIMAL_EDGES):
        with pytest.raises(ValueError, match="read-only"):
            edges[0] = 1


def comparisons_agree(confidence: np.ndarray) -> None:
    codes = encode(confidence)
    for code, mu in enumerate(EDGES):
        np.testing.assert_array_equal(codes >= code, confidence >= mu)
        np.testing.assert_array_equal(decode(codes) >= mu, confidence >= mu)


def test_codes_decide_like_the_numbers_at_every_edge_and_its_neighbours():
    comparisons_agree(AROUND)


@given(st.lists(FLOATS | st.sampled_from(AROUND.tolist()), min_size=1))
def test_codes_decide_like_any_numbers(values):
    comparisons_agree(np.array(values, np.float32))


@given(FLOATS)
def test_a_code_is_the_largest_edge_below(value):
    edge = max(edge for edge in EDGES if edge <= np.float32(value))
    assert decode(encode(value)) == edge


def test_decoding_inverts_encoding():
    np.testing.assert_array_equal(encode(EDGES), np.arange(70))
    np.testing.assert_array_equal(encode(decode(np.arange(70))), np.arange(70))
    assert encode(np.float32([[0.9501, 1.0000001]])).tolist() == [[55, 69]]
    with pytest.raises(IndexError):
        decode(np.uint8(70))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e-9])
def test_what_is_no_confidence_has_no_code(value):
    with pytest.raises(ValueError, match="NaN, infinite or below 0"):
        encode(np.float32([0.5, value]))


def test_mu_must_be_an_edge():
    for edge in (0, 0.05, 0.95, 0.993, 1):
        check_mu(edge)
    for mu, nearest in ((0.12345, 0.1), (0.955, 0.95), (-0.1, 0), (1.5, 1), (0.9905, 0.991)):
        with pytest.raises(InputError, match=f"^segmentation.mu: .* got {mu}; .* {nearest}") as bad:
            check_mu(mu, "segmentation.mu")
        assert "\n" not in str(bad.value)
