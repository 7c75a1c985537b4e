import hashlib

import numpy as np
import pytest
from scipy import ndimage

from jaxinpaint.data.phantom_mr import heads


@pytest.fixture(scope="module")
def volume():
    return heads(subjects=4, slices=5, height=128, width=128, seed=7)


def test_one_seed_gives_the_same_bytes_everywhere():
    tiny = heads(subjects=2, slices=2, height=40, width=48, seed=1)
    assert tiny.shape == (2, 2, 40, 48) and tiny.dtype == np.uint16
    assert hashlib.sha256(tiny.tobytes()).hexdigest() == (
        "45d097e4002b420eafce004b27db878d29a851d1f6b05a7a1caea9771a783983"
    )


def test_a_head_is_the_same_however_many_there_are():
    form = {"slices": 2, "height": 40, "width": 40}
    two, three = (heads(subjects=n, seed=5, **form) for n in (2, 3))
    np.testing.assert_array_equal(two, three[:2])
    assert (heads(subjects=2, seed=6, **form) != two).any()


def test_the_background_alone_is_zero(volume):
    for plane in volume.reshape(-1, 128, 128):
        head = plane > 0
        regions, count = ndimage.label(head)
        assert count == 1  # one head
        np.testing.assert_array_equal(ndimage.binary_fill_holes(head), head)
        assert not head[[0, -1]].any() and not head[:, [0, -1]].any()
        assert 0.1 < head.mean() < 0.6


def test_heads_become_smaller_towards_the_top(volume):
    area = (volume > 0).sum(axis=(2, 3))
    assert (np.diff(area[:, 1:], axis=1) < 0).all()


def rings(plane, last):
    """Mean level of each depth below the skin, 1 to `last`."""
    depth = ndimage.distance_transform_edt(plane > 0)
    return [plane[(depth > k - 1) & (depth <= k)].mean() for k in range(1, last + 1)]


def test_skin_is_bright_bone_dark_and_the_brain_between(volume):
    for head in volume:
        for plane in head:
            levels = rings(plane, 16)
            skin, bone = max(levels[:3]), min(levels[2:8])
            brain = np.mean(levels[10:])
            assert skin > 1.3 * brain and bone < 0.5 * brain


def test_tissues_of_one_subject_stand_apart(volume):
    """White matter, then grey, and fluid well below both, at their usual places."""
    for head in volume:
        plane = head[1].astype(float)
        inside = ndimage.distance_transform_edt(plane > 0) > 14
        blurred = ndimage.median_filter(plane, 3)
        levels = blurred[inside]
        counts, edges = np.histogram(levels, 40, (0, np.percentile(levels, 99.5)))
        white = edges[counts.argmax()]
        # Ribbon and nuclei are lighter by 15 to 35 %, ventricles below half.
        assert 0.1 < (levels > 1.12 * white).mean() < 0.6
        assert 0.01 < (levels < 0.5 * white).mean() < 0.2
        rows, columns = np.nonzero(plane > 0)
        middle = [int(rows.mean()), int(columns.mean())]
        box = blurred[middle[0] - 16 : middle[0] + 10, middle[1] - 12 : middle[1] + 13]
        assert (box < 0.5 * white).mean() > 0.08  # the ventricles


def test_subjects_have_scales_and_noise_of_their_own(volume):
    many = heads(subjects=12, slices=1, height=40, width=40, seed=0)
    tops = [np.percentile(head[head > 0], 99.5) for head in many]
    assert max(tops) > 2 * min(tops)  # uniform gains of 350 to 1600
    assert len({round(top) for top in tops}) == len(tops)
    # Differences of neighbouring pixels in the brain, over its level.
    rough = []
    for head in volume:
        inside = ndimage.distance_transform_edt(head[1] > 0) > 14
        step = abs(np.diff(head[1].astype(float), axis=1))[inside[:, 1:]]
        rough.append(np.median(step) / np.median(head[1][inside]))
    assert max(rough) > 1.2 * min(rough)


@pytest.mark.parametrize("length", ["subjects", "slices", "height", "width"])
def test_a_length_of_nothing_is_refused(length):
    form = {"subjects": 1, "slices": 1, "height": 16, "width": 16, "seed": 0}
    with pytest.raises(ValueError, match="each must be positive"):
        heads(**form | {length: 0})


def test_the_smallest_heads_are_drawn():
    assert heads(subjects=1, slices=1, height=1, width=5, seed=0).shape == (1, 1, 1, 5)
