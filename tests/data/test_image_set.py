import itertools
import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxinpaint.data import mask_sets, pipeline
from jaxinpaint.data.image_set import ImageSet, run_data

SIZE, ROWS = 8, 6
SIDES = [(12, 15), (9, 9), (20, 8), (8, 8), (11, 30), (10, 10), (13, 9), (16, 16)]


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    """Masks of known form: what is tested here is what calls them."""

    def training_masks(mask_config, size, seed):
        assert seed == 7 and mask_config.sampler == "fake"

        def draw(rng, count):
            masks = np.zeros((count, size, size, 1), np.uint8)
            for mask, at in zip(masks, rng.integers(size, size=count), strict=True):
                mask[at] = 1
            return masks

        return draw

    def evaluation_masks(eval_config, height, width, count, seed):
        assert eval_config.kind == "fake" and seed == 9
        for label, index in itertools.product(("top", "left"), range(count)):
            mask = np.zeros((height, width, 1), np.uint8)
            mask[(slice(0, 2), slice(None))[:: 1 if label == "top" else -1]] = 1
            yield label, index, mask

    monkeypatch.setattr(mask_sets, "training_masks", training_masks)
    monkeypatch.setattr(mask_sets, "evaluation_masks", evaluation_masks)


def pictures(channels=3, dtype=np.uint8, sides=SIDES):
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    return [rng.integers(0, top, (*s, channels), dtype, True) for s in sides]


def a_set(stack, facts=None, names=None, parts=((0, 1, 2, 4), (3, 5), (6, 7))):
    names = names or [f"p{k}" for k in range(len(stack))]
    return ImageSet(names, stack.__getitem__, *parts, "digest", facts or {})


def config_of(**changes):
    config = ConfigDict(
        {
            "seed": 7,
            "channels": 3,
            "mask": {"sampler": "fake"},
            "data": {
                "kind": "photographs",
                "source": "somewhere",
                "validation_crops": 5,
                "hflip": False,
            },
            "eval": {
                "crop_size": 9,
                "crops_per_image": 2,
                "masks": {"kind": "fake"},
                "seed": 9,
            },
        }
    )
    config.lock()
    config.update_from_flattened_dict(changes)
    return config


def spec(size=SIZE, rows=ROWS, channels=3):
    shape = lambda *axes: types.SimpleNamespace(shape=axes)
    return {
        "image": shape(rows, size, size, channels),
        "mask": shape(rows, size, size, 1),
    }


def build(images, rank=0, count=1, rows=ROWS, channels=3, **changes):
    config = config_of(channels=channels, **changes)
    return run_data(config, spec(rows=rows, channels=channels), images, rank, count)


def where(window, stack):
    """Picture, top and left that a window of random pixels was cut from."""
    found = []
    for k, picture in enumerate(stack):
        side = window.shape[0]
        if side > min(picture.shape[:2]):
            continue
        views = np.lib.stride_tricks.sliding_window_view(
            picture[..., 0], (side, side), (0, 1)
        )
        same = (views == window[..., 0]).all(axis=(-1, -2))
        found += [(k, int(y), int(x)) for y, x in np.argwhere(same)]
    (one,) = found
    return one


def same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def test_a_batch_follows_from_seed_and_step(monkeypatch):
    stack = pictures()
    one, two = build(a_set(stack)), build(a_set(stack))
    two.batch(9)  # what was asked before does not count
    same(one.batch(3), two.batch(3))
    same(next(one.train(3)), two.batch(3))
    later = itertools.islice(two.train(3), 1, 2)
    same(one.batch(4), next(later))
    assert (one.batch(3)["image"] != one.batch(4)["image"]).any()
    monkeypatch.setattr(mask_sets, "training_masks", lambda *_: draw_nothing)
    other = build(a_set(stack), seed=8)
    assert (one.batch(3)["image"] != other.batch(3)["image"]).any()


def draw_nothing(rng, count):
    return np.zeros((count, SIZE, SIZE, 1), np.uint8)


