"""The command: networks in place of trained ones, on phantom slides."""

import json
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jaxinpaint import cli, systems
from jaxinpaint.core.system import System
from jaxinpaint.data.mask_library import load_library, save_library
from jaxinpaint.data.slides import open_folder, open_slides
from jaxinpaint.data.tiles import Cut
from jaxinpaint.evaluation import synthesis
from jaxinpaint.evaluation.runs import Run
from tests.evaluation import toy_slides as toy

pytestmark = pytest.mark.usefixtures("quick_programs")

CONFIG = """
from ml_collections import ConfigDict


def get_config(preset="paper"):
    return ConfigDict({settings})
"""
SETTINGS = {
    "system": "glomeruli",
    "stage": "inpaint",
    "seed": 3,
    "image_size": 64,
    "data": {
        "source": "phantom",
        "working_mpp": 1.0,
        "tissue_chroma": 15,
        "tissue_block": 8,
        "tile": 128,
        "tile_step": 64,
        "min_tissue": 0.05,
        "phantom": {
            "slides": 2,
            "test_slides": 1,
            "height": 256,
            "width": 256,
            "scale": 0.25,
            "stain": "PAS",
            "test_stain": "HE",
            "normal": 3,
            "sclerosed": 4,
            "seed": 1,
        },
    },
    "eval": {"size_multiple": 4, "least_size": 64},
    "synthesis": {
        "per_roi": 2,
        "gap": 2.0,
        "feather": 0.0,
        "min_tissue": 0.8,
        "grid_step": 4,
        "samples": 12,
        "sample_batch": 4,
        "threshold": 0.5,
        "bins": 5,
        "diameters": (10.0, 40.0),
        "min_area": 25,
        "max_radius": 28.0,
    },
}
MASKS = {"system": "glomeruli", "stage": "masks", "seed": 0, "data": {"source": ""}}


def paint(variables, frozen, batch, key):
    assert not frozen and batch["image"].dtype == jnp.float32
    level = variables["generator"]["level"]
    return {"completed": jnp.broadcast_to(level, batch["image"].shape)}


def ellipses(variables, frozen, batch, key):
    """Soft ellipses of chosen widths."""
    count = batch["image"].shape[0]
    a, b = jax.random.uniform(key, (2, count, 1, 1), minval=8.0, maxval=16.0)
    y, x = jnp.mgrid[:64, :64] - 31.5
    level = jnp.tanh(4 * (1 - jnp.hypot(y[None] / a, x[None] / b)))
    return {"sampled": jnp.repeat(level[..., None], 3, axis=-1)}


@pytest.fixture
def networks(monkeypatch):
    """Trained stages, as far as this command looks at them."""
    opened = []
    spec = {"image": jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.uint8)}
    stages = {
        "inpaint": System(spec, None, None, None, paint),
        "masks": System(spec, None, None, None, ellipses),
    }

    def open_run(config, system, workdir, step):
        assert step is None and system is stages[config.stage]
        opened.append((config.stage, workdir.name))
        judge = {"weight": jnp.float32(len(opened))}
        variables = {"generator": {"level": jnp.float32(0.5)}, "discriminator": judge}
        return Run(variables, 40, None, [], {}, True)

    monkeypatch.setattr(systems, "build", lambda config: stages[config.stage])
    monkeypatch.setattr(systems, "derived", lambda config: {})
    monkeypatch.setattr(systems, "validate_inputs", lambda *_: None)
    monkeypatch.setattr(synthesis, "open_run", open_run)
    return opened


