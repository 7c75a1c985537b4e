"""`fill-volume` from volume to volume, with a run whose every number is known."""

import hashlib
import json
import os
import re
import signal

import numpy as np
import pytest
import tifffile
from PIL import Image

from jaxinpaint.data import pictures
from jaxinpaint.data.volume_pages import TiffStack
from jaxinpaint.evaluation import volume_restoring, volume_sections, volume_writing
from tests.data import volume_examples as examples
from tests.evaluation.toy_volumes import Toy, files, fill_volume, steps


def summary(folder, output="out"):
    return json.loads((folder / output / "repaired.json").read_text())


def damaged(array, *sections):
    """With noise where sections are bad: it must not matter."""
    made = array.copy()
    for z in sections:
        made[z] = examples.content(z, array.dtype, array.shape[1:])
    return made


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_tiff_stack_with_damaged_sections(tmp_path, monkeypatch, capsys, dtype):
    Toy(tmp_path / "run", monkeypatch)
    truth = steps(dtype=dtype)
    given = damaged(truth, 2, 5, 6, 7)
    source = examples.write_tiff(tmp_path / "stack.tif", given)
    before = source.read_bytes()
    assert fill_volume(tmp_path, source, "--bad-sections=2,5-7", "--panel") == 0
    told = capsys.readouterr()
    assert re.fullmatch(
        r"4 sections restored in [0-9.]+ s. 8320 voxels invented, 0 valid values "
        r"changed.\n",
        told.out,
    )
    assert told.err.splitlines()[:3] == [
        "section 2: bad whole, from 1 and 3",
        "section 5: bad whole, from 4 and 8; less certain: neighbours up to 3 sections "
        "away, round 1",
        "section 7: bad whole, from 4 and 8; less certain: neighbours up to 3 sections "
        "away, round 1",
    ]
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == [
        *("disagreement.tif", "invented.tif", "panels", "repaired.json", "stack.tif")
    ]
    assert len(list((out / "panels").glob("section_00000[2567].png"))) == 4
    # Sections are ramps along z, so what lies between by place is the truth.
    np.testing.assert_array_equal(tifffile.imread(out / "stack.tif"), truth)
    marks = tifffile.imread(out / "invented.tif")
    assert marks.dtype == np.uint8 and (marks[[2, 5, 6, 7]] == 255).all()
    assert marks.sum() == 255 * 8320
    apart = tifffile.imread(out / "disagreement.tif")
    scale = 1 if dtype == "uint8" else 257
    levels = {z: int(apart[z].max()) // scale for z in range(10)}
    assert levels == {**dict.fromkeys(range(10), 0), 2: 20, 5: 40, 7: 40, 6: 20}
    with tifffile.TiffFile(out / "stack.tif") as tiff:
        assert tiff.imagej_metadata["spacing"] == 40.0
    assert source.read_bytes() == before

    told = summary(tmp_path)
    assert told["source"]["sha256"] == hashlib.sha256(before).hexdigest()
    made = (out / "stack.tif").read_bytes()
    assert told["results"][0] == {
        "name": "stack.tif",
        "sha256": hashlib.sha256(made).hexdigest(),
    }
    assert told["source"]["voxel_size"] == pytest.approx([40, 4, 4])
    assert (told["restored"], told["failed"], told["invented_voxels"]) == (4, 0, 8320)
    assert told["valid_values_changed"] == 0
    assert told["run"]["step"] == 20 and told["run"]["config"]["image_size"] == 64
    two, six = told["sections"]["2"], told["sections"]["6"]
    assert (two["previous"], two["following"], two["round"]) == (1, 3, 1)
    assert not two["less_certain"] and six["less_certain"]
    assert (six["previous"], six["following"], six["round"]) == (5, 7, 2)
    # 10 levels from either neighbour: 10 log10(255^2 / 10^2)
    assert two["scores"]["psnr_to_previous"] == pytest.approx(28.1308, abs=1e-4)
    assert two["scores"]["psnr_of_neighbors"] == pytest.approx(22.1102, abs=1e-4)
    assert two["scores"]["disagreement_mean"] == 20 * scale


def test_one_neighbour_guides_the_nearer_or_the_one_that_fits(tmp_path, monkeypatch):
    Toy(tmp_path / "run", monkeypatch, "one")
    given = damaged(steps(), 0, 4, 5, 6)
    given[8, :20] = 0  # bad by the mask alone
    mask = np.zeros(given.shape, np.uint8)
    mask[8, :20] = 1
    given[8, 20:] = 89  # what is valid resembles section 9
    source = examples.write_tiff(tmp_path / "a.tif", given)
    examples.write_tiff(tmp_path / "m.tif", mask)
    words = ("--bad-sections=0,4-6", f"--mask={tmp_path / 'm.tif'}")
    assert fill_volume(tmp_path, source, *words) == 0
    got = tifffile.imread(tmp_path / "out" / "a.tif")
    levels = {z: np.unique(got[z]).tolist() for z in (0, 4, 5, 6)}
    assert levels == {0: [12], 4: [32], 6: [72], 5: [34]}
    assert np.unique(got[8, :20]).tolist() == [92]
    np.testing.assert_array_equal(got[8, 20:], given[8, 20:])
    sections = summary(tmp_path)["sections"]
    assert [sections[z]["guided_by"] for z in "04658"] == [1, 3, 7, 4, 9]
    assert sections["0"]["following"] == 1 and sections["0"]["previous"] is None
    apart = tifffile.imread(tmp_path / "out" / "disagreement.tif")
    assert not apart[0].any() and (apart[4] == 40).all()  # 32 from 3, 72 from 7
    assert (apart[8, :20] == 20).all() and not apart[8, 20:].any()


def test_a_folder_of_pictures_with_holes(tmp_path, monkeypatch, capsys):
    Toy(tmp_path / "run", monkeypatch, "alone")
    given = examples.content()
    source = examples.write_folder(tmp_path / "stack", given)
    mask = np.zeros(given.shape, bool)
    mask[1, 3:9, 4:11] = mask[4, 10:, 20:] = True
    examples.write_folder(tmp_path / "mask", (mask * 255).astype(np.uint8))
    before = files(source)
    assert fill_volume(tmp_path, source, f"--mask={tmp_path / 'mask'}") == 0
    err = capsys.readouterr().err
    assert "its voxel size is unknown; give --voxel-size Z,Y,X in nanometers" in err
    assert "section 1 (s01.png): 7 % hole" in err
    got = examples.read_folder(tmp_path / "out" / "stack")
    np.testing.assert_array_equal(got, np.where(mask, 153, given))
    marks = examples.read_folder(tmp_path / "out" / "invented")
    np.testing.assert_array_equal(marks, mask * 255)
    assert files(source) == before and not (tmp_path / "out/disagreement").exists()
    after = files(tmp_path / "out" / "stack")
    same = [name for name in before if after[name] == before[name]]
    assert sorted(set(before) - set(same)) == ["s01.png", "s04.png"]
    words = (f"--mask={tmp_path / 'mask'}", "--voxel-size=40,4,4")
    assert fill_volume(tmp_path, source, *words, output="told") == 0
    assert summary(tmp_path, "told")["source"]["voxel_size"] == [40, 4, 4]


@pytest.mark.parametrize("version", [2, 3])
def test_an_ome_zarr_volume(tmp_path, monkeypatch, version):
    zarr = pytest.importorskip("zarr")
    Toy(tmp_path / "run", monkeypatch)
    truth = steps()
    small = truth[:, ::2, ::2]
    source = examples.write_zarr(
        tmp_path / "cells.zarr",
        damaged(truth, 3, 6, 7),
        version=version,
        leading=2,
        levels=[(damaged(small, 3, 6, 7), (1, 2, 2))],
    )
    before = files(source)
    words = ("--bad-sections=3,6-7", "--batch-size=3")
    assert fill_volume(tmp_path, source, *words) == 0
    out = tmp_path / "out"
    np.testing.assert_array_equal(examples.read_zarr(out / "cells.zarr"), truth)
    np.testing.assert_array_equal(examples.read_zarr(out / "cells.zarr", "1"), small)
    assert files(source) == before
    after = files(out / "cells.zarr")
    for name in before:  # all metadata byte for byte, and chunks of sound sections
        if "json" in name or ".z" in name:
            assert after[name] == before[name]
    marks = zarr.open_group(out / "invented.zarr", mode="r")
    whole = dict(marks.attrs)
    (scales,) = (whole["ome"] if version == 3 else whole)["multiscales"]
    assert [a["name"] for a in scales["axes"]] == list("tczyx")
    (level,) = scales["datasets"]
    (scale,) = level["coordinateTransformations"]
    assert scale == {"type": "scale", "scale": [1.0, 1.0, 40.0, 4.0, 4.0]}
    got = np.asarray(marks[level["path"]])[0, 0]
    assert (got[[3, 6, 7]] == 255).all() and got.sum() == 255 * 3 * 40 * 52


def test_hdf5_n5_and_precomputed(tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    Toy(tmp_path / "run", monkeypatch)
    truth = steps()
    given = damaged(truth, 4)
    for name, write, read, words in (
        ("sample.hdf", examples.write_hdf5, examples.read_hdf5, ()),
        ("cells.n5", examples.write_n5, examples.read_n5, ("--dataset=raw",)),
        ("cells", examples.write_precomputed, examples.read_precomputed, ()),
    ):
        source = write(tmp_path / name, given)
        code = fill_volume(
            tmp_path, source, "--bad-sections=4", *words, output=f"out_{name}"
        )
        assert code == 0
        np.testing.assert_array_equal(read(tmp_path / f"out_{name}" / name), truth)
    labels = examples.read_hdf5(
        tmp_path / "out_sample.hdf/sample.hdf", "volumes/labels/neuron_ids"
    )
    np.testing.assert_array_equal(labels, given)


def head(folder, dtype="int16", name="head.nii.gz"):
    """A head whose values end at 900, and a mask over several slices."""
    rng = np.random.default_rng(1)
    values = rng.integers(1, 900, (9, 30, 27)).astype(dtype)
    values[:, :4] = 0
    values[0] = 0
    mask = np.zeros(values.shape, np.uint8)
    mask[3:5, 8:16, 9:15] = mask[6, 20:24, 3:9] = 1
    examples.write_nifti(folder / name, values)
    examples.write_nifti(folder / "mask.nii.gz", mask, mark=True)
    return values, mask


def test_a_head_with_a_mask_is_what_restore_nifti_makes(tmp_path, monkeypatch):
    nibabel = pytest.importorskip("nibabel")
    from jaxinpaint.evaluation.runs import open_trained
    from jaxinpaint.inference.nifti import restore_nifti
    from jaxinpaint.inference.restore import predictor

    Toy(tmp_path / "run", monkeypatch, "blind")
    given, mask = head(tmp_path)
    words = (f"--mask={tmp_path / 'mask.nii.gz'}", "--panel")
    assert fill_volume(tmp_path, tmp_path / "head.nii.gz", *words) == 0
    made = nibabel.load(tmp_path / "out" / "head.nii.gz")
    own = nibabel.load(tmp_path / "head.nii.gz")
    got = np.asarray(made.dataobj).T
    np.testing.assert_array_equal(got[mask == 0], given[mask == 0])
    assert made.header == own.header and made.header["descrip"] == b"of a scanner"
    config, system, run, frozen = open_trained(tmp_path / "run", None)
    restore_nifti(
        predictor(config, system, run.variables, frozen, (), ()),
        tmp_path / "head.nii.gz",
        tmp_path / "other.nii.gz",
        mask=tmp_path / "mask.nii.gz",
        axis=config.data.axis,
        percentile=config.data.percentile,
        multiple=config.eval.size_multiple,
        batch_size=2,
    )
    want = np.asarray(nibabel.load(tmp_path / "other.nii.gz").dataobj).T
    np.testing.assert_array_equal(got, want)
    assert (got != given)[mask == 1].all()
    marks = nibabel.load(tmp_path / "out" / "invented.nii.gz")
    np.testing.assert_array_equal(np.asarray(marks.dataobj).T, mask * 255)
    np.testing.assert_array_equal(marks.affine, own.affine)
    assert marks.get_data_dtype() == np.uint8
    assert summary(tmp_path)["grey_of_1"] == pytest.approx(895, abs=5)


def test_a_head_without_a_mask_changes_every_slice_that_is_not_blank(
    tmp_path, monkeypatch, capsys
):
    pytest.importorskip("nibabel")
    Toy(tmp_path / "run", monkeypatch, "blind")
    head(tmp_path)
    assert fill_volume(tmp_path, tmp_path / "head.nii.gz") == 0
    err = capsys.readouterr().err
    assert "section 1: no mask, every pixel may have changed" in err
    marks = examples.read_nifti(tmp_path / "out" / "invented.nii.gz")
    assert [int(plane.min()) for plane in marks] == [0, *[255] * 8]


def test_bad_sections_at_the_ends_are_named_and_the_rest_is_done(
    tmp_path, monkeypatch, capsys
):
    Toy(tmp_path / "run", monkeypatch)
    truth = steps()
    given = damaged(truth, 0, 4, 8, 9)
    source = examples.write_tiff(tmp_path / "a.tif", given)
    assert fill_volume(tmp_path, source, "--bad-sections=0,4,8-9") == 1
    told = capsys.readouterr()
    assert told.out.startswith("1 section restored, 3 failed ('0', '8', '9') in ")
    assert "section 0: NOT restored: no sound section comes before it" in told.err
    assert "section 9: NOT restored: no sound section comes after it" in told.err
    got = tifffile.imread(tmp_path / "out" / "a.tif")
    np.testing.assert_array_equal(got[4], truth[4])
    np.testing.assert_array_equal(got[[0, 8, 9]], given[[0, 8, 9]])
    marks = tifffile.imread(tmp_path / "out" / "invented.tif")
    assert np.flatnonzero(marks.any(axis=(1, 2))).tolist() == [4]
    assert summary(tmp_path)["sections"]["9"]["state"] == "failed"


def test_nothing_is_written_where_no_section_could_be_restored(
    tmp_path, monkeypatch, capsys
):
    Toy(tmp_path / "run", monkeypatch)
    source = examples.write_tiff(tmp_path / "a.tif", steps())
    assert fill_volume(tmp_path, source, "--bad-sections=9") == 1
    assert "0 sections restored, 1 failed ('9')" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_inner_sections_fail_with_those_that_guide_them(tmp_path, monkeypatch, capsys):
    toy = Toy(tmp_path / "run", monkeypatch)
    given = steps()
    source = examples.write_folder(tmp_path / "stack", given)
    load = volume_sections.Restorer._load

    def failing(self, repair):
        if repair.section == 3:
            raise volume_sections.InpaintInputError("it is folded.")
        return load(self, repair)

    monkeypatch.setattr(volume_sections.Restorer, "_load", failing)
    assert fill_volume(tmp_path, source, "--bad-sections=3-5,7") == 1
    err = capsys.readouterr().err
    assert "section 3 (s03.png): NOT restored: it is folded." in err
    assert "4 (s04.png): NOT restored: its neighbour, section 3, was not rest" in err
    assert summary(tmp_path)["restored"] == 2 and toy.calls


def wrong(folder, name):
    """Volume and words of a wrong use."""
    given = steps()
    source = examples.write_tiff(folder / "a.tif", given)
    mask = np.zeros(given.shape, np.uint8)
    mask[4, 10:20, 10:20] = 255
    words = []
    if name == "inverted":
        mask = 255 - mask
    elif name == "empty":
        mask[:] = 0
    elif name == "full":
        mask[:] = 255
    elif name == "size":
        mask = mask[:, :-1]
    elif name == "count":
        mask = mask[:-1]
    elif name == "soft":
        mask[4, 10] = 100
    elif name == "every section":
        mask[:, 0] = 255
    elif name == "run":
        words = [f"--workdir={folder / 'nothing'}"]
    elif name == "step":
        words = ["--step=3"]
    elif name == "list":
        words = ["--bad-sections=10"]
    elif name == "here":
        words = [f"--output={folder}"]
    elif name == "inside":
        source = examples.write_folder(folder / "stack", given)
        words = [f"--output={source / 'out'}"]
    elif name == "there":
        (folder / "out").mkdir()
        (folder / "out" / "invented.tif").write_text("mine")
    elif name == "axis":
        words = ["--axis=y"]
    elif name == "voxel":
        words = ["--voxel-size=40,4,8"]
    elif name == "no voxel":
        words = ["--voxel-size=40,0,8"]
    elif name == "colour":
        colour = np.repeat(given[..., None], 3, -1)
        tifffile.imwrite(source, colour, photometric="rgb")
    elif name == "float":
        tifffile.imwrite(source, given.astype(np.float32))
    elif name == "picture":
        source = folder / "one.png"
        Image.fromarray(given[0]).save(source)
    elif name == "lacking":
        source = folder / "no.tif"
    elif name == "tile":
        words = ["--tile=50"]
    elif name == "batch":
        words = ["--batch-size=0"]
    examples.write_tiff(folder / "m.tif", mask)
    if name != "nothing":
        words.append(f"--mask={folder / 'm.tif'}")
    return source, words


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("inverted", "m.tif marks 99.52 % of the volume as hole and may be inverted"),
        ("empty", "m.tif marks no hole, so there is nothing to restore"),
        ("full", "m.tif marks all of the volume as hole and may be inverted"),
        ("size", "m.tif is 10 x 39 x 52, but .*a.tif is 10 x 40 x 52; nothing is res"),
        ("count", "m.tif is 9 x 40 x 52, but"),
        ("soft", "m.tif: a mask holds 0 and one other value, this holds .0, 100, 255"),
        ("every section", "all 10 sections of .*a.tif are bad, so none has a sound"),
        ("nothing", "has to be told what is bad: give --bad-sections or --mask"),
        ("run", "nothing holds no run"),
        ("step", "3"),
        ("list", "there is no section 10; the volume has 10, from 0 to 9"),
        ("here", "--output is .*, where .*a.tif would be written to; name another"),
        ("inside", "--output is .*stack/out, where .*stack would be written to"),
        ("there", "invented.tif is there already; name another --output, or add --ov"),
        ("axis", "a.tif: its sections are its pages, so --axis y needs another"),
        ("voxel", "--voxel-size is 40 x 4 x 8 nanometer, but .*a.tif says 40 x 4 x 4"),
        ("no voxel", "--voxel-size is '40,0,8'; give lengths along z, y and x"),
        ("colour", "a.tif is colour, but .*run restores grey; nothing is converted"),
        ("float", "a.tif: float32 .32 bits. is not uint8 or uint16"),
        ("picture", "one.png: is no volume: an OME-Zarr, zarr, N5 or precomputed"),
        ("lacking", "no.tif"),
        ("tile", "--tile is 50; this run needs multiples of 16, such as 64"),
        ("batch", "--batch-size is 0; it must be 1 or more"),
    ],
)
def test_wrong_use_is_one_sentence_and_writes_nothing(
    tmp_path, monkeypatch, capsys, name, message
):
    Toy(tmp_path / "run", monkeypatch)
    source, words = wrong(tmp_path, name)
    before = files(tmp_path)
    capsys.readouterr()
    assert fill_volume(tmp_path, source, *words) == 2
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert line.startswith("jaxinpaint fill-volume: ") and re.search(message, line)
    assert told.out == "" and files(tmp_path) == before
    assert not list(tmp_path.rglob(".unfinished"))


