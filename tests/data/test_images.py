import io
import pathlib
import struct
import time
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from jaxinpaint.data import images
from jaxinpaint.data.images import ImageFileError

SAMPLES = pathlib.Path(__file__).parents[2] / "../shared/data"


def noise(*shape, dtype=np.uint8, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, shape, dtype, endpoint=True)


def png(height, width, depth, colour, data, extra=None):
    """A PNG by hand: signature, header, perhaps one chunk more, data, end."""

    def chunk(kind, body):
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header)
    if extra:
        parts += chunk(*extra)
    parts += chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "pixels",
    [noise(7, 9, 1), noise(7, 9, 3), noise(7, 9, 1, dtype=np.uint16)],
    ids=["grey", "rgb", "grey16"],
)
def test_png_round_trip_is_exact(tmp_path, pixels):
    images.write_image(tmp_path / "a.png", pixels)
    got = images.read_image(tmp_path / "a.png")
    assert got.dtype == pixels.dtype
    np.testing.assert_array_equal(got, pixels)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_sixteen_bit_grey_by_hand(tmp_path):
    data = b"\0" + struct.pack(">3H", 1, 256, 65535)  # filter 0, one row
    (tmp_path / "a.png").write_bytes(png(1, 3, 16, 0, data))
    got = images.read_image(tmp_path / "a.png")
    assert got.dtype == np.uint16 and got[0, :, 0].tolist() == [1, 256, 65535]


def test_sixteen_bit_grey_with_a_transparent_level_is_refused(tmp_path):
    data = b"\0" + struct.pack(">3H", 1, 256, 65535)
    level = (b"tRNS", struct.pack(">H", 256))
    (tmp_path / "a.png").write_bytes(png(1, 3, 16, 0, data, level))
    with pytest.raises(ImageFileError, match=r"a\.png: Pillow mode I;16"):
        images.read_image(tmp_path / "a.png")


@pytest.mark.parametrize("colour, samples", [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_colour_is_refused(tmp_path, colour, samples):
    data = b"\0" + bytes(2 * samples)
    (tmp_path / "a.png").write_bytes(png(1, 1, 16, colour, data))
    with pytest.raises(ImageFileError, match=r"a\.png: 16 bits"):
        images.read_image(tmp_path / "a.png")


def test_a_bomb_is_refused_at_once(tmp_path):
    # 20000 x 20000 and 9000 x 9000: above and below Pillow's own limit.
    for side in (20000, 9000):
        (tmp_path / "a.png").write_bytes(png(side, side, 8, 0, bytes(1000)))
        start = time.perf_counter()
        with pytest.raises(ImageFileError, match=r"a\.png.*pixels"):
            images.read_image(tmp_path / "a.png")
        assert time.perf_counter() - start < 1.0


def test_pillows_own_limit_is_an_error_not_a_warning(tmp_path):
    (tmp_path / "a.png").write_bytes(png(10000, 10000, 8, 0, bytes(1000)))
    with pytest.raises(ImageFileError, match=r"a\.png.*decompression bomb"):
        images.read_image(tmp_path / "a.png", 200_000_000)


def test_the_limit_is_height_times_width(tmp_path):
    images.write_image(tmp_path / "a.png", noise(6, 7, 3))
    assert images.read_image(tmp_path / "a.png", 42).shape == (6, 7, 3)
    with pytest.raises(ImageFileError, match="6 x 7 is more than 41"):
        images.read_image(tmp_path / "a.png", 41)


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path):
    pixels = noise(4, 5, 4)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        images.read_image(tmp_path / "a.png"), pixels[..., :3]
    )
    pixels[2, 3, 3] = 254
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(ImageFileError, match="transparent"):
        images.read_image(tmp_path / "a.png")


def test_palettes_and_bits_are_converted_without_loss(tmp_path):
    index = np.uint8([[0, 1], [2, 1]])
    palette = Image.fromarray(index).convert("P")
    palette.putpalette([1, 2, 3, 40, 50, 60, 7, 8, 9])
    palette.save(tmp_path / "p.png")
    want = [[[1, 2, 3], [40, 50, 60]], [[7, 8, 9], [40, 50, 60]]]
    assert images.read_image(tmp_path / "p.png").tolist() == want
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "b.png")
    assert images.read_image(tmp_path / "b.png").tolist() == [[[255], [0]]]


