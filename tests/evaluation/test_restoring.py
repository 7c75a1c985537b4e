"""`fill` from files to files, with a system whose every number is known."""

import hashlib
import json
import re
import signal
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from PIL import Image

from configs import unet as unet_config
from jaxinpaint import cli, systems
from jaxinpaint.core.checkpoint import Checkpoints
from jaxinpaint.core.checks import MaskCoverageError, ShapeMismatchError
from jaxinpaint.core.system import Derived, System, TrainState
from jaxinpaint.evaluation import restoring, runs
from jaxinpaint.inference.tiles import restore_pictures
from jaxinpaint.training import workdir as workdirs

HEIGHT, WIDTH = 45, 70


class Toy:
    """Puts a level in the hole, brighter where a neighbour is."""

    def __init__(
        self, folder, *names, channels=1, mask=True, derived=False, gain=1.0, frozen=()
    ):
        self.frozen = frozen
        self.names, self.mask, self.gain = names, mask, gain
        self.config = unet_config.get_config("smoke")
        self.config.channels = channels
        self.derived = derived
        self.seen = []
        folder.mkdir()
        workdirs.open_workdir(folder, self.config)
        (folder / "metrics.jsonl").write_text("")
        state = self.build(self.config).init(jax.random.key(0))
        with Checkpoints(
            folder / "checkpoints",
            save_every=1,
            keep_latest=2,
            keep_best=0,
            best=("eval/psnr", "max"),
        ) as checkpoints:
            checkpoints.save(20, state, {}, {})

    def build(self, config):
        shape = (config.batch_size, config.image_size, config.image_size)
        image = jax.ShapeDtypeStruct((*shape, config.channels), "float32")
        spec = {"image": image, **dict.fromkeys(self.names, image)}
        if self.derived:
            spec["intermediate"] = image
        spec["mask"] = jax.ShapeDtypeStruct((*shape, 1), "float32")

        def init(key):
            level = jnp.full((1,), 0.2)
            return TrainState(
                jnp.int32(0), {"generator": {"params": {"level": level}}}, {}
            )

        def predict(variables, frozen, batch, key):
            raw = jnp.full_like(batch["image"], 0.0)
            for network in self.frozen:
                raw = raw + frozen[network]["params"]["level"]
            raw = raw + variables["generator"]["params"]["level"][0]
            for name in (*self.names, "intermediate"):
                if name in batch:
                    raw = raw + 0.25 * batch[name]
            return {
                "completed": raw * self.gain
            }  # pastes nothing: the predictor has to

        def load_frozen():
            if not self.frozen:
                raise ValueError("weights of VGG16 are not here; import them.")
            return {
                name: {"params": {"level": np.float32(0.1)}} for name in self.frozen
            }

        return System(spec, init, load_frozen, lambda *a: None, predict)

    def validate(self, name, where, batch):
        self.seen.append({k: v.shape for k, v in batch.items()})
        if self.mask and batch.get("mask") is None:
            raise ShapeMismatchError(f"{where}: mask is missing.")
        if batch.get("mask") is not None and batch["mask"].all():
            raise MaskCoverageError(f"{where}: sample 0 of mask is all hole.")
        if batch.get("mask") is not None and batch["mask"].mean() > 0.6:
            warnings.warn(f"{where}: sample 0 looks odd.", stacklevel=1)

    def derive(self, config):
        mean = lambda a, b, t: (a // 2 + b // 2).astype(a.dtype)
        return {"intermediate": Derived("mean", mean, "1")} if self.derived else {}

    def use(self, patch):
        patch.setattr(systems, "build", self.build)
        patch.setattr(systems, "validate_inputs", self.validate)
        patch.setattr(systems, "derived", self.derive)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    one = Toy(tmp_path / "run")
    one.use(monkeypatch)
    return one


def level(value, dtype="uint8"):
    top = np.iinfo(dtype).max
    return int(np.floor((value + 1) / 2 * top + 0.5))


def image(seed=0, channels=1, dtype="uint8", shape=(HEIGHT, WIDTH)):
    top = np.iinfo(dtype).max + 1
    size = shape if channels == 1 else (*shape, channels)
    return np.random.default_rng(seed).integers(0, top, size).astype(dtype)


def hole(*box, shape=(HEIGHT, WIDTH)):
    mask = np.zeros(shape, np.uint8)
    top, left, rows, columns = box or (10, 20, 8, 9)
    mask[top : top + rows, left : left + columns] = 255
    return mask


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def pixels(path):
    return np.array(Image.open(path))


def fill(folder, *words, mask="mask", sections=()):
    """The command, in a folder with run/, image/ and mask/."""
    given = [f"--workdir={folder / 'run'}", f"--image={folder / 'image'}"]
    given.append(f"--output={folder / 'out'}")
    if mask:
        given.append(f"--mask={folder / mask}")
    given += [f"--{name}={folder / name}" for name in sections]
    return cli.main(["fill", *given, *words])


def summary(folder, name="fill.json"):
    return json.loads((folder / "out" / name).read_text())


def files(folder):
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()
    )


