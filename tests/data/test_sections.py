import itertools
import pathlib
import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxinpaint.data import images, mask_sets, phantoms, sections
from jaxinpaint.data.neighbors import MissingNeighborError, NeighborLeakError
from jaxinpaint.data.split import list_samples, split_sections
from jaxinpaint.data.windows import View, cut

SAMPLES = pathlib.Path(__file__).parents[2] / "../shared/data"
Z, H, W = 12, 20, 26


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    """Masks and phantoms of known form: what is tested here is what calls them."""

    def training_masks(mask_config, size, seed):
        assert seed == mask_config.seed

        def draw(rng, count):
            masks = np.zeros((count, size, size, 1), np.uint8)
            for mask, at in zip(masks, rng.integers(size, size=count), strict=True):
                mask[at] = 1
            return masks

        return draw

    def evaluation_masks(eval_config, height, width, count, seed):
        assert eval_config.kind == "fake" and seed == 9
        for label in ("top", "left"):
            for index in range(count):
                mask = np.zeros((height, width, 1), np.uint8)
                mask[(slice(0, 2), slice(None))[:: 1 if label == "top" else -1]] = 1
                yield label, index, mask

    def tissue(*, sections, height, width, seed):
        rng = np.random.default_rng(seed)
        return rng.integers(0, 256, (sections, height, width, 1), np.uint8)

    monkeypatch.setattr(mask_sets, "training_masks", training_masks)
    monkeypatch.setattr(mask_sets, "evaluation_masks", evaluation_masks)
    monkeypatch.setattr(phantoms, "tissue", tissue)


def shape(*axes):
    return types.SimpleNamespace(shape=axes)


def spec(*names, rows=6, size=8, channels=1):
    image = shape(rows, size, size, channels)
    return {
        "mask": shape(rows, size, size, 1),
        **dict.fromkeys(("image", *names), image),
    }


def config_of(tmp_path, **changes):
    config = ConfigDict(
        {
            "seed": 7,
            "channels": 1,
            "mask": {"seed": 7},
            "data": {
                "source": "phantom",
                "cache_dir": str(tmp_path / "cache"),
                "max_pixels": 100_000,
                "split": "block",
                "validation_fraction": 0.2,
                "test_fraction": 0.25,
                "spacing": 1,
                "largest_shift": 0,
                "neighbor": "psnr",
                "validation_crops": 5,
                "phantom": {"sections": Z, "height": H, "width": W, "seed": 3},
                "damage": "",
                "flag_lost": False,
                "both_neighbors": False,
            },
            "eval": {
                "crop_size": 10,
                "crops_per_section": 2,
                "masks": {"kind": "fake"},
                "seed": 9,
            },
        }
    )
    config.lock()
    config.update_from_flattened_dict(changes)
    return config


def phantom(count=Z):
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (count, H, W, 1), np.uint8)


def write(folder, stack):
    folder.mkdir()
    for z, pixels in enumerate(stack):
        images.write_image(folder / f"{z:02d}.png", pixels)
    return str(folder)


def smooth(count, *size):
    """Sections that change slowly, so that neighbours are known by value."""
    steps = np.arange(count, dtype=np.uint8).reshape(-1, *[1] * len(size)) * 2
    rng = np.random.default_rng(0)
    return (rng.integers(0, 200, size, np.uint8) + steps).astype(np.uint8)


def where(window, volume):
    """Position of the section that a window of random pixels was cut from."""
    (size,) = {*window.shape[:2]}
    views = np.lib.stride_tricks.sliding_window_view(
        volume[..., 0], (size, size), (1, 2)
    )
    found = (views == window[..., 0]).all(axis=(-1, -2))
    ((z, y, x),) = np.argwhere(found)
    return int(z), int(y), int(x)


def same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def test_block_split_by_hand():
    got = split_sections(range(10), "block", 0.2, 0.3, 0)
    assert got == ((0, 1, 2, 3, 4), (5, 6), (7, 8, 9))


