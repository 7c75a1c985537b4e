import threading
import time

import numpy as np
import pytest
from PIL import Image

from jaxinpaint.data import mask_banks, mask_sets

RANGES = ((0.01, 0.25), (0.25, 0.40), (0.40, 0.50), (0.50, 0.60))
WALK = {
    "sampler": "walk",
    "ranges": RANGES,
    "bank": 5,
    "bank_seed": 0,
    "widths": (6, 28),
    "start": "anywhere",
    "symmetries": True,
}
EMPTY = {
    "squares": (),
    "half": False,
    "centre": (),
    "irregular_ratios": (),
    "stroke_width": (4, 9),
}


def rng(seed=0):
    return np.random.default_rng(seed)


def banks(**change):
    form = {"count": 3, "widths": (6, 28), "start": "anywhere", "seed": 0, **change}
    return mask_banks.walk_banks(32, 40, **{"ranges": RANGES, **form})


def test_a_bank_is_the_same_in_whatever_order_it_is_used():
    one, other = banks(), banks(count=9)
    assert [bank.label for bank in one] == ["1-25%", "25-40%", "40-50%", "50-60%"]
    for (low, high), a, b in zip(RANGES, one, other, strict=True):
        assert (a.total, b.total) == (3, 9)
        forwards = [a.mask(i) for i in range(3)]
        backwards = [b.mask(i) for i in (2, 1, 0)][::-1]
        for mask, same, i in zip(forwards, backwards, range(3), strict=True):
            assert mask.shape == (32, 40, 1) and mask.dtype == np.uint8
            assert low < mask.mean() < high
            np.testing.assert_array_equal(mask, same)
            np.testing.assert_array_equal(mask, a.mask(i))
        assert (forwards[0] != forwards[1]).any()
    assert (banks(seed=1)[0].mask(0) != one[0].mask(0)).any()


def test_what_a_bank_hands_out_may_be_written_to():
    bank = banks()[0]
    bank.mask(1)[...] = 1
    assert bank.mask(1).mean() < 0.25