def test_a_folder_is_restored_beside_its_invention_masks(tmp_path, toy, capsys):
    for seed, name in enumerate(("a", "b")):
        save(tmp_path / "image" / f"{name}.png", image(seed))
        save(tmp_path / "mask" / f"{name}.png", hole(10, 20 + seed, 8, 9))
    inputs = {p: p.read_bytes() for p in tmp_path.rglob("*.png")}
    assert fill(tmp_path, "--panel") == 0
    told = capsys.readouterr()
    assert told.out.startswith("2 restored in ")
    assert told.out.endswith(" s. 0 valid values changed.\n")
    assert told.err.splitlines() == [f"{n}: 2.29 % hole, 1 tile" for n in "ab"]
    assert files(tmp_path / "out") == [
        *("a.png", "a_invented.png", "b.png", "b_invented.png", "fill.json"),
        *("panels/a.png", "panels/b.png"),
    ]
    for seed, name in enumerate(("a", "b")):
        made, mask = pixels(tmp_path / "out" / f"{name}.png"), hole(10, 20 + seed, 8, 9)
        want = np.where(mask > 0, level(0.2), image(seed))
        np.testing.assert_array_equal(made, want)
        np.testing.assert_array_equal(
            pixels(tmp_path / "out" / f"{name}_invented.png"), mask
        )
    assert {p: p.read_bytes() for p in inputs} == inputs  # what was read is as it was
    run = summary(tmp_path)["runs"]["0"]
    assert (run["system"], run["step"], run["restored"]) == ("unet", 20, 2)
    assert run["config"]["image_size"] == 64 and run["environment"]["versions"]["jax"]
    entry = summary(tmp_path)["images"]["b"]
    assert entry["state"] == "restored" and entry["valid_values_changed"] == 0
    assert entry["hole_pixels"] == 72 and entry["hole_ratio"] == 72 / (45 * 70)
    source = tmp_path / "image" / "b.png"
    assert entry["image_sha256"] == hashlib.sha256(inputs[source]).hexdigest()
    result = (tmp_path / "out" / "b.png").read_bytes()
    assert entry["result_sha256"] == hashlib.sha256(result).hexdigest()


def test_sixteen_bits_stay_sixteen_bits(tmp_path, toy):
    given = image(dtype="uint16")
    (tmp_path / "image").mkdir()
    tifffile.imwrite(tmp_path / "image" / "a.tif", given, description="of a microscope")
    save(tmp_path / "mask.png", hole())
    assert fill(tmp_path, mask="mask.png") == 0
    made = tifffile.imread(tmp_path / "out" / "a.tif")
    want = np.where(hole() > 0, level(0.2, "uint16"), given)
    np.testing.assert_array_equal(made, want)
    assert made.dtype == np.uint16 and len(np.unique(made)) > 2500
    with tifffile.TiffFile(tmp_path / "out" / "a.tif") as tiff:
        assert tiff.pages[0].description == "of a microscope"


def test_alpha_is_kept_and_told(tmp_path, monkeypatch, capsys):
    Toy(tmp_path / "run", channels=3).use(monkeypatch)
    given = image(channels=4)
    save(tmp_path / "image" / "a.png", given)
    save(tmp_path / "mask.png", hole())
    assert fill(tmp_path, mask="mask.png") == 0
    made = pixels(tmp_path / "out" / "a.png")
    np.testing.assert_array_equal(made[..., 3], given[..., 3])
    np.testing.assert_array_equal(made[hole() == 0], given[hole() == 0])
    assert (made[hole() > 0][:, :3] == level(0.2)).all()
    assert "alpha is kept as it is, under whose" in capsys.readouterr().err


def test_white_may_mark_what_is_valid(tmp_path, toy):
    save(tmp_path / "image" / "a.png", image())
    save(tmp_path / "mask" / "a_m.png", 255 - hole())
    assert fill(tmp_path, "--mask-polarity=valid", "--mask-suffix=_m") == 0
    np.testing.assert_array_equal(pixels(tmp_path / "out" / "a_invented.png"), hole())