def test_a_block_of_cremi_is_the_split_of_r42():
    """Training centres 1 to 98 of sections 0 to 99, test centres 101 to 123."""
    got = split_sections(range(125), "block", 0.0, 0.2, 0)
    assert got.training == tuple(range(100)) and got.test == tuple(range(100, 125))
    centres = [
        [one.target for one in list_samples(part, part, (), True)]
        for part in (got.training, got.test)
    ]
    assert centres == [list(range(1, 99)), list(range(101, 124))]


@pytest.mark.parametrize("how", ["random", "block"])
def test_splits_are_disjoint_and_complete(how):
    rng = np.random.default_rng(0)
    seen = set()
    for trial in range(200):
        count = int(rng.integers(6, 60))
        sound = np.flatnonzero(rng.random(count) < 0.9).tolist()
        parts = rng.random(2) * 0.3
        if len(sound) < 6:
            continue
        got = split_sections(sound, how, *parts, trial)
        assert sorted(itertools.chain(*got)) == sound
        assert all(list(part) == sorted(part) for part in got)
        assert got == split_sections(sound, how, *parts, trial)
        if how == "block":
            assert max(got.training) < min(got.validation) < min(got.test)
        seen.add(got)
        for both in (False, True):
            damaged = set(range(count)) - set(sound)
            for one in list_samples(got.training, got.training, damaged, both):
                assert {one.target, *one.candidates} <= set(got.training)
                assert {abs(one.target - z) for z in one.candidates} == {1}
                assert len(one.candidates) == 2 or not both
    assert len(seen) > 150


def test_random_splits_follow_the_seed():
    got = {split_sections(range(30), "random", 0.1, 0.1, seed) for seed in range(20)}
    assert len(got) == 20


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((range(9), "blocks", 0.1, 0.1, 0), "'blocks'"),
        ((range(9), "block", 0.1, 1.0, 0), "1.0"),
        ((range(9), "block", -0.1, 0.1, 0), "-0.1"),
        ((range(3), "block", 0.1, 0.1, 0), "leave 1 for training"),
    ],
)
def test_splits_that_cannot_be(arguments, words):
    with pytest.raises(ValueError, match=words):
        split_sections(*arguments)


def test_samples_by_hand():
    # 3 is damaged: 2 keeps 1, 4 keeps 5, and no target may lean on 3 alone.
    assert list_samples((2, 4), range(6), {3}, False) == ((2, (1, 3)), (4, (3, 5)))
    assert list_samples((2, 4), range(6), {3}, True) == ()
    assert list_samples((2, 4), (2, 3, 4), {3}, False) == ()
    assert list_samples((0, 1, 5), range(6), (), True) == ((1, (0, 2)),)


def test_samples_two_sections_away_by_hand():
    # 0 has none before it, 3 is damaged, and a neighbour must be allowed.
    assert list_samples((0, 2, 5), range(8), {3}, False, 2) == (
        (0, (2,)),
        (2, (0, 4)),
        (5, (3, 7)),
    )
    assert list_samples((0, 2, 5), range(8), {3}, True, 2) == ((2, (0, 4)),)
    assert list_samples((2, 3), (1, 2, 3, 4), (), False, 2) == ((2, (4,)), (3, (1,)))


