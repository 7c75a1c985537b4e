import csv
import hashlib
import itertools
import json
import math
import pathlib
import statistics
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from configs import ccpgan as ccpgan_config
from jaxinpaint.core.checkpoint import Checkpoints
from jaxinpaint.core.system import System, TrainState
from jaxinpaint.data import images, pipeline, sections
from jaxinpaint.evaluation import checkpoint, filling, runs, scoring
from jaxinpaint.metrics.evaluate import Metric, image_metric, together
from jaxinpaint.metrics.pixel import mae, psnr
from jaxinpaint.metrics.ssim import ssim
from jaxinpaint.training import workdir as workdirs

ROOT = pathlib.Path(__file__).parents[2]
HEIGHT, WIDTH, COUNT = 70, 83, 8
METHODS = ["ccpgan", "reference", "constant", "copy_neighbor", "mean_neighbors"] + [
    "telea",
    "navier_stokes",
]
TOP = {"uint8": 255.0, "uint16": 65535.0}
KINDS = {  # name: dtype and channels of the files, channels of the model
    "grey8": ("uint8", 1, 1),
    "grey16": ("uint16", 1, 1),
    "rgb8": ("uint8", 3, 3),
    "grey16_as_rgb": ("uint16", 1, 3),
}


def toy(config):
    """Fills the hole with the neighbour, a little brighter, through floats."""
    shape = (config.batch_size, config.image_size, config.image_size)
    image = jax.ShapeDtypeStruct((*shape, config.channels), "float32")
    mask = jax.ShapeDtypeStruct((*shape, 1), "float32")

    def init(key):
        gain = jnp.full((1,), 0.1)
        return TrainState(jnp.int32(0), {"generator": {"params": {"gain": gain}}}, {})

    def predict(variables, frozen, batch, key):
        gain = variables["generator"]["params"]["gain"][0]
        raw = batch["neighbor"] + gain + 0.05 * batch["image"]  # would read the hole
        completed = raw * batch["mask"] + batch["image"] * (1 - batch["mask"])
        flow = jnp.zeros((*raw.shape[:3], 2)).at[:, :, :40, 0].set(-3.0)
        return {"completed": completed, "reference": raw - 0.2, "flow": flow}

    spec = {"image": image, "neighbor": image, "mask": mask}
    return System(spec, init, lambda: {}, lambda *a: None, predict)


def few_metrics(dtype, shape):
    """PSNR, MAE and SSIM alone: the others take long to compile."""
    metrics = {}
    for name, one in {"psnr": psnr, "mae": mae, "ssim": ssim}.items():

        def hole(t, p, r, one=one):
            return one(t, p, r, data_range=TOP[dtype])

        metrics["hole", name] = image_metric(hole)
        metrics["image", name] = image_metric(
            lambda t, p, r, hole=hole: hole(t, p, jnp.ones_like(r))
        )
    return together(metrics)


