import builtins
import io
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from jaxinpaint.data import images, slide_readers
from tests.data.slide_folders import picture, save

SAMPLE = (
    pathlib.Path(__file__).parents[3] / "shared/data/wsi_small/CMU-1-Small-Region.svs"
)
LIMIT = 1_000_000


@pytest.fixture
def without(monkeypatch):
    """Makes packages look as if they were not installed."""

    def hide(*names):
        real = builtins.__import__

        def importing(name, *rest):
            if name.split(".")[0] in names:
                raise ImportError(name)
            return real(name, *rest)

        for name in names:
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(builtins, "__import__", importing)

    return hide


def pyramid(path, image, **settings):
    """A tiled TIFF with a lower level."""
    form = {"tile": (64, 64), "photometric": "rgb"} | settings
    with tifffile.TiffWriter(path) as file:
        file.write(image, resolution=(2e4, 2e4), resolutionunit="CENTIMETER", **form)
        file.write(image[::2, ::2].copy(), subfiletype=1, **form)


@pytest.mark.parametrize("suffix", [".png", ".npy", ".tif"])
def test_a_region_is_cut_out_of_an_image(tmp_path, suffix):
    image = picture(30, 41)
    save(tmp_path / f"a{suffix}", image)
    found = slide_readers.open_pixels(tmp_path / f"a{suffix}", LIMIT)
    assert (found.height, found.width, found.mpp, found.whole) == (30, 41, None, False)
    np.testing.assert_array_equal(found.region(3, 5, 20, 30), image[3:23, 5:35])


@pytest.mark.parametrize(
    "pixels, suffix, message",
    [
        (
            np.zeros((8, 9), np.uint8),
            ".png",
            r"8-bit RGB, found shape \(8, 9, 1\) uint8",
        ),
        (np.zeros((8, 9), np.uint16), ".tif", r"found shape \(8, 9, 1\) uint16"),
        (np.zeros((8, 9, 4), np.uint8), ".png", r"found shape \(8, 9, 4\) uint8"),
        (np.zeros((8, 9, 4), np.uint8), ".npy", r"found shape \(8, 9, 4\) uint8"),
        (np.zeros((8, 9, 3), np.uint16), ".npy", r"found shape \(8, 9, 3\) uint16"),
        (np.zeros((8, 9, 3), np.uint16), ".tif", "16 bits a channel"),
    ],
)
def test_other_pixels_than_8_bit_rgb_are_refused(tmp_path, pixels, suffix, message):
    save(tmp_path / f"a{suffix}", pixels)
    with pytest.raises(ValueError, match=message) as error:
        slide_readers.open_pixels(tmp_path / f"a{suffix}", LIMIT).region(0, 0, 4, 4)
    assert f"a{suffix}" in str(error.value)


def test_an_opaque_alpha_channel_is_dropped_with_a_warning(tmp_path):
    image = picture(8, 9)
    full = np.full((8, 9, 1), 255, np.uint8)
    save(tmp_path / "a.png", np.concatenate([image, full], axis=-1))
    found = slide_readers.open_pixels(tmp_path / "a.png", LIMIT)
    with pytest.warns(UserWarning, match=r"a.png: its alpha channel is opaque"):
        np.testing.assert_array_equal(found.region(0, 0, 8, 9), image)


def test_images_of_too_many_pixels_are_refused_undecoded(tmp_path):
    for suffix in (".png", ".npy", ".tif"):
        save(tmp_path / f"a{suffix}", picture(30, 41))
        with pytest.raises(ValueError, match=r"30 x 41 is more than 1000 pixels"):
            slide_readers.open_pixels(tmp_path / f"a{suffix}", 1000)


def test_damaged_files_are_named(tmp_path):
    image = picture(300, 200)
    for suffix in (".png", ".npy", ".tif"):
        path = tmp_path / f"a{suffix}"
        save(path, image)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(OSError, match=f"a{suffix}"):
            slide_readers.open_pixels(path, LIMIT).region(0, 0, 300, 200)
    path = tmp_path / "a.svs"
    path.write_bytes(b"nothing")
    with pytest.raises(OSError, match="a.svs: cannot be read as a TIFF"):
        slide_readers.open_pixels(path, LIMIT)
    with pytest.raises(FileNotFoundError):
        slide_readers.open_pixels(tmp_path / "b.png", LIMIT)
    (tmp_path / "c.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"c.jpg: .jpg; slides are .png"):
        slide_readers.open_pixels(tmp_path / "c.jpg", LIMIT)


@pytest.mark.parametrize("hidden", [(), ("openslide",)])
def test_regions_of_a_tiled_pyramid_are_read_by_both_packages(
    tmp_path, without, hidden
):
    if not hidden:
        pytest.importorskip("openslide")
    without(*hidden)
    image = picture(150, 209)
    pyramid(tmp_path / "a.tif", image)
    found = slide_readers.open_pixels(tmp_path / "a.tif", LIMIT)
    assert (found.height, found.width, found.whole) == (150, 209, True)
    for top, left, height, width in (
        (0, 0, 150, 209),
        (70, 60, 9, 80),
        (149, 208, 1, 1),
    ):
        got = found.region(top, left, height, width)
        want = image[top : top + height, left : left + width]
        np.testing.assert_array_equal(got, want)


def test_a_tiled_file_is_a_whole_slide_above_the_limit_and_an_image_below(tmp_path):
    image = picture(150, 209)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), photometric="rgb")
    for limit, whole in ((LIMIT, False), (1000, True)):
        found = slide_readers.open_pixels(tmp_path / "a.tif", limit)
        assert found.whole == whole
        np.testing.assert_array_equal(found.region(1, 2, 80, 90), image[1:81, 2:92])