def test_batches_hold_windows_of_training_pictures_alone():
    stack = pictures()
    data, seen = build(a_set(stack)), set()
    for step in range(60):
        batch = data.batch(step)
        assert batch["image"].shape == (ROWS, SIZE, SIZE, 3)
        assert batch["image"].dtype == batch["mask"].dtype == np.uint8
        assert (batch["mask"].sum(axis=(1, 2, 3)) == SIZE).all()
        for window in batch["image"]:
            k, top, left = where(window, stack)
            picture = stack[k][top : top + SIZE, left : left + SIZE]
            np.testing.assert_array_equal(window, picture)
            seen.add((k, top, left))
    assert {k for k, _, _ in seen} == {0, 1, 2, 4}
    assert {(t, x) for k, t, x in seen if k == 1} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert {t for k, t, _ in seen if k == 2} == set(range(13))  # first and last too
    for window in data.validation["image"]:
        assert where(window, stack)[0] in (3, 5)


def test_half_of_the_windows_are_turned_where_asked():
    stack = pictures()
    plain, turned = build(a_set(stack)), build(a_set(stack), **{"data.hflip": True})
    count = 0
    for step in range(40):
        one, two = plain.batch(step), turned.batch(step)
        np.testing.assert_array_equal(one["mask"], two["mask"])
        for window, other in zip(one["image"], two["image"], strict=True):
            flipped = (window != other).any()
            count += flipped
            np.testing.assert_array_equal(other, window[:, ::-1] if flipped else window)
    assert 90 <= count <= 150  # of 240; 4 standard deviations are 31
    same(plain.validation, turned.validation)


def test_processes_share_the_rows_and_read_only_their_own():
    stack, read = pictures(), []

    def note(at):
        read.append(at)
        return stack[at]

    images = a_set(stack)
    whole = build(images).batch(5)
    parts = []
    for rank in range(3):
        data = build(images._replace(read=note), rank, 3)
        read.clear()
        parts.append(data.batch(5))
        assert len(read) == 2
        same(data.validation, build(images).validation)
    for name, array in whole.items():
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), array)


def test_threads_change_nothing():
    data = build(a_set(pictures()))
    ahead = pipeline.prefetch(data.batch, 2, 4, 8)
    for step in range(2, 22):
        same(next(ahead), data.batch(step))
    ahead.close()


def test_grey_fills_the_channels_and_16_bits_stay():
    stack = pictures(1, np.uint16)
    grey, colour = build(a_set(stack), channels=1), build(a_set(stack))
    assert grey.batch(0)["image"].dtype == np.uint16
    np.testing.assert_array_equal(
        np.repeat(grey.batch(0)["image"], 3, axis=-1), colour.batch(0)["image"]
    )
    case, case_in_colour = next(grey.test_cases()), next(colour.test_cases())
    assert case.image.dtype == np.uint16 and case.image.shape == (9, 9, 1)
    np.testing.assert_array_equal(np.repeat(case.image, 3, -1), case_in_colour.image)
    assert grey.summary["shape"] == colour.summary["shape"] == [8, 9, 9, 1]
    assert grey.summary["dtype"] == "uint16"


def test_cases_are_windows_of_the_test_pictures():
    stack = pictures()
    cases = list(build(a_set(stack)).test_cases())
    names = ["p6_crop_00", "p6_crop_01", "p7_crop_00", "p7_crop_01"]
    assert [(c.label, c.name) for c in cases] == [
        (label, name) for label in ("top", "left") for name in names
    ]
    assert [where(c.image, stack)[0] for c in cases] == [6, 6, 7, 7] * 2
    for one, two in zip(cases[:4], cases[4:], strict=True):
        np.testing.assert_array_equal(one.image, two.image)
        assert (one.neighbor, one.previous, one.following) == (None, None, None)
    assert (cases[2].image != cases[3].image).any()
    np.testing.assert_array_equal(
        np.argwhere(cases[0].mask[..., 0])[:, 0], [0] * 9 + [1] * 9
    )
    # The training seed moves no test window.
    again = [c.image for c in build(a_set(stack)).test_cases()]
    np.testing.assert_array_equal(again, [c.image for c in cases])


@pytest.mark.parametrize("known", [True, False])
def test_whole_pictures(known):
    stack = pictures(sides=[(10, 12)] * 8)
    facts = {"shape": [8, 10, 12, 3]} if known else {}
    data = build(a_set(stack, facts), **{"eval.crop_size": 0})
    cases = list(data.test_cases())
    assert [c.name for c in cases[::2]] == ["p6_crop_00", "p7_crop_00"] * 2
    for case, at in zip(cases, [6, 6, 7, 7] * 2, strict=True):
        np.testing.assert_array_equal(case.image, stack[at])
        assert case.mask.shape == (10, 12, 1)
    assert data.summary["shape"] == [8, 10, 12, 3]


