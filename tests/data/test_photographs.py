import pathlib
import threading

import numpy as np
import pytest
import tifffile
from ml_collections import ConfigDict
from PIL import Image

from jaxinpaint.data import images, keeping, phantom_photographs, photographs, pipeline

SAMPLES = pathlib.Path(__file__).parents[2] / "../shared/data"
SIZE = 16


def noise(at, *shape, dtype=np.uint8):
    top = np.iinfo(dtype).max
    return np.random.default_rng(at).integers(0, top, shape, dtype, True)


def config_of(source, cache="", **changes):
    config = ConfigDict(
        {
            "seed": 4,
            "channels": 3,
            "mask": {"sampler": "deepfill_box", "box": 8, "max_delta": 2},
            "data": {
                "kind": "photographs",
                "source": str(source),
                "cache_dir": str(cache),
                "max_pixels": 400_000,
                "validation_fraction": 0.2,
                "test_fraction": 0.3,
                "validation_crops": 3,
                "hflip": True,
                "threads": 2,
                "fit": "crop",
                "celeba_split": "official",
                "limit_train": 0,
                "limit_test": 0,
                "phantom": {"count": 10, "height": 20, "width": 24, "seed": 2},
            },
            "eval": {
                "crop_size": SIZE,
                "crops_per_image": 2,
                "seed": 1,
                "masks": {
                    "squares": (6,),
                    "half": False,
                    "centre": (4,),
                    "irregular_ratios": (),
                    "stroke_width": (2, 4),
                },
            },
        }
    )
    config.lock()
    config.update_from_flattened_dict(changes)
    return config


def build(source, cache="", size=SIZE, channels=3, derived=None, **changes):
    image = np.empty((4, size, size, channels))
    spec = {"image": image, "mask": image[..., :1]}
    config = config_of(source, cache, channels=channels, **changes)
    return pipeline.build(config, spec, 0, 1, derived or {})


def write(folder, pictures):
    folder.mkdir()
    for name, pixels in pictures.items():
        images.write_image(folder / f"{name}.png", pixels)
    return folder


def test_the_phantom():
    data = build("phantom")
    stack = phantom_photographs.photographs(count=10, height=20, width=24, seed=2)
    split = data.summary["split"]
    assert [len(split[k]) for k in ("training", "validation", "test")] == [5, 2, 3]
    batches = data.train(3)
    batch = next(batches)
    batches.close()
    np.testing.assert_array_equal(batch["image"], data.batch(3)["image"])
    assert batch["mask"].any(axis=(1, 2, 3)).all()
    cases = list(data.test_cases())
    assert [c.label for c in cases] == ["6x6"] * 6 + ["4x4"] * 6
    for case, at in zip(cases, np.repeat(split["test"], 2), strict=False):
        assert case.name.startswith(f"picture_{at:04d}_crop_0")
        views = np.lib.stride_tricks.sliding_window_view(stack[at], (SIZE, SIZE, 3))
        assert (views == case.image).all(axis=(-1, -2, -3)).any()
    assert data.summary["kind"] == "photographs" and data.summary["fit"] == "crop"
    assert data.summary["shape"] == [10, 20, 24, 3]
    assert data.summary["digest"] == build("phantom").summary["digest"]
    other = build("phantom", **{"data.phantom.seed": 3})
    assert data.summary["digest"] != other.summary["digest"]
    limited = build("phantom", **{"data.limit_train": 2, "data.limit_test": 1})
    assert [len(limited.summary["split"][k]) for k in ("training", "test")] == [2, 1]


