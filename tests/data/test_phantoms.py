import hashlib

import numpy as np
import pytest

from jaxinpaint.data import phantoms

SIZE = {"sections": 7, "height": 112, "width": 128, "seed": 3}


@pytest.fixture(scope="module")
def stack():
    return phantoms.tissue(**SIZE)[..., 0].astype(float)


@pytest.fixture(scope="module")
def truth():
    return phantoms.tissue_truth(**SIZE)


def read(image, x, y, *, nearest=False):
    """Bilinear reading, edge repeated."""
    height, width = image.shape
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    if nearest:
        return image[np.rint(y).astype(int), np.rint(x).astype(int)]
    left = np.minimum(np.floor(x).astype(int), width - 2)
    top = np.minimum(np.floor(y).astype(int), height - 2)
    u, v = x - left, y - top
    upper = image[top, left] * (1 - u) + image[top, left + 1] * u
    lower = image[top + 1, left] * (1 - u) + image[top + 1, left + 1] * u
    return upper * (1 - v) + lower * v


def matching(displacement, z, n):
    """Where section n shows what section z shows at each pixel, and if that exists."""
    height, width = displacement.shape[1:3]
    rows, columns = np.mgrid[:height, :width].astype(float)
    goal_x = columns + displacement[z, ..., 0]
    goal_y = rows + displacement[z, ..., 1]
    x, y = columns, rows
    for _ in range(30):  # p = goal - displacement(p) contracts: the bending is slow
        dx = read(displacement[n, ..., 0], x, y)
        dy = read(displacement[n, ..., 1], x, y)
        x, y = goal_x - dx, goal_y - dy
    return x, y, (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def psnr(guess, image, where):
    return 10 * np.log10(255**2 / np.mean((guess - image)[where] ** 2))


def matched(source, image, where):
    """Source with the gain and offset that fit the image best."""
    known = np.column_stack((source[where], np.ones(where.sum())))
    gain, offset = np.linalg.lstsq(known, image[where], rcond=None)[0]
    return gain * source + offset


def blurred(image, times=3):
    for _ in range(times):  # 5 x 5 boxes
        for axis in (0, 1):
            image = sum(np.roll(image, s, axis) for s in range(-2, 3)) / 5
    return image


def test_one_seed_gives_the_same_bytes_everywhere():
    tiny = phantoms.tissue(sections=3, height=40, width=48, seed=1)
    assert tiny.shape == (3, 40, 48, 1) and tiny.dtype == np.uint8
    assert hashlib.sha256(tiny.tobytes()).hexdigest() == (
        "7da7b63c7ff21d97ee8a644d21199ca26d42511b30b551c872142faf9ebb92a1"
    )


def test_another_seed_is_another_tissue(stack):
    other = phantoms.tissue(**dict(SIZE, seed=4))[..., 0]
    assert abs(np.corrcoef(stack[0].ravel(), other[0].ravel())[0, 1]) < 0.2


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 300), (2, 300, 5)])
def test_any_size_is_cut(shape):
    z, height, width = shape
    cut = phantoms.tissue(sections=z, height=height, width=width, seed=0)
    assert cut.shape == (*shape, 1)


def test_no_length_below_one():
    with pytest.raises(ValueError, match="positive"):
        phantoms.tissue(**dict(SIZE, height=0))


def test_neighbours_are_more_alike_than_distant_sections(stack):
    soft = [blurred(section).ravel() for section in stack]
    alike = [
        np.mean([np.corrcoef(soft[i], soft[i + d])[0, 1] for i in range(7 - d)])
        for d in range(1, 5)
    ]
    assert alike[0] > alike[1] > alike[2] > alike[3]
    assert 0.75 < alike[0] < 0.95


def test_the_bending_known_a_neighbour_tells_much_more(stack, truth):
    """What a network may learn: align, then match the brightness."""
    scores = []
    for z in range(1, 7):
        x, y, where = matching(truth.displacement, z, z - 1)
        image, previous = stack[z], stack[z - 1]
        warped = read(previous, x, y)
        flat = np.full_like(image, image[where].mean())
        tries = (
            flat,
            previous,
            warped,
            matched(previous, image, where),
            matched(warped, image, where),
        )
        scores.append([psnr(guess, image, where) for guess in tries])
    flat, copied, warped, bright, both = np.mean(scores, axis=0)
    assert 15.5 < copied < 18 and copied < flat + 2
    assert warped > copied + 1 and bright > copied + 1
    assert both > warped + 1.5 and both > bright + 1
    assert both > flat + 4


def test_registration_left_a_smooth_motion_of_about_two_pixels(truth):
    step = np.diff(truth.displacement, axis=0)
    length = np.sqrt((step**2).sum(axis=-1))
    assert 1.2 < np.median(length) < 3
    assert 2 < np.percentile(length, 95) < 6
    for axis in (1, 2):  # less than a quarter of a pixel a pixel: no fold
        assert abs(np.diff(truth.displacement, axis=axis)).max() < 0.25