@pytest.mark.parametrize("how", ["block", "random"])
@pytest.mark.parametrize("guide", ["psnr", "random"])
@pytest.mark.parametrize("spacing", [2, 3])
def test_neighbors_some_sections_away(tmp_path, how, guide, spacing):
    changes = {"data.split": how, "data.neighbor": guide, "data.spacing": spacing}
    changes |= {"data.phantom.sections": 24, "data.validation_fraction": 0.1}
    config = config_of(tmp_path, **changes)
    names = ("neighbor", "previous", "following")
    data = sections.build(config, spec(*names))
    volume = phantom(24)
    parts = {name: set(zs) for name, zs in data.summary["split"].items()}
    assert data.summary["training_neighbor_distance"] == spacing
    for batch in [data.batch(step) for step in range(8)]:
        for row in range(6):
            at = {n: where(batch[n][row], volume) for n in ("image", *names)}
            assert len({place[1:] for place in at.values()}) == 1
            z = at["image"][0]
            assert at["previous"][0] == z - spacing
            assert at["following"][0] == z + spacing
            assert abs(at["neighbor"][0] - z) == spacing
            assert {place[0] for place in at.values()} <= parts["training"]
    read = {where(w, volume)[0] for name in names for w in data.validation[name]}
    assert not read & parts["test"]
    for case in data.test_cases():
        z = where(case.image, volume)[0]
        assert z in parts["test"]
        assert where(case.previous, volume)[0] == z - spacing
        assert where(case.following, volume)[0] == z + spacing
        assert abs(where(case.neighbor, volume)[0] - z) == spacing


def test_a_guide_some_sections_away_has_the_larger_psnr(tmp_path):
    stack = smooth(8, H, W, 1)
    stack[5:] += 20  # 3 is far from 5, so it leans on 1; 5 leans on 7, not on 3
    changes = {"data.source": write(tmp_path / "png", stack), "data.spacing": 2}
    changes |= {"data.validation_fraction": 0.0, "data.test_fraction": 0.0}
    data = sections.build(config_of(tmp_path, **changes), spec("neighbor"))
    assert data.summary["training_neighbors"] == [2, 3, 0, 1, 2, 7, 4, 5]


@pytest.mark.parametrize("how", ["block", "random"])
@pytest.mark.parametrize("guide", ["psnr", "random"])
def test_batches_hold_training_sections_alone(tmp_path, how, guide):
    config = config_of(tmp_path, **{"data.split": how, "data.neighbor": guide})
    data = sections.build(config, spec("neighbor"))
    volume, training = phantom(), set(data.summary["split"]["training"])
    held = set(range(Z)) - training
    assert held == {
        *data.summary["split"]["validation"],
        *data.summary["split"]["test"],
    }
    sides = set()
    for step in range(25):
        batch = data.batch(step)
        assert set(batch) == {"image", "neighbor", "mask"}
        for name in batch:
            assert batch[name].shape == (6, 8, 8, 1) and batch[name].dtype == np.uint8
        for image, neighbor in zip(batch["image"], batch["neighbor"], strict=True):
            z, *corner = where(image, volume)
            n, *also = where(neighbor, volume)
            assert {z, n} <= training and abs(z - n) == 1 and corner == also
            sides.add((z, n))
    targets = data.summary["training_targets"]
    assert {z for z, _ in sides} == set(targets)
    if guide == "psnr":
        assert sides == set(
            zip(targets, data.summary["training_neighbors"], strict=True)
        )
    else:
        assert len(sides) > len(targets)  # both sides of most targets were drawn


def test_the_training_neighbor_has_the_larger_psnr(tmp_path):
    stack = smooth(8, H, W, 1)
    stack[4:] += 20  # section 4 is far from 3, so 3 leans on 2 and 4 on 5
    config = config_of(
        tmp_path,
        **{
            "data.source": write(tmp_path / "png", stack),
            "data.validation_fraction": 0.0,
            "data.test_fraction": 0.0,
        },
    )
    data = sections.build(config, spec("neighbor"))
    # Elsewhere both sides are 2 grey levels away: a tie, the previous one.
    assert data.summary["training_neighbors"] == [1, 0, 1, 2, 5, 4, 5, 6]
    assert data.summary["training_neighbor_psnr"] == pytest.approx(42.11020, abs=1e-4)
    assert data.summary["validation_from"] == "training"
    with pytest.raises(ValueError, match="no section is held out for test"):
        next(data.test_cases())


