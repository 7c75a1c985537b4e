"""LPIPS and FID end to end: their weights, what is said of them, and their numbers."""

import csv
import functools
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jaxinpaint import (
    cli,
    evaluation,
    learned,
    score_folders,
    score_inputs,
    score_report,
    scoring,
)
from jaxinpaint.features import registry, store
from jaxinpaint.features.convert import foreign
from jaxinpaint.features.normalization import SIGNED, normalize
from jaxinpaint.metrics.evaluate import evaluate, pad_batch
from jaxinpaint.metrics.fid import fid_metric, fid_result, moments, pool3_features
from jaxinpaint.metrics.lpips import LinearWeights, alexnet_trunk, lpips
from tests import test_evaluation as stage
from tests.features import toy

HOLES = {"a": 100, "b": 170, "c": 200, "d": 640}  # of 32 x 50 = 40 x 40 = 1600 pixels
SHAPES = {"a": (40, 40), "b": (32, 50), "c": (40, 40), "d": (40, 40)}


class Thin(nn.Module):
    """A trunk of two taps with 6 channels each; "pool3" is what FID reads."""

    taps: tuple[str, ...]

    @nn.compact
    def __call__(self, image):
        image = normalize(image, SIGNED)
        kernel = nn.initializers.normal(0.3)
        x = nn.Conv(6, (7, 7), strides=7, kernel_init=kernel, name="first")(image)
        pool3 = jnp.tanh(x).mean(axis=(1, 2))
        found = {"first": x, "last": nn.relu(x), "pool3": pool3}
        return {tap: found[tap] for tap in self.taps}


few_metrics = functools.cache(stage.few_metrics)


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXINPAINT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def thin(monkeypatch):
    """Networks that compile at once, in the place of the real ones."""
    linear = LinearWeights((6, 6))
    nets = {
        "lpips": {"alexnet": Thin(("first", "last")), "lpips_alex": linear},
        "lpips_vgg": {"vgg16": Thin(("last", "first")), "lpips_vgg": linear},
        "fid": {"inception_fid": Thin(("pool3",))},
    }
    monkeypatch.setattr(learned, "networks", lambda: nets)
    monkeypatch.setattr(scoring, "metrics_for", few_metrics)
    return nets


def variables(nets, seed):
    """What store.load draws of "random:SEED"."""
    image = jnp.zeros((1, 299, 299, 3))
    return [jax.jit(net.init)(jax.random.key(seed), image) for net in nets.values()]


class Set:
    """Four grey images of two sizes, their masks, and what two programs made of them."""

    def __init__(self, folder):
        rng = np.random.default_rng(4)
        self.folder, self.truth, self.made = folder, {}, {"lama": {}, "mat": {}}
        for name, pixels in HOLES.items():
            shape = SHAPES[name]
            truth = rng.integers(0, 256, shape, np.uint8)
            hole = np.roll(np.arange(1600) < pixels, 60).reshape(shape)
            self.save("kidney", name, truth)
            self.save("mask", name, hole * np.uint8(255))
            self.truth[name] = truth
            for method, made in self.made.items():
                made[name] = np.where(
                    hole, rng.integers(0, 256, shape, np.uint8), truth
                )
                self.save(method, name, made[name])

    def save(self, kind, name, pixels):
        (self.folder / kind).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(self.folder / kind / f"{name}.png")

    def run(self, *more):
        given = [f"--{w}={self.folder / k}" for w, k in (("truth", "kidney"),
                 ("pred", "lama"), ("pred", "mat"), ("mask", "mask"))]  # fmt: skip
        return cli.main(["score", *given, f"--output={self.folder / 'out'}", *more])

    def results(self, *more):
        assert self.run(*more) == 0
        return json.loads((self.folder / "out" / "metrics.json").read_text())

    def outcome(self, **sources):
        """What is found where no page is asked for, which takes most of the time."""
        job = score_inputs.Job(
            truth=self.folder / "kidney",
            made={method: self.folder / method for method in self.made},
            mask=self.folder / "mask",
            polarity="hole",
            truth_suffix="",
            made_suffix="",
            mask_suffix="",
            edges=score_folders.percent_edges("0,10,20,50"),
            baselines=False,
            batch_size=None,
            skip_missing=False,
            dataset="kidney",
            **{"lpips": "", "lpips_vgg": "", "fid": ""} | sources,
        )
        return score_folders.score_job(job, Console(quiet=True))

    def rows(self, **sources):
        return score_report.rows_of(self.outcome(**sources))