class Place:
    """A folder with a config and two workdirs."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "config.py").write_text(CONFIG.format(settings=SETTINGS))
        (folder / "masks").mkdir()
        (folder / "masks" / "config.json").write_text(json.dumps(MASKS))

    def run(self, *words, masks=None, output="out", config="config.py"):
        where = {
            "--config": self.folder / config,
            "--inpaint": self.folder / "inpaint",
            "--masks": masks or self.folder / "masks",
            "--output": self.folder / output,
        }
        given = [str(word) for pair in where.items() for word in pair]
        return cli.main(["synthesize", *given, *words])

    def report(self, output="out"):
        return json.loads((self.folder / output / "report.json").read_text())


@pytest.fixture
def place(tmp_path, networks):
    return Place(tmp_path)


def test_from_samples_to_slides_that_the_reader_takes(place, networks, capsys):
    assert place.run("--rounds", "2") == 0
    assert networks == [("inpaint", "inpaint"), ("masks", "masks")]
    out = place.folder / "out"
    report = place.report()
    assert report["outputs"] == 4 and report["rounds"] == 2
    assert f"{report['placements']} glomeruli on 4 slides" in capsys.readouterr().out
    slides = open_folder(
        out, working_mpp=1.0, downsample_all=2.0, mask_threshold=0, max_pixels=10**6
    )
    source = {one.id: one for one in open_slides(ConfigDict(SETTINGS))}
    assert {one.id for one in slides} == {
        f"train_00{k}__syn3_{n}" for k in (0, 1) for n in (0, 1)
    }
    for one in slides:
        before = source[one.id.partition("__")[0]]
        fresh = np.asarray(Image.open(out / "provenance" / f"{one.id}.png")) > 0
        assert one.synthetic and one.split == "train" and one.stain == "PAS"
        assert one.group == before.group and (one.height, one.width) == (256, 256)
        image, old = (s.region(0, 0, 256, 256) for s in (one, before))
        np.testing.assert_array_equal(image[~fresh], old[~fresh])
        assert (image[fresh] == 191).all()  # 1.5 * 127.5 = 191.25
        want = before.label()
        want[fresh, 1] = 1
        np.testing.assert_array_equal(one.label(), want)
    first = json.loads((out / "manifest.jsonl").read_text().splitlines()[0])
    assert first["generator"]["step"] == first["masks"]["step"] == 40
    assert first["masks"]["kind"] == "network" and len(first["config_digest"]) == 64
    assert first["source_sha256"] == source["train_000"].digest
    # Both have one generator here, and discriminators that are not alike.
    assert first["generator"]["digest"] == first["masks"]["digest"]
    made = load_library(out / "library")
    assert len(made.masks) == report["contours"] > 8
    assert made.digest() == first["library_digest"]


def test_tiles_are_twice_as_many_as_show_sclerosed_glomeruli(place):
    """Counted here tile by tile; the phantom's tissue fills more than each needs."""
    want = 0
    for one in open_slides(ConfigDict(SETTINGS)):
        if one.split == "train":
            label = one.label()[..., 1]
            for top in (0, 64, 128):
                for left in (0, 64, 128):
                    want += label[top : top + 128, left : left + 128].any()
    assert want > 6
    assert place.run() == 0
    report = place.report()
    assert report["tiles"] >= 2 * want and report["outputs"] == 2 * report["rounds"]
    assert place.run("--tiles", "1", "--seed", "9", output="few") == 0
    assert place.report("few")["outputs"] == 2  # a whole round of the two slides


def test_tiles_of_what_was_made_are_counted_by_hand():
    """Tiles of 32 every 16; of 64 columns those at 0 alone show enough tissue."""
    cut = Cut(tile=32, step=16, min_tissue=0.5, chroma=15, block=8)
    slide = toy.slide("a", side=64)  # its own glomeruli and colours do not count
    image = np.full((64, 64, 3), 250, np.uint8)
    image[:, :24, 1] = 100
    generated = np.zeros((64, 64), bool)
    assert synthesis.generated_tiles(slide, image, generated, cut) == 0
    generated[63] = True  # of the rows at 32 alone
    assert synthesis.generated_tiles(slide, image, generated, cut) == 1
    generated[20, 20] = True  # and of those at 0 and 16
    assert synthesis.generated_tiles(slide, image, generated, cut) == 3


