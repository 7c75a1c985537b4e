import threading
import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxinpaint.data import images, sections
from jaxinpaint.data.alignment import MisalignedStackError
from jaxinpaint.data.derived import compute, open_cache
from jaxinpaint.data.stack import open_stack
from jaxinpaint.evaluation.filling import write_restored

LIMIT = 100_000


def recipe(function, digest="d", name="mean"):
    return types.SimpleNamespace(name=name, function=function, digest=digest)


def counted(calls, fail_at=None):
    """The mean of both sections, rounded; `calls` gets their first pixels."""

    def mean(previous, following, alpha):
        pair = int(previous[0, 0, 0]), int(following[0, 0, 0])
        if pair == fail_at:
            raise RuntimeError("interrupted")
        calls.append(pair)
        both = (1 - alpha) * previous + alpha * following
        return np.rint(both).astype(previous.dtype)

    return mean


def squares(count, dtype=np.uint8, channels=1):
    """Pixels of section z are z^2 plus their column; the means are 1 more or 4 more."""
    z = np.arange(count).reshape(-1, 1, 1, 1)
    volume = z**2 + np.arange(16).reshape(1, 1, -1, 1)
    return np.broadcast_to(volume, (count, 12, 16, channels)).astype(dtype)


def opened(tmp_path, volume, calls, spacing=1, **options):
    stack = open_stack(volume, tmp_path / "cache", LIMIT)
    return open_cache(stack, recipe(counted(calls), **options), spacing), stack


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_mean_of_both_by_hand(tmp_path, dtype):
    volume, calls = squares(7, dtype), []
    near, stack = opened(tmp_path, volume, calls)
    far, _ = opened(tmp_path, volume, calls, spacing=2)
    compute(near, volume, [2, 5, 2], 0)
    compute(far, volume, [2], 0)
    assert calls == [(1, 9), (16, 36), (0, 16)]
    assert near.sections.dtype == dtype
    # ((z - 1)^2 + (z + 1)^2) / 2 = z^2 + 1, and z^2 + 4 two sections away.
    np.testing.assert_array_equal(near.sections[[2, 5]], volume[[2, 5]] + 1)
    np.testing.assert_array_equal(far.sections[2], volume[2] + 4)
    assert not near.sections[[0, 1, 3, 4, 6]].any()
    home = tmp_path / "cache" / "sections" / stack.digest
    assert {near.path.parent, far.path.parent} == {home / "derived"}
    with pytest.raises(ValueError, match="read-only"):
        near.sections[0, 0, 0, 0] = 1


def test_it_is_computed_once(tmp_path):
    volume, calls = squares(7), []
    compute(opened(tmp_path, volume, calls)[0], volume, [1, 2], 0)
    again = opened(tmp_path, volume, calls)[0]
    np.testing.assert_array_equal(again.sections[1:3], volume[1:3] + 1)
    compute(again, volume, [1, 2], 0)
    assert len(calls) == 2
    compute(again, volume, [1, 2, 3], 0)
    assert calls[2:] == [(4, 16)]
    others = [{"spacing": 2}, {"digest": "other"}, {"name": "median"}]
    paths = {again.path}
    for options in others:
        other = opened(tmp_path, volume, calls, **options)[0]
        assert not other.sections.any()
        paths.add(other.path)
    compute(opened(tmp_path, volume + np.uint8(1), calls)[0], volume, [1], 0)
    assert len(paths) == 4 and len(calls) == 4
    assert not list(again.path.parent.glob(".*"))  # nothing unfinished


def test_an_interruption_leaves_no_half(tmp_path):
    volume, calls = squares(7), []
    cache, _ = opened(tmp_path, volume, calls)
    with pytest.raises(RuntimeError, match="interrupted"):
        compute(cache._replace(function=counted(calls, (1, 9))), volume, [1, 2, 3], 0)
    # A process that died while it wrote section 2: pixels without a mark.
    with open(cache.path, "r+b") as file:
        file.seek(cache.sections.offset + 2 * 12 * 16)
        file.write(b"\7" * 100)
    again, _ = opened(tmp_path, volume, calls)
    compute(again, volume, [1, 2, 3], 0)
    assert calls == [(0, 4), (1, 9), (4, 16)]
    np.testing.assert_array_equal(again.sections[1:4], volume[1:4] + 1)