def test_whole_pictures_of_two_sizes_need_a_crop_size():
    data = build(a_set(pictures()), **{"eval.crop_size": 0})
    with pytest.raises(
        ValueError, match="p6 is 13 x 9 and p7 is 16 x 16; set config.e"
    ):
        next(data.test_cases())


@pytest.mark.parametrize(
    "names, want",
    [
        (("a b/c", "ü.1"), ["a_b_c", "_.1"]),
        (("..", "x" * 300), ["_.", "x" * 100]),
        (("a b", "a_b"), ["a_b_6", "a_b_7"]),
        (("Cat", "cat"), ["Cat_6", "cat_7"]),  # one file on some disks
    ],
)
def test_case_names_are_safe_and_unlike(names, want):
    images = a_set(pictures(), names=[*"012345", *names])
    cases = build(images, **{"eval.crops_per_image": 1}).test_cases()
    assert [c.name for c in itertools.islice(cases, 2)] == [
        f"{n}_crop_00" for n in want
    ]


def test_summary():
    facts = {"fit": "crop", "shape": [8, 33, 44, 3]}
    stack = pictures()
    assert build(a_set(stack)).summary == {
        "source": "somewhere",
        "digest": "digest",
        "kind": "photographs",
        "shape": [8, 9, 9, 3],
        "dtype": "uint8",
        "split": {"training": [0, 1, 2, 4], "validation": [3, 5], "test": [6, 7]},
        "validation_from": "validation",
    }
    images = a_set(stack, facts, parts=((0, 1), (), (6, 7)))
    summary = build(images).summary
    assert summary["shape"] == [8, 33, 44, 3] and summary["fit"] == "crop"
    assert summary["validation_from"] == "training"
    many = ImageSet(
        ["p"] * 20_000, lambda at: stack[0], tuple(range(12_000)), (), (12_000,), "", {}
    )
    split = build(many).summary["split"]
    assert split["training"]["count"] == 12_000 and split["test"] == [12_000]
    assert len(split["training"]["sha256"]) == 64


def test_what_does_not_fit():
    stack = pictures()
    fine = a_set(stack)
    for words, images, changes in [
        (
            "none of the 8 pictures is left for training",
            a_set(stack, parts=((), (), ())),
            {},
        ),
        ("in two of", a_set(stack, parts=((0, 1), (1,), (2,))), {}),
        ("crop_size is -1", fine, {"eval.crop_size": -1}),
        ("crops_per_image is 0", fine, {"eval.crops_per_image": 0}),
        ("6 rows cannot be shared by 4", fine, {"count": 4}),
        ("p5 is in colour", fine, {"channels": 1}),
        ("training needs crops of 8 x 8", a_set(stack, {"shape": [8, 7, 9, 3]}), {}),
        (
            "eval.crop_size needs crops of 9 x 9, but the pictures of somewhere are 8",
            a_set(stack, {"shape": [8, 8, 9, 3]}),
            {},
        ),
    ]:
        with pytest.raises(ValueError, match=words):
            build(images, **changes)
    with pytest.raises(ValueError, match=r"asks for \['image', 'mask', 'neighbor'\]"):
        run_data(config_of(), spec() | {"neighbor": None}, fine, 0, 1)
    with pytest.raises(ValueError, match="channels is 3 and the system's image has 1"):
        run_data(config_of(), spec(channels=1), fine, 0, 1)
    with pytest.raises(ValueError, match="no picture is held out for test"):
        next(build(a_set(stack, parts=((0,), (), ()))).test_cases())


def test_pictures_that_differ_are_named():
    stack = pictures()
    stack[5] = stack[5].astype(np.uint16)
    with pytest.raises(
        ValueError, match="p5 is uint16 with 3 channels, the first pict"
    ):
        build(a_set(stack, parts=((0,), (5,), (6,))))
    stack[5] = stack[5][..., :1].astype(np.uint8)
    with pytest.raises(ValueError, match="p5 is uint8 with 1 channels"):
        build(a_set(stack, parts=((0,), (5,), (6,))))
    stack[5] = np.zeros((7, 20, 3), np.uint8)
    with pytest.raises(ValueError, match="p5 is 7 x 20, but crops of 8 x 8"):
        build(a_set(stack, parts=((0,), (5,), (6,))))
