"""`jaxinpaint masks`: what is in the folder, and that anybody gets the same."""

import hashlib
import json
import re

import numpy as np
import pytest
from PIL import Image

from jaxinpaint import cli


def masks(folder, *words):
    return cli.main(["masks", f"--output={folder}", *words])


def read(path):
    return np.array(Image.open(path))


def manifest(folder):
    return json.loads((folder / "masks.json").read_text())


def test_masks_and_their_manifest(tmp_path, capsys):
    words = ["--kind=irregular", "--size=40x60", "--ratio=0.1,0.3", "--count=3"]
    words += ["--stroke-width=3-6", "--seed=7"]
    assert masks(tmp_path / "set", *words) == 0
    assert capsys.readouterr().out.splitlines() == [
        "10%: 3 masks, 10.00 to 10.00 % hole",
        "30%: 3 masks, 30.00 to 30.00 % hole",
    ]
    found = manifest(tmp_path / "set")
    assert found["seed"] == 7 and found["mask_polarity"] == "hole"
    assert len(found["files"]) == len(found["masks"]) == 6
    assert found["files"][0] == "10_percent/0000.png"
    for file, entry in zip(found["files"], found["masks"], strict=True):
        mask = read(tmp_path / "set" / file)
        assert mask.shape == (40, 60) and set(np.unique(mask)) == {0, 255}
        share = {"10%": 0.1, "30%": 0.3}[entry["label"]]
        assert np.count_nonzero(mask) == entry["hole_pixels"] == round(share * 2400)
        digest = hashlib.sha256(np.packbits(mask > 0).tobytes()).hexdigest()
        assert digest == entry["sha256"]
    text = json.dumps(found["masks"], sort_keys=True, separators=(",", ":"))
    assert found["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert masks(tmp_path / "again", *words) == 0
    assert manifest(tmp_path / "again")["sha256"] == found["sha256"]
    assert masks(tmp_path / "other", *words[:-1], "--seed=8") == 0
    assert manifest(tmp_path / "other")["sha256"] != found["sha256"]


KINDS = {
    "irregular": ["--ratio=0.2"],
    "exact": ["--ratio=0.2"],
    "walk": ["--ratio=0.1-0.3"],
    "rectangle": ["--ratio=0.3"],
    "square": ["--side=20"],
    "centre": ["--side=20"],
    "half": [],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(tmp_path, kind):
    words = [f"--kind={kind}", "--size=64", *KINDS[kind]]
    assert masks(tmp_path / "set", *words) == 0
    mask = read(tmp_path / "set" / "0000.png") > 0
    share = mask.mean()
    if kind in ("square", "centre"):
        rows, columns = np.nonzero(mask)
        assert mask.sum() == 400 and np.ptp(rows) == np.ptp(columns) == 19
    elif kind == "walk":
        assert 0.1 < share < 0.3
    elif kind == "rectangle":
        assert 0.27 < share <= 0.3
    elif kind == "half":
        assert mask[:, :32].all() and not mask[:, 32:].any()
    else:
        assert mask.sum() == round(0.2 * 64 * 64)


def test_a_mask_for_each_image(tmp_path):
    sizes = {"a": (30, 50), "b": (40, 44), "c": (30, 50)}
    (tmp_path / "image").mkdir()
    for name, size in sizes.items():
        blank = np.zeros((*size, 3), np.uint8)
        Image.fromarray(blank).save(tmp_path / "image" / f"{name}.jpg")
    words = ["--kind=exact", "--ratio=0.2", f"--like={tmp_path / 'image'}"]
    assert masks(tmp_path / "set", *words, "--mask-polarity=valid") == 0
    for name, size in sizes.items():
        mask = read(tmp_path / "set" / f"{name}.png")
        assert mask.shape == size
        assert (mask == 0).sum() == round(0.2 * size[0] * size[1])  # white is valid
    a, c = (read(tmp_path / "set" / f"{name}.png") for name in "ac")
    assert (a != c).any()
    assert sorted(manifest(tmp_path / "set")["files"]) == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kind=irregular", "--size=64"], "--kind irregular needs --ratio"),
        (["--kind=half", "--size=64", "--side=3"], "half does not take --side"),
        (["--kind=square", "--size=64", "--side=x"], "--side is 'x'"),
        (["--kind=square", "--size=64", "--side=99"], "boxes .* must have 1 to 64"),
        (["--kind=exact", "--size=64", "--ratio=30"], "--ratio is '30'"),
        (["--kind=walk", "--size=64", "--ratio=0.1"], "--ratio is '0.1'; give LOW"),
        (["--kind=walk", "--size=9", "--ratio=0.5-0.5001"], "walk|range|narrow"),
        (["--kind=half", "--size=0"], "--size is '0'"),
        (["--kind=half", "--size=64", "--count=0"], "--count is 0"),
    ],
)
def test_wrong_use_writes_nothing(tmp_path, words, message, capsys):
    assert masks(tmp_path / "set", *words) == 2
    told = capsys.readouterr()
    assert len(told.err.splitlines()) == 1

    assert re.search(message, told.err)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert masks(tmp_path, "--kind=half", "--size=8") == 2
    assert "is no empty folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert masks(tmp_path / "empty", "--kind=half", "--size=8") == 0
    assert sorted(p.name for p in (tmp_path / "empty").iterdir()) == [
        "0000.png",
        "masks.json",
    ]