def test_previous_and_following(tmp_path):
    config = config_of(tmp_path, **{"data.split": "block"})
    data = sections.build(config, spec("previous", "following"))
    volume = phantom()
    last = max(data.summary["split"]["training"])
    seen = set()
    for batch in itertools.islice(data.train(0), 20):
        assert set(batch) == {"image", "previous", "following", "mask"}
        for row in range(6):
            a, z, b = (
                where(batch[name][row], volume)
                for name in ("previous", "image", "following")
            )
            assert a[1:] == z[1:] == b[1:]
            assert (a[0], b[0]) == (z[0] - 1, z[0] + 1) and b[0] <= last
            seen.add(z[0])
    assert seen == set(range(1, last))
    # Three test sections leave one target with both neighbours among them.
    assert data.summary["split"]["test"] == [9, 10, 11]
    assert data.summary["test_targets"] == [10]
    assert data.summary["test_targets_beside_training"] == []


def test_a_batch_depends_on_seed_and_step_alone(tmp_path):
    config = config_of(tmp_path)
    data = sections.build(config, spec("neighbor"))
    straight = list(itertools.islice(data.train(0), 6))
    for start in (0, 1, 4):
        for one, two in zip(data.train(start), straight[start:], strict=False):
            same(one, two)
    again = sections.build(config, spec("neighbor"))
    same(again.batch(5), straight[5])
    same(again.validation, data.validation)
    config.seed = 8  # a config that changes under a run changes no batch
    same(again.batch(5), straight[5])
    assert not np.array_equal(straight[0]["image"], straight[1]["image"])


