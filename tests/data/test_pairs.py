"""Files of several folders, matched by name."""

import pytest

from jaxinpaint.data import pairs


def folder(path, *names):
    path.mkdir()
    for name in names:
        (path / name).write_bytes(b"")
    return path


def test_images_are_named_by_stem(tmp_path):
    source = folder(
        tmp_path / "x", "b.PNG", "a.b.tiff", ".c.png", "notes.txt", "d.jpeg"
    )
    (source / "inner.png").mkdir()
    (source / "inner").mkdir()
    got = pairs.images_by_name(source)
    assert {name: path.name for name, path in got.items()} == {
        "a.b": "a.b.tiff",
        "b": "b.PNG",
        "d": "d.jpeg",
    }


def test_a_suffix_is_cut_off(tmp_path):
    source = folder(tmp_path / "x", "a.png", "a_mask.png", "b_mask.png", "c.png")
    masks = pairs.images_by_name(source, "_mask")
    assert {name: path.name for name, path in masks.items()} == {
        "a": "a_mask.png",
        "b": "b_mask.png",
    }


def test_masks_beside_their_images_are_no_images(tmp_path):
    source = folder(tmp_path / "x", "a.png", "a_mask.png", "b_mask.png", "c.png")
    assert set(pairs.images_by_name(source, beside=["_mask", ""])) == {
        "a",
        "b_mask",  # no b: this may be an image's own name
        "c",
    }


def test_a_file_is_a_folder_of_one(tmp_path):
    source = folder(tmp_path / "x", "a_mask.png")
    assert pairs.images_by_name(source / "a_mask.png", "_mask") == {
        "a": source / "a_mask.png"
    }


@pytest.mark.parametrize(
    ("files", "suffix", "message"),
    [
        (["a.png", "a.jpg", "b.png"], "", "a.jpg and a.png have one name"),
        ([], "", "holds no image"),
        (["notes.txt"], "", "holds no image"),
        (["a.png"], "_mask", "no image whose stem ends in '_mask'"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, files, suffix, message):
    source = folder(tmp_path / "x", *files)
    with pytest.raises(ValueError, match=message):
        pairs.images_by_name(source, suffix)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pairs.images_by_name(tmp_path / "nowhere")


def test_names_that_are_in_every_folder():
    got = pairs.match(
        {"truth": {"b": 1, "a": 1, "c": 1}, "pred": {"a": 1, "b": 1, "d": 1}}
    )
    assert got.names == ["a", "b"]
    assert got.missing == {"c": ["pred"], "d": ["truth"]}
    with pytest.raises(ValueError) as raised:
        pairs.match({"truth": dict.fromkeys("abcde"), "pred": {"x": 1}})
    assert str(raised.value) == (
        "no name is in every folder: truth has 'a', 'b', 'c' and 2 more; pred has 'x'."
    )