@pytest.fixture
def images(tmp_path):
    return Set(tmp_path)


def one_row(rows, method, bin, metric):
    (row,) = [
        row
        for row in rows
        if (row["method"], row["bin"], row["metric"]) == (method, bin, metric)
    ]
    return row


def batches(images, method, names, size):
    """As `evaluate` takes them, those of one shape together."""
    for shape in dict.fromkeys(SHAPES[name] for name in names):
        some = [name for name in names if SHAPES[name] == shape]
        for start in range(0, len(some), size):
            part = some[start : start + size]
            rows = {"truth": images.truth, "prediction": images.made[method]}
            batch = {
                key: np.stack([kind[name] for name in part])[..., None].astype(
                    "float32"
                )
                for key, kind in rows.items()
            }
            batch["region"] = np.ones_like(batch["truth"])
            yield pad_batch(batch, size)


def test_every_column_has_the_fid_of_its_images(images, thin):
    """Columns mix sizes, which are scored apart: b and c are of two."""
    rows = images.rows(fid="random:3")
    (net,) = thin["fid"].values()
    extract, frozen = pool3_features(net), variables(thin["fid"], 3)
    metric = fid_metric(extract, *frozen, data_range=255.0)
    for method in ("lama", "mat"):
        for bin, names in {"10-20%": "bc", "all": "abcd"}.items():
            row = one_row(rows, method, bin, "fid")
            want = evaluate({"fid": metric}, batches(images, method, names, 2))["fid"]
            assert row["value"] == pytest.approx(want["value"], rel=1e-4)
            assert row["value"] > 1e-5
            assert (row["n"], row["sd"], row["region"]) == (len(names), None, "image")
            assert row["note"] == want["note"]
            assert f"compare it only at n = {len(names)}" in row["note"]
            assert "p" not in row
        row = one_row(rows, method, "0-10%", "fid")
        assert row["value"] is None and "needs 2 images or more" in row["note"]
    (note,) = learned.few_images(rows)
    assert note.startswith("FID of few images is strongly biased (here 1 to 4;")


def test_the_seed_makes_the_number(images, thin):
    (batch,) = batches(images, "mat", "acd", 3)
    first, again, other = (
        evaluate(learned.learned(s, "", "").more("uint8", (40, 40, 1)), [batch])
        for s in ("random:3", "random:3", "random:4")
    )
    place = ("image", "lpips")
    assert first[place]["value"] == again[place]["value"] != other[place]["value"]


