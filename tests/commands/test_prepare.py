"""`jaxinpaint prepare` of pictures, stacks and volumes, against independent readers."""

import contextlib
import json
import pathlib
import shutil
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import tensorflow_datasets as tfds
import tifffile
from PIL import Image

from jaxinpaint import cli
from jaxinpaint.data import pipeline, preparing, sections, stack
from tests.data.test_derived import config_of as section_config
from tests.data.test_derived import spec as section_spec
from tests.data.test_photographs import build as build_photographs
from tests.data.test_slices import SPEC as SLICE_SPEC
from tests.data.test_slices import config_of as slice_config
from tests.data.test_volumes import write_series

ROOT = pathlib.Path(__file__).parents[2]


def noise(seed, *shape, dtype=np.uint8):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, shape, dtype, True)


@pytest.fixture
def run(capsys, tmp_path):
    """Runs `prepare`; the code, what was printed, what was said of errors."""

    def run(kind, source, *words, output="out"):
        given = ["--input", source, "--output", tmp_path / output, *words]
        code = cli.main(["prepare", kind, *map(str, given)])
        return code, *capsys.readouterr()

    return run


def report_of(tmp_path, output="out"):
    return json.loads((tmp_path / output / "report.json").read_text())


def write(folder, **pictures):
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def numbered(folder, volume):
    return write(folder, **{f"s{z}": plane for z, plane in enumerate(volume)})


def records(folder):
    """What TFDS itself reads from the data set in a folder."""
    (info,) = folder.glob("*/*/dataset_info.json")
    builder = tfds.builder_from_directory(str(info.parent))
    (split,) = builder.info.splits
    return list(builder.as_data_source(split=split))