def test_soft_masks_need_a_threshold(tmp_path, toy, capsys):
    soft = hole()
    soft[9, 20:29], soft[18, 20:29] = 100, 200
    save(tmp_path / "image" / "a.png", image())
    save(tmp_path / "mask.png", soft)
    assert fill(tmp_path, mask="mask.png") == 1
    assert "threshold soft edges" in capsys.readouterr().err
    assert fill(tmp_path, "--mask-threshold=128", mask="mask.png") == 0
    found = pixels(tmp_path / "out" / "a_invented.png")
    np.testing.assert_array_equal(found, hole(10, 20, 9, 9))


def bad(folder, name):
    """One good picture, and one with something wrong."""
    save(folder / "image" / "good.png", image())
    save(folder / "mask" / "good.png", hole())
    given, mask = image(1), hole()
    if name == "colour":
        given = image(channels=3)
    elif name == "inverted":
        mask = 255 - mask
    elif name == "empty":
        mask[:] = 0
    elif name == "full":
        mask[:] = 255
    elif name == "size":
        mask = hole(shape=(WIDTH, HEIGHT))
    save(folder / "image" / "bad.png", given)
    if name != "lacking":
        save(folder / "mask" / "bad.png", mask)
    if name == "damaged":
        path = folder / "image" / "bad.png"
        path.write_bytes(path.read_bytes()[:200])
    elif name == "text":
        (folder / "image" / "bad.png").write_text("no picture")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("colour", "bad.png is colour, but this run restores grey; nothing is conv"),
        ("inverted", "marks 97.71 % of the image as hole and may be inverted: white"),
        ("empty", "bad.png marks no hole, so there is nothing to restore; white marks"),
        ("full", "marks the whole image as hole and may be inverted"),
        ("size", "bad.png is 70 x 45, but .*bad.png is 45 x 70; nothing is resized"),
        ("lacking", "mask holds no 'bad'"),
        ("damaged", "bad.png: cannot be read as an image"),
        ("text", "bad.png: is no PNG, JPEG, BMP or TIFF"),
    ],
)
def test_what_is_wrong_is_named_and_the_rest_is_done(
    tmp_path, toy, name, message, capsys
):
    bad(tmp_path, name)
    assert fill(tmp_path, "--batch-size=2") == 1
    told = capsys.readouterr()
    assert told.out.startswith("1 restored, 1 failed ('bad') in ")
    (line,) = [x for x in told.err.splitlines() if x.startswith("bad: NOT restored: ")]
    assert re.search(message, line)
    assert files(tmp_path / "out") == ["fill.json", "good.png", "good_invented.png"]
    entry = summary(tmp_path)["images"]["bad"]
    assert entry["state"] == "failed" and entry["reason"] in line


def test_large_holes_may_be_meant(tmp_path, toy, capsys):
    bad(tmp_path, "inverted")
    assert fill(tmp_path, "--allow-large-holes") == 0
    assert "bad: 97.7 % hole, 1 tile; sample 0 looks odd" in capsys.readouterr().err


def test_remarks_are_of_pictures_and_not_of_tiles(tmp_path, toy, capsys):
    big = (200, 200)
    save(tmp_path / "image" / "a.png", image(shape=big))
    save(tmp_path / "mask.png", hole(0, 0, 200, 130, shape=big))
    assert fill(tmp_path, "--tile=48", mask="mask.png") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        "a: 65 % hole, [0-9]+ tiles; more than 60 % is hole: is the mask inverted[?]",
        line,
    )