def test_random_weights_are_told_wherever_a_number_is(images, thin, capsys):
    results = images.results(
        "--lpips=random:7", "--lpips-vgg=random:7", "--fid=random:8"
    )
    out, err = capsys.readouterr()
    names = {"lpips": "LPIPS", "lpips_vgg": "LPIPS, VGG16", "fid": "FID"}
    source = {"lpips": "random:7", "lpips_vgg": "random:7", "fid": "random:8"}
    page = (images.folder / "out" / "report.html").read_text()
    told = results["run"]["metric_weights"]
    assert list(told) == list(names)
    for metric, name in names.items():
        label = f"{name} ({source[metric]}, not comparable)"
        assert f"  {name} image ({source[metric]})" in out.splitlines()[0]
        assert f"Note: {label}: random weights" in err
        assert f"<h3>{label} " in page and f"<li>{label}: random weights" in page
        assert told[metric]["source"] == source[metric]
        assert list(told[metric]["sha256"]) == list(thin[metric])
        for digest in told[metric]["sha256"].values():
            assert len(digest) == 64 and digest in page
        rows = [row for row in results["rows"] if row["metric"] == metric]
        assert {row["weights"] for row in rows} == {source[metric]}
    assert results["run"]["config"]["fid"] == "random:8"
    with open(images.folder / "out" / "scores.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    of = {(line["metric"], line["weights"]) for line in lines}
    assert of == {("lpips", "random:7"), ("lpips_vgg", "random:7")} | {
        (metric, "") for metric in ("psnr", "mae", "ssim", "changed")
    }
    # A verdict on numbers that mean nothing would be none: 3 metrics, 2 regions, 4 bins.
    assert "of 24 scores" in page or "in the 24 comparisons" in page


def test_lpips_of_both_depths(images, thin):
    """Of grey levels to 255 and of the same to 65535 = 257 * 255."""
    trunk = next(iter(thin["lpips"].values()))
    weights = variables(thin["lpips"], 1)
    want = {}
    for name in HOLES:
        pair = (
            jnp.asarray(image[None, ..., None], jnp.float32) / 127.5 - 1
            for image in (images.truth[name], images.made["mat"][name])
        )
        want[name] = float(lpips(trunk, *weights, *pair)[0])
    for _ in range(2):
        outcome = images.outcome(lpips="random:1")
        got = {
            name: one["mat"]["image", "lpips"] for name, one in outcome.values.items()
        }
        assert got == pytest.approx(want, rel=1e-4)
        row = one_row(score_report.rows_of(outcome), "mat", "all", "lpips")
        assert row["value"] == pytest.approx(np.mean(list(want.values())), rel=1e-4)
        assert (row["n"], row["region"]) == (4, "image")
        for kind in ("kidney", "lama", "mat"):
            for path in (images.folder / kind).iterdir():
                levels = np.array(Image.open(path)).astype(np.uint16) * 257
                Image.fromarray(levels).save(path)


def test_missing_weights_are_one_error_before_any_work(
    images, home, capsys, monkeypatch
):
    def fail(*arguments):
        raise AssertionError("an image was read")

    monkeypatch.setattr("jaxinpaint.score_folders.inspect_all", fail)
    for option, name in {
        "--lpips": "alexnet",
        "--lpips-vgg": "vgg16",
        "--fid": "inception_fid",
    }.items():
        assert images.run(option, "imported") == 2
        out, err = capsys.readouterr()
        (line,) = err.splitlines()
        assert line.startswith(f"jaxinpaint score: The weights {name} ")
        assert f"`jaxinpaint weights import FILE --as {name}`" in line and out == ""
    assert not (images.folder / "out").exists() and not home.exists()
    assert images.run("--fid", "Imported") == 2
    assert "'imported' or 'random:SEED'" in capsys.readouterr().err


def test_images_too_small_for_a_trunk(images, thin, capsys):
    images.save("kidney", "b", np.zeros((30, 50), np.uint8))
    for kind in ("mask", "lama", "mat"):
        images.save(kind, "b", np.full((30, 50), 255, np.uint8))
    assert images.run("--lpips=random:0", "--fid=random:0") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "b.png: 30 x 50 pixels, but LPIPS needs sides of at least 31" in line
    assert not (images.folder / "out").exists()
    outcome = images.outcome(lpips_vgg="random:0", fid="random:0")
    assert len(outcome.items) == 4


def test_the_least_sides_are_those_of_the_networks():
    def features(net, side):
        image = jax.ShapeDtypeStruct((1, side, 60, 1), jnp.float32)
        return jax.eval_shape(net.init_with_output, jax.random.key(0), image)[0]

    assert learned.LEAST_SIDES == {"lpips": 31, "lpips_vgg": 16}
    for metric, least in learned.LEAST_SIDES.items():
        net = next(iter(learned.networks()[metric].values()))
        assert features(net, least)
        with pytest.raises(ValueError, match=f"at least {least}"):
            features(net, least - 1)


@functools.cache
def drawn(name, network):
    """He normal numbers by numpy: to compile their drawing would take a minute."""
    bits = np.random.default_rng(0)

    def leaf(path, shape):
        scale = math.sqrt(2 / math.prod(shape.shape[:-1]))
        if path[-1].key == "var" or path[-1].key == "scale" or name.startswith("lpips"):
            return np.ones(shape.shape, np.float32)
        return scale * bits.standard_normal(shape.shape, np.float32)

    image = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)
    return jax.tree.map_with_path(leaf, shapes)


