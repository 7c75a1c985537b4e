import pathlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter

from jaxinpaint.data.alignment import (
    MisalignedStackError,
    check_alignment,
    shift_between,
)

SAMPLES = pathlib.Path(__file__).parents[2] / "../shared/data"


def texture(height, width, seed=0):
    """Blobs of some 8 px, uint8."""
    noise = np.random.default_rng(seed).normal(size=(height, width))
    fall = [np.exp(-((np.fft.fftfreq(n) * 25) ** 2)) for n in (height, width)]
    blobs = np.fft.ifft2(np.fft.fft2(noise) * np.outer(*fall)).real
    return np.uint8(np.clip(128 + 40 * blobs / blobs.std(), 0, 255))


def window(whole, dx, dy, size=(160, 200)):
    """What a camera sees after its content moved by (dx, dy)."""
    top, left = 70 - dy, 70 - dx
    return whole[top : top + size[0], left : left + size[1], None]


@pytest.mark.parametrize("shift", [(0, 0), (5, -3), (-1, 12), (44, -3), (-50, -40)])
def test_whole_shifts_are_found(shift):
    whole = texture(320, 360)
    rng = np.random.default_rng(1)
    previous, following = (
        window(whole, *d) + rng.normal(scale=30, size=(160, 200, 1))
        for d in ((0, 0), shift)
    )
    assert shift_between(previous, following) == shift
    assert shift_between(following, previous) == (-shift[0], -shift[1])


def test_equals_the_search_by_hand():
    whole = texture(60, 60, seed=3)
    first, second = whole[10:42, 10:44], whole[13:45, 6:40]
    second = np.roll(second, 5, axis=0)  # so that the best shift is not perfect
    blur = lambda a: gaussian_filter(a.astype(float), 3, mode="nearest", truncate=4)
    one, two = blur(first), blur(second)
    correlation, score = {}, {}
    for dy in range(-20, 21):
        for dx in range(-20, 21):
            a = one[max(-dy, 0) : 32 - max(dy, 0), max(-dx, 0) : 34 - max(dx, 0)]
            b = two[max(dy, 0) : 32 - max(-dy, 0), max(dx, 0) : 34 - max(-dx, 0)]
            correlation[dx, dy] = np.corrcoef(a.ravel(), b.ravel())[0, 1]
            score[dx, dy] = correlation[dx, dy] * a.size / one.size
    top = max(score, key=score.get)
    near = [d for d in score if max(abs(d[0] - top[0]), abs(d[1] - top[1])) <= 4]
    assert shift_between(first, second) == max(near, key=correlation.get)


def test_brightness_and_type_do_not_matter():
    whole = texture(320, 360)
    previous, following = window(whole, 0, 0), window(whole, 7, -9)
    darker = (following * 0.4 + 10).astype(np.uint16) * 100
    assert shift_between(previous, darker) == (7, -9)
    assert shift_between(previous[..., 0], following[..., 0]) == (7, -9)


def test_only_the_middle_of_large_sections_counts():
    whole = texture(700, 640)
    previous, following = whole[20:620, 20:600], whole[29:629, 14:594]
    assert shift_between(previous, following) == (6, -9)


@pytest.mark.parametrize("level", [0, 128, 65535])
def test_blank_sections_are_not_called_shifted(level):
    blank = np.full((64, 64, 1), level, np.uint16)
    other = texture(64, 64)[..., None].astype(np.uint16)
    assert shift_between(blank, blank) == (0, 0)
    assert shift_between(blank, other) == shift_between(other, blank) == (0, 0)


def test_the_error_names_the_pair():
    whole = texture(320, 360)
    stack = np.stack([window(whole, d, 0) for d in (0, 0, 3, 0, 6)])
    check_alignment(stack)
    stack[4] = window(whole, 47, -3)
    message = (
        r"sections 2 and 4 are shifted by \(44, -3\) px; align the stack first "
        r"\(limit 32\), or set"
    )
    with pytest.raises(MisalignedStackError, match=message) as caught:
        check_alignment(stack)
    assert isinstance(caught.value, ValueError)
    check_alignment(stack, limit=44)
    check_alignment(stack[:4], apart=1)
    with pytest.raises(MisalignedStackError, match="sections 3 and 4"):
        check_alignment(stack, apart=1)


def test_a_stack_of_two_has_nothing_between():
    whole = texture(320, 360)
    check_alignment([window(whole, 0, 0), window(whole, 60, 0)])


def test_sections_that_cannot_be_compared():
    with pytest.raises(ValueError, match="one size"):
        shift_between(np.zeros((64, 64, 1)), np.zeros((64, 65, 1)))
    with pytest.raises(ValueError, match="at least 32 x 32"):
        shift_between(np.zeros((64, 31, 1)), np.zeros((64, 31, 1)))


def test_real_stacks_count_as_aligned():
    fibsem = SAMPLES / "fibsem_medulla/training_sample1_z2600-2647.tif"
    sstem = SAMPLES / "sstem_vnc/stack1/raw"
    if not fibsem.exists() or not sstem.exists():
        pytest.skip(f"no sample data in {SAMPLES}")
    check_alignment(tifffile.imread(fibsem)[:12], limit=5)
    files = sorted(sstem.iterdir())[:6]
    check_alignment([np.asarray(Image.open(file)) for file in files], limit=16)
