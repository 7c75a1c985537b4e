import builtins

import numpy as np
import pytest

from jaxinpaint.data import cremi, images, sections, stack
from tests.data.test_derived import config_of, spec

h5py = pytest.importorskip("h5py")
LIMIT = 100_000


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(1, 256, shape).astype(dtype)


def write(path, volume, resolution=(40.0, 4.0, 4.0), name="volumes/raw", **options):
    with h5py.File(path, "w") as file:
        raw = file.create_dataset(name, data=volume, **options)
        if resolution is not None:
            raw.attrs["resolution"] = resolution
    return path


@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (3, 5, 7), "compression": "gzip"}, {"chunks": (1, 9, 7)}],
    ids=["plain", "chunks of 3 sections", "chunks of 1"],
)
@pytest.mark.parametrize("block", [2**28, 100])
def test_sections_in_axial_order(tmp_path, monkeypatch, options, block):
    monkeypatch.setattr(cremi, "BLOCK", block)  # less than two sections
    volume = noise(8, 9, 7)
    path = write(tmp_path / "mine.h5", volume, **options)
    names, got = zip(*cremi.read_sections(path, LIMIT), strict=True)
    assert names == tuple(f"mine_{z:04d}" for z in range(8))
    assert all(one.dtype == np.uint8 for one in got)
    np.testing.assert_array_equal(got, volume[..., None])


@pytest.mark.parametrize("suffix", ["hdf", "h5", "HDF5"])
def test_it_becomes_a_stack_once(tmp_path, monkeypatch, suffix):
    volume = noise(4, 9, 7)
    path = write(tmp_path / f"a.{suffix}", volume)
    got = stack.open_stack(str(path), tmp_path / "cache", LIMIT)
    np.testing.assert_array_equal(got.sections, volume[..., None])
    assert got.names[2] == "a_0002"
    monkeypatch.setattr(cremi, "read_sections", None)  # from the cache
    again = stack.open_stack(path, tmp_path / "cache", LIMIT)
    assert again.digest == got.digest
    monkeypatch.undo()
    write(path, volume + np.uint8(1))
    other = stack.open_stack(path, tmp_path / "cache", LIMIT)
    assert other.digest != got.digest


def test_from_a_config_to_batches(tmp_path):
    config = config_of(tmp_path, [])
    config.data.source = str(write(tmp_path / "a.hdf", noise(12, 20, 24)))
    data = sections.build(config, spec("previous", "following"))
    assert data.summary["shape"] == [12, 20, 24, 1]
    assert data.batch(0)["image"].shape == (6, 8, 8, 1)


def test_a_missing_resolution_is_told(tmp_path):
    path = write(tmp_path / "a.h5", noise(3, 9, 7), resolution=None)
    with pytest.warns(UserWarning, match=r"a\.h5: .*no attribute .*alpha = 0\.5"):
        assert len(list(cremi.read_sections(path, LIMIT))) == 3


@pytest.mark.parametrize(
    "volume, options, words",
    [
        (noise(3, 9, 7), {"name": "raw"}, r"no dataset volumes/raw.*holds \['raw'\]"),
        (noise(3, 9, 7), {"name": "volumes/raw/a"}, "no dataset volumes/raw"),
        (noise(9, 7), {}, r"must be \(z, y, x\) of uint8, got \(9, 7\)"),
        (noise(3, 9, 7, 1), {}, r"got \(3, 9, 7, 1\) of uint8"),
        (noise(3, 9, 7, dtype=np.uint16), {}, "of uint16"),
        (noise(3, 9, 7, dtype=np.float32), {}, "of float32"),
        (noise(3, 0, 7), {}, r"got \(3, 0, 7\)"),
        (noise(3, 9, 7), {"resolution": (40, 4)}, "must be three positive lengths"),
        (noise(3, 9, 7), {"resolution": (40, 0, 4)}, "must be three positive lengths"),
        (noise(3, 9, 7), {"resolution": "4 nm"}, "must be three positive lengths"),
        (noise(2, 400, 300), {}, "400 x 300 is more than 100000"),
    ],
)
def test_what_is_no_volume(tmp_path, volume, options, words):
    path = write(tmp_path / "v.hdf", volume, **options)
    with pytest.raises(images.ImageFileError, match=f"v.hdf: .*{words}"):
        list(cremi.read_sections(path, LIMIT))