def test_systems_that_need_valid_pixels_refuse_sections_that_are_bad_whole(
    tmp_path, monkeypatch, capsys
):
    Toy(tmp_path / "run", monkeypatch, "one", whole=False)
    source = examples.write_tiff(tmp_path / "a.tif", steps())
    assert fill_volume(tmp_path, source, "--bad-sections=3") == 2
    err = capsys.readouterr().err
    assert "restores no section that is bad whole; mark what is damaged in it" in err
    mask = np.zeros(steps().shape, np.uint8)
    mask[3], mask[6, :9] = 1, 1
    examples.write_tiff(tmp_path / "m.tif", mask)
    assert fill_volume(tmp_path, source, f"--mask={tmp_path / 'm.tif'}") == 1
    told = capsys.readouterr()
    assert "section 3: NOT restored: section 3: sample 0 of mask is all" in told.err
    assert told.out.startswith("1 section restored, 1 failed ('3')")


def test_masks_may_mark_what_is_valid_and_holes_may_be_large(tmp_path, monkeypatch):
    Toy(tmp_path / "run", monkeypatch, "alone")
    given = steps()
    source = examples.write_tiff(tmp_path / "a.tif", given)
    valid = np.full(given.shape, 255, np.uint8)
    valid[4, 5:9] = 0
    examples.write_tiff(tmp_path / "m.tif", valid)
    words = (f"--mask={tmp_path / 'm.tif'}", "--mask-polarity=valid")
    assert fill_volume(tmp_path, source, *words) == 0
    marks = tifffile.imread(tmp_path / "out" / "invented.tif")
    np.testing.assert_array_equal(marks, 255 - valid)
    assert fill_volume(tmp_path, source, words[0], output="b") == 2
    words = (words[0], "--allow-large-holes")
    assert fill_volume(tmp_path, source, *words, output="b") == 0