@pytest.fixture
def numbers(monkeypatch):
    def load(name, source, network, image):
        return store.Pretrained(drawn(name, network), name, name)

    monkeypatch.setattr(store, "load", load)


def test_alexnet_with_its_linear_layers(numbers):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (2, 31, 40, 1)).astype(np.float32)
    batch = {"truth": truth, "prediction": np.flip(truth, 2).copy()}
    batch["region"] = np.zeros_like(truth)
    judges = learned.learned("random:2", "", "")
    assert list(judges.weights) == ["lpips"]
    metrics = judges.more("uint8", (31, 40, 1))
    assert metrics is judges.more("uint8", (64, 64, 3))  # built once
    got = evaluate(metrics, [pad_batch(batch, 3)])["image", "lpips"]
    trunk, linear = learned.networks()["lpips"].values()
    assert trunk == alexnet_trunk(jnp.float32)
    weights = drawn("alexnet", trunk), drawn("lpips_alex", linear)
    pair = (batch[k] / np.float32(127.5) - 1 for k in ("truth", "prediction"))
    want = jax.jit(lambda t, p, *w: lpips(trunk, *w, t, p))(*pair, *weights)
    np.testing.assert_allclose(got["values"], want, rtol=1e-4)
    assert got["weights"] == "random:2" and (got["values"] > 0).all()