def test_cells_go_on_from_section_to_section(truth):
    shares = []
    for z in range(1, 7):
        x, y, where = matching(truth.displacement, z, z - 1)
        aligned = read(truth.cells[z - 1], x, y, nearest=True) == truth.cells[z]
        copied = truth.cells[z - 1] == truth.cells[z]
        shares.append((aligned[where].mean(), copied[where].mean()))
        assert shares[-1][0] > 0.9
    aligned, copied = np.mean(shares, axis=0)
    assert aligned > copied + 0.02


def test_every_section_is_stained_differently(stack):
    assert np.ptp(stack.mean(axis=(1, 2))) > 25
    assert np.ptp(stack.std(axis=(1, 2))) > 10


def test_membranes_are_closed(truth):
    for cells, membrane in zip(truth.cells, truth.membrane, strict=True):
        for one, two in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
            border = cells[one] != cells[two]
            assert border.sum() > 300
            wall = np.maximum(membrane[one], membrane[two])
            assert wall[border].min() > 0.8  # on one side of the border at least


def test_paint_poured_into_a_cell_stays_there(truth):
    cells, open_ = truth.cells[2], truth.membrane[2] < 0.5
    start = tuple(np.argwhere(open_ & (cells == np.bincount(cells[open_]).argmax()))[0])
    painted, front = {start}, [start]
    while front:
        y, x = front.pop()
        for step in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            inside = 0 <= step[0] < cells.shape[0] and 0 <= step[1] < cells.shape[1]
            if inside and open_[step] and step not in painted:
                painted.add(step)
                front.append(step)
    assert {int(cells[p]) for p in painted} == {int(cells[start])}
    assert 200 < len(painted) < 0.5 * open_.sum()


def test_membranes_are_dark_lines_around_light_cells(stack, truth):
    for section, membrane in zip(stack, truth.membrane, strict=True):
        inside, outline = section[membrane < 0.1], section[membrane > 0.8]
        assert inside.mean() - outline.mean() > 50
        assert 0.1 < (membrane > 0.5).mean() < 0.45


def test_the_nearest_cell_is_found_among_all():
    rng = np.random.default_rng(0)
    cells = phantoms._lay_out(rng, (2, 60, 70))
    rows, columns = np.mgrid[:60, :70].astype(float)
    x, y = columns + 9 * np.sin(rows / 20), rows - 5
    label, gap = phantoms._nearest(cells, 1, x, y)
    distance = np.stack(
        [
            np.hypot(x - a, y - b) - size
            for a, b, size in zip(cells.x[1], cells.y[1], cells.size[1], strict=True)
        ]
    )
    np.testing.assert_array_equal(label, distance.argmin(axis=0))
    first, second = np.sort(distance, axis=0)[:2]
    np.testing.assert_allclose(gap, second - first, atol=1e-9)


@pytest.mark.parametrize("spacings", [(0, 0, 0), (3, 7, 0), (2.5, 6, 11)])
def test_smooth_noise_has_variance_one(spacings):
    rng = np.random.default_rng(5)
    field = phantoms.smooth(rng, (60, 140, 150), spacings)
    assert field.shape == (60, 140, 150)
    assert abs(field.mean()) < 0.1
    assert abs(field.std() - 1) < 0.06
    for axis, spacing in enumerate(spacings):
        # A cubic spline of uniform knots moves at most this much from pixel to pixel.
        step = abs(np.diff(field, axis=axis)).mean()
        assert step < 1.2 / spacing if spacing else step > 0.8


@pytest.mark.parametrize(
    "draw, shape, reach",
    [
        (phantoms._draw_mitochondrion, (8.0, 1.5, np.array([0.6, 0.8])), 13),
        (phantoms._draw_vesicle, (3.5,), 4),
    ],
)
def test_organelles_stay_near_their_place_and_in_their_cell(draw, shape, reach):
    rows, columns = np.mgrid[:60, :70].astype(float)
    for label in (7, 8):  # its own cell, then another one
        flat = np.zeros((60, 70))
        section = phantoms._Section(
            grey=np.full((60, 70), 160.0),
            x=columns,
            y=rows,
            label=np.full((60, 70), label),
            gap=np.where(columns < 30, 2.0, 40.0),  # a membrane on the left
            rough=flat,
            grain=flat,
        )
        draw(section, phantoms._locator(columns, rows), 7, 33.0, 25.0, *shape)
        drawn = section.grey != 160
        if label == 8:
            assert not drawn.any()
            continue
        assert section.grey.min() < 100 and drawn[25, 33]
        assert np.hypot(columns - 33, rows - 25)[drawn].max() <= reach
        assert columns[drawn].min() >= 30