@pytest.mark.parametrize(
    "text, mpp",
    [("x|AppMag = 20|MPP = 0.4990|y", 0.499), ("AppMag = 40", 0.25), ("", None)],
)
def test_resolution_is_that_of_the_description(tmp_path, without, text, mpp):
    without("openslide")
    pyramid(tmp_path / "a.tif", picture(70, 70), description=text, metadata=None)
    assert slide_readers.open_pixels(tmp_path / "a.tif", LIMIT).mpp == mpp


def test_cut_tiles_are_named_with_their_offset(tmp_path, without):
    without("openslide")
    path = tmp_path / "a.tif"
    image = picture(150, 209)
    with tifffile.TiffWriter(path) as file:
        file.write(image[::2, ::2].copy(), tile=(64, 64), photometric="rgb")
    data = path.read_bytes()
    path.write_bytes(data[:-3000])
    found = slide_readers.open_pixels(path, 1000)
    with pytest.raises(OSError, match=r"a.tif: tile 3 at offset \d+ .*cut short"):
        found.region(0, 0, 75, 105)


def test_a_compressed_slide_without_a_reader_names_the_extra(tmp_path):
    pytest.importorskip("imagecodecs")
    path = tmp_path / "a.svs"
    pyramid(path, picture(70, 70), compression="jpeg")
    code = (
        "import builtins, sys\n"
        "real = builtins.__import__\n"
        "def importing(name, *rest):\n"
        "    if name.split('.')[0] in ('openslide', 'imagecodecs'):\n"
        "        raise ImportError(name)\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = importing\n"
        "from jaxinpaint.data import slide_readers\n"
        f"slide_readers.open_pixels({str(path)!r}, 10**6)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and "a.svs" in last
    for word in ("jaxinpaint[slide]", "openslide-python", "openslide-bin"):
        assert word in last


def test_what_is_transparent_becomes_white():
    pytest.importorskip("openslide")

    class Fake:
        dimensions = (4, 1)
        properties = {"openslide.objective-power": "20"}

        def read_region(self, place, level, size):
            alpha = np.uint8([[255, 0, 60, 255]])
            pixels = np.zeros((1, 4, 4), np.uint8)
            pixels[..., 0], pixels[..., 3] = 100, alpha
            return Image.fromarray(pixels[: size[1], place[0] : place[0] + size[0]])

    found = slide_readers._with_openslide(pathlib.Path("a.svs"), Fake())
    assert found.mpp == 0.5
    # (100 * 60 + 255 * 195) / 255 = 218.53
    want = [[100, 0, 0], [255, 255, 255], [219, 195, 195], [100, 0, 0]]
    assert found.region(0, 0, 1, 4).tolist() == [want]


@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample slide is not here")
@pytest.mark.parametrize("package", ["openslide", "imagecodecs"])
def test_a_real_slide_is_read_by_both_packages(without, package):
    pytest.importorskip(package)
    if package == "imagecodecs":
        without("openslide")
    found = slide_readers.open_pixels(SAMPLE, 1000)
    assert (found.height, found.width, found.mpp) == (2967, 2220, 0.499)
    region = found.region(2000, 1100, 500, 600)
    # From Pillow's own decoder of the tile that lies whole inside the region.
    with tifffile.TiffFile(SAMPLE) as tiff:
        page = tiff.pages[0]
        at = (2160 // 240) * -(-2220 // 240) + 1200 // 240
        tiff.filehandle.seek(page.dataoffsets[at])
        data = tiff.filehandle.read(page.databytecounts[at])
        tables = page.jpegtables
    # A tile has its scan, the tag its tables; Adobe's marker says it is RGB.
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x80\x00\x00\x00\x00"
    whole = data[:2] + adobe + tables[2:-2] + data[2:]
    want = np.asarray(Image.open(io.BytesIO(whole)).convert("RGB"))
    got = region[160:400, 100:340]
    assert abs(got.astype(int) - want).max() <= 2  # decoders round differently


def test_an_image_file_error_is_both_kinds_of_error():
    error = slide_readers.SlideFileError("a")
    assert isinstance(error, OSError) and isinstance(error, images.ImageFileError)