def test_threads_share_a_bank(monkeypatch):
    drawn = []

    def slow(*args, **options):
        drawn.append(1)
        time.sleep(0.01)
        return walk(*args, **options)

    walk = mask_banks.walk_mask
    want = [banks()[2].mask(i) for i in range(3)]
    monkeypatch.setattr(mask_banks, "walk_mask", slow)
    bank, got = banks()[2], {}
    threads = [
        threading.Thread(target=lambda n=n: got.setdefault(n, bank.mask(n % 3)))
        for n in range(9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, mask in got.items():
        np.testing.assert_array_equal(mask, want[n % 3])
    before = len(drawn)
    bank.mask(0), bank.mask(2)
    assert len(drawn) == before  # kept


def test_training_takes_ranges_masks_and_positions_alike():
    drawn = mask_sets.training_masks(WALK | {"bank": 2}, 32, 0)(rng(3), 1600)
    share = drawn.mean(axis=(1, 2, 3))
    each = [((share > low) & (share < high)).sum() for low, high in RANGES]
    assert sum(each) == 1600
    assert abs(np.array(each) - 400).max() < 6 * np.sqrt(1600 * 3 / 16)
    kinds, counts = np.unique(drawn.reshape(1600, -1), axis=0, return_counts=True)
    assert len(kinds) == 4 * 2 * 8  # the eight positions of each
    assert abs(counts - 25).max() < 6 * 5
    known = [bank.mask(i)[..., 0] for bank in square_banks() for i in range(2)]
    positions = {
        turned.tobytes()
        for mask in known
        for quarters in range(4)
        for turned in (np.rot90(mask, quarters), np.rot90(mask.T, quarters))
    }
    assert {kind.tobytes() for kind in kinds} == positions
    plain = mask_sets.training_masks(WALK | {"bank": 2, "symmetries": False}, 32, 0)
    kinds = np.unique(plain(rng(3), 200).reshape(200, -1), axis=0)
    assert {kind.tobytes() for kind in kinds} == {mask.tobytes() for mask in known}


def square_banks():
    form = {"count": 2, "widths": (6, 28), "start": "anywhere", "seed": 0}
    return mask_banks.walk_banks(32, 32, ranges=RANGES, **form)


def test_the_bank_does_not_depend_on_the_seed_of_the_run():
    one, other = (mask_sets.training_masks(WALK, 32, seed) for seed in (0, 1))
    np.testing.assert_array_equal(one(rng(1), 20), other(rng(1), 20))
    another = mask_sets.training_masks(WALK | {"bank_seed": 1}, 32, 0)
    assert (one(rng(1), 20) != another(rng(1), 20)).any()


def test_a_square_lies_anywhere():
    square = mask_sets.training_masks({"sampler": "square", "side": 8}, 32, 0)
    drawn = square(rng(), 2500)[..., 0]
    assert (drawn.sum(axis=(1, 2)) == 64).all()
    for axis in (1, 2):
        first = drawn.any(axis=axis).argmax(axis=1)
        assert (drawn.any(axis=axis).sum(axis=1) == 8).all()
        counts = np.bincount(first)  # corners 0 to 24, both among them
        assert len(counts) == 25 and abs(counts - 100).max() < 60
    with pytest.raises(ValueError, match="larger image than size 32"):
        mask_sets.training_masks({"sampler": "square", "side": 32}, 32, 0)


def test_evaluation_takes_mask_i_modulo_the_bank():
    walks = {"walk_bank": 3, "walk_widths": (8, 24), "walk_start": "centre"}
    mask_set = EMPTY | {"squares": (8,), "walk_ranges": ((0.0166, 0.0456),)} | walks
    rows = {
        (label, index): mask
        for label, index, mask in mask_sets.evaluation_masks(mask_set, 64, 80, 7, 1)
    }
    label = "1.66-4.56%"
    assert list(rows) == [(kind, i) for kind in ("8x8", label) for i in range(7)]
    for index in range(7):
        mask = rows[label, index]
        assert mask.shape == (64, 80, 1) and 0.0166 < mask.mean() < 0.0456
        np.testing.assert_array_equal(mask, rows[label, index % 3])
    assert (rows[label, 0] != rows[label, 1]).any()
    other = mask_set | {"squares": (), "walk_bank": 2}
    for _, index, mask in mask_sets.evaluation_masks(other, 64, 80, 2, 1):
        np.testing.assert_array_equal(mask, rows[label, index])
    # One seed for both, and still no mask of the test is trained on.
    trained = mask_banks.walk_banks(
        *(64, 80),
        ranges=((0.0166, 0.0456),),
        count=1,
        widths=(8, 24),
        start="centre",
        seed=1,
    )
    assert (trained[0].mask(0) != rows[label, 0]).any()


@pytest.fixture
def folder(tmp_path):
    """Bars from the left, 10, 20, 30, 45 and 52 % white; grey edges, other files."""
    path = tmp_path / "masks"
    path.mkdir()
    for name, columns in (("b", 10), ("a", 20), ("c", 30), ("d", 45), ("e", 52)):
        pixels = np.zeros((50, 100), np.uint8)
        pixels[:, :columns] = 128  # just above 127
        pixels[:, columns:] = 127
        Image.fromarray(pixels).save(path / f"{name}.png")
    (path / "notes.txt").write_text("no mask")
    return path


def test_folder_masks_are_binned_by_their_share(folder):
    got = mask_banks.folder_banks(
        folder, 32, 64, polarity="hole_is_white", ranges=RANGES
    )
    assert [bank.total for bank in got] == [2, 1, 1, 1]
    first = got[0].mask(0)  # a.png comes first: by name
    assert first.shape == (32, 64, 1) and abs(first.mean() - 0.2) < 0.01
    assert first[:, :12].all() and not first[:, 14:].any()
    with pytest.warns(UserWarning, match="inverted"):
        black = mask_banks.folder_banks(
            *(folder, 32, 64),
            polarity="hole_is_black",
            ranges=((0.4, 0.6), (0.6, 0.95)),
        )
    assert [bank.total for bank in black] == [2, 3]  # 48, 55 | 70, 80, 90
    np.testing.assert_array_equal(black[1].mask(0), 1 - first)


def test_folder_masks_are_resized_as_pillow_takes_the_nearest(tmp_path):
    pixels = rng().integers(0, 256, (37, 53)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "m.png")
    for height, width in ((16, 16), (37, 53), (80, 100)):
        (bank,) = mask_banks.folder_banks(
            tmp_path, height, width, polarity="hole_is_white", ranges=((0.3, 0.7),)
        )
        want = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(bank.mask(0)[..., 0], np.asarray(want) > 127)


def test_folder_masks_train_and_evaluate(folder):
    config = {"sampler": "folder", "folder": str(folder), "polarity": "hole_is_white"}
    config |= {"ranges": RANGES[1:], "symmetries": False}
    drawn = mask_sets.training_masks(config, 32, 0)(rng(), 300)
    share = np.round(drawn.mean(axis=(1, 2, 3)), 2)
    values, counts = np.unique(share, return_counts=True)
    assert len(values) == 3 and abs(counts - 100).max() < 6 * np.sqrt(300 * 2 / 9)
    turned = mask_sets.training_masks(config | {"symmetries": True}, 32, 0)(rng(), 300)
    assert len(np.unique(turned.reshape(300, -1), axis=0)) == 3 * 4  # bars
    mask_set = EMPTY | {
        "folder": str(folder),
        "folder_polarity": "hole_is_white",
        "folder_ranges": RANGES[:2],
    }
    rows = list(mask_sets.evaluation_masks(mask_set, 32, 48, 3, 0))
    assert [row[:2] for row in rows] == [
        (label, i) for label in ("1-25%", "25-40%") for i in range(3)
    ]
    np.testing.assert_array_equal(rows[0][2], rows[2][2])  # two masks in the range
    assert (rows[0][2] != rows[1][2]).any()


def test_folders_that_are_refused(folder, tmp_path):
    read = lambda path, **change: mask_banks.folder_banks(
        path, 32, 32, **{"polarity": "hole_is_white", "ranges": RANGES, **change}
    )
    with pytest.raises(ValueError, match="polarity is 'white'; it is one of"):
        read(folder, polarity="white")
    with pytest.raises(
        ValueError, match="none of its 5 masks is 90-95% hole.*polarity"
    ):
        read(folder, ranges=((0.9, 0.95),))
    with pytest.raises(ValueError, match="0 < lo < hi < 1"):
        read(folder, ranges=((0.4, 0.2),))
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no mask"):
        read(tmp_path / "empty")
    for pixels in (np.zeros((8, 8), np.uint16), np.eye(8 * 3, dtype=np.uint8)):
        if pixels.dtype == np.uint8:
            pixels = 255 * pixels.reshape(-1, 8, 3)
        Image.fromarray(pixels).save(folder / "z.png")
        with pytest.raises(ValueError, match="z.png: a mask is an 8-bit image without"):
            read(folder)


def test_an_inverted_folder_is_suspicious(folder):
    words = "more than 60 % holes: is the mask inverted. 1 means hole"
    with pytest.warns(UserWarning, match=words):  # 68.6 % black on average
        mask_banks.folder_banks(
            folder, 32, 64, polarity="hole_is_black", ranges=((0.4, 0.6),)
        )
    with pytest.warns(UserWarning, match=words):
        banks(ranges=((0.6, 0.8),))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"ranges": ()}, "one range or more"),
        ({"ranges": ((0.2, 0.3), (0.2, 0.3))}, "called 20-30%"),
        ({"ranges": ((0.3, 0.2),)}, "0 < lo < hi < 1"),
        ({"count": 0}, "1 or more"),
        ({"start": "corner"}, "'corner'"),
    ],
)
def test_banks_refuse(change, words):
    with pytest.raises(ValueError, match=words):
        banks(**change)