def test_several_may_compute_at_once(tmp_path):
    volume, calls = squares(9), []
    caches = [opened(tmp_path, volume, calls)[0] for _ in range(4)]
    gate = threading.Barrier(4)

    def work(cache):
        gate.wait()
        compute(cache, volume, range(1, 8), 0)

    threads = [threading.Thread(target=work, args=(cache,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 7  # files are locked against threads as against processes
    for cache in caches:
        np.testing.assert_array_equal(cache.sections[1:8], volume[1:8] + 1)


def test_creating_it_twice_keeps_the_first(tmp_path, monkeypatch):
    volume, calls = squares(5), []
    first, _ = opened(tmp_path, volume, calls)
    compute(first, volume, [1], 0)
    monkeypatch.setattr(type(first.path), "exists", lambda path: False)
    second, _ = opened(tmp_path, volume, calls)  # looked before the first was there
    monkeypatch.undo()
    compute(second, volume, [1], 0)
    assert len(calls) == 1
    np.testing.assert_array_equal(second.sections[1], volume[1] + 1)


def test_what_cannot_be_kept(tmp_path):
    volume = squares(5)
    stack = open_stack(volume, tmp_path / "cache", LIMIT)
    for wrong in (lambda a, b, t: a[1:], lambda a, b, t: a.astype(np.float32)):
        with pytest.raises(ValueError, match=r"section 1 must become uint8 \[12, 16"):
            compute(open_cache(stack, recipe(wrong), 1), volume, [1], 0)
    with pytest.raises(ValueError, match="called 'a/b'"):
        open_cache(stack, recipe(None, name="a/b"), 1)
    cache = open_cache(stack, recipe(None), 1)
    whole = cache.path.read_bytes()
    for broken in (whole[:-1], whole[: len(whole) // 2], b"", b"x" * 400):
        cache.path.write_bytes(broken)
        with pytest.raises(ValueError, match="is damaged .*; delete that file"):
            open_cache(stack, recipe(None), 1)


def config_of(tmp_path, volume, **changes):
    folder = tmp_path / "png"
    if not folder.exists():
        folder.mkdir()
        for z, pixels in enumerate(volume):
            images.write_image(folder / f"{z:02d}.png", pixels)
    config = ConfigDict(
        {
            "seed": 1,
            "channels": 1,
            "mask": {"sampler": "deepfill_box", "box": 4, "max_delta": 2},
            "data": {
                "source": str(folder),
                "cache_dir": str(tmp_path / "cache"),
                "max_pixels": LIMIT,
                "damage": "",
                "flag_lost": False,
                "both_neighbors": False,
                "split": "block",
                "validation_fraction": 0.25,
                "test_fraction": 0.25,
                "spacing": 1,
                "largest_shift": 0,
                "neighbor": "psnr",
                "validation_crops": 9,
            },
            "eval": {
                "seed": 2,
                "crop_size": 8,
                "crops_per_section": 2,
                "masks": {
                    "squares": [3],
                    "centre": [],
                    "half": False,
                    "irregular_ratios": [],
                    "stroke_width": [2, 3],
                },
            },
        }
    )
    config.lock()
    config.update_from_flattened_dict(changes)
    return config


def spec(*names, channels=1):
    image = types.SimpleNamespace(shape=(6, 8, 8, channels))
    mask = types.SimpleNamespace(shape=(6, 8, 8, 1))
    return {"mask": mask, **dict.fromkeys(("image", *names), image)}


@pytest.mark.parametrize("spacing", [1, 2])
def test_batches_and_cases_hold_what_is_derived(tmp_path, spacing):
    calls = []
    derived = {"between": recipe(counted(calls)), "unasked": recipe(None)}
    changes = {"data.spacing": spacing, "data.validation_fraction": 0.0}
    changes |= {"data.test_fraction": 0.5}
    config = config_of(tmp_path, squares(14), **changes)
    data = sections.build(config, spec("between"), derived=derived)
    assert data.summary["derived"] == {"between": "d"}
    split = data.summary["split"]
    targets = split["training"][spacing:-spacing]  # both neighbours are needed
    assert data.summary["training_targets"] == targets
    pair = lambda z: ((z - spacing) ** 2, (z + spacing) ** 2)
    assert 0 < len(calls) and set(calls) <= {pair(z) for z in targets}
    batches = [data.batch(step) for step in range(3)] + [data.validation]
    assert sorted(calls) == [pair(z) for z in targets]
    for batch in batches:
        assert set(batch) == {"image", "between", "mask"}
        np.testing.assert_array_equal(batch["between"], batch["image"] + spacing**2)
    tested = split["test"][spacing:-spacing]
    for case in data.test_cases():
        np.testing.assert_array_equal(case.array("between"), case.image + spacing**2)
        np.testing.assert_array_equal(case.array("image"), case.image)
    assert sorted(calls) == [pair(z) for z in targets + tested]
    again = sections.build(config, spec("between"), derived=derived)
    again.batch(0)
    assert len(calls) == len(targets + tested)


def test_nothing_is_derived_from_a_damaged_section(tmp_path):
    folder, calls = tmp_path / "damage", []
    folder.mkdir()
    mask = np.zeros((12, 16, 1), np.uint8)
    mask[3, 4] = 255
    for z in (4, 11):
        images.write_image(folder / f"{z:02d}.png", mask)
    changes = {"data.damage": str(folder), "data.test_fraction": 0.5}
    changes |= {"data.validation_fraction": 0.0}
    config = config_of(tmp_path, squares(14), **changes)
    derived = {"between": recipe(counted(calls))}
    data = sections.build(config, spec("between"), derived=derived)
    data.batch(0)
    list(data.test_cases())
    assert data.summary["split"]["training"] == [0, 1, 2, 3, 5, 6]
    assert data.summary["training_targets"] == [1, 2]
    assert data.summary["test_targets"] == [8, 9]
    assert sorted(calls) == [(0, 4), (1, 9), (49, 81), (64, 100)]


def test_grey_fills_three_channels(tmp_path):
    config = config_of(tmp_path, squares(14), channels=3)
    derived = {"between": recipe(counted([]))}
    data = sections.build(config, spec("between", channels=3), derived=derived)
    batch, case = data.batch(0), next(data.test_cases())
    assert batch["between"].shape == (6, 8, 8, 3)
    np.testing.assert_array_equal(batch["between"], batch["image"] + 1)
    np.testing.assert_array_equal(case.array("between"), case.image + 1)


def test_a_restorer_gets_what_is_derived(tmp_path):
    config = config_of(tmp_path, squares(14))
    derived = {"between": recipe(counted([]))}
    data = sections.build(config, spec("between"), derived=derived)
    cases, given = list(data.test_cases())[:2], {}

    def restore(batch):
        given.update(batch)
        return {"completed": batch["between"]}

    write_restored(cases, ["image", "between", "mask"], restore, 3, 1, tmp_path / "out")
    assert given["between"].shape == (3, 8, 8, 1)
    for case, between, image in zip(
        cases, given["between"], given["image"], strict=False
    ):
        np.testing.assert_array_equal(between, case.image + 1)
        np.testing.assert_array_equal(image, np.where(case.mask, 0, case.image))
        got = images.read_image(tmp_path / "out" / "3x3" / f"{case.name}.png")
        np.testing.assert_array_equal(got, between)


def test_what_nobody_derives_is_refused(tmp_path):
    config = config_of(tmp_path, squares(14))
    with pytest.raises(ValueError, match="asks for .*'between'.*offer .*'other'"):
        sections.build(config, spec("between"), derived={"other": recipe(None)})


def test_sections_too_far_apart_are_refused_before_anything_is_computed(tmp_path):
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (30, 30), np.uint8).repeat(10, 0).repeat(10, 1)
    shifts = (0, 3, 5, 44, 8)
    volume = np.stack([blocks[100:260, 50 + d : 210 + d] for d in shifts])[..., None]
    cache, _ = opened(tmp_path, volume, calls := [])
    with pytest.raises(MisalignedStackError, match=r"sections 1 and 3 .* \(-41, 0\)"):
        compute(cache, volume, [2], 32)
    assert not calls
    compute(cache, volume, [1], 32)
    compute(cache, volume, [2], 41)
    compute(cache, volume, [3], 0)
    assert len(calls) == 3