def words_of(folder, name):
    """Wrong use, which ends before anything is written."""
    save(folder / "image" / "a.png", image())
    save(folder / "mask" / "a.png", hole())
    words = {
        "tile": ["--tile=50"],
        "overlap": ["--tile=48", "--overlap=17"],
        "shard": ["--shard=3/2"],
        "batch": ["--batch-size=0"],
        "step": ["--step=3"],
        "neighbor": [f"--neighbor={folder / 'image'}"],
        "there": [],
        "same": [f"--output={folder / 'image'}"],
        "run": [f"--workdir={folder / 'image'}"],
        "names": [],
        "folder": [f"--image={folder / 'nothing'}"],
        "config": [],
    }[name]
    if name == "there":
        save(folder / "out" / "a.png", image(5))
    elif name == "names":
        save(folder / "image" / "a_invented.png", image())
    elif name == "config":
        (folder / "run" / "config.json").write_text("{")
    return words


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tile", "--tile is 50; this run needs multiples of 16, such as 64"),
        ("overlap", "--overlap is 17; tiles of 48 pixels overlap by 0 to 16"),
        ("shard", "--shard is '3/2'"),
        ("batch", "--batch-size is 0"),
        ("step", r"no step 3, but \[20\]"),
        ("neighbor", "reads no --neighbor"),
        ("there", "out/a.png is there already; add --skip-existing"),
        ("same", "image/a.png is read from; name another --output"),
        ("run", "holds no run"),
        ("names", "a_invented.png would be written for 'a' and 'a_invented'"),
        ("folder", "No such file"),
        ("config", "config.json: is no config"),
    ],
)
def test_wrong_use_writes_nothing(tmp_path, toy, name, message, capsys):
    words = words_of(tmp_path, name)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert fill(tmp_path, *words) == 2
    told = capsys.readouterr()
    assert re.search(message, told.err) and told.out == ""
    assert len(told.err.splitlines()) == 1
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_neighbours_are_matched_by_name(tmp_path, monkeypatch, capsys):
    Toy(tmp_path / "run", "previous", "following", derived=True).use(monkeypatch)
    sections = ("previous", "following")
    for name in ("a", "b", "c", "d"):
        save(tmp_path / "image" / f"{name}.png", image())
        save(tmp_path / "previous" / f"{name}.png", np.full((HEIGHT, WIDTH), 100, "u1"))
    others = {
        "a": np.full((HEIGHT, WIDTH), 200, "u1"),
        "b": np.full((HEIGHT, WIDTH - 1), 200, "u1"),
        "c": np.full((HEIGHT, WIDTH), 200, "u2"),
    }
    for name, section in others.items():
        save(tmp_path / "following" / f"{name}.png", section)
    save(tmp_path / "mask.png", hole())
    assert fill(tmp_path, mask="mask.png", sections=sections) == 1
    err = capsys.readouterr().err
    assert "b.png is 45 x 69 grey, but" in err and "are registered and alike" in err
    assert "c.png is uint16, but" in err
    assert "following holds no 'd'" in err
    made = pixels(tmp_path / "out" / "a.png")
    between = 100 // 2 + 200 // 2
    want = 0.2 + sum(0.25 * (v / 127.5 - 1) for v in (100, 200, between))
    assert set(made[hole() > 0].tolist()) == {level(want)}
    entry = summary(tmp_path)["images"]["a"]
    assert entry["following"].endswith("following/a.png")
    words = ["--overwrite"]
    assert fill(tmp_path, *words, mask="mask.png", sections=("previous",)) == 2
    assert "also needs --following" in capsys.readouterr().err


def test_what_is_derived_is_of_the_whole_picture(tmp_path, monkeypatch):
    """In tiles too, where flow would end at their edges."""
    toy = Toy(tmp_path / "run", "previous", "following", derived=True)
    toy.use(monkeypatch)
    shapes = []

    def mean(a, b, t):
        shapes.append((a.shape, t))
        return a

    derived = {"intermediate": Derived("mean", mean, "1")}
    monkeypatch.setattr(systems, "derived", lambda config: derived)
    big = (100, 120)
    for name in ("image", "previous", "following"):
        save(tmp_path / name / "a.png", image(shape=big))
    save(tmp_path / "mask.png", hole(50, 60, 4, 4, shape=big))
    words = ["--tile=48"]
    sections = ("previous", "following")
    assert fill(tmp_path, *words, mask="mask.png", sections=sections) == 0
    assert shapes == [((100, 120, 1), 0.5)]
    assert toy.seen[-1]["intermediate"] == (1, 48, 48, 1)


def test_a_single_picture_in_tiles(tmp_path, toy, capsys):
    big = (130, 150)
    mask = hole(5, 5, 6, 6, shape=big) | hole(100, 120, 9, 9, shape=big)
    given = image(shape=big)
    save(tmp_path / "image" / "a.png", given)
    save(tmp_path / "mask" / "a.png", mask)
    words = [f"--image={tmp_path / 'image' / 'a.png'}", "--tile=48"]
    assert fill(tmp_path, *words) == 0
    assert "a: 0.6 % hole, 2 tiles" in capsys.readouterr().err
    made = pixels(tmp_path / "out" / "a.png")
    np.testing.assert_array_equal(made, np.where(mask > 0, level(0.2), given))
    assert {shape["image"] for shape in toy.seen[-2:]} == {(1, 48, 48, 1)}


