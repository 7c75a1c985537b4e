"""Pictures written again: other readers see what they saw, but for the hole."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from jaxinpaint.data.images import ImageFileError
from jaxinpaint.data.pictures import (
    encode_picture,
    read_picture,
    write_whole,
    written_suffix,
)

HEIGHT, WIDTH = 37, 53
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
HOLE = np.zeros((HEIGHT, WIDTH), bool)
HOLE[9:20, 30:41] = True
MOVED = {273, 279, 324, 325}  # offsets and counts of strips and tiles


def pixels(channels, dtype="uint8"):
    """Smooth, so that it compresses, with noise where the hole is not."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = [(x * 3 + y * (c + 1)) % 251 for c in range(channels)]
    image = np.stack(planes, axis=-1)
    if dtype == "uint16":
        image = image * 257 + np.arange(channels)
    image = image.astype(dtype)
    if channels in (2, 4):
        image[..., -1] = np.iinfo(dtype).max
        image[:5, :7, -1] = 3
    return image


def invented(image):
    """The picture with noise in its hole, which compresses worse."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, np.iinfo(image.dtype).max + 1, image.shape)
    return np.where(HOLE[..., None], noise.astype(image.dtype), image)


def rewrite(path):
    """What `fill` does with a file: reads it, changes the hole, writes it."""
    picture = read_picture(path)
    made = invented(picture.pixels)
    data = encode_picture(picture, made)
    target = path.with_name(f"out{written_suffix(path)}")
    write_whole(target, data)
    return picture, made, target


def flat(image):
    return image[..., 0] if image.shape[-1] == 1 else image


def exif():
    found = Image.Exif()
    found[0x010E] = "a description"
    found[0x0132] = "2024:05:06 07:08:09"
    found.get_ifd(0x8769)[0x9003] = "2023:01:02 03:04:05"
    return found


@pytest.mark.parametrize(
    ("channels", "dtype"),
    [(1, "uint8"), (2, "uint8"), (3, "uint8"), (4, "uint8"), (1, "uint16")],
)
def test_png_keeps_depth_alpha_and_all_it_says(tmp_path, channels, dtype):
    path, full = tmp_path / "a.png", pixels(channels, dtype)
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "someone")
    text.add(b"gAMA", struct.pack(">I", 45455))
    text.add(b"prVt", b"private")
    Image.fromarray(flat(full)).save(
        path, pnginfo=text, icc_profile=ICC, exif=exif(), dpi=(300, 300)
    )
    picture, made, target = rewrite(path)
    with Image.open(path) as old, Image.open(target) as new:
        before, after = np.array(old), np.array(new)
        assert (new.mode, new.size, new.format) == (old.mode, old.size, "PNG")
        assert new.info == old.info  # profile, text, gamma and resolution
        assert new.info["icc_profile"] == ICC and new.info["Author"] == "someone"
        assert dict(new.getexif()) == dict(old.getexif())
        assert new.getexif().get_ifd(0x8769) == {0x9003: "2023:01:02 03:04:05"}
    assert b"prVtprivate" in target.read_bytes()
    assert after.dtype == before.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(after[~HOLE], before[~HOLE])
    after = after.reshape(HEIGHT, WIDTH, -1)
    np.testing.assert_array_equal(after[..., : made.shape[-1]], made)
    if channels in (2, 4):
        np.testing.assert_array_equal(after[..., -1], full[..., -1])  # in the hole too
        assert "35 transparent pixels" in picture.notes[0]
    else:
        assert picture.alpha is None and picture.notes == ()


def test_the_hole_is_the_one_thing_that_changes():
    """The tests above would pass for a picture that nobody changed."""
    image = pixels(3)
    assert (invented(image)[HOLE] != image[HOLE]).mean() > 0.9


def test_a_palette_and_one_bit_are_told(tmp_path):
    colours = Image.fromarray(pixels(3)).quantize(16)
    colours.save(tmp_path / "p.png", icc_profile=ICC)
    Image.fromarray(pixels(1)[..., 0] > 100).save(tmp_path / "one.png")
    picture, made, target = rewrite(tmp_path / "p.png")
    assert picture.notes == ("its palette is written as colour",)
    with Image.open(target) as new:
        assert new.mode == "RGB" and new.info["icc_profile"] == ICC
        after = np.array(new)
    np.testing.assert_array_equal(after[~HOLE], np.array(colours.convert("RGB"))[~HOLE])
    np.testing.assert_array_equal(after, made)
    picture, made, target = rewrite(tmp_path / "one.png")
    assert picture.notes == ("its grey is written with 8 bits",)
    after = cv2.imread(str(target), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(after, made[..., 0])
    want = (pixels(1)[..., 0] > 100) * 255
    np.testing.assert_array_equal(after[~HOLE], want[~HOLE])


def test_a_transparent_colour_becomes_alpha(tmp_path):
    path, full = tmp_path / "a.png", pixels(3)
    clear = tuple(int(v) for v in full[2, 3])
    Image.fromarray(full).save(path, transparency=clear, dpi=(300, 300))
    picture, made, target = rewrite(path)
    with Image.open(target) as new:
        assert new.mode == "RGBA" and new.info["dpi"] == pytest.approx((300, 300), 1e-3)
        after = np.array(new)
    np.testing.assert_array_equal(after[..., :3], made)
    want = np.where((full == clear).all(axis=-1), 0, 255)
    np.testing.assert_array_equal(after[..., 3], want)


def test_a_jpeg_becomes_a_png_with_its_profile_and_exif(tmp_path):
    path, meta = tmp_path / "a.jpg", exif()
    meta[0x0112] = 6
    Image.fromarray(pixels(3)).save(
        path, quality=80, icc_profile=ICC, exif=meta, dpi=(72, 72), xmp=b"<x>note</x>"
    )
    picture, made, target = rewrite(path)
    assert target.name == "out.png"
    with Image.open(path) as old, Image.open(target) as new:
        before, after = np.array(old), np.array(new)
        assert new.format == "PNG" and new.info["icc_profile"] == ICC
        assert dict(new.getexif()) == dict(old.getexif())
        assert new.getexif()[0x0112] == 6
        assert new.getexif().get_ifd(0x8769) == {0x9003: "2023:01:02 03:04:05"}
        assert "<x>note</x>" in str(new.info["XML:com.adobe.xmp"])
    np.testing.assert_array_equal(after[~HOLE], before[~HOLE])
    np.testing.assert_array_equal(after, made)
    assert "written as PNG" in picture.notes[0]
    assert "orientation 6" in picture.notes[1]


@pytest.mark.parametrize("channels", [1, 3])
def test_bmp(tmp_path, channels):
    path = tmp_path / "a.bmp"
    Image.fromarray(flat(pixels(channels))).save(path, dpi=(200, 200))
    _, made, target = rewrite(path)
    assert target.suffix == ".bmp"
    after = cv2.imread(str(target), cv2.IMREAD_UNCHANGED)
    after = after[..., None] if channels == 1 else after[..., ::-1]
    np.testing.assert_array_equal(after, made)
    with Image.open(path) as old, Image.open(target) as new:
        assert new.info["dpi"] == old.info["dpi"]


TIFFS = {
    "plain": {},
    "strips": {"rowsperstrip": 5},
    "tiles": {"tile": (16, 32)},
    "deflate": {"compression": "zlib", "rowsperstrip": 5},
    "differences": {"compression": "zlib", "predictor": 2, "rowsperstrip": 4},
    "tiled_differences": {"compression": "zlib", "predictor": 2, "tile": (16, 16)},
    "lzw": {"compression": "lzw", "rowsperstrip": 6},
    "packbits": {"compression": "packbits", "rowsperstrip": 6},
    "motorola": {"byteorder": ">", "compression": "zlib", "predictor": 2},
    "big": {"bigtiff": True, "rowsperstrip": 8},
}
KINDS = [(1, "uint8"), (1, "uint16"), (3, "uint8"), (3, "uint16"), (4, "uint8")]


def write_tiff(path, full, **options):
    colour = full.shape[-1] > 2
    tifffile.imwrite(
        path,
        flat(full),
        photometric="rgb" if colour else "minisblack",
        extrasamples=["unassalpha"] if full.shape[-1] == 4 else None,
        resolution=(2540000, 2540000),
        resolutionunit=3,
        description="measured somewhere",
        software="a microscope",
        metadata=None,
        extratags=[
            (34675, "B", len(ICC), ICC, True),
            (65000, "s", 0, "a vendor's own tag", True),
            (65001, "d", 2, (1.5, -2.25), True),
        ],
        **options,
    )


def by_another(path, channels):
    """By libtiff: OpenCV, or Pillow where OpenCV would multiply by alpha."""
    if channels == 4:
        return np.array(Image.open(path))
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return image[..., ::-1] if image.ndim == 3 else image[..., None]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("name", TIFFS)
def test_tiff_keeps_every_tag(tmp_path, name, kind):
    if name in ("lzw", "packbits"):
        pytest.importorskip("imagecodecs")  # of the extra `volume`
    path, full = tmp_path / "a.tif", pixels(*kind)
    write_tiff(path, full, **TIFFS[name])
    _, made, target = rewrite(path)
    np.testing.assert_array_equal(tifffile.imread(target), with_alpha(made, full))
    after = by_another(target, kind[0])
    assert after.dtype == full.dtype
    np.testing.assert_array_equal(after[~HOLE], full[~HOLE])
    np.testing.assert_array_equal(after[..., : made.shape[-1]], made)
    assert tags(target) == tags(path)
    assert len(tags(path)) > 14
    with tifffile.TiffFile(path) as old, tifffile.TiffFile(target) as new:
        assert new.byteorder == old.byteorder and new.is_bigtiff == old.is_bigtiff


def with_alpha(made, full):
    return flat(np.concatenate([made, full[..., made.shape[-1] :]], axis=-1))


def tags(path):
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        return {t.code: (t.dtype, t.value) for t in page.tags if t.code not in MOVED}


def test_tiff_with_exif_of_its_own(tmp_path):
    """A folder of tags inside the file, as cameras write it."""
    path = tmp_path / "a.tiff"
    Image.fromarray(pixels(3)).save(path, icc_profile=ICC, exif=exif().tobytes())
    _, made, target = rewrite(path)
    assert target.name == "out.tiff"
    with Image.open(path) as old, Image.open(target) as new:
        assert new.getexif().get_ifd(0x8769) == {0x9003: "2023:01:02 03:04:05"}
        before, after = dict(old.getexif()), dict(new.getexif())
        assert {k: v for k, v in after.items() if k not in MOVED} == {
            k: v for k, v in before.items() if k not in MOVED
        }
        assert after[0x010E] == "a description"
        assert new.info["icc_profile"] == ICC
        np.testing.assert_array_equal(np.array(new), made)


def test_bytes_of_strips_without_hole_stay(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, pixels(1), compression="zlib", rowsperstrip=4)
    _, _, target = rewrite(path)

    def strips(path):
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            pairs = zip(page.dataoffsets, page.databytecounts, strict=True)
            return [path.read_bytes()[at : at + n] for at, n in pairs]

    same = [a == b for a, b in zip(strips(path), strips(target), strict=True)]
    # Rows 9 to 19 are in strips 2 (8 to 11), 3 and 4 (16 to 19).
    assert same == [True, True, False, False, False, True, True, True, True, True]


def test_counts_that_outgrow_their_type(tmp_path):
    """Strip lengths of two bytes, as small files have them, become longer."""
    path = tmp_path / "a.tif"
    image = np.zeros((300, 400, 1), np.uint8)
    tifffile.imwrite(path, image[..., 0], compression="zlib", rowsperstrip=300)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags[279]
        (count,) = tag.value
        short = struct.pack("<HHIHH", 279, 3, 1, count, 0)
        data[tag.offset : tag.offset + 12] = short
    path.write_bytes(data)
    picture = read_picture(path)
    noise = np.random.default_rng(0).integers(0, 256, image.shape).astype(np.uint8)
    target = tmp_path / "out.tif"
    write_whole(target, encode_picture(picture, noise))
    assert target.stat().st_size > 100_000
    np.testing.assert_array_equal(np.array(Image.open(target)), noise[..., 0])


def deep_png(path):
    """16-bit RGB, by hand: Pillow cannot write it."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    rows = b"\0" + bytes(6 * 4)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def refused(folder, name):
    path = folder / "a.tif"
    if name == "deep":
        deep_png(path := folder / "a.png")
    elif name == "text":
        path = folder / "a.png"
        path.write_text("no picture")
    elif name == "pages":
        tifffile.imwrite(path, np.zeros((3, 8, 8), np.uint8), photometric="minisblack")
    elif name == "jpeg":
        Image.fromarray(pixels(3)).save(path, compression="jpeg")
    elif name == "bit":
        Image.new("1", (8, 8)).save(path)
    elif name == "apart":
        tifffile.imwrite(
            path, np.zeros((3, 8, 8), np.uint8), planarconfig="separate",
            photometric="rgb",
        )  # fmt: skip
    elif name == "float":
        tifffile.imwrite(path, np.zeros((8, 8), np.float32))
    elif name == "cut":
        write_tiff(path, pixels(1))
        path.write_bytes(path.read_bytes()[:900])
    elif name == "moving":
        path = folder / "a.png"
        frames = [Image.new("L", (8, 8), level) for level in (0, 9)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deep", "16 bits a channel are supported for grey alone"),
        ("text", "is no PNG, JPEG, BMP or TIFF"),
        ("pages", "has 3 pages, one picture is needed"),
        ("jpeg", "JPEG compression would change valid pixels"),
        ("bit", "one bit a pixel holds no restored grey"),
        ("apart", "stored together"),
        ("float", "float32"),
        ("cut", "cut short|cannot be read"),
        ("moving", "holds 2 frames"),
    ],
)
def test_refused_by_name_in_a_sentence(tmp_path, name, message):
    path = refused(tmp_path, name)
    with pytest.raises(ImageFileError, match=message) as raised:
        read_picture(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_the_ending_follows_the_content(tmp_path):
    image = Image.fromarray(pixels(3))
    for name, kind in (("a.png", "JPEG"), ("a.TIF", "TIFF"), ("a.jpg", "PNG")):
        image.save(tmp_path / name, kind)
    found = [written_suffix(tmp_path / n) for n in ("a.png", "a.TIF", "a.jpg")]
    assert found == [".png", ".TIF", ".png"]


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    Image.fromarray(pixels(3)).save(path, compression="tiff_lzw")

    def missing(self):
        raise KeyError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", missing)
    with pytest.raises(ImageFileError, match=r"jaxinpaint\[volume\] brings it"):
        read_picture(path)


def test_other_pixels_are_refused(tmp_path):
    Image.fromarray(pixels(3)).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    for wrong in (pixels(1), pixels(3)[1:], pixels(3).astype(np.uint16)):
        with pytest.raises(ValueError, match="pixels must be uint8"):
            encode_picture(picture, wrong)


def test_a_codec_that_lies_is_found_out(tmp_path, monkeypatch):
    """What was written is read back, whoever wrote it."""
    path = tmp_path / "a.tif"
    write_tiff(path, pixels(1), compression="zlib")
    picture = read_picture(path)

    class Lying:
        def __getitem__(self, kind):
            return lambda data: zlib.compress(bytes(len(data)))

    class Names:
        COMPRESSORS = Lying()

    monkeypatch.setattr("jaxinpaint.data.tiff_pictures.tifffile.TIFF", Names)
    with pytest.raises(ImageFileError, match="does not read back"):
        encode_picture(picture, invented(picture.pixels))


def test_nothing_half_written(tmp_path, monkeypatch):
    target = tmp_path / "a.png"
    target.write_bytes(b"before")

    def full(self, data):
        with io.open(self, "wb") as file:  # noqa: UP020
            file.write(data[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(target, b"after and longer")
    assert target.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
