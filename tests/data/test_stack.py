import json
import multiprocessing
import os
import pathlib
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tifffile

from jaxinpaint.data import images, keeping, stack
from jaxinpaint.data.builders import sections as builder
from jaxinpaint.data.neighbors import MissingNeighborError, psnr

SAMPLES = pathlib.Path(__file__).parents[2] / "../shared/data"
needs_samples = pytest.mark.skipif(
    not SAMPLES.exists(), reason="no sample data beside the checkout"
)
LIMIT = 100_000


def noise(*shape, dtype=np.uint8):
    top = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, top, shape, dtype, endpoint=True)


def folder(path, volume):
    path.mkdir()
    for z, pixels in enumerate(volume):
        images.write_image(path / f"{z + 8}.png", pixels)  # 8, 9, 10: not by letters
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_source_gives_the_same_sections(tmp_path, dtype):
    volume = noise(3, 9, 7, 1, dtype=dtype)
    tifffile.imwrite(tmp_path / "v.tif", volume[..., 0], photometric="minisblack")
    prepared = builder.write_sections(
        ((f"{z}", p) for z, p in enumerate(volume)), tmp_path / "tfds"
    )
    sources = {
        folder(tmp_path / "png", volume): ("8", "9", "10"),
        tmp_path / "v.tif": ("v_0000", "v_0001", "v_0002"),
        prepared: ("0", "1", "2"),
        tmp_path / "tfds": ("0", "1", "2"),
        str(prepared): ("0", "1", "2"),
    }
    for source, names in sources.items():
        got = stack.open_stack(source, tmp_path / "cache", LIMIT)
        assert got.names == names and got.sections.dtype == dtype
        np.testing.assert_array_equal(got.sections, volume)
    got = stack.open_stack(volume, tmp_path / "cache", LIMIT)
    np.testing.assert_array_equal(got.sections, volume)
    assert isinstance(got.sections, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        got.sections[0, 0, 0, 0] = 1


def test_a_stack_is_decoded_once(tmp_path, monkeypatch):
    source = folder(tmp_path / "png", noise(3, 9, 7, 1))
    first = stack.open_stack(source, tmp_path / "cache", LIMIT)
    monkeypatch.setattr(images, "read_sections", None)
    again = stack.open_stack(source, tmp_path / "cache", LIMIT)
    assert again.digest == first.digest and again.names == first.names
    monkeypatch.undo()
    images.write_image(source / "9.png", noise(9, 7, 1))
    other = stack.open_stack(source, tmp_path / "cache", LIMIT)
    assert other.digest != first.digest
    np.testing.assert_array_equal(other.sections[1], noise(9, 7, 1))
    with pytest.raises(images.ImageFileError, match="9 x 7 is more than 62"):
        stack.open_stack(source, tmp_path / "cache", 62)


def test_what_is_cached_is_a_tfds_data_set(tmp_path):
    volume = noise(3, 9, 7, 1)
    got = stack.open_stack(volume, tmp_path, LIMIT)
    (path,) = (tmp_path / "sections" / got.digest).glob("serial_sections/*")
    source = tfds.builder_from_directory(str(path)).as_data_source(split="sections")
    np.testing.assert_array_equal([one["image"] for one in source], volume)


def test_the_cache_has_no_halves(tmp_path):
    source = folder(tmp_path / "png", noise(3, 9, 7, 1))
    (source / "10.png").write_bytes(b"broken")
    with pytest.raises(images.ImageFileError, match=r"10\.png"):
        stack.open_stack(source, tmp_path / "cache", LIMIT)
    assert list((tmp_path / "cache" / "sections").iterdir()) == []


def test_a_damaged_cache_is_named(tmp_path):
    got = stack.open_stack(noise(3, 9, 7, 1), tmp_path, LIMIT)
    home = tmp_path / "sections" / got.digest
    (home / "names.json").write_text(json.dumps(["one"]))
    with pytest.raises(ValueError, match=f"{got.digest} is damaged .3 sections, 1"):
        stack.open_stack(noise(3, 9, 7, 1), tmp_path, LIMIT)
    (home / "sections.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="delete that folder"):
        stack.open_stack(noise(3, 9, 7, 1), tmp_path, LIMIT)


def _open(volume, cache, gate, results):
    gate.wait()
    got = stack.open_stack(volume, cache, LIMIT)
    results.put((got.digest, int(got.sections.sum())))


def test_processes_may_build_it_at_once(tmp_path):
    volume = noise(6, 40, 30, 1)
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(2), context.Queue()
    work = [
        context.Process(target=_open, args=(volume, tmp_path, gate, results))
        for _ in range(2)
    ]
    for process in work:
        process.start()
    got = {results.get(timeout=300) for _ in work}
    for process in work:
        process.join(60)
        assert process.exitcode == 0
    ((digest, total),) = got
    assert total == volume.sum()
    assert [p.name for p in (tmp_path / "sections").iterdir()] == [digest]


def test_losing_the_race_keeps_the_winners_stack(tmp_path, monkeypatch):
    volume = noise(3, 9, 7, 1)
    winner = stack.open_stack(volume, tmp_path, LIMIT)
    home = tmp_path / "sections" / winner.digest
    kept = (home / "sections.npy").stat()
    asked = []  # the second process looks before the first has finished

    def is_dir(path):
        asked.append(path)
        return len(asked) > 1

    monkeypatch.setattr(pathlib.Path, "is_dir", is_dir)
    got = stack.open_stack(volume, tmp_path, LIMIT)
    monkeypatch.undo()
    np.testing.assert_array_equal(got.sections, volume)
    assert (home / "sections.npy").stat().st_ino == kept.st_ino
    assert [p.name for p in (tmp_path / "sections").iterdir()] == [winner.digest]


def _build_forever(volume, cache, ready):
    class Sections(np.ndarray):
        def __iter__(self):
            yield self[0].view(np.ndarray)
            yield self[1].view(np.ndarray)
            ready.set()
            time.sleep(600)

    stack.open_stack(volume.view(Sections), cache, LIMIT)


def test_what_a_killed_builder_left_is_removed_and_a_living_one_keeps_its(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = [context.Event() for _ in range(2)]
    builders = [
        context.Process(
            target=_build_forever, args=(noise(3, 9, 7, 1), tmp_path, one), daemon=True
        )
        for one in ready
    ]
    try:
        for builder_, one in zip(builders, ready, strict=True):
            builder_.start()
            assert one.wait(300)
        folders = set((tmp_path / "sections").glob(".building-*"))
        assert len(folders) == 2
        other = stack.open_stack(noise(2, 9, 7, 1), tmp_path, LIMIT)
        assert set((tmp_path / "sections").glob(".building-*")) == folders
        builders[0].kill()
        builders[0].join(60)
        stack.open_stack(noise(2, 9, 7, 1), tmp_path, LIMIT)  # from the cache
        (left,) = (tmp_path / "sections").glob(".building-*")
        assert left in folders
    finally:
        for one in builders:
            one.kill()
            one.join(60)
    stack.open_stack(noise(2, 9, 7, 1), tmp_path, LIMIT)
    assert [p.name for p in (tmp_path / "sections").iterdir()] == [other.digest]


def test_a_folder_taken_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    lock, taken = keeping.fcntl.flock, []

    def late(descriptor, how):
        if not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].rmdir()
        lock(descriptor, how)

    monkeypatch.setattr(keeping.fcntl, "flock", late)
    work, descriptor = keeping._begin(tmp_path)
    os.close(descriptor)
    assert [work] == list(tmp_path.iterdir()) and taken != [work]


def test_sections_that_differ_are_both_named(tmp_path):
    source = folder(tmp_path / "png", noise(3, 9, 7, 1))
    images.write_image(source / "9.png", noise(9, 8, 1))
    with pytest.raises(ValueError, match=r"8 is uint8 \[9, 7, 1\], 9 is uint8"):
        stack.open_stack(source, tmp_path / "cache", LIMIT)


def test_one_section_has_no_neighbor(tmp_path):
    tifffile.imwrite(tmp_path / "v.tif", noise(9, 7))
    sources = [noise(1, 9, 7, 1), noise(0, 9, 7, 1), tmp_path / "v.tif"]
    sources.append(folder(tmp_path / "png", noise(1, 9, 7, 1)))
    sources.append(builder.write_sections([("a", noise(9, 7, 1))], tmp_path / "tfds"))
    for source in sources:
        with pytest.raises(MissingNeighborError, match="at least 2"):
            stack.open_stack(source, tmp_path / "cache", LIMIT)


def test_what_is_no_source(tmp_path):
    with pytest.raises(FileNotFoundError):
        stack.open_stack(tmp_path / "absent", tmp_path, LIMIT)
    with pytest.raises(ValueError, match=r"\[Z, H, W, C\]"):
        stack.open_stack(noise(3, 9, 7), tmp_path, LIMIT)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("JAXINPAINT_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert keeping.default_cache_dir() == tmp_path / "jaxinpaint"
    monkeypatch.setenv("JAXINPAINT_HOME", str(tmp_path / "home"))
    assert keeping.default_cache_dir() == tmp_path / "home"
    got = stack.open_stack(noise(2, 9, 7, 1), "", LIMIT)
    assert pathlib.Path(got.sections.filename).is_relative_to(tmp_path / "home")


@needs_samples
@pytest.mark.parametrize(
    "source, shape, decibel",
    [
        # Mean PSNR of a section to the next, as the samples' own README has it.
        ("fibsem_medulla", (48, 250, 250, 1), 26.83),
        ("isbi2012_sstem/train/image", (30, 512, 512, 1), 13.3),
    ],
)
def test_the_samples(tmp_path, source, shape, decibel):
    got = stack.open_stack(SAMPLES / source, tmp_path, 64_000_000)
    assert got.sections.shape == shape
    volume = np.asarray(got.sections)
    pairs = zip(volume, volume[1:], strict=False)
    assert np.mean([psnr(a, b) for a, b in pairs]) == pytest.approx(decibel, abs=0.05)