def test_a_bank_says_at_once_that_its_range_cannot_be_met():
    with pytest.raises(RuntimeError, match="could not draw a mask in"):
        banks(ranges=((0.5, 0.5001),))


def test_an_evaluation_has_walks_or_a_folder():
    both = EMPTY | {"walk_ranges": RANGES, "folder": "masks"}
    with pytest.raises(ValueError, match="walk_ranges.*the folder 'masks'"):
        next(mask_sets.evaluation_masks(both, 32, 32, 1, 0))
    none = EMPTY | {"walk_ranges": RANGES, "walk_bank": 0, "folder": ""}
    none |= {"walk_widths": (6, 28), "walk_start": "anywhere"}
    with pytest.raises(ValueError, match="walk_bank must be 1 or more"):
        next(mask_sets.evaluation_masks(none, 32, 32, 1, 0))


@pytest.mark.slow
def test_the_banks_of_rnon_are_made_in_seconds():
    """Measured: 19 s of one core for 8000 masks at 256 x 256."""
    start = time.process_time()
    form = {"count": 500, "widths": (6, 28), "start": "anywhere", "seed": 0}
    for bank in mask_banks.walk_banks(256, 256, ranges=RANGES, **form):
        for index in range(500):
            bank.mask(index)
    assert time.process_time() - start < 15  # a quarter of the banks