def mixed(folder):
    """Files of many kinds and sizes, and what each of them shows."""
    folder.mkdir()
    smooth = np.add.outer(np.arange(30), np.arange(40))[..., None].astype(np.uint8)
    shows = {
        "grey": noise(0, 17, 30, 1),
        "rgb": noise(1, 40, 16, 3),
        "opaque": noise(2, 20, 21, 3),
        "bmp": noise(3, 18, 18, 3),
        "tiff": noise(4, 16, 33, 3),
        "palette": noise(5, 19, 19, 1) // 64 * 64,
        "twice": noise(6, 22, 16, 3),
    }
    images.write_image(folder / "grey.png", shows["grey"])
    Image.fromarray(shows["rgb"]).save(folder / "rgb.PNG", "PNG")
    alpha = np.full((20, 21, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([shows["opaque"], alpha], -1)).save(
        folder / "opaque.png"
    )
    Image.fromarray(shows["bmp"]).save(folder / "bmp.bmp")
    tifffile.imwrite(folder / "tiff.tif", shows["tiff"], photometric="rgb")
    Image.fromarray(shows["palette"][..., 0]).convert("P").save(folder / "palette.png")
    images.write_image(folder / "twice.png", shows["twice"])
    Image.fromarray(np.repeat(smooth, 3, -1)).save(folder / "twice.jpg", quality=95)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    write(folder / "masks", {"m": noise(9, 16, 16, 1)})
    return shows


def test_a_folder_of_many_kinds_and_sizes(tmp_path):
    shows = mixed(tmp_path / "a")
    data = build(tmp_path / "a", **{"data.hflip": False, "data.test_fraction": 0.5})
    names = sorted([*set(shows) - {"twice"}, "twice.jpg", "twice.png"])
    split = data.summary["split"]
    assert sorted(sum(split.values(), [])) == list(range(8))
    assert data.summary["shape"] == [8, SIZE, SIZE, 3]  # sizes differ
    found = set()
    for case in data.test_cases():
        name = case.name.rsplit("_crop_")[0]
        found.add(name)
        assert case.image.shape == (SIZE, SIZE, 3)
        if name.split(".")[0] in shows and name != "twice.jpg":
            whole = shows[name.split(".")[0]]
            whole = np.repeat(whole, 3 // whole.shape[-1], axis=-1)
            views = np.lib.stride_tricks.sliding_window_view(whole, (SIZE, SIZE, 3))
            assert (views == case.image).all(axis=(-1, -2, -3)).any(), name
    # Names in their order are the files' by name.
    assert found == {sorted(names, key=file_of)[at] for at in split["test"]}


def file_of(name):
    """The file names of `mixed`, whose order gives the positions."""
    kinds = {"rgb": "rgb.PNG", "bmp": "bmp.bmp", "tiff": "tiff.tif"}
    return kinds.get(name, name if "." in name else f"{name}.png")


def test_a_folder_does_not_depend_on_where_it_lies(tmp_path):
    pictures = {f"p{k}": noise(k, 18, 18 + k, 3) for k in range(6)}
    one = build(write(tmp_path / "a", pictures))
    two = build(write(tmp_path / "b", pictures))
    assert one.summary["digest"] == two.summary["digest"]
    np.testing.assert_array_equal(one.batch(0)["image"], two.batch(0)["image"])
    images.write_image(tmp_path / "b" / "p0.png", noise(99, 18, 18, 3))
    assert build(tmp_path / "b").summary["digest"] != one.summary["digest"]
    assert build(tmp_path / "a", seed=5).summary["split"] != one.summary["split"]


def test_a_large_folder_is_known_by_names_and_lengths(tmp_path, monkeypatch):
    folder = write(tmp_path / "a", {f"p{k}": noise(k, 18, 18, 3) for k in range(4)})
    whole = build(folder).summary["digest"]
    monkeypatch.setattr(photographs, "HASHED_BYTES", 100)
    short = build(folder).summary["digest"]
    assert short != whole
    path = folder / "p3.png"
    path.write_bytes(path.read_bytes() + b"0")
    assert build(folder).summary["digest"] != short


def slow_shrink(pixels, size):
    """Antialiased bilinear resizing as loops: a triangle as wide as the step."""
    height, width, _ = pixels.shape

    def weights(count, out):
        step = count / out
        reach = max(step, 1.0)
        rows = []
        for k in range(out):
            centre = (k + 0.5) * step
            row = [max(0.0, 1 - abs((i + 0.5 - centre) / reach)) for i in range(count)]
            rows.append(np.array(row) / sum(row))
        return np.array(rows)

    tall, wide = (round(n * size / min(height, width)) for n in (height, width))
    full = np.einsum(
        "yi,ijc,xj->yxc",
        weights(height, tall),
        pixels.astype(float),
        weights(width, wide),
    )
    top, left = (tall - size) // 2, (wide - size) // 2
    return full[top : top + size, left : left + size]


@pytest.mark.parametrize("shape", [(40, 52, 3), (33, 32, 3), (10, 14, 1), (16, 21, 3)])
def test_shrinking_against_loops(shape):
    pixels = noise(1, *shape)
    got = photographs.shrink(pixels, SIZE)
    assert got.dtype == np.uint8 and got.shape == (SIZE, SIZE, shape[-1])
    # Rounding of a float32 sum may fall to the other side of a half.
    assert abs(got - slow_shrink(pixels, SIZE)).max() <= 0.51


def test_shrinking_keeps_what_needs_no_resizing_and_16_bits():
    pixels = noise(1, SIZE, SIZE + 7, 3)
    np.testing.assert_array_equal(photographs.shrink(pixels, SIZE), pixels[:, 3:19])
    deep = noise(2, 48, 40, 1, dtype=np.uint16)
    got = photographs.shrink(deep, SIZE)
    assert got.dtype == np.uint16 and abs(got - slow_shrink(deep, SIZE)).max() <= 0.51
    flat = np.full((50, 40, 3), 255, np.uint8)
    assert (photographs.shrink(flat, SIZE) == 255).all()


def test_shrunk_pictures_of_a_folder_are_kept(tmp_path, monkeypatch):
    pictures = {f"p{k}": noise(k, 40 + k, 33, 1) for k in range(6)}
    folder = write(tmp_path / "a", pictures)
    settings = {"data.fit": "shrink", "eval.crop_size": 0}
    one = build(folder, tmp_path / "cache", **settings)
    cases = list(one.test_cases())
    at = one.summary["split"]["test"][0]
    want = np.repeat(photographs.shrink(pictures[f"p{at}"], SIZE), 3, axis=-1)
    np.testing.assert_array_equal(cases[0].image, want)
    assert one.summary["shape"] == [6, SIZE, SIZE, 3]
    batches = [one.batch(step)["image"] for step in range(6)]
    (home,) = (tmp_path / "cache" / "photographs").iterdir()
    kept = {path.name for path in home.iterdir()}
    assert kept <= {f"{k}.npy" for k in range(6)} and f"{at}.npy" in kept

    def fail(*arguments):
        raise AssertionError("decoded again")

    monkeypatch.setattr(images, "read_image", fail)
    two = build(folder, tmp_path / "cache", **settings)
    again = [two.batch(step)["image"] for step in range(6)]
    np.testing.assert_array_equal(again, batches)
    (home / f"{at}.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=f"{at}.npy is damaged .*; delete that file"):
        build(folder, tmp_path / "cache", **settings)


def test_what_was_read_last_stays_in_memory():
    reads = []

    def read(at):
        reads.append(at)
        return np.full((10, 10, 1), at, np.uint8)

    recent = keeping.recent(read, 350)  # three pictures
    for at in (1, 2, 3, 1, 4, 1, 2):
        assert (recent(at) == at).all()
    assert reads == [1, 2, 3, 4, 2]
    with pytest.raises(ValueError, match="read-only"):
        recent(1)[0] = 0
    wrong = []

    def work(seed):
        for at in np.random.default_rng(seed).integers(9, size=300).tolist():
            if (recent(at) != at).any():
                wrong.append(at)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_files_that_cannot_serve_are_named(tmp_path):
    pictures = {f"p{k}": noise(k, 18, 18, 3) for k in range(5)}
    folder = write(tmp_path / "a", pictures)
    images.write_image(folder / "p2.png", noise(2, 15, 40, 3))
    with pytest.raises(ValueError, match="p2 is 15 x 40, but .* need 16 x 16; take it"):
        build(folder)
    (folder / "p2.png").write_bytes(b"no picture")
    with pytest.raises(images.ImageFileError, match="p2.png: cannot be read"):
        build(folder)
    clear = np.concatenate([noise(2, 18, 18, 3), noise(3, 18, 18, 1)], axis=-1)
    Image.fromarray(clear).save(folder / "p2.png")
    with pytest.raises(images.ImageFileError, match="p2.png: has transparent pixels"):
        for step in range(9):
            list(build(folder, seed=step).test_cases())
    images.write_image(folder / "p2.png", noise(2, 18, 18, 1, dtype=np.uint16))
    with pytest.raises(ValueError, match="p. is uint.* one set has one kind"):
        for step in range(9):
            list(build(folder, seed=step).test_cases())
    with pytest.raises(ValueError, match="p. is in colour; set it to 3"):
        build(folder, channels=1)


def test_sources_that_cannot_be(tmp_path):
    few = write(tmp_path / "few", {f"p{k}": noise(k, 18, 18, 3) for k in range(2)})
    (tmp_path / "none").mkdir()
    for source, changes, words in [
        (few, {}, "few: split: 2 picture.s.; at least 3"),
        (few / "p0.png", {}, "p0.png is a file; photographs come as a folder"),
        (tmp_path / "none", {}, "holds no picture .*dataset_info.json"),
        ("phantom", {"data.fit": "pad"}, r"fit must be one of \['crop', 'shrink'\], g"),
        ("phantom", {"data.celeba_split": "x"}, "celeba_split must be one of"),
        (
            "phantom",
            {"eval.crop_size": 21},
            "is 20 x 24, but config.eval.crop_size nee",
        ),
        (
            "phantom",
            {"data.fit": "shrink", "eval.crop_size": 17},
            "eval.crop_size needs crops of 17 x 17, but the pictures of phantom are 16",
        ),
        (
            "phantom",
            {"derived": {"reference": None}},
            "neighbours; photographs have no",
        ),
    ]:
        with pytest.raises(ValueError, match=words):
            build(source, **changes)
    with pytest.raises(FileNotFoundError):
        build(tmp_path / "nowhere")


@pytest.mark.skipif(
    not (SAMPLES / "natural_skimage").is_dir(), reason="needs ../shared/data"
)
@pytest.mark.parametrize("fit", ["crop", "shrink"])
def test_real_photographs(tmp_path, fit):
    data = build(
        SAMPLES / "natural_skimage",
        tmp_path,
        size=64,
        **{"data.fit": fit, "eval.crop_size": 64, "data.test_fraction": 0.5},
    )
    assert data.batch(0)["image"].shape == (4, 64, 64, 3)
    names = {c.name for c in data.test_cases()}
    files = sorted(["astronaut", "camera", "chelsea", "ihc"])
    tested = [files[at] for at in data.summary["split"]["test"]]
    assert names == {f"{name}_crop_0{k}" for name in tested for k in (0, 1)}
    assert data.summary["shape"] == [4, 64, 64, 3]