def test_without_a_mask(tmp_path, monkeypatch, capsys):
    Toy(tmp_path / "run", mask=False).use(monkeypatch)
    save(tmp_path / "image" / "a.png", image())
    assert fill(tmp_path, mask=None) == 0
    assert (pixels(tmp_path / "out" / "a.png") == level(0.2)).all()
    assert (pixels(tmp_path / "out" / "a_invented.png") == 255).all()
    told = capsys.readouterr()
    assert "no mask, every pixel may have changed" in told.err
    assert "valid values" not in told.out
    assert summary(tmp_path)["images"]["a"]["blind"] is True


def test_systems_that_need_a_mask_say_so(tmp_path, toy, capsys):
    save(tmp_path / "image" / "a.png", image())
    assert fill(tmp_path, mask=None) == 2
    assert "mask is missing. Give --mask." in capsys.readouterr().err


def test_what_is_there_is_kept_or_replaced(tmp_path, toy, capsys):
    for name in ("a", "b", "c"):
        save(tmp_path / "image" / f"{name}.png", image())
    save(tmp_path / "mask.png", hole())
    own = image(9)
    for name in ("a.png", "a_invented.png", "b.png"):  # b was cut short
        save(tmp_path / "out" / name, own)
    assert fill(tmp_path, "--skip-existing", mask="mask.png") == 0
    assert "2 restored, 1 there already in" in capsys.readouterr().out
    np.testing.assert_array_equal(pixels(tmp_path / "out" / "a.png"), own)
    assert (pixels(tmp_path / "out" / "b.png") != own).any()
    states = {k: v["state"] for k, v in summary(tmp_path)["images"].items()}
    assert states == {"a": "there already", "b": "restored", "c": "restored"}
    assert fill(tmp_path, "--overwrite", mask="mask.png") == 0
    assert (pixels(tmp_path / "out" / "a.png") != own).any()
    assert {v["run"] for v in summary(tmp_path)["images"].values()} == {"1"}
    assert list(summary(tmp_path)["runs"]) == ["1"]
    assert fill(tmp_path, "--skip-existing", mask="mask.png") == 0
    assert "0 restored, 3 there already" in capsys.readouterr().out
    assert {v["run"] for v in summary(tmp_path)["images"].values()} == {"1"}


def test_shards_share_the_pictures(tmp_path, toy):
    for name in "abcde":
        save(tmp_path / "image" / f"{name}.png", image())
    save(tmp_path / "mask.png", hole())
    assert fill(tmp_path, "--shard=2/2", mask="mask.png") == 0
    assert list(summary(tmp_path, "fill_2_of_2.json")["images"]) == ["b", "d"]
    assert fill(tmp_path, "--shard=1/2", mask="mask.png") == 0
    assert list(summary(tmp_path, "fill_1_of_2.json")["images"]) == ["a", "c", "e"]


def test_weights_that_restoring_does_not_read_need_not_be_here(tmp_path, monkeypatch):
    """Above they are missing everywhere; here an earlier stage is read."""
    toy = Toy(tmp_path / "run", frozen=("earlier",))
    toy.use(monkeypatch)
    save(tmp_path / "image" / "a.png", image())
    save(tmp_path / "mask.png", hole())
    assert fill(tmp_path, mask="mask.png") == 0
    made = pixels(tmp_path / "out" / "a.png")
    assert set(made[hole() > 0].tolist()) == {level(0.3)}
    # Worked out apart from the code: the path's letters, then the bytes.
    digest = hashlib.sha256(
        b"['earlier']['params']['level']" + np.float32(0.1).tobytes()
    )
    run = summary(tmp_path)["runs"]["0"]
    assert run["frozen_weights_sha256"] == digest.hexdigest()


def test_a_network_that_diverged_is_told(tmp_path, monkeypatch, capsys):
    Toy(tmp_path / "run", gain=float("nan")).use(monkeypatch)
    save(tmp_path / "image" / "a.png", image())
    save(tmp_path / "mask.png", hole())
    assert fill(tmp_path, mask="mask.png") == 2
    assert "completed is NaN or infinite in 72 values" in capsys.readouterr().err
    assert files(tmp_path / "out") == ["fill.json"]