def test_inception_of_a_set_and_of_its_parts(numbers):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (3, 20, 31, 1)).astype(np.float32)
    noise = np.rint(np.clip(truth + rng.normal(0, 60, truth.shape), 0, 255))
    region = np.ones_like(truth)
    batch = {"truth": truth, "prediction": noise.astype(np.float32), "region": region}
    judges = learned.learned("", "", "random:0")

    def result(more):
        metrics = more("uint8", (20, 31, 1))
        return evaluate(metrics, [pad_batch(batch, 3)])["image", "fid"]

    kept, whole = result(judges.apart), result(judges.more)
    assert kept["truth"].shape == kept["prediction"].shape == (3, 2048)
    # Centred rows are an exact factor of the covariance.
    t, p = (kept[k].astype(np.float64) for k in ("truth", "prediction"))
    x, y = ((z - z.mean(0)) / math.sqrt(2) for z in (t, p))
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    want = ((t.mean(0) - p.mean(0)) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * root
    assert want > 0 and whole["n"] == 3 and whole["weights"] == "random:0"
    assert whole["value"] == pytest.approx(want, rel=1e-6)
    assert fid_result(moments(t), moments(p))["value"] == pytest.approx(want, rel=1e-9)


def test_imported_weights_and_those_of_another_file(tmp_path, monkeypatch):
    linear = LinearWeights(registry.ALEXNET_CHANNELS)
    nets = {"lpips": {"lpips_alex": linear}}
    monkeypatch.setattr(learned, "networks", lambda: nets)
    drawn = linear.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    tensors = foreign(drawn, registry.LPIPS_LAYERS)
    file = toy.write_safetensors(tmp_path / "alex.pth", tensors)
    store.import_file(file, "lpips_alex", replace=False, unverified=True)
    told = learned.learned("imported", "", "").weights
    digest = {"lpips_alex": toy.sha256(file)}
    assert told == {"lpips": {"source": "imported, unverified", "sha256": digest}}
    (line,) = learned.not_comparable(told)
    assert line.startswith("LPIPS (imported, unverified, not comparable): its weights")
    entry = registry.WEIGHTS["lpips_alex"]._replace(sha256=toy.sha256(file))
    monkeypatch.setitem(registry.WEIGHTS, "lpips_alex", entry)
    store.import_file(file, "lpips_alex", replace=True, unverified=False)
    told = learned.learned("imported", "", "").weights
    assert told == {"lpips": {"source": "imported", "sha256": digest}}
    assert learned.not_comparable(told) == []


def test_nothing_is_loaded_where_nothing_is_asked_for():
    none = learned.learned("", "", "")
    assert none.weights == {} and none.more("uint8", (20, 20, 1)) == {}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A trained workdir of the toy system, and its config with one square mask."""
    stage.write_stack(tmp_path / "kidney", "uint8", 1)
    config = stage.make_config(tmp_path, tmp_path / "kidney", 1)
    config.eval.masks.squares = (32,)
    config.eval.masks.irregular_ratios = ()
    workdir = stage.make_run(tmp_path / "run", config)
    stage.use_toy(monkeypatch)
    monkeypatch.setattr(scoring, "metrics_for", few_metrics)
    return config, workdir


def test_the_evaluation_with_weights_and_the_papers_column(run, thin, capsys):
    config, workdir = run
    config.eval.lpips, config.eval.fid = "random:5", "random:6"
    page = evaluation.evaluate_run(config, workdir, None).read_text()
    results = json.loads((workdir / "eval" / "metrics.json").read_text())
    rows = [r for r in results["rows"] if not r["method"].startswith("paper")]
    lpips_rows = [row for row in rows if row["metric"] == "lpips"]
    assert [row["method"] for row in lpips_rows] == stage.METHODS
    for row in lpips_rows:
        assert (row["bin"], row["region"], row["n"]) == ("32x32", "image", 3)
        assert row["value"] > 0 and row["weights"] == "random:5"
        assert ("p" in row) == (row["method"] != "ccpgan")
    for row in rows:
        if row["metric"] == "fid":
            assert "compare it only at n = 3" in row["note"]
            assert row["weights"] == "random:6"
    assert results["run"]["metric_weights"]["fid"]["source"] == "random:6"
    block = page.partition('id="score-lpips"')[2].partition("</section>")[0]
    assert "LPIPS (random:5, not comparable)" in block
    printed = [
        row["value"]
        for row in results["rows"]
        if (row["method"], row["bin"], row["metric"]) == ("paper", "32x32", "lpips")
    ]
    assert len(printed) == 2 and all(f"{value:.4f}" in block for value in printed)
    assert "LPIPS needs pretrained weights" not in page
    assert "FID of few images is strongly biased (here 3;" in page
    assert "Note: FID (random:6, not comparable)" in capsys.readouterr().err
    text = (workdir / "eval" / "scores.csv").read_text()
    assert ",lpips," in text and ",fid," not in text


def test_the_evaluation_without_weights_names_the_command(run):
    page = evaluation.evaluate_run(*run, None).read_text()
    assert "LPIPS needs pretrained weights: not computed." in page
    assert "`jaxinpaint weights import --download --as alexnet`" in page
    assert "--config.eval.lpips=imported" in page


def test_the_evaluation_stops_before_any_work(run, monkeypatch):
    config, workdir = run
    config.eval.lpips = "random:0"
    config.eval.crop_size = 24
    config.eval.masks.squares = (8,)
    nets = {
        "lpips": {
            "alexnet": Thin(("first", "last")),
            "lpips_alex": LinearWeights((6, 6)),
        }
    }
    with monkeypatch.context() as patch:
        patch.setattr(learned, "networks", lambda: nets)
        with pytest.raises(ValueError, match="24 x 24 pixels, but LPIPS needs sides"):
            evaluation.evaluate_run(config, workdir, None)

    def fail(config):
        raise AssertionError("work was done")

    monkeypatch.setattr(evaluation.systems, "build", fail)
    config.eval.lpips = "imported"
    with pytest.raises(OSError, match="jaxinpaint weights import FILE --as alexnet"):
        evaluation.evaluate_run(config, workdir, None)
    assert not (workdir / "eval").exists()
