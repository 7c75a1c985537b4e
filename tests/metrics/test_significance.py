import math

import numpy as np
import pytest

from jaxinpaint.metrics.significance import mark, paired_t_test


def test_one_degree_of_freedom_by_hand():
    # d = 1, 3: mean 2, sd sqrt 2, t = 2. With one degree of freedom t is Cauchy's:
    # p = 1 - 2 atan(2) / pi.
    got = paired_t_test(np.array([5.0, 8.0]), np.array([4.0, 5.0]))
    assert got.p == pytest.approx(1 - 2 * math.atan(2) / math.pi, rel=1e-12)
    assert (got.pairs, got.left_out) == (2, 0)


def test_two_degrees_of_freedom_by_hand():
    # d = 1, 2, 6: mean 3, sd sqrt 7, t^2 = 27 / 7. With two degrees of freedom
    # p = 1 - t / sqrt(2 + t^2) = 1 - sqrt(27 / 41).
    first, second = np.array([30.0, 27.5, 41.0]), np.array([29.0, 25.5, 35.0])
    want = 1 - math.sqrt(27 / 41)
    assert paired_t_test(first, second).p == pytest.approx(want, rel=1e-12)
    assert paired_t_test(second, first).p == pytest.approx(want, rel=1e-12)
    # Whatever the images share falls out: an unpaired test would see nothing here.
    shared = np.array([0.0, 1000.0, -500.0])
    again = paired_t_test(first + shared, second + shared)
    assert again.p == pytest.approx(want, rel=1e-9)


def test_chance_alone_is_marked_as_often_as_it_says():
    draw = np.random.default_rng(0).normal(size=(2, 1000, 12))
    p = np.array([paired_t_test(*pair).p for pair in draw.transpose(1, 0, 2)])
    # 1000 tests of nothing: the shares deviate by 0.0069 and 0.0031.
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.02)
    assert np.mean(p < 0.01) == pytest.approx(0.01, abs=0.009)


def test_pairs_without_two_finite_scores_are_left_out_and_counted():
    first = np.array([np.inf, 30.0, 27.5, np.nan, 41.0, np.inf, 31.0])
    second = np.array([20.0, 29.0, 25.5, 30.0, 35.0, np.inf, np.inf])
    got = paired_t_test(first, second)
    assert got.p == pytest.approx(1 - math.sqrt(27 / 41), rel=1e-12)
    assert (got.pairs, got.left_out) == (3, 4)


@pytest.mark.parametrize("scores", [[], [30.0], [30.0, np.inf]])
def test_one_pair_is_no_test(scores):
    got = paired_t_test(np.array(scores), np.array(scores) - 1.0)
    assert math.isnan(got.p) and got.pairs == min(len(scores), 1)
    assert mark(got.p) == ""


def test_equal_differences():
    scores = np.array([0.91, 0.97, 0.3, 0.3])
    assert paired_t_test(scores, scores).p == 1.0
    assert paired_t_test(scores * 0, scores * 0).p == 1.0
    assert paired_t_test(scores + 64.0, scores).p == 0.0  # but for rounding
    nearly = scores + np.array([64.0, 64.0, 64.0, 64.0 + 1e-9])
    assert 0.0 < paired_t_test(nearly, scores).p < 1e-20


def test_marks_are_strict():
    signs = [mark(p) for p in (0.0, 0.0099, 0.01, 0.0499, 0.05, 1.0)]
    assert signs == ["*", "*", "#", "#", "", ""]


def test_scores_of_other_images():
    with pytest.raises(ValueError, match=r"second must be \[3\], got \[2\]"):
        paired_t_test(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="first must be"):
        paired_t_test(np.zeros((3, 1)), np.zeros(3))