def write_stack(folder, dtype, channels):
    """Smooth serial sections with noise; each differs from the one before."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    stack = []
    for z in range(COUNT):
        waves = np.sin(x / 7 + z / 5) + np.cos(y / 9 - z / 4)
        grey = 128 + 45 * waves + rng.normal(0, 5, waves.shape)
        levels = np.stack([grey + 9 * c for c in range(channels)], axis=-1)
        scale = TOP[dtype] / 255.0
        pixels = np.rint(np.clip(levels, 0, 255) * scale).astype(dtype)
        images.write_image(folder / f"s{z:02d}.png", pixels)
        stack.append(pixels)
    return np.stack(stack)


def make_config(tmp_path, source, channels):
    config = ccpgan_config.get_config("smoke")
    config.channels = channels
    config.data.source = str(source)
    config.data.cache_dir = str(tmp_path / "cache")
    config.data.test_fraction = 0.4  # three sections, the last with one neighbour
    config.data.validation_crops = 1
    config.eval.crop_size = 0
    config.eval.panels = 1
    config.eval.also = ("reference",)
    config.eval.masks.squares = (16,)
    config.eval.masks.irregular_ratios = (0.2,)
    return config


def make_run(folder, config, meta=None):
    """A workdir as training leaves it, of the toy system."""
    folder.mkdir()
    workdirs.open_workdir(folder, config)
    records = [
        {"step": 10, "loss/l1": 0.5, "speed/step_ms": 300.0},
        {"step": 10, "eval/psnr": 14.0},
        {"step": 20, "loss/l1": 0.4, "speed/step_ms": 600.0},
        {"step": 30, "loss/l1": 0.3, "speed/step_ms": 600.0},
    ]
    lines = [json.dumps(record) for record in records]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 40, "lo']))
    state = toy(config).init(jax.random.key(0))
    with Checkpoints(
        folder / "checkpoints",
        save_every=1,
        keep_latest=2,
        keep_best=0,
        best=("eval/psnr", "max"),
    ) as checkpoints:
        checkpoints.save(20, state, meta or {}, {})
    return folder


def use_toy(patch):
    """Puts the toy in the place of the network, with its own (no) input checks."""
    patch.setattr(checkpoint.systems, "build", toy)
    patch.setattr(checkpoint.systems, "validate_inputs", lambda *a: None)


class Done:
    """One evaluation, and what it was made of."""

    def __init__(self, folder, kind, patch):
        dtype, channels, model_channels = KINDS[kind]
        self.dtype = dtype
        self.stack = write_stack(folder / "kidney", dtype, channels)
        self.config = make_config(folder, folder / "kidney", model_channels)
        self.workdir = make_run(folder / "run", self.config)
        use_toy(patch)
        if kind != "grey8":
            patch.setattr(scoring, "metrics_for", few_metrics)
        self.page = checkpoint.evaluate_run(self.config, self.workdir, None)
        self.folder = self.workdir / "eval"
        self.results = json.loads((self.folder / "metrics.json").read_text())
        spec = toy(self.config).batch_spec
        self.cases = list(pipeline.build(self.config, spec, 0, 1).test_cases())

    def rows(self):
        return [r for r in self.results["rows"] if not r["method"].startswith("paper")]

    def truth(self, name):
        return self.stack[int(name.split("_")[1])]

    def written(self, label, name, end=""):
        """Image and hole as anybody would read them."""
        place = self.folder / "images" / label.replace("%", "_percent")
        pixels = np.array(Image.open(place / f"{name}{end}.png"))
        hole = np.array(Image.open(place / f"{name}_mask.png"))
        assert set(np.unique(hole)) == {0, 255}
        return pixels.reshape(HEIGHT, WIDTH, -1), hole > 0


@pytest.fixture(scope="module", params=KINDS)
def done(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        made = Done(tmp_path_factory.mktemp(request.param), request.param, patch)
    return made


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """A run that was not evaluated yet."""
    folder = tmp_path_factory.mktemp("fresh")
    write_stack(folder / "kidney", "uint8", 1)
    config = make_config(folder, folder / "kidney", 1)
    return config, make_run(folder / "run", config)


@pytest.fixture
def quick(monkeypatch):
    use_toy(monkeypatch)
    monkeypatch.setattr(scoring, "metrics_for", few_metrics)


def expected_scores(truth, made, hole, top):
    error = truth.astype(np.float64) - made
    for region, where in (("hole", hole), ("image", np.ones_like(hole))):
        yield (region, "psnr"), 10 * math.log10(top**2 / np.mean(error[where] ** 2))
        yield (region, "mae"), np.mean(np.abs(error[where]))
    similarity = pytest.importorskip("skimage.metrics").structural_similarity
    _, maps = similarity(
        truth,
        made,
        data_range=top,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    inner = (slice(5, -5), slice(5, -5))
    yield ("image", "ssim"), maps[inner].mean()
    yield ("hole", "ssim"), maps[inner][hole[inner]].mean()


def test_rows_are_tidy(done):
    rows = done.rows()
    keys = {"method", "dataset", "bin", "region", "metric", "value", "sd", "n"}
    keys |= {"infinite", "undefined"}
    tested = {"p", "mark", "left_out"}
    for row in rows:
        assert set(row) == (keys if row["method"] == "ccpgan" else keys | tested)
    places = [tuple(r[k] for k in ("method", "bin", "region", "metric")) for r in rows]
    assert len(set(places)) == len(places)
    assert list(dict.fromkeys(row["method"] for row in rows)) == METHODS
    assert {(r["bin"], r["region"]) for r in rows} == set(
        itertools.product(["16x16", "20%"], ["hole", "image"])
    )
    assert {row["dataset"] for row in rows} == {"kidney"}
    assert all(row["n"] + row["infinite"] + row["undefined"] == 3 for row in rows)
    paper = [r for r in done.results["rows"] if r["method"] == "paper"]
    assert len(paper) == 90  # 2 tables, 9 masks, 5 scores
    assert set(paper[0]) < keys | {"table"}


def test_the_run_says_what_was_run(done):
    run = done.results["run"]
    assert (run["system"], run["data"], run["dataset"]) == ("ccpgan", "real", "kidney")
    assert (run["steps"], run["cases"]) == (20, 6)
    assert run["minutes"] == pytest.approx((10 * 0.3 + 10 * 0.6) / 60)
    assert run["valid_pixels_changed"] == 0
    assert run["trained_on_this_stack"] is True
    assert run["cases_guided_by_training_sections"] == 0  # split in a block
    assert len(run["weights"]) == len(run["mask_manifest"]) == 64
    assert run["config"]["eval"]["seed"] == done.config.eval.seed
    assert "jax" in run["environment"]["versions"] and run["version"]
    run["config"] = None
    assert str(done.workdir.parent) not in json.dumps(run)  # the path, in config alone


def test_json_knows_no_nan(done):
    def refuse(word):
        raise AssertionError(word)

    for name in ("metrics.json", "masks.json"):
        json.loads((done.folder / name).read_text(), parse_constant=refuse)


@pytest.mark.parametrize(("method", "end"), [("ccpgan", ""), ("reference",) * 2])
def test_scores_are_those_of_the_written_files(done, method, end):
    want, end = {}, end and f"_{end}"
    for case in done.cases:
        made, hole = done.written(case.label, case.name, end)
        truth = done.truth(case.name)
        scores = expected_scores(truth, made, hole, TOP[done.dtype])
        for place, value in scores:
            want.setdefault((case.label, *place), []).append(value)
    rows = {
        (r["bin"], r["region"], r["metric"]): r
        for r in done.rows()
        if r["method"] == method
    }
    assert len(want) == 2 * 6
    for place, values in want.items():
        row = rows[place]
        assert row["n"] == len(values) == 3
        assert row["value"] == pytest.approx(statistics.mean(values), rel=1e-4)
        assert row["sd"] == pytest.approx(statistics.stdev(values), rel=1e-2, abs=1e-5)
    with open(done.folder / "scores.csv", newline="") as file:
        lines = [r for r in csv.DictReader(file) if r["method"] == method]
    for place, values in want.items():
        got = [r for r in lines if (r["bin"], r["region"], r["metric"]) == place]
        assert [r["image"] for r in got] == [
            case.name for case in done.cases if case.label == place[0]
        ]
        assert [float(r["value"]) for r in got] == pytest.approx(values, rel=1e-4)


def test_other_methods_are_tested_against_the_system(done):
    """Worked from the written scores, three sections a mask: p = 1 - t/sqrt(2 + t^2)."""
    with open(done.folder / "scores.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    marks = set()
    for row in done.rows():
        if row["method"] == "ccpgan":
            continue
        place = [row[key] for key in ("bin", "region", "metric")]
        mine, system = (
            [
                float(line["value"])
                for line in lines
                if [line[key] for key in ("method", "bin", "region", "metric")]
                == [method, *place]
            ]
            for method in (row["method"], "ccpgan")
        )
        if len(mine) != 3 or not np.isfinite(mine + system).all():
            assert row["left_out"] > 0
            continue
        apart = np.subtract(mine, system)
        t = abs(apart.mean()) / (apart.std(ddof=1) / math.sqrt(3))
        assert row["p"] == pytest.approx(1 - t / math.sqrt(2 + t**2), abs=1e-9)
        assert row["mark"] == "*" * (row["p"] < 0.01) + "#" * (0.01 <= row["p"] < 0.05)
        assert row["left_out"] == 0
        marks.add(row["mark"])
    assert {"", "#"} <= marks
    assert "# for p &lt; 0.05" in done.page.read_text(encoding="utf-8")


def test_valid_pixels_stay_bit_for_bit_in_the_files_depth(done):
    for case in done.cases:
        made, hole = done.written(case.label, case.name)
        truth = done.truth(case.name)
        assert made.dtype == truth.dtype and made.shape == truth.shape
        np.testing.assert_array_equal(made[~hole], truth[~hole])
        assert (made[hole] != truth[hole]).mean() > 0.5
    filled = filling.read_filled(
        *("ccpgan", done.cases[:3], done.stack.shape[-1]),
        *(done.folder / "images", ("reference",)),
    )
    assert list(filled.made) == METHODS
    for made in filled.made.values():
        assert made.dtype == done.stack.dtype and made.shape == filled.truth.shape
        valid = filled.mask[..., 0] == 0
        np.testing.assert_array_equal(made[valid], filled.truth[valid])


def test_the_manifest_is_of_the_written_masks(done):
    manifest = json.loads((done.folder / "masks.json").read_text())
    assert len(manifest["masks"]) == len(done.cases) == 6
    for mask, case in zip(manifest["masks"], done.cases, strict=True):
        _, hole = done.written(case.label, case.name)
        bits = hashlib.sha256(np.packbits(hole).tobytes()).hexdigest()
        assert (mask["label"], mask["sha256"]) == (case.label, bits)
        assert mask["hole_pixels"] == hole.sum()
    text = json.dumps(manifest["masks"], sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == manifest["sha256"] == done.results["run"]["mask_manifest"]


def test_the_page_holds_the_numbers(done):
    text = done.page.read_text(encoding="utf-8")
    row = next(r for r in done.rows() if r["metric"] == "psnr")
    assert f"<b>{row['value']:.2f}</b>" in text
    assert "0 valid pixels were changed" in text
    assert "20 steps" in text and "Real data: kidney" in text


def test_what_else_is_predicted_is_written_darker(done):
    """The toy's reference is 0.2 of 2 below its result: a tenth of all levels."""
    for case in done.cases:
        made, hole = done.written(case.label, case.name)
        other, _ = done.written(case.label, case.name, "_reference")
        assert other.dtype == made.dtype
        np.testing.assert_array_equal(other[~hole], made[~hole])
        apart = made[hole].astype(float) - other[hole]
        assert np.abs(apart - TOP[done.dtype] / 10).max() <= 1.0