@pytest.mark.parametrize("count", [2, 3, 6])
def test_processes_share_one_batch(tmp_path, count):
    config = config_of(tmp_path)
    whole = sections.build(config, spec("neighbor"))
    parts = [sections.build(config, spec("neighbor"), p, count) for p in range(count)]
    for step in (0, 3):
        batches = [part.batch(step) for part in parts]
        assert all(len(batch["mask"]) == 6 // count for batch in batches)
        union = {n: np.concatenate([b[n] for b in batches]) for n in batches[0]}
        same(union, whole.batch(step))
    same(parts[-1].validation, whole.validation)


def test_validation_is_held_out(tmp_path):
    data = sections.build(config_of(tmp_path), spec("neighbor"))
    volume, batch = phantom(), data.validation
    assert data.summary["validation_from"] == "validation"
    assert len(batch["image"]) == len(batch["mask"]) == 5
    held = set(data.summary["split"]["validation"])
    for image, neighbor in zip(batch["image"], batch["neighbor"], strict=True):
        assert {where(image, volume)[0], where(neighbor, volume)[0]} <= held


@pytest.mark.parametrize("split", ["block", "random"])
@pytest.mark.parametrize("names", [("neighbor",), ("previous", "following")])
def test_validation_reads_no_test_section(tmp_path, split, names):
    volume, from_validation = phantom(), 0
    for seed in range(6):
        changes = {"seed": seed, "mask.seed": seed, "data.split": split}
        changes["data.validation_fraction"] = 0.1  # one section, beside test in a block
        data = sections.build(config_of(tmp_path, **changes), spec(*names))
        from_validation += data.summary["validation_from"] == "validation"
        parts, read = data.summary["split"], set()
        for name in ("image", *names):
            read |= {where(window, volume)[0] for window in data.validation[name]}
        assert not read & set(parts["test"])
    assert from_validation or (split, names[0]) == ("block", "previous")


@pytest.mark.parametrize("how", ["block", "random"])
def test_test_cases_are_exact_slices(tmp_path, how):
    data = sections.build(config_of(tmp_path, **{"data.split": how}), spec("neighbor"))
    volume, split = phantom(), data.summary["split"]
    cases = list(data.test_cases())
    assert len(cases) == 2 * 3 * 2  # labels, sections, crops
    assert len({(c.name, c.label) for c in cases}) == len(cases)
    beside = set()
    for case in cases:
        z, *corner = where(case.image, volume)
        n, *also = where(case.neighbor, volume)
        assert z in split["test"] and abs(n - z) == 1 and corner == also
        assert case.name.startswith(f"section_{z:02d}_crop_0")
        assert case.neighbor_name == f"section_{n:04d}"
        assert case.neighbor_in_training == (n in split["training"])
        if how == "block":
            assert n in split["test"]
        if n in split["training"]:
            beside.add(z)
        assert case.mask.shape == (10, 10, 1)
        for other, at in ((case.previous, z - 1), (case.following, z + 1)):
            if not 0 <= at < Z:
                assert other is None
            else:
                assert where(other, volume) == (at, *corner)
    assert beside <= set(data.summary["test_targets_beside_training"])
    for one, two in zip(cases, data.test_cases(), strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_test_section_alone_leans_on_the_one_before(tmp_path):
    changes = {"data.validation_fraction": 0.0, "data.test_fraction": 0.01}
    data = sections.build(config_of(tmp_path, **changes), spec("neighbor"))
    assert data.summary["split"]["test"] == [11]
    assert data.summary["test_targets_beside_training"] == [11]
    for case in data.test_cases():
        assert case.neighbor_in_training and case.neighbor_name == "section_0010"
        assert case.following is None


def test_whole_sections(tmp_path):
    data = sections.build(
        config_of(tmp_path, **{"eval.crop_size": 0}), spec("neighbor")
    )
    volume = phantom()
    for case in data.test_cases():
        z = int(case.name.split("_")[1])
        np.testing.assert_array_equal(case.image, volume[z])
        assert case.mask.shape == (H, W, 1)


def test_the_test_neighbor_is_chosen_over_valid_pixels(tmp_path):
    # Section 7 of 9 is all ones. 6 equals it outside the rows "top" hides, 8 outside
    # the columns "left" hides.
    stack = smooth(9, H, W, 1)
    stack[7], stack[6], stack[8] = 1, 1, 1
    stack[7, ::2] = 9
    stack[6:9:2] = stack[7]
    stack[6, 0:2], stack[8, :, 0:2] = 100, 101
    changes = {
        "data.source": write(tmp_path / "png", stack),
        "eval.crop_size": 0,
        "eval.crops_per_section": 1,
    }
    config = config_of(tmp_path, **changes)
    config.data.test_fraction = 0.34
    data = sections.build(config, spec("neighbor"))
    assert data.summary["split"]["test"] == [6, 7, 8]
    got = {c.label: c.neighbor_name for c in data.test_cases() if "_07_" in c.name}
    assert got == {"top": "06", "left": "08"}


def test_damage(tmp_path):
    stack = smooth(10, H, W, 1)
    source, folder = write(tmp_path / "png", stack), tmp_path / "damage"
    holes = {name: np.zeros((H, W, 1), np.uint8) for name in ("02", "08", "05")}
    holes["02"][4:6] = 255
    holes["08"][0, 0] = 255  # and 05 turns out to have no damage
    write(folder, [])
    for name, mask in holes.items():
        images.write_image(folder / f"{name}.png", mask)
    changes = {
        "data.source": source,
        "data.damage": str(folder),
        "eval.crop_size": 0,
        "eval.crops_per_section": 1,
        "data.split": "random",
        "data.validation_fraction": 0.0,
    }
    seen, leaned = set(), set()
    for seed in range(12):
        config = config_of(tmp_path, **changes, **{"seed": seed, "mask.seed": seed})
        data = sections.build(config, spec("neighbor"))
        assert data.summary["damaged"] == [2, 8]
        parts = data.summary["split"]
        assert sorted(sum(parts.values(), [])) == [0, 1, 3, 4, 5, 6, 7, 9]
        assert not {2, 8} & set(data.summary["training_neighbors"])
        for case in data.test_cases():
            z = int(case.name.split("_")[1])
            seen.add(z)
            assert case.neighbor_name != "08"
            # The damage of 8 is in both holes, that of 2 in the left columns alone.
            hurt = {8} if case.label == "top" else {2, 8}
            assert (case.following is None) == (z + 1 in hurt)
            assert (case.previous is None) == (z == 0 or z - 1 in hurt)
            if case.neighbor_name == "02":
                leaned.add((z, case.label))
    assert 7 in seen and 9 not in seen  # 9 would lean on 8 alone
    assert leaned == {(3, "top")}  # where 2 is sound, a tie goes to the previous one


def test_grey_fills_three_channels(tmp_path):
    config = config_of(tmp_path, channels=3)
    data = sections.build(config, spec("neighbor", channels=3))
    one = sections.build(config_of(tmp_path), spec("neighbor"))
    got, want = data.batch(2), one.batch(2)
    np.testing.assert_array_equal(got["image"], np.repeat(want["image"], 3, axis=-1))
    np.testing.assert_array_equal(got["mask"], want["mask"])
    for case, grey in zip(data.test_cases(), one.test_cases(), strict=True):
        np.testing.assert_array_equal(case.image, np.repeat(grey.image, 3, axis=-1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [6, 7])  # pixels are spread in pairs, an odd one too
def test_grey_is_spread_over_colour(dtype, size):
    rng = np.random.default_rng(1)
    grey = rng.integers(0, np.iinfo(dtype).max, (4, 9, 11, 1), dtype, endpoint=True)
    z, corner = np.array([1, 2, 1]), np.array([[0, 0], [2, 3], [1, 4]])
    got = cut(View(grey, {}, 3), ["image", "following"], z, z, corner, size)
    for name, ahead in (("image", 0), ("following", 1)):
        assert got[name].dtype == dtype and got[name].flags.c_contiguous
        for row, at, (top, left) in zip(got[name], z + ahead, corner, strict=True):
            window = grey[at, top : top + size, left : left + size]
            np.testing.assert_array_equal(row, np.repeat(window, 3, axis=-1))


def test_sixteen_bits_stay_sixteen(tmp_path):
    stack = smooth(6, H, W, 1).astype(np.uint16) * 257
    config = config_of(tmp_path, **{"data.source": write(tmp_path / "png", stack)})
    data = sections.build(config, spec("neighbor"))
    assert data.batch(0)["image"].dtype == data.validation["image"].dtype == np.uint16
    assert next(data.test_cases()).image.dtype == np.uint16


def test_twelve_bits_in_sixteen_are_not_rescaled_in_silence(tmp_path):
    def opened(name, stack):
        source = write(tmp_path / name, stack)
        return sections.build(config_of(tmp_path, **{"data.source": source}), spec())

    stack = smooth(6, H, W, 1).astype(np.uint16) * 16
    with pytest.raises(ValueError, match="uint16 with maximum 3[0-9]{3}. Rescale"):
        opened("dark", stack)
    stack[0, 0, 0] = 4096  # windows without it may be dark
    opened("full", stack)


@pytest.mark.parametrize(
    "changes, shapes, words",
    [
        ({}, {"size": 21}, "21 x 21, but the sections of phantom are 20 x 26"),
        ({"eval.crop_size": 24}, {}, "eval.crop_size needs crops of 24 x 24.*20 x 26"),
        ({"channels": 3}, {}, "config.channels is 3 and the system's image has 1"),
        ({"channels": 2}, {"channels": 2}, "both must be 1, or both 3"),
        ({"data.neighbor": "best"}, {}, "'best'"),
        ({"data.split": "half"}, {}, "'half'"),
        ({"data.spacing": 0}, {}, "data.spacing is 0"),
        ({"data.max_pixels": 519}, {}, "20 x 26 is more than 519"),
        ({"eval.crops_per_section": 0}, {}, "crops_per_section is 0"),
        ({"data.test_fraction": 0.9}, {}, "for training; at least 2"),
    ],
)
def test_what_does_not_fit(tmp_path, changes, shapes, words):
    with pytest.raises(ValueError, match=words):
        sections.build(config_of(tmp_path, **changes), spec("neighbor", **shapes))


def test_batches_that_cannot_be_made(tmp_path):
    config = config_of(tmp_path)
    with pytest.raises(ValueError, match="asks for .*'label'"):
        sections.build(config, spec("label"))
    with pytest.raises(ValueError, match="image and mask among them"):
        sections.build(config, {"image": shape(6, 8, 8, 1)})
    with pytest.raises(ValueError, match="8 x 9"):
        form = {"image": shape(6, 8, 9, 1), "mask": shape(6, 8, 9, 1)}
        sections.build(config, form)
    with pytest.raises(ValueError, match="6 rows cannot be shared by 4"):
        sections.build(config, spec("neighbor"), 0, 4)


def test_stacks_that_cannot_be_used(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (6, H, W, 3), np.uint8)
    config = config_of(tmp_path, **{"data.source": write(tmp_path / "rgb", colour)})
    with pytest.raises(ValueError, match="in colour; set it to 3"):
        sections.build(config, spec("neighbor"))
    twice = smooth(6, H, W, 1)
    twice[2] = twice[1]
    config = config_of(tmp_path, **{"data.source": write(tmp_path / "twice", twice)})
    with pytest.raises(NeighborLeakError, match="equals section"):
        sections.build(config, spec("neighbor"))
    config = config_of(tmp_path, **{"data.phantom.sections": 1})
    with pytest.raises(MissingNeighborError, match="at least 2"):
        sections.build(config, spec("neighbor"))
    config = config_of(tmp_path, **{"data.phantom.sections": 4})
    with pytest.raises(MissingNeighborError, match="has both neighbours"):
        sections.build(config, spec("previous"))


def test_damage_masks_that_belong_nowhere(tmp_path):
    source = write(tmp_path / "png", smooth(6, H, W, 1))
    folder = tmp_path / "damage"
    folder.mkdir()
    config = config_of(tmp_path, **{"data.source": source, "data.damage": str(folder)})
    images.write_image(folder / "17.png", np.zeros((H, W, 1), np.uint8))
    with pytest.raises(ValueError, match="no section is called '17'"):
        sections.build(config, spec("neighbor"))
    (folder / "17.png").rename(folder / "03.png")
    sections.build(config, spec("neighbor"))
    images.write_image(folder / "03.png", np.zeros((H, W + 1, 1), np.uint8))
    with pytest.raises(ValueError, match="is 20 x 27, but its section is 20 x 26"):
        sections.build(config, spec("neighbor"))


@pytest.mark.skipif(not SAMPLES.exists(), reason="no sample data beside the checkout")
def test_a_sample_stack(tmp_path):
    changes = {"data.source": str(SAMPLES / "fibsem_medulla"), "eval.crop_size": 0}
    data = sections.build(config_of(tmp_path, **changes), spec("neighbor", size=64))
    assert data.summary["shape"] == [48, 250, 250, 1]
    # The better of two neighbours is above the mean of 26.83 dB over all pairs.
    assert 26.83 < data.summary["training_neighbor_psnr"] < 28.0
    assert data.summary["split"]["test"] == list(range(36, 48))


def test_a_system_of_one_neighbour_can_be_tested_where_those_of_both_are(tmp_path):
    source = write(tmp_path / "stack", phantom())

    def cases(*neighbours, both):
        changes = {"data.source": source, "data.both_neighbors": both}
        data = sections.build(config_of(tmp_path, **changes), spec(*neighbours))
        return [(c.name, c.label, c.image.tobytes()) for c in data.test_cases()]

    want = cases("previous", "following", both=False)
    assert cases("neighbor", both=True) == want
    # Without it, the first and the last of three test sections are targets too.
    assert len(cases("neighbor", both=False)) == 3 * len(want)