class Killed(BaseException):
    """As if the process ended: nothing catches it."""


def interrupted_at(monkeypatch, count):
    """Ends the process at the n-th file that is written or moved; None counts them."""
    seen = {"count": 0}

    def at(function):
        def counted(*arguments, **more):
            seen["count"] += 1
            if seen["count"] == count:
                raise Killed
            return function(*arguments, **more)

        return counted

    for place, name in (
        (pictures, "write_whole"),
        (volume_sections, "write_whole"),
        (volume_sections, "save_patch"),
        (volume_sections, "load_patch"),
        (volume_writing, "copy_files"),
        (volume_writing, "write_whole"),
        (volume_writing, "digest"),
        (volume_writing, "compare"),
        (os, "replace"),
    ):
        monkeypatch.setattr(place, name, at(getattr(place, name)))
    return seen


def test_killed_anywhere_it_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    Toy(tmp_path / "run", monkeypatch)
    source = examples.write_folder(tmp_path / "stack", damaged(steps(), 2, 4, 5, 6))
    monkeypatch.setattr("sys.argv", ["jaxinpaint", "fill-volume"])
    words = ("--bad-sections=2,4-6", "--batch-size=2", "--panel")
    assert fill_volume(tmp_path, source, *words, output="once") == 0
    want = files(tmp_path / "once")
    with monkeypatch.context() as patch:
        seen = interrupted_at(patch, None)
        assert fill_volume(tmp_path, source, *words, output="counted") == 0
    assert seen["count"] > 40
    left = set()
    for count in range(1, seen["count"] + 1, 3):
        output = f"killed_{count}"
        with monkeypatch.context() as patch:
            interrupted_at(patch, count)
            with pytest.raises(Killed):
                fill_volume(tmp_path, source, *words, output=output)
        got = files(tmp_path / output)
        whole = {n: c for n, c in got.items() if not n.startswith(".unfinished")}
        assert all(want[name] == content for name, content in whole.items())
        assert "repaired.json" not in whole
        left.add(len(list((tmp_path / output).glob(".unfinished/sections/*.json"))))
        assert fill_volume(tmp_path, source, *words, output=output) == 0
        assert files(tmp_path / output) == want
    assert left >= {0, 2, 4}  # it was interrupted early and late


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("while_writing", [False, True])
def test_a_signal_ends_it_and_the_same_command_goes_on(
    tmp_path, monkeypatch, capsys, number, while_writing
):
    Toy(tmp_path / "run", monkeypatch)
    source = examples.write_tiff(tmp_path / "a.tif", damaged(steps(), 2, 4, 6))
    monkeypatch.setattr("sys.argv", ["jaxinpaint", "fill-volume"])
    words = ("--bad-sections=2,4,6",)
    assert fill_volume(tmp_path, source, *words, output="once") == 0
    place = volume_writing if while_writing else volume_sections
    name = "compare" if while_writing else "save_patch"
    function = getattr(place, name)

    def signalled(*arguments):
        signal.raise_signal(number)
        return function(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, signalled)
        capsys.readouterr()
        code = 143 if number == signal.SIGTERM else 130
        assert fill_volume(tmp_path, source, *words) == code
    told = capsys.readouterr()
    count = "3 sections" if while_writing else "1 section"
    assert told.out.startswith(f"{count} restored in ")
    assert told.out.endswith("Interrupted: the same command goes on from here.\n")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".unfinished"]
    assert fill_volume(tmp_path, source, *words) == 0
    assert "section 2: there already; bad whole" in capsys.readouterr().err
    assert files(tmp_path / "out") == files(tmp_path / "once")