def test_other_kinds_are_refused(tmp_path):
    Image.new("CMYK", (4, 4)).save(tmp_path / "cmyk.jpg")
    frames = [Image.fromarray(noise(4, 4, seed=n)) for n in range(2)]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "key.png", transparency=int(noise(4, 4)[0, 0]))
    frames[0].save(tmp_path / "a.gif")
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((4, 4), np.float32))
    tifffile.imwrite(tmp_path / "white.tif", noise(4, 4), photometric="miniswhite")
    two = np.zeros((2, 4, 4), np.uint8)
    tifffile.imwrite(tmp_path / "two.tif", two, photometric="minisblack")
    rgb16 = np.zeros((4, 4, 3), np.uint16)
    tifffile.imwrite(tmp_path / "rgb16.tif", rgb16, photometric="rgb")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "garbage.png").write_bytes(b"not an image at all")
    whole = images.encode_png(noise(40, 40, 1))
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for path in tmp_path.iterdir():
        with pytest.raises(ImageFileError, match=path.name.replace(".", r"\.")):
            images.read_image(path)
    with pytest.raises(FileNotFoundError):
        images.read_image(tmp_path / "absent.png")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_stack_is_read_page_by_page(tmp_path, dtype, compression):
    stack = noise(5, 6, 7, dtype=dtype)
    path = tmp_path / "vnc.tif"
    tifffile.imwrite(path, stack, photometric="minisblack", compression=compression)
    got = list(images.read_sections(images.list_sections(path)))
    assert [name for name, _ in got] == [f"vnc_{z:04d}" for z in range(5)]
    np.testing.assert_array_equal([p[..., 0] for _, p in got], stack)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_cut_short_is_refused(tmp_path, compression):
    path = tmp_path / "a.tif"
    stack = noise(3, 40, 50)
    tifffile.imwrite(path, stack, photometric="minisblack", compression=compression)
    with tifffile.TiffFile(path) as tiff:
        data, end = path.read_bytes(), tiff.pages[2].dataoffsets[0] + 100
    path.write_bytes(data[:end])
    with pytest.raises(ImageFileError, match=r"a\.tif"):
        list(images.read_sections((path,)))


def test_a_tiff_without_data_is_not_filled_with_zeros(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(64, 64), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        where = tiff.pages[0].tags["StripByteCounts"].valueoffset
    data = bytearray(path.read_bytes())
    data[where : where + 4] = bytes(4)
    path.write_bytes(data)
    with pytest.raises(ImageFileError, match="cut short"):
        images.read_image(path)


def test_a_big_endian_imagej_stack_and_a_colour_stack(tmp_path):
    grey, colour = noise(3, 6, 7, dtype=np.uint16), noise(3, 6, 7, 3)
    ij = {"imagej": True, "metadata": {"axes": "ZYX"}}
    tifffile.imwrite(tmp_path / "g.tif", grey, **ij)
    tifffile.imwrite(tmp_path / "c.tif", colour, photometric="rgb")
    got = [p for _, p in images.read_sections((tmp_path / "g.tif",))]
    assert got[0].dtype == np.uint16
    np.testing.assert_array_equal(np.stack(got)[..., 0], grey)
    got = [p for _, p in images.read_sections((tmp_path / "c.tif",))]
    np.testing.assert_array_equal(got, colour)


def test_alpha_in_a_tiff_stack(tmp_path):
    stack = noise(3, 6, 7, 4)
    kind = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    stack[..., 3] = 255
    tifffile.imwrite(tmp_path / "a.tif", stack, **kind)
    got = [p for _, p in images.read_sections((tmp_path / "a.tif",))]
    np.testing.assert_array_equal(got, stack[..., :3])
    stack[1, 2, 3, 3] = 0
    tifffile.imwrite(tmp_path / "a.tif", stack, **kind)
    with pytest.raises(ImageFileError, match=r"a\.tif: page 1.*transparent"):
        list(images.read_sections((tmp_path / "a.tif",)))


def test_tiff_channels_and_uneven_pages_are_refused(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", noise(2, 6, 7), imagej=True, metadata={"axes": "CYX"}
    )
    with pytest.raises(ImageFileError, match="axes are CYX"):
        list(images.read_sections((tmp_path / "a.tif",)))
    with tifffile.TiffWriter(tmp_path / "b.tif") as out:
        out.write(noise(6, 7), metadata=None)
        out.write(noise(6, 8), metadata=None)
    with pytest.raises(ImageFileError, match=r"\(6, 7\) and \(6, 8\)"):
        list(images.read_sections((tmp_path / "b.tif",)))


def test_a_tiff_that_inflates_beyond_its_strip_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), compression="zlib")
    bomb, data = zlib.compress(bytes(10_000_000)), bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        tags = tiff.pages[0].tags
        assert tags["StripOffsets"].dtype == tags["StripByteCounts"].dtype == 4
        places = tags["StripOffsets"].valueoffset, tags["StripByteCounts"].valueoffset
    for where, value in zip(places, (len(data), len(bomb)), strict=True):
        data[where : where + 4] = value.to_bytes(4, "little")
    data += bomb
    path.write_bytes(data)
    with pytest.raises(ImageFileError, match="inflate beyond"):
        images.read_image(path)