def test_the_page_shows_the_flow_and_what_else_is_predicted(done):
    text = done.page.read_text(encoding="utf-8")
    assert "the flow interpolation, refined by a network" in text
    assert 'alt="reference, around the hole"' in text
    assert text.count('alt="flow, whole frame"') == 3  # worst, median, best
    assert "<small>longest 3 pixels</small>" in text
    assert "At the rim: 3 pixels or more; the longest shown has 3." in text


def test_at_the_end_of_the_stack_the_one_section_is_the_mean(done):
    last = [case for case in done.cases if case.following is None]
    assert len(last) == 2  # one a mask
    filled = filling.read_filled(
        "ccpgan", last[:1], done.stack.shape[-1], done.folder / "images"
    )
    hole = last[0].mask[..., 0] == 1
    np.testing.assert_array_equal(
        filled.made["mean_neighbors"][0][hole], done.stack[-2][hole]
    )


def test_no_method_sees_what_lies_under_the_hole(done, tmp_path):
    seen = []

    def restore(batch):
        image, mask = batch["image"], batch["mask"]
        seen.append(image)
        made = {"reference": np.where(mask > 0, image // 2 + 5, image)}
        return made | {"completed": np.where(mask > 0, image // 2 + 7, image)}

    rng = np.random.default_rng(0)
    some, channels, made = done.cases[:2], done.stack.shape[-1], []
    for name in ("truth", "garbage"):
        cases = some
        if name == "garbage":
            cases = [
                case._replace(
                    image=np.where(
                        case.mask > 0,
                        rng.integers(1, 255, case.image.shape, case.image.dtype),
                        case.image,
                    )
                )
                for case in some
            ]
        place = (channels, tmp_path / name, ("reference",))
        arguments = (["image", "mask", "neighbor"], restore, 4)
        named = filling.write_restored(cases, *arguments, *place)
        assert named == {"completed", "reference"}
        made.append(filling.read_filled("ccpgan", cases, *place).made)
    for method in METHODS:
        np.testing.assert_array_equal(made[0][method], made[1][method], method)
    np.testing.assert_array_equal(*seen)
    assert len(seen[0]) == 4  # filled up
    assert not seen[0][0][some[0].mask[..., 0] == 1].any()


def test_one_batch_of_cases_is_held_at_a_time(grey, quick):
    config, _ = grey
    data = pipeline.build(config, toy(config).batch_spec, 0, 1)
    taken, sizes = [], []

    def cases():
        for case in data.test_cases():
            taken.append(case.name)
            yield case

    def fill(some):
        sizes.append(len(some))
        assert len(taken) <= sum(sizes) + 1  # groupby looks one ahead
        truth = np.stack([case.image for case in some])
        return scoring.Filled(truth, np.stack([c.mask for c in some]), {"toy": truth})

    bins = list(checkpoint.score_cases(cases(), fill, 2, Console(quiet=True)))
    assert sizes == [2, 1, 2, 1]
    assert [one.label for one in bins] == ["16x16", "20%"]
    assert bins[0].names == taken[:3]


def test_a_perfect_restorer_is_counted_not_averaged(monkeypatch):
    monkeypatch.setattr(scoring, "metrics_for", few_metrics)
    truth = np.random.default_rng(0).integers(0, 256, (3, 20, 21, 1), np.uint8)
    mask = np.zeros((3, 20, 21, 1), np.uint8)
    mask[:, 8:12, 8:12] = 1
    off = truth.copy()
    off[0, 9, 9] ^= 16
    off[1, 0, 0] ^= 1  # a valid pixel
    parts = [scoring.Filled(truth, mask, {"perfect": truth, "off": off})]
    got = scoring.score(parts, 4)
    assert (got["perfect"].changed, got["off"].changed) == (0, 1)
    rows = {
        (r["method"], r["region"], r["metric"]): r
        for name, scored in got.items()
        for r in scoring.tidy(name, "data", "bin", scored)
    }
    row = rows["perfect", "image", "psnr"]
    assert (row["value"], row["sd"], row["n"], row["infinite"]) == (None, None, 0, 3)
    assert rows["perfect", "hole", "ssim"]["value"] == pytest.approx(1.0)
    row = rows["off", "hole", "psnr"]
    assert (row["n"], row["infinite"]) == (1, 2)
    assert row["value"] == pytest.approx(10 * math.log10(255**2 / (16**2 / 16)))


def test_every_score_of_a_report_by_size_and_colour():
    def names(shape):
        return set(scoring.metrics_for("uint8", shape).init())

    both = ("psnr", "ssim", "mae", "mse", "fsim", "uqi")
    grey = {(r, m) for r in ("hole", "image") for m in both} | {("image", "ssim_eq7")}
    assert names((50, 83, 1)) == grey
    assert names((7, 83, 1)) == grey - {("hole", "uqi"), ("image", "uqi")}
    grey |= {("image", "ssim_51")}
    assert names((70, 83, 1)) == names((175, 512, 1)) == grey
    assert names((176, 176, 1)) == grey | {("image", "ms_ssim")}
    assert names((70, 83, 3)) == grey | {("hole", "fsimc"), ("image", "fsimc")}
    with pytest.raises(ValueError, match="uint8 or uint16, got float32"):
        scoring.metrics_for("float32", (70, 83, 1))


def test_further_metrics_stand_beside_the_usual(monkeypatch, tmp_path):
    """One of images and one of the set, which has no score of an image."""
    monkeypatch.setattr(scoring, "metrics_for", few_metrics)
    asked = []

    def more(dtype, shape):
        asked.append((dtype, shape))
        first = image_metric(lambda t, p, r: p[:, 0, 0, 0])
        seen = Metric(
            lambda: 0,
            lambda state, batch: state + int(batch["counts"].sum()),
            lambda state: {"value": 100.0 + state, "n": state},
        )
        return {("image", "lpips"): first, ("image", "fid"): seen}

    truth = np.zeros((5, 20, 21, 1), np.uint8)
    mask = np.zeros((5, 20, 21, 1), np.uint8)
    mask[:, :3, :3] = 1
    made = truth.copy()
    made[:, 0, 0, 0] = [1, 2, 6, 4, 7]
    whole = scoring.Filled(truth, mask, {"mine": truth, "other": made})
    parts = [
        scoring.Filled(truth[i], mask[i], {k: v[i] for k, v in whole.made.items()})
        for i in (slice(0, 3), slice(3, 5))
    ]
    got = scoring.score(parts, 3, more)
    assert asked == [("uint8", (20, 21, 1))]
    rows = {
        (r["region"], r["metric"]): r
        for r in scoring.tidy("other", "data", "bin", got["other"], got["mine"])
    }
    assert {"psnr", "ssim", "mae", "lpips", "fid"} == {name for _, name in rows}
    row = rows["image", "lpips"]
    assert (row["value"], row["n"]) == (4.0, 5)
    # Differences 1, 2, 6, 4, 7: t = 4 / sqrt(6.5 / 5), with 4 degrees of freedom.
    t = 4 / math.sqrt(6.5 / 5)
    y = t**2 / (4 + t**2)
    want = 1 - math.sqrt(y) * (1 + (1 - y) / 2)
    assert row["p"] == pytest.approx(want, rel=1e-9) and row["mark"] == "#"
    assert rows["image", "psnr"]["p"] is None  # infinite in all of the one's images
    assert rows["image", "psnr"]["left_out"] == 5
    row = rows["image", "fid"]
    assert (row["value"], row["n"], row["sd"], row["infinite"]) == (
        105.0,
        5,
        None,
        None,
    )
    assert "p" not in row
    one = checkpoint.Bin("bin", list("abcde"), 0, got)
    checkpoint.write_scores(tmp_path / "scores.csv", [one])
    with open(tmp_path / "scores.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["metric"] for line in lines} == {"psnr", "ssim", "mae", "lpips"}
    assert len(lines) == 2 * 5 * 7


def a_part(**changes):
    truth = np.zeros((1, 16, 16, 1), np.uint8)
    part = scoring.Filled(truth, truth, {"mine": truth})
    return part._replace(**changes)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "no image to score"),
        ([a_part(), a_part(made={})], "needs all methods"),
        ([a_part(made={"mine": np.zeros((1, 16, 16, 1), np.uint16)})], "is uint16"),
        ([a_part(made={"mine": np.zeros((1, 9, 16, 1), np.uint8)})], r"\[9, 16, 1\]"),
    ],
)
def test_sets_that_cannot_be_compared(parts, message, monkeypatch):
    monkeypatch.setattr(scoring, "metrics_for", few_metrics)
    with pytest.raises(ValueError, match=message):
        scoring.score(parts, 2)


def changed(config, **values):
    other = config.copy_and_resolve_references()
    other.update_from_flattened_dict(
        {k.replace("__", "."): v for k, v in values.items()}
    )
    return other


@pytest.mark.parametrize(
    ("values", "step", "message"),
    [
        ({"model__width": 8}, None, r"another config: model.width \(4, now 8\)"),
        ({"channels": 3}, None, r"channels \(1, now 3\)"),
        ({"data__split": "random"}, None, r"data.split \('block', now 'random'\)"),
        ({"seed": 5}, None, r"seed \(0, now 5\)"),
        ({}, 7, "7"),
        ({"eval__masks__squares": (), "eval__masks__irregular_ratios": ()}, None,
         "names no mask"),
        ({"eval__crop_size": 71}, None, "71 x 71, but the sections"),
        ({"eval__also": ("flow",)}, None, r"'flow'; .* \['completed', 'reference'\]"),
        ({"eval__also": ("telea",)}, None, "eval.also names 'telea', which is the"),
        ({"eval__compare": (("paper", "x"),)}, None, "eval.compare names 'paper'"),
        ({"eval__compare": (("other", "x"),)}, None, "'other' has no x/eval/metrics"),
        ({"eval__compare": ("other", "x")}, None, "holds pairs .*; got 'other'"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(grey, quick, values, step, message):
    config, workdir = grey
    with pytest.raises((ValueError, OSError), match=message) as raised:
        checkpoint.evaluate_run(changed(config, **values), workdir, step)
    assert "\n" not in str(raised.value)
    assert not (workdir / "eval").exists()


def test_no_section_is_held_out(tmp_path, quick):
    write_stack(tmp_path / "kidney", "uint8", 1)
    config = make_config(tmp_path, tmp_path / "kidney", 1)
    config.data.test_fraction = 0.0
    run = make_run(tmp_path / "run", config)
    with pytest.raises(ValueError, match="no section is held out for test"):
        checkpoint.evaluate_run(config, run, None)


def test_no_checkpoint(grey, quick, tmp_path):
    config, _ = grey
    workdirs.open_workdir(tmp_path, config)
    with pytest.raises(FileNotFoundError, match="checkpoint") as raised:
        checkpoint.evaluate_run(config, tmp_path, None)
    assert "\n" not in str(raised.value)


def test_the_command_says_it_in_one_line_and_exits_with_2(tmp_path):
    command = [sys.executable, "eval.py", "--config=configs/ccpgan.py:smoke"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"eval.py: {tmp_path} holds no run; train first with --workdir={tmp_path}."
    ]
    assert done.stdout == ""


def test_another_stack_may_be_scored_and_old_results_go(tmp_path, quick):
    write_stack(tmp_path / "kidney", "uint8", 1)
    config = make_config(tmp_path, tmp_path / "kidney", 1)
    run = make_run(tmp_path / "run", config)
    write_stack(tmp_path / "liver", "uint8", 1)
    stale = run / "eval" / "images" / "32x32" / "old.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"old")
    (run / "eval" / "mine.txt").write_text("kept")
    values = {"data__source": str(tmp_path / "liver"), "data__split": "random"}
    checkpoint.evaluate_run(changed(config, **values), run, 20)
    results = json.loads((run / "eval" / "metrics.json").read_text())["run"]
    assert results["dataset"] == "liver" and results["trained_on_this_stack"] is False
    assert results["cases_guided_by_training_sections"] == 0
    page = (run / "eval" / "report.html").read_text()
    assert "another stack than the one that was trained on" in page
    assert not stale.exists() and (run / "eval" / "mine.txt").exists()


def test_an_earlier_stage_that_has_changed_is_refused(tmp_path, quick, monkeypatch):
    write_stack(tmp_path / "kidney", "uint8", 1)
    config = make_config(tmp_path, tmp_path / "kidney", 1)
    now = {"earlier": {"params": {"w": np.float32([1, 2])}}}
    # Worked out apart from the code: the path's letters, then the bytes.
    digest = hashlib.sha256(
        b"['earlier']['params']['w']" + now["earlier"]["params"]["w"].tobytes()
    )
    staged = lambda config: toy(config)._replace(load_frozen=lambda: now)
    monkeypatch.setattr(checkpoint.systems, "build", staged)
    then = make_run(tmp_path / "then", config, {"frozen": "0" * 64})
    with pytest.raises(ValueError, match="trained with frozen weights of SHA-256 0000"):
        checkpoint.evaluate_run(config, then, None)
    assert not (then / "eval").exists()
    same = make_run(tmp_path / "same", config, {"frozen": digest.hexdigest()})
    checkpoint.evaluate_run(config, same, None)
    facts = json.loads((same / "eval" / "metrics.json").read_text())["run"]
    assert facts["frozen_weights"] == digest.hexdigest()


def test_runs_stand_beside_each_other(tmp_path, quick):
    """A run beside itself under another name: the same scores, and no difference."""
    write_stack(tmp_path / "kidney", "uint8", 1)
    config = make_config(tmp_path, tmp_path / "kidney", 1)
    first, second = (make_run(tmp_path / name, config) for name in ("one", "two"))
    checkpoint.evaluate_run(config, first, None)
    page = checkpoint.evaluate_run(
        changed(config, eval__compare=(("no GAN", str(first)),)), second, None
    )
    results = json.loads((second / "eval" / "metrics.json").read_text())
    rows = [r for r in results["rows"] if not r["method"].startswith("paper")]
    methods = [*METHODS, "no GAN"]
    assert list(dict.fromkeys(row["method"] for row in rows)) == methods
    mine, other = (
        [r for r in rows if r["method"] == name] for name in ("ccpgan", "no GAN")
    )
    for own, row in zip(mine, other, strict=True):
        assert {key: row[key] for key in own if key != "method"} == {
            key: own[key] for key in own if key != "method"
        }
        assert (row["p"], row["mark"]) == (1.0, "")
    with open(second / "eval" / "scores.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    count = {name: [r["method"] for r in lines].count(name) for name in methods}
    assert len(set(count.values())) == 1
    assert results["run"]["valid_pixels_changed"] == 0
    assert results["run"]["compared"]["no GAN"]["steps"] == 20
    text = page.read_text(encoding="utf-8")
    assert "another run of ccpgan, 20 steps" in text
    values = {"eval__compare": (("no GAN", str(first)),), "eval__seed": 9}
    with pytest.raises(ValueError, match="'no GAN' was scored with another masks"):
        checkpoint.evaluate_run(changed(config, **values), second, None)


def test_names_of_data_hold_no_folders():
    assert checkpoint.dataset_name("phantom") == "phantom"
    assert checkpoint.dataset_name("/home/someone/kidney/") == "kidney"
    assert checkpoint.dataset_name("/data/stack.tif") == "stack.tif"
    prepared = "/home/someone/tfds/sections/kidney/1.0.0"
    assert checkpoint.dataset_name(prepared) == "sections/kidney/1.0.0"


def test_equal_devices_are_counted():
    machine = {"devices": ["gpu:H200"] * 8, "processor": "Some Processor"}
    assert runs.device_name(machine) == "8 x gpu:H200 (Some Processor)"
    machine = {"devices": ["cpu:cpu"], "processor": "Some Processor"}
    assert runs.device_name(machine) == "cpu:cpu (Some Processor)"


def test_cases_are_those_of_the_data(done):
    assert all(isinstance(case, sections.Case) for case in done.cases)
    assert done.cases[0].image.shape == (HEIGHT, WIDTH, done.config.channels)