def test_masks_of_other_kinds(place, networks):
    assert place.run("--rounds", "1", masks="real") == 0
    lines = (place.folder / "out/manifest.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    assert {one["contour_source"] for one in told} <= {"train_000", "train_001"}
    assert {one["scale"] for one in told} == {1.0}
    assert {one["masks"]["kind"] for one in told} == {"real"}
    saved = f"library:{place.folder}/out/library"
    assert place.run("--rounds", "1", masks=saved, output="two") == 0
    two = (place.folder / "two/manifest.jsonl").read_text().splitlines()
    assert [json.loads(x)["origin"] for x in two] == [x["origin"] for x in told]
    (place.folder / "mine").mkdir()
    for n in range(3):
        mask = toy.disc(40, 6 + n, 19.5, 19.5).astype(np.uint8) * 255
        Image.fromarray(mask).save(place.folder / "mine" / f"{n}.png")
    mine = f"library:{place.folder}/mine"
    assert place.run("--rounds", "1", masks=mine, output="three") == 0
    assert len(load_library(place.folder / "three/library").masks) == 3
    assert {stage for stage, _ in networks} == {"inpaint"}  # no mask network


def test_words_win_over_the_config(place):
    words = ("--per-roi", "1", "--gap", "4", "--feather", "2", "--seed", "8")
    assert place.run("--rounds", "1", *words, masks="real") == 0
    told = json.loads((place.folder / "out/settings.json").read_text())
    assert [told[k] for k in ("per_roi", "gap", "feather", "seed")] == [1, 4, 2, 8]
    assert place.run("--rounds", "1", masks="real", output="two") == 0
    told = json.loads((place.folder / "two/settings.json").read_text())
    assert [told[k] for k in ("per_roi", "gap", "feather", "seed")] == [2, 2, 0, 3]


def test_positions_beside_the_slides_are_taken(tmp_path):
    config = SimpleNamespace(data=SimpleNamespace(source=str(tmp_path)))
    from jaxinpaint.commands.synthesize import positions_file

    assert positions_file(config, None) is None
    beside = tmp_path / "positions.csv"
    beside.write_text("id,x,y\n")
    assert positions_file(config, None) == beside
    assert positions_file(config, "auto") is None
    assert positions_file(config, "mine.csv").name == "mine.csv"


def test_slides_without_a_place_are_named(place, capsys):
    assert place.run("--rounds", "1", "--gap", "200", masks="real") == 1
    out = capsys.readouterr().out.splitlines()
    assert out[1:] == ["no place on slide train_000", "no place on slide train_001"]
    assert place.report()["outputs"] == 0
    assert place.run("--tiles", "5", "--gap", "200", masks="real") == 2
    assert "round 0 found no place on any of 2 slides" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, options, message",
    [
        (["--rounds", "0"], {}, "--rounds is 0"),
        (["--seed", "-1"], {}, "--seed -1"),
        ([], {"masks": "library:nowhere"}, "nowhere is no folder"),
        ([], {"masks": "nowhere"}, "nowhere holds no run"),
        (["--set", "stage=masks"], {}, "stage is 'masks', .* stage 'inpaint'"),
        (["--set", "synthesis.nothing=1"], {}, "no such key"),
        (["--positions", "nowhere.csv"], {}, "nowhere.csv"),
        (["--set", "synthesis.max_radius=40.0"], {}, "max_radius is 40.0"),
    ],
)
def test_wrong_use_is_told_in_one_line(place, capsys, words, options, message):
    assert place.run(*words, **options) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("jaxinpaint synthesize: ")
    assert len(err.splitlines()) == 1
    assert re.search(message, err), err
    assert not (place.folder / "out").exists()


def test_a_library_of_other_windows_is_refused(place, capsys):
    small = toy.taken_library(
        [("m", toy.disc(40, 9, 20, 20))], size=48, min_area=25, max_radius=20
    )
    save_library(small, place.folder / "small")
    assert place.run(masks=f"library:{place.folder}/small") == 2
    assert "windows of 48 pixels" in capsys.readouterr().err


def test_a_run_of_another_stage_is_no_mask_network(place, capsys):
    (place.folder / "masks/config.json").write_text(
        json.dumps({**MASKS, "stage": "inpaint"})
    )
    assert place.run() == 2
    assert "stage is 'inpaint', slides are" in capsys.readouterr().err


def test_a_config_without_the_section_says_so(place, capsys):
    text = CONFIG.format(settings={"seed": 0})
    (place.folder / "other.py").write_text(text)
    assert place.run(config="other.py") == 2
    assert "no section `synthesis`" in capsys.readouterr().err