def test_unfinished_work_of_another_command_is_not_gone_on_with(
    tmp_path, monkeypatch, capsys
):
    Toy(tmp_path / "run", monkeypatch)
    source = examples.write_tiff(tmp_path / "a.tif", damaged(steps(), 2, 4, 6))
    with monkeypatch.context() as patch:
        interrupted_at(patch, 9)
        with pytest.raises(Killed):
            fill_volume(tmp_path, source, "--bad-sections=2,4")
    left = files(tmp_path / "out")
    assert fill_volume(tmp_path, source, "--bad-sections=2,6") == 2
    err = capsys.readouterr().err
    assert "unfinished work of another command (another --bad-sections)" in err
    assert files(tmp_path / "out") == left
    with volume_restoring.locked(tmp_path / "out" / ".unfinished", tmp_path):
        assert fill_volume(tmp_path, source, "--bad-sections=2,4") == 2
    assert "another process works on" in capsys.readouterr().err
    assert fill_volume(tmp_path, source, "--bad-sections=2,6", "--overwrite") == 0
    assert sorted(summary(tmp_path)["sections"]) == ["2", "6"]


def test_finished_results_are_replaced_only_if_asked(tmp_path, monkeypatch, capsys):
    Toy(tmp_path / "run", monkeypatch)
    source = examples.write_tiff(tmp_path / "a.tif", damaged(steps(), 2, 4))
    assert fill_volume(tmp_path, source, "--bad-sections=2") == 0
    before = files(tmp_path / "out")
    assert fill_volume(tmp_path, source, "--bad-sections=4") == 2
    assert "holds finished results; add --overwrite" in capsys.readouterr().err
    assert files(tmp_path / "out") == before
    words = ("--bad-sections=4", "--no-disagreement", "--overwrite")
    assert fill_volume(tmp_path, source, *words) == 0
    assert sorted(files(tmp_path / "out")) == ["a.tif", "invented.tif", "repaired.json"]


def test_a_result_that_does_not_read_back_is_not_put_in_place(tmp_path, monkeypatch):
    Toy(tmp_path / "run", monkeypatch)
    source = examples.write_tiff(tmp_path / "a.tif", damaged(steps(), 2))
    own = TiffStack.apply

    def careless(self, target, patches):
        own(self, target, patches)
        with tifffile.TiffFile(target) as tiff:
            offset = tiff.pages[7].dataoffsets[0]
        content = bytearray(target.read_bytes())
        content[offset] ^= 1
        target.write_bytes(content)

    monkeypatch.setattr(TiffStack, "apply", careless)
    with pytest.raises(RuntimeError, match="1 voxels of sections 7 to 7 do not read"):
        fill_volume(tmp_path, source, "--bad-sections=2")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".unfinished"]
