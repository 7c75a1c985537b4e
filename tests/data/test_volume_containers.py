"""Containers of volumes: what is read, and that a copy gets the patches and no more."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from jaxinpaint.data import volume_files
from jaxinpaint.data.images import ImageFileError
from jaxinpaint.data.patches import cut_patch, load_patch, save_patch
from jaxinpaint.data.volume_files import Voxel, copy_files, digest
from jaxinpaint.evaluation.volume_inputs import open_volume
from tests.data import volume_examples as examples

PIXELS = 10_000
CASES = {
    "stack.tif": (examples.write_tiff, examples.read_tiff, None),
    "folder": (examples.write_folder, examples.read_folder, None),
    "cells.zarr": (examples.write_zarr, examples.read_zarr, None),
    "sample.hdf": (examples.write_hdf5, examples.read_hdf5, None),
    "cells.n5": (examples.write_n5, examples.read_n5, "raw"),
    "cells": (examples.write_precomputed, examples.read_precomputed, None),
    "head.nii.gz": (examples.write_nifti, examples.read_nifti, None),
    "head.nii": (examples.write_nifti, examples.read_nifti, None),
}
NEEDS = {"cells.zarr": "zarr", "sample.hdf": "h5py"}
NEEDS |= dict.fromkeys(("head.nii", "head.nii.gz"), "nibabel")


def opened(path, dataset=None, axis="z", pixels=PIXELS):
    return open_volume(path, dataset, axis, pixels)


def quiet():
    pass


def some_patches(shape, dtype, sections=(1, 2, 5)):
    """Holes of noise, of values that are told by the position."""
    rng = np.random.default_rng(5)
    found = {}
    for z in sections:
        hole = rng.random(shape[1:3]) < 0.1
        hole[3:9, 4 + z : 12 + z] = True
        if z == 5:
            hole[:] = True
        values = rng.integers(0, 200, (*shape[1:3], 1)).astype(dtype)
        found[z] = (hole, values)
    return found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_copy_gets_the_patches_and_nothing_else_changes(tmp_path, name, dtype):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    write, read, dataset = CASES[name]
    given = examples.content(dtype=dtype)
    (tmp_path / "in").mkdir()
    source = write(tmp_path / "in" / name, given)
    before = {p: p.read_bytes() for p in (tmp_path / "in").rglob("*") if p.is_file()}
    with opened(source, dataset) as volume:
        assert volume.shape == (*given.shape, 1) and volume.dtype == dtype
        volume.read(2, 5)[...] = 1  # a copy: what was read stays as it is
        np.testing.assert_array_equal(volume.read(2, 5)[..., 0], given[2:5])
        found = some_patches(volume.shape, dtype)
        apart = examples.content(3, dtype)[0]
        patches = {
            z: cut_patch(hole, values, apart) for z, (hole, values) in found.items()
        }
        target = tmp_path / f"copy_{name}"  # readers go by the ending
        sha = copy_files(source, volume.files(), target, quiet)
        assert sha == digest(source, volume.files(), quiet)
        volume.apply(target, patches.get)
        with volume.reopen(target) as back:
            got = np.concatenate([back.read(a, b) for a, b in back.blocks()])
        planes = {z: hole.astype(np.uint8) * 255 for z, (hole, _) in found.items()}
        volume.write_layer(
            tmp_path / volume.layer_name("invented"), np.dtype("u1"), planes.get
        )
        volume.write_layer(
            tmp_path / volume.layer_name("apart"), np.dtype(dtype), {4: apart}.get
        )
        names = [volume.layer_name(word) for word in ("invented", "apart")]
    want, marks, other = given.copy(), np.zeros(given.shape, "u1"), np.zeros_like(given)
    other[4] = apart
    for z, (hole, values) in found.items():
        want[z][hole], marks[z] = values[..., 0][hole], hole * 255
    np.testing.assert_array_equal(got[..., 0], want)
    np.testing.assert_array_equal(read(target), want)
    np.testing.assert_array_equal(read(tmp_path / names[0]), marks)
    np.testing.assert_array_equal(read(tmp_path / names[1]), other)
    after = {p: p.read_bytes() for p in (tmp_path / "in").rglob("*") if p.is_file()}
    assert after == before  # what is read is never written to


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("stack.tif", Voxel((40.0, 4.0, 4.0), "nanometer")),
        ("folder", None),
        ("cells.zarr", Voxel((40.0, 4.0, 4.0), "nanometer")),
        ("sample.hdf", Voxel((40.0, 4.0, 4.0), "nanometer")),
        ("cells.n5", Voxel((40.0, 4.0, 4.0), "nanometer")),
        ("cells", Voxel((40.0, 4.0, 4.0), "nanometer")),
        ("head.nii", Voxel((3.0, 0.5, 0.5), "millimeter")),
    ],
)
def test_the_voxel_size(tmp_path, name, want):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    write, _, dataset = CASES[name]
    with opened(write(tmp_path / name, examples.content()), dataset) as volume:
        if want is None:
            assert volume.voxel is None
            return
        assert volume.voxel.unit == want.unit
        np.testing.assert_allclose(volume.voxel.size, want.size, rtol=1e-5)


def test_the_layers_of_a_tiff_and_a_zarr_have_its_voxel_size(tmp_path):
    source = examples.write_tiff(tmp_path / "a.tif", examples.content())
    with opened(source) as volume:
        volume.write_layer(tmp_path / "layer.tif", np.dtype("u1"), lambda z: None)
    with opened(tmp_path / "layer.tif") as layer:
        np.testing.assert_allclose(layer.voxel.size, (40, 4, 4), rtol=1e-5)
        assert layer.voxel.unit == "nanometer"
    pytest.importorskip("zarr")
    for version in (2, 3):
        path = tmp_path / f"{version}.zarr"
        examples.write_zarr(path, examples.content(), version=version, leading=2)
        with opened(path) as volume:
            target = tmp_path / f"layer{version}.zarr"
            volume.write_layer(target, np.dtype("u1"), lambda z: None)
            with volume.reopen(target) as layer:
                assert (layer.voxel, layer.kind) == (volume.voxel, volume.kind)


@pytest.mark.parametrize("axis", ["y", "x"])
@pytest.mark.parametrize("name", ["cells.zarr", "sample.hdf", "cells.n5", "head.nii"])
def test_sections_along_another_axis(tmp_path, name, axis):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    write, read, dataset = CASES[name]
    given = examples.content()
    source = write(tmp_path / name, given)
    turned = np.moveaxis(given, "zyx".index(axis), 0)
    target = tmp_path / f"out_{name}"
    with opened(source, dataset, axis) as volume:
        assert volume.shape == (*turned.shape, 1)
        np.testing.assert_array_equal(volume.read(3, 7)[..., 0], turned[3:7])
        hole = np.zeros(turned.shape[1:], bool)
        hole[2:4, 5:9] = True
        patch = cut_patch(hole, np.full((*hole.shape, 1), 7, np.uint8), None)
        copy_files(source, volume.files(), target, quiet)
        volume.apply(target, {3: patch}.get)
    want = given.copy()
    np.moveaxis(want, "zyx".index(axis), 0)[3][hole] = 7
    np.testing.assert_array_equal(read(target), want)


@pytest.mark.parametrize("more", [{"compression": "zlib"}, {"predictor": 2}])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_compressed_tiffs_grow_and_keep_their_tags(tmp_path, more, byteorder):
    given = np.zeros(examples.SHAPE, np.uint16)  # packs well, noise does not
    more = {"compression": "zlib", **more}
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, given, byteorder=byteorder, description="of a microscope", rowsperstrip=7,
        photometric="minisblack", metadata=None, **more,
    )  # fmt: skip
    noise = examples.content(dtype="uint16")[0, ..., None]
    hole = np.zeros(given.shape[1:], bool)
    hole[:9] = True
    with opened(path) as volume:
        copy_files(path, volume.files(), tmp_path / "b.tif", quiet)
        volume.apply(tmp_path / "b.tif", {2: cut_patch(hole, noise, None)}.get)
    given[2][hole] = noise[..., 0][hole]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), given)
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        assert tiff.pages[0].description == "of a microscope"
        assert tiff.byteorder == byteorder


def test_lower_resolutions_follow_where_something_was_invented(tmp_path):
    pytest.importorskip("zarr")
    given = examples.content()
    half = given[:, ::2, ::2]  # made by picking voxels, which nothing tells
    path = examples.write_zarr(
        tmp_path / "a.zarr", given, levels=[(half, (1, 2, 2)), (half[::2], (2, 2, 2))]
    )
    hole = np.zeros(given.shape[1:], bool)
    hole[5:8, 10:14] = hole[15, 25] = True
    patch = cut_patch(hole, np.full((20, 30, 1), 100, np.uint8), None)
    with opened(path) as volume:
        copy_files(path, volume.files(), tmp_path / "b.zarr", quiet)
        volume.apply(tmp_path / "b.zarr", {3: patch}.get)
    want = given.copy()
    want[3][hole] = 100
    np.testing.assert_array_equal(examples.read_zarr(tmp_path / "b.zarr"), want)
    for level, deep in (("1", 1), ("2", 2)):
        got = examples.read_zarr(tmp_path / "b.zarr", level)
        same = half[::deep].copy()
        z = 3 // deep
        for row in range(10):  # the mean of the voxels below, by hand
            for column in range(15):
                block = np.s_[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                if hole[block].any():
                    below = want[z * deep : (z + 1) * deep, block[0], block[1]]
                    same[z, row, column] = int(np.floor(below.mean() + 0.5))
        np.testing.assert_array_equal(got, same)


def test_a_precomputed_volume_may_begin_anywhere(tmp_path):
    given = examples.content()
    path = examples.write_precomputed(tmp_path / "a", given, offset=(100, 50, 7))
    with opened(path) as volume:
        np.testing.assert_array_equal(volume.read(0, 6)[..., 0], given)
        plane = {2: np.full(given.shape[1:], 9, np.uint8)}
        volume.write_layer(tmp_path / "layer", np.dtype("u1"), plane.get)
    got = examples.read_precomputed(tmp_path / "layer")
    assert (got[2] == 9).all() and got.sum() == 9 * given[2].size


def test_blocks_bound_what_is_held_in_memory(tmp_path, monkeypatch):
    pytest.importorskip("zarr")
    path = examples.write_zarr(tmp_path / "a.zarr", examples.content())
    with opened(path) as volume:
        assert list(volume.blocks()) == [(0, 4), (4, 6)]
        monkeypatch.setattr(volume_files, "BLOCK", 1300)  # two sections of 600 bytes
        assert list(volume.blocks()) == [(0, 2), (2, 4), (4, 6)]


def refused(folder, name):
    given = examples.content()
    path = folder / name
    if name == "cut.tif":
        tifffile.imwrite(path, given, compression="zlib", metadata=None)
        path.write_bytes(path.read_bytes()[:-900])
    elif name == "jpeg":
        examples.write_folder(path, given)
        for p in path.glob("*.png"):
            Image.open(p).save(p.with_suffix(".jpg"))
            p.unlink()
    elif name == "unlike":
        examples.write_folder(path, given)
        Image.fromarray(given[0, :9]).save(path / "s03.png")
    elif name == "note.tif":
        path.write_text("no picture")
    elif name == "other.hdf":
        examples.write_hdf5(path, given, "em")
    elif name == "lossy":
        examples.write_precomputed(path, given)
        info = path / "info"
        info.write_text(info.read_text().replace('"raw"', '"jpeg"'))
    elif name == "group.zarr":
        import zarr

        zarr.open_group(path, mode="w").create_array("em", shape=(2, 3, 4), dtype="u1")
    elif name == "outside.zarr":
        examples.write_zarr(path, given)
        head = path / "zarr.json"
        head.write_text(head.read_text().replace('"path": "0"', '"path": "../b/0"'))
    elif name == "outside":
        examples.write_precomputed(path, given)
        info = path / "info"
        info.write_text(info.read_text().replace('"4_4_40"', '"../4_4_40"'))
    elif name == "broken.zarr":
        path.mkdir()
        (path / "zarr.json").write_text("{")
    return path


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("cut.tif", "page [0-9]+: the file is cut short|cannot be read"),
        ("jpeg", "JPEG cannot stay as it is; save the sections as PNG or TIFF"),
        ("unlike", "s03.png is uint8 .9, 30, 1., but s00.png is .*sections are alike"),
        ("note.tif", "is no volume: an OME-Zarr"),
        ("other.hdf", "there is no dataset 'volumes/raw'; name one by --dataset"),
        ("lossy", "jpeg chunks cannot be written again without changing valid voxels"),
        ("group.zarr", "is a group without multiscales; name an array .*'em'"),
        ("outside.zarr", "its array '../b/0' lies outside of it"),
        ("outside", "its array '../4_4_40' lies outside of it"),
        ("broken.zarr", "zarr.json: is damaged"),
    ],
)
def test_what_cannot_be_restored_is_refused_with_its_name(tmp_path, name, match):
    if name in ("group.zarr", "outside.zarr"):
        pytest.importorskip("zarr")
    if name == "other.hdf":
        pytest.importorskip("h5py")
    path = refused(tmp_path, name)
    with pytest.raises(ImageFileError, match=match):
        with opened(path) as volume:
            for first, last in volume.blocks():
                volume.read(first, last)


def test_sharded_chunks(tmp_path):
    zarr = pytest.importorskip("zarr")
    given = examples.content()
    path = tmp_path / "a.zarr"
    made = zarr.create_array(
        path, shape=given.shape, dtype="u1", chunks=(2, 5, 10), shards=(6, 10, 30)
    )
    made[:] = given
    hole = np.zeros(given.shape[1:], bool)
    hole[5:8, 10:14] = True
    patch = cut_patch(hole, np.full((20, 30, 1), 100, np.uint8), None)
    with opened(path) as volume:
        assert volume.depth == 2
        copy_files(path, volume.files(), tmp_path / "b.zarr", quiet)
        volume.apply(tmp_path / "b.zarr", {3: patch}.get)
    given[3][hole] = 100
    np.testing.assert_array_equal(
        np.asarray(zarr.open_array(tmp_path / "b.zarr")), given
    )


def test_several_channels_are_refused(tmp_path):
    zarr = pytest.importorskip("zarr")
    made = zarr.create_array(tmp_path / "a.zarr", shape=(2, 6, 20, 30), dtype="u1")
    made[:] = 1
    with pytest.raises(ImageFileError, match="2 of 'c'; one channel"):
        opened(tmp_path / "a.zarr")


def test_large_sections_are_refused_unread(tmp_path):
    path = examples.write_tiff(tmp_path / "a.tif", examples.content())
    with pytest.raises(ImageFileError, match="20 x 30 is more than 599 pixels"):
        opened(path, pixels=599)


def test_a_patch_comes_back_as_it_was(tmp_path):
    rng = np.random.default_rng(0)
    hole = rng.random((9, 13)) < 0.2
    hole[0] = hole[:, -1] = False
    pixels = rng.integers(0, 65536, (9, 13, 3)).astype(np.uint16)
    save_patch(tmp_path / "a.npz", cut_patch(hole, pixels, None))
    patch = load_patch(tmp_path / "a.npz")
    assert patch.disagreement is None and patch.values.dtype == np.uint16
    section = np.zeros_like(pixels)
    patch.paste(section)
    np.testing.assert_array_equal(section, np.where(hole[..., None], pixels, 0))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:-30])
    with pytest.raises(ValueError, match="a.npz is damaged"):
        load_patch(tmp_path / "a.npz")