def left_beside(tmp_path):
    return [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


# Pictures ----------------------------------------------------------------------------


def test_pictures_are_stored_as_they_are(run, tmp_path):
    given = {"a": noise(0, 20, 30, 3), "b": noise(1, 25, 18, 3), "c": noise(2, 9, 9, 3)}
    given["b"][0, 0], given["b"][0, 1] = 0, 255
    source = write(tmp_path / "in", **given)
    (source / "notes.txt").write_text("mine")
    code, out, _ = run("images", source)
    assert code == 0 and "3 pictures: " in out and "values 0 to 255" in out
    assert f"--config.data.source={tmp_path / 'out'}" in out
    got = records(tmp_path / "out")
    assert [one["name"] for one in got] == [b"a", b"b", b"c"]
    for one, want in zip(got, given.values(), strict=True):
        np.testing.assert_array_equal(one["image"], want)
    report = report_of(tmp_path)
    assert report["sizes"] == {"20 x 30": 1, "25 x 18": 1, "9 x 9": 1}
    assert report["dtype"] == {"uint8": 3} and report["range"] == [0, 255]
    assert report["rejected"] == {} and report["passed_over"] == ["notes.txt"]
    assert report["dataset"] == "pictures/1.0.0" and not left_beside(tmp_path)


@pytest.mark.parametrize("sizes", [[(20, 24)] * 10, [(20, 24), (30, 17)] * 5])
@pytest.mark.parametrize("fit", ["crop", "shrink"])
def test_training_gets_the_same_batches_of_a_prepared_folder(run, tmp_path, sizes, fit):
    source = write(
        tmp_path / "in",
        **{f"p{k}": noise(k, *size, 3) for k, size in enumerate(sizes)},
    )
    assert run("images", source)[0] == 0
    want, got = (
        build_photographs(place, tmp_path / "cache", **{"data.fit": fit})
        for place in (source, tmp_path / "out")
    )
    for step in (0, 5):
        for name, pixels in want.batch(step).items():
            np.testing.assert_array_equal(got.batch(step)[name], pixels)
    pairs = zip(want.test_cases(), got.test_cases(), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one.image, other.image)
    assert want.summary["split"] == got.summary["split"]


def test_grey_among_colour_is_told_and_sixteen_bits_stay(run, tmp_path):
    grey = noise(1, 9, 8)
    source = write(tmp_path / "in", a=noise(0, 9, 8, 3), b=grey, c=noise(2, 9, 8, 3))
    code, out, _ = run("images", source)
    assert code == 0 and "1 grey picture(s) are stored in colour" in out
    got = records(tmp_path / "out")[1]["image"]
    np.testing.assert_array_equal(got, np.stack([grey] * 3, axis=-1))
    assert report_of(tmp_path)["channels"] == {"1": 1, "3": 2}

    deep = noise(0, 9, 8, dtype=np.uint16)
    source = write(tmp_path / "deep", a=deep, b=deep[::-1], c=deep[:, ::-1].copy())
    assert run("images", source, output="16")[0] == 0
    got = records(tmp_path / "16")[0]["image"]
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(got[..., 0], deep)
    write(source, d=grey)
    code, _, err = run("images", source, output="mixed")
    assert code == 2 and "8 and of 16 bits" in err and not (tmp_path / "mixed").exists()
    few = write(tmp_path / "few", a=deep // 32)
    code, out, _ = run("images", few, output="12")
    assert f"maximum {(deep // 32).max()}" in out and "training needs 3" in out


def test_pictures_that_cannot_be_read_are_left_out_by_name(run, tmp_path):
    clear = noise(5, 9, 8, 4)
    source = write(
        tmp_path / "in", a=noise(0, 9, 8, 3), large=noise(1, 40, 40, 3), clear=clear
    )
    (source / "broken.png").write_bytes((source / "a.png").read_bytes()[:60])
    code, out, _ = run("images", source, "--max-pixels", 1000)
    assert code == 1
    assert [one["name"] for one in records(tmp_path / "out")] == [b"a"]
    rejected = report_of(tmp_path)["rejected"]
    assert list(rejected) == ["broken", "clear", "large"]
    assert "40 x 40 is more than 1000" in rejected["large"]
    assert "transparent" in rejected["clear"]
    for name in rejected:
        assert f"Rejected: {name}: " in out
    # The same again: it says so, does nothing, and the left out stay left out.
    before = (tmp_path / "out" / "report.json").stat().st_mtime_ns
    code, out, _ = run("images", source, "--max-pixels", 1000)
    assert code == 1 and "is this preparation already; nothing was done" in out
    assert (tmp_path / "out" / "report.json").stat().st_mtime_ns == before

    (source / "a.png").unlink()
    code, out, err = run("images", source, "--max-pixels", 1000, output="none")
    assert code == 2 and out == "" and "none of 3 pictures can be read" in err
    assert not (tmp_path / "none").exists() and not left_beside(tmp_path)


# Stacks ------------------------------------------------------------------------------


def test_sections_are_stored_in_axial_order(run, tmp_path):
    volume = noise(0, 12, 20, 22)
    source = numbered(tmp_path / "in", volume)
    code, out, _ = run("sections", source)
    assert code == 0 and "12 sections: 12 of 20 x 22" in out
    got = records(tmp_path / "out")
    assert [one["name"].decode() for one in got] == [f"s{z}" for z in range(12)]
    np.testing.assert_array_equal([one["image"][..., 0] for one in got], volume)
    assert report_of(tmp_path)["dataset"] == "serial_sections/1.0.0"


def test_training_gets_the_same_sections_of_a_prepared_folder(run, tmp_path):
    volume = noise(0, 12, 20, 22, 1)
    config = section_config(tmp_path, volume)
    assert run("sections", tmp_path / "png")[0] == 0
    other = section_config(tmp_path, volume, **{"data.source": str(tmp_path / "out")})
    want, got = (
        sections.build(one, section_spec("neighbor")) for one in (config, other)
    )
    for step in (0, 4):
        for name, pixels in want.batch(step).items():
            np.testing.assert_array_equal(got.batch(step)[name], pixels)
    assert want.summary["split"] == got.summary["split"]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_is_cut_across_the_axis_that_is_asked_for(run, tmp_path, axis):
    volume = noise(0, 5, 7, 6, dtype=np.uint16)
    volume[0, 0, 0] = 65535
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "v.tif", volume, photometric="minisblack")
    (tmp_path / "in" / "README.md").write_text("a volume")
    for source in (tmp_path / "in", tmp_path / "in" / "v.tif"):
        output = f"out{source.suffix}"
        assert run("volume", source, "--axis", axis, output=output)[0] == 0
        got = np.stack([one["image"][..., 0] for one in records(tmp_path / output)])
        assert got.dtype == np.uint16
        np.testing.assert_array_equal(got, np.moveaxis(volume, axis, 0))
        assert report_of(tmp_path, output)["range"][1] == 65535
        opened = stack.open_stack(tmp_path / output, tmp_path / "cache", 1000)
        np.testing.assert_array_equal(opened.sections[..., 0], got)
    assert report_of(tmp_path, "out")["passed_over"] == ["README.md"]


def test_cremi(run, tmp_path):
    h5py = pytest.importorskip("h5py")
    volume = noise(0, 4, 9, 7)
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        raw = file.create_dataset("volumes/raw", data=volume)
        raw.attrs["resolution"] = (40.0, 4.0, 4.0)
        file.create_dataset("other/raw", data=volume)
    code, _, _ = run("cremi", tmp_path / "mine.h5")
    assert code == 0
    got = records(tmp_path / "out")
    np.testing.assert_array_equal([one["image"][..., 0] for one in got], volume)
    assert got[2]["name"] == b"mine_0002" and report_of(tmp_path)["notes"] == []
    with h5py.File(tmp_path / "mine.h5", "a") as file:
        del file["volumes/raw"].attrs["resolution"]
    code, out, _ = run("cremi", tmp_path / "mine.h5", output="unknown")
    assert code == 0 and "has no attribute `resolution`" in out
    with h5py.File(tmp_path / "mine.h5", "a") as file:
        del file["volumes/raw"]
    code, _, err = run("cremi", tmp_path / "mine.h5", output="without")
    assert code == 2 and "['other', 'other/raw'" in err
    code, _, err = run("cremi", tmp_path, output="../elsewhere")
    assert code == 2 and "`prepare sections`" in err


def test_sections_that_training_stumbles_over_are_told(run, tmp_path):
    volume = noise(0, 6, 9, 8)
    volume[2], volume[4] = volume[1], 7
    code, out, _ = run("sections", numbered(tmp_path / "in", volume))
    assert code == 0
    assert "Sections s1 and s2 are equal in every pixel" in out
    assert "Section s4 shows one grey level" in out
    assert len(report_of(tmp_path)["notes"]) == 2


def test_a_stack_is_taken_whole_or_not_at_all(run, tmp_path):
    source = numbered(tmp_path / "in", noise(0, 4, 9, 8))
    cases = {
        "s3": (noise(1, 9, 7), "s3 is uint8 [9, 7, 1]"),
        "s4": (noise(1, 9, 8, 3), "s4 is uint8 [9, 8, 3]"),
        "other": (noise(1, 9, 8), "no number in the name"),
    }
    for name, (pixels, message) in cases.items():
        write(source, **{name: pixels})
        code, out, err = run("sections", source)
        assert code == 2 and message in err and out == ""
        assert not (tmp_path / "out").exists() and not left_beside(tmp_path)
        (source / f"{name}.png").unlink()
    (source / "s3.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    code, _, err = run("sections", source)
    assert code == 2 and "s3.png: cannot be read" in err
    deep = numbered(tmp_path / "deep", noise(0, 3, 9, 8, dtype=np.uint16) // 16)
    code, _, err = run("sections", deep)
    assert code == 2 and "uint16 with maximum 4" in err and not left_beside(tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_other_kind_is_named(run, tmp_path):
    tifffile.imwrite(tmp_path / "v.tif", noise(0, 3, 9, 8), photometric="minisblack")
    code, _, err = run("sections", tmp_path / "v.tif")
    assert code == 2 and "`prepare volume`" in err
    code, _, err = run("volume", numbered(tmp_path / "in", noise(0, 3, 9, 8)))
    assert code == 2 and "`prepare sections`" in err
    tifffile.imwrite(tmp_path / "one.tif", noise(0, 9, 8))
    code, _, err = run("volume", tmp_path / "one.tif")
    assert code == 2 and "1 section(s)" in err


# MR volumes --------------------------------------------------------------------------


def scans(folder, heads):
    folder.mkdir()
    for name, head in heads.items():
        nibabel.save(nibabel.Nifti1Image(head, np.eye(4)), folder / f"{name}.nii.gz")
    return folder


def test_slices_are_levels_on_the_scale_of_their_subject(run, tmp_path):
    rng = np.random.default_rng(0)
    heads = {
        f"h{k}_flair": rng.integers(1, 900, (9, 8, 4)).astype(np.int16)
        for k in range(3)
    }
    heads["h1_flair"][..., 3] = 0
    lesion = np.zeros((9, 8, 4), np.uint8)
    lesion[4, 4, 2] = 1
    source = scans(tmp_path / "in", heads | {"h0_lesion": lesion})
    code, out, _ = run("nifti", source)
    assert code == 0 and "1 slices hold nothing but 0" in out
    assert " --config.data.axis=2 --config.data.percentile=99.5\n" in out
    got = {one["name"].decode(): one for one in records(tmp_path / "out")}
    assert len(got) == 11 and "h1_flair_slice_003" not in got
    for name, head in heads.items():
        top = np.percentile(head[head != 0], 99.5)
        for k in range(4):
            one = got.get(f"{name}_slice_{k:03d}")
            if one is None:
                continue
            want = np.rint(np.clip(head[..., k].T / top, 0, 1) * 65535)
            np.testing.assert_array_equal(one["image"][..., 0], want)
    subjects = report_of(tmp_path)["subjects"]
    assert subjects["h1_flair"]["empty_slices"] == ["h1_flair_slice_003"]
    assert (subjects["h0"]["with_lesion"], subjects["h0"]["slices"]) == (1, 4)
    assert subjects["h2_flair"]["unknown_lesion"] == 4


def test_training_gets_the_same_slices_of_a_prepared_folder(run, tmp_path):
    heads = {
        f"h{k}": noise(k, 20, 20, 3, dtype=np.uint16).astype(np.float32)
        for k in range(8)
    }
    source = scans(tmp_path / "in", heads)
    assert run("nifti", source, "--percentile", 99, "--axis", 2)[0] == 0
    changes = {"data.percentile": 99.0}
    want, got = (
        pipeline.build(slice_config(tmp_path, place, **changes), SLICE_SPEC, 0, 1)
        for place in (source, tmp_path / "out")
    )
    for name, pixels in want.batch(3).items():
        np.testing.assert_array_equal(got.batch(3)[name], pixels)
    assert want.summary["subjects"] == got.summary["subjects"]
    with pytest.raises(ValueError, match="was prepared with .*99.0"):
        pipeline.build(slice_config(tmp_path, tmp_path / "out"), SLICE_SPEC, 0, 1)


def test_subjects_that_cannot_be_read_are_left_out_by_name(run, tmp_path):
    head = noise(0, 9, 8, 4).astype(np.float32) + 1
    holed = head.copy()
    holed[3, 3, 3] = np.nan
    source = scans(tmp_path / "in", {"good": head, "holed": holed})
    (source / "torn.nii.gz").write_bytes((source / "good.nii.gz").read_bytes()[:200])
    code, out, _ = run("nifti", source)
    assert code == 1 and "Rejected: torn: " in out
    rejected = report_of(tmp_path)["rejected"]
    assert (
        list(rejected) == ["holed", "torn"] and "1 pixels are NaN" in rejected["holed"]
    )
    assert {one["subject"] for one in records(tmp_path / "out")} == {b"good"}
    (source / "good.nii.gz").unlink()
    code, _, err = run("nifti", source, output="none")
    assert code == 2 and "none of 2 subjects can be read" in err
    assert not (tmp_path / "none").exists()
    code, _, err = run("nifti", source, "--percentile", 0, output="none")
    assert code == 2 and "--percentile is 0" in err
    code, _, err = run("nifti", source / "torn.nii.gz", output="none")
    assert code == 2 and "give the folder" in err


def test_dicom_series_are_subjects(run, tmp_path):
    stack = noise(0, 3, 9, 8, dtype=np.uint16) // 16 + 1
    for name in ("ann", "ben"):
        write_series(tmp_path / "in" / name, stack, slope=1.0, offset=0.0)
    assert run("nifti", tmp_path / "in", "--dicom")[0] == 0
    got = records(tmp_path / "out")
    assert [one["subject"] for one in got] == [b"ann"] * 3 + [b"ben"] * 3
    top = np.percentile(stack, 99.5)
    want = np.rint(np.clip(stack[1] / top, 0, 1) * 65535)
    np.testing.assert_array_equal(got[4]["image"][..., 0], want)


# The output --------------------------------------------------------------------------


def test_an_output_is_left_alone_unless_it_is_the_same(run, tmp_path):
    source = numbered(tmp_path / "in", noise(0, 4, 9, 8))
    (tmp_path / "out").mkdir()  # empty: it may be written to
    assert run("sections", source)[0] == 0
    whole = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}

    def refused(*words, message, given=source):
        code, out, err = run("sections", given, *words)
        assert code == 2 and out == "" and message in " ".join(err.split())
        for path, data in whole.items():
            assert path.read_bytes() == data

    refused("--max-pixels", 1000, message="with other options")
    write(source, s1=noise(7, 9, 8))
    refused(message="holds a preparation of 'in' as 'sections', from other files")
    write(source, s1=noise(0, 4, 9, 8)[1])
    code, out, _ = run("sections", source)  # the bytes decide, not the times
    assert code == 0 and "nothing was done" in out

    (data,) = (tmp_path / "out").rglob("*.array_record*")
    data.write_bytes(whole.pop(data)[:-1])
    refused(message="is not as it was written")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    code, _, err = run("sections", source, output="mine")
    assert code == 2 and "was not prepared by this command" in err
    code, _, err = run("sections", source, output="mine/thesis.txt")
    assert code == 2 and "is a file" in err
    code, _, err = run("sections", source, output="in/below")
    assert code == 2 and "lies in the input" in err
    code, _, err = run("sections", tmp_path / "gone", output="new")
    assert code == 2 and "is not there" in err
    text = (tmp_path / "mine" / "thesis.txt").read_text()
    assert text == "years of work" and not (source / "below").exists()


def test_nothing_is_left_of_a_preparation_that_was_interrupted(
    run, tmp_path, monkeypatch
):
    source = numbered(tmp_path / "in", noise(0, 4, 9, 8))
    real = preparing.Tally.add

    def interrupted(self, pixels):
        real(self, pixels)
        raise KeyboardInterrupt

    monkeypatch.setattr(preparing.Tally, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("sections", source)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


# The command -------------------------------------------------------------------------


def test_wrong_words_exit_with_2(run, tmp_path):
    with contextlib.suppress(OSError):
        shutil.rmtree(tmp_path / "out")
    for kind, *words in (
        ["pairs"],
        ["volume", "--axis", 3],
        ["sections", "--axis", 1],
        ["glomeruli", "--layout", "mendeley"],
    ):
        with pytest.raises(SystemExit) as left:
            run(kind, tmp_path, *words)
        assert left.value.code == 2
    code, _, err = run("images", tmp_path, "--max-pixels", 0)
    assert code == 2 and "--max-pixels is 0" in err


def test_it_works_without_tensorflow(tmp_path):
    numbered(tmp_path / "in", noise(0, 4, 9, 8))
    code = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = classmethod(lambda cls, name, path=None, target=None:\n"
        "    None if name.split('.')[0] == 'tensorflow' else find(name, path, target))\n"
        "import argparse\n"
        "from jaxinpaint.commands import prepare\n"
        "parser = argparse.ArgumentParser()\n"
        "prepare.add_arguments(parser)\n"
        "words = ['sections', '--input', sys.argv[1] + '/in']\n"
        "code = prepare.run(parser.parse_args([*words, '--output', sys.argv[1] + '/o']))\n"
        "assert not {'tensorflow', 'jax'} & set(sys.modules)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / "o")) == 4 and "4 sections" in done.stdout