def test_masks(tmp_path):
    for values, name in (([[0, 255]], "a.png"), ([[0, 1]], "b.png")):
        Image.fromarray(np.uint8(values)).save(tmp_path / name)
        assert images.read_mask(tmp_path / name).tolist() == [[[0], [1]]]
    rgba = np.uint8([[[0, 0, 0, 255], [255, 255, 255, 7]]])  # alpha says nothing
    Image.fromarray(rgba).save(tmp_path / "c.png")
    assert images.read_mask(tmp_path / "c.png").tolist() == [[[0], [1]]]
    for empty in (0, 1, 255):
        Image.fromarray(np.full((2, 2), empty, np.uint8)).save(tmp_path / "d.png")
        assert images.read_mask(tmp_path / "d.png").mean() == (empty > 0)


@pytest.mark.parametrize(
    "values, words",
    [
        (np.uint8([[0, 255], [0, 128]]), "got 128 at row 1, column 1"),
        (np.uint8([[0, 255], [1, 0]]), "got 1 at row 1, column 0"),
        (np.uint16([[0, 65535]]), "got 65535"),
        (np.uint8([[[255, 0, 0]]]), "colours"),
    ],
)
def test_what_is_no_mask(tmp_path, values, words):
    Image.fromarray(values).save(tmp_path / "m.png")
    with pytest.raises(ImageFileError, match=words):
        images.read_mask(tmp_path / "m.png")


def test_sections_come_in_the_order_of_their_numbers(tmp_path):
    for name in ("s10_x.png", "s9_x.png", "s100_x.PNG", "README.md", ".s1_x.png"):
        (tmp_path / name).touch()
    got = images.list_sections(tmp_path)
    assert [p.name for p in got] == ["s9_x.png", "s10_x.png", "s100_x.PNG"]


@pytest.mark.parametrize(
    "names, words",
    [
        (("1.png", "01.png"), "have one number"),
        (("1.png", "1.tif"), "have one number"),
        (("a1.png", "b2.png"), "not numbered alike"),
        (("left.png", "right.png"), "no number"),
        (("notes.txt",), "holds no image"),
    ],
)
def test_folders_that_are_no_stack(tmp_path, names, words):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=words):
        images.list_sections(tmp_path)


def test_what_png_cannot_hold(tmp_path):
    for pixels in (
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 1), np.float32),
    ):
        with pytest.raises(ValueError, match="PNG files hold"):
            images.encode_png(pixels)
    with pytest.raises(ValueError, match=r"\.png"):
        images.write_image(tmp_path / "a.jpg", noise(4, 4, 1))


def corpus():
    rgba = io.BytesIO()
    Image.fromarray(noise(20, 24, 4)).save(rgba, "PNG")
    jpeg = io.BytesIO()
    Image.fromarray(noise(20, 24, 3)).save(jpeg, "JPEG")
    files = [images.encode_png(noise(20, 24, 1)), rgba.getvalue(), jpeg.getvalue()]
    files.append(images.encode_png(noise(20, 24, 1, dtype=np.uint16)))
    for compression in (None, "zlib"):
        for stack in (noise(20, 24), noise(3, 20, 24, dtype=np.uint16)):
            out = io.BytesIO()
            kind = {"photometric": "minisblack", "compression": compression}
            tifffile.imwrite(out, stack, **kind)
            files.append(out.getvalue())
    return files


def test_damaged_files_end_in_an_error_or_in_an_image(tmp_path):
    rng = np.random.default_rng(0)
    files, ends = corpus(), {"image": 0, "error": 0}
    path = tmp_path / "fuzzed.bin"
    start = time.process_time()
    for trial in range(240):
        data = bytearray(files[trial % len(files)])
        if rng.random() < 0.2:
            del data[rng.integers(len(data)) :]
        # Half of the damage in the head, where the header is.
        for _ in range(rng.integers(1, 12)):
            if data:
                reach = len(data) if rng.random() < 0.5 else min(len(data), 300)
                data[rng.integers(reach)] = rng.integers(256)
        path.write_bytes(data)
        try:
            for _, pixels in images.read_sections((path,), 100_000):
                assert pixels.dtype in (np.uint8, np.uint16)
                assert pixels.ndim == 3 and pixels.shape[-1] in (1, 3)
                assert pixels.shape[0] * pixels.shape[1] <= 100_000
            ends["image"] += 1
        except ValueError as error:
            assert "fuzzed.bin" in str(error)
            ends["error"] += 1
    assert min(ends.values()) > 20, ends
    assert time.process_time() - start < 20.0


@pytest.mark.skipif(not SAMPLES.exists(), reason="no sample data beside the checkout")
def test_the_sample_masks_are_read():
    for name in ("case3_mask", "case4_mask"):
        mask = images.read_mask(SAMPLES / f"natural_places2_deepfill/{name}.png")
        assert mask.shape == (512, 680, 1) and 0.01 < mask.mean() < 0.5