def test_valid_values_that_would_change_are_never_written(tmp_path, toy, monkeypatch):
    """The last line of defence, behind a compositing that went wrong."""
    save(tmp_path / "image" / "a.png", image())
    save(tmp_path / "mask.png", hole())
    wrong = lambda *a: [255 - made for made in restore_pictures(*a)]
    monkeypatch.setattr(restoring, "restore_pictures", wrong)
    with pytest.raises(RuntimeError, match="valid values would change"):
        fill(tmp_path, mask="mask.png")
    assert files(tmp_path / "out") == ["fill.json"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_it_keeps_what_is_done(tmp_path, toy, monkeypatch, capsys, number):
    for name in "ab":
        save(tmp_path / "image" / f"{name}.png", image())
    save(tmp_path / "mask.png", hole())

    def stop(*arguments):
        signal.raise_signal(number)
        return restore_pictures(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(restoring, "restore_pictures", stop)
        assert fill(tmp_path, mask="mask.png") == 128 + number
    assert capsys.readouterr().out.endswith("Interrupted.\n")
    assert files(tmp_path / "out") == ["a.png", "a_invented.png", "fill.json"]
    assert fill(tmp_path, "--skip-existing", mask="mask.png") == 0
    assert list(summary(tmp_path)["images"]) == ["a", "b"]


def test_a_device_without_memory_is_told(tmp_path, toy, monkeypatch, capsys):
    save(tmp_path / "image" / "a.png", image())
    save(tmp_path / "mask.png", hole())

    def full(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(restoring, "restore_pictures", full)
    assert fill(tmp_path, mask="mask.png") == 1
    assert "has not enough memory; give a smaller --tile" in capsys.readouterr().err


def test_dark_sixteen_bit_images_are_told(tmp_path, toy, capsys):
    save(tmp_path / "image" / "a.png", (image(dtype="uint16") // 16).astype("uint16"))
    save(tmp_path / "mask.png", hole())
    assert fill(tmp_path, mask="mask.png") == 0
    assert "16-bit levels end at 4095 of 65535" in capsys.readouterr().err


def test_files_that_declare_too_much(tmp_path, toy, capsys):
    save(tmp_path / "image" / "a.png", image())
    save(tmp_path / "mask.png", hole())
    assert fill(tmp_path, "--max-pixels=3149", mask="mask.png") == 1
    assert "45 x 70 is more than 3149 pixels" in capsys.readouterr().err
    assert fill(tmp_path, "--max-pixels=3150", mask="mask.png") == 0


def test_a_mask_set_is_named_by_its_manifest(tmp_path, toy):
    save(tmp_path / "image" / "a.png", image())
    words = ["--kind=square", "--side=9", f"--like={tmp_path / 'image'}", "--seed=5"]
    assert cli.main(["masks", f"--output={tmp_path / 'mask'}", *words]) == 0
    assert fill(tmp_path) == 0
    made = json.loads((tmp_path / "mask" / "masks.json").read_text())
    found = summary(tmp_path)
    told = found["runs"]["0"]["mask_manifest"]
    assert told == {k: made[k] for k in ("generator", "seed", "sha256")}
    assert found["images"]["a"]["hole_sha256"] == made["masks"][0]["sha256"]


def test_masks_without_picture_are_told(tmp_path, toy, capsys):
    save(tmp_path / "image" / "a.png", image())
    for name in "ab":
        save(tmp_path / "mask" / f"{name}.png", hole())
    assert fill(tmp_path) == 0
    assert "mask: 'b' belong to no image." in capsys.readouterr().err


def test_a_real_run(tmp_path, capsys, quick_programs):
    """The U-Net of the smoke preset, untrained, with its own checks."""
    config = unet_config.get_config("smoke")
    folder = tmp_path / "run"
    folder.mkdir()
    workdirs.open_workdir(folder, config)
    (folder / "metrics.jsonl").write_text("")
    state = systems.build(config).init(jax.random.key(0))
    with Checkpoints(
        folder / "checkpoints",
        save_every=1,
        keep_latest=2,
        keep_best=0,
        best=("eval/psnr", "max"),
    ) as checkpoints:
        checkpoints.save(1, state, {}, {})
    trained = runs.open_trained(folder, None)
    assert trained.config.model.widths == list(config.model.widths)
    given = image()
    for name in ("image", "previous", "following"):
        save(tmp_path / name / "a.png", given)
    save(tmp_path / "mask.png", hole())
    sections = ("previous", "following")
    assert fill(tmp_path, mask="mask.png", sections=sections) == 0
    made = pixels(tmp_path / "out" / "a.png")
    np.testing.assert_array_equal(made[hole() == 0], given[hole() == 0])
    assert len(np.unique(made[hole() > 0])) > 5