def test_padded_files(tmp_path):
    """Of the challenge; a person's own volume may have any size."""
    mine = write(tmp_path / "samples.hdf", noise(3, 9, 7))
    assert len(list(cremi.read_sections(mine, LIMIT))) == 3
    names = ["sample_A_padded_20160501.hdf", "sample_B+_20160601.hdf", "sample_C.h5"]
    for name in names:
        path = write(tmp_path / name, noise(3, 9, 7))
        with pytest.raises(images.ImageFileError, match="3 x 9 x 7 and looks.*another"):
            list(cremi.read_sections(path, LIMIT))
    with h5py.File(mine, "a") as file:
        labels = file.create_dataset("volumes/labels/clefts", data=noise(2, 4, 3))
        labels.attrs["offset"] = (0.0, 0.0, 0.0)
    assert len(list(cremi.read_sections(mine, LIMIT))) == 3
    with h5py.File(mine, "a") as file:
        file["volumes/labels/clefts"].attrs["offset"] = (1480.0, 3644.0, 3644.0)
    with pytest.raises(images.ImageFileError, match="padded.*without padding.$"):
        list(cremi.read_sections(mine, LIMIT))
    large = tmp_path / "large.hdf"
    with h5py.File(large, "w") as file:  # of no bytes yet
        file.create_dataset("volumes/raw", (200, 3072, 3072), "u1", chunks=(8, 64, 64))
        file["volumes/raw"].attrs["resolution"] = (40, 4, 4)
    with pytest.raises(images.ImageFileError, match="200 x 3072 x 3072 and looks"):
        next(cremi.read_sections(large, 10**9))


def test_the_volumes_of_the_challenge_pass(tmp_path):
    path = tmp_path / "sample_A+_20160601.hdf"
    with h5py.File(path, "w") as file:
        shape = cremi.SHAPE
        file.create_dataset("volumes/raw", shape, "u1", chunks=(1, 1250, 1250))
        file["volumes/raw"].attrs["resolution"] = (40, 4, 4)
    name, pixels = next(cremi.read_sections(path, 1250 * 1250))
    assert (name, pixels.shape) == ("sample_A+_20160601_0000", (1250, 1250, 1))


def test_data_of_another_file_are_refused(tmp_path):
    other = write(tmp_path / "other.h5", noise(3, 9, 7))
    linked, virtual = tmp_path / "linked.h5", tmp_path / "virtual.h5"
    with h5py.File(linked, "w") as file:
        file["volumes/raw"] = h5py.ExternalLink(other.name, "/volumes/raw")
    layout = h5py.VirtualLayout((3, 9, 7), "u1")
    layout[...] = h5py.VirtualSource(other, "volumes/raw", (3, 9, 7))
    with h5py.File(virtual, "w") as file:
        file.create_virtual_dataset("volumes/raw", layout)
    for path in (linked, virtual):
        with pytest.raises(images.ImageFileError, match="lies in another file"):
            list(cremi.read_sections(path, LIMIT))


def test_broken_files(tmp_path):
    path = write(
        tmp_path / "a.h5", noise(6, 40, 40), chunks=(2, 40, 40), fletcher32=True
    )
    whole = path.read_bytes()
    for broken in (b"", b"no HDF5", whole[: len(whole) // 2]):
        path.write_bytes(broken)
        with pytest.raises(images.ImageFileError, match=r"a\.h5: cannot be read"):
            list(cremi.read_sections(path, LIMIT))
    at = whole.index(noise(6, 40, 40)[2].tobytes()[:64])
    path.write_bytes(whole[:at] + b"\0" * 64 + whole[at + 64 :])
    with pytest.raises(images.ImageFileError, match="is damaged at section 2"):
        list(cremi.read_sections(path, LIMIT))
    with pytest.raises(FileNotFoundError):
        list(cremi.read_sections(tmp_path / "absent.h5", LIMIT))


def test_without_h5py(tmp_path, monkeypatch):
    path, real = write(tmp_path / "a.h5", noise(3, 9, 7)), builtins.__import__

    def no_h5py(name, *rest):
        if name == "h5py":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_h5py)
    with pytest.raises(ImportError, match=r"a\.h5: .*jaxinpaint\[volume\].*a TIFF"):
        list(cremi.read_sections(path, LIMIT))
