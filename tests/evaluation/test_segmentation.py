"""One segmenter evaluated whole: toy network and toy slides, scores by slow loops."""

import csv
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import glomeruli_segment
from jaxinpaint.core.checkpoint import Checkpoints
from jaxinpaint.core.system import System, TrainState
from jaxinpaint.data.cases import RunData
from jaxinpaint.data.slides import Slide, open_slides
from jaxinpaint.data.tiles import Tile
from jaxinpaint.evaluation import evaluate, segmentation
from jaxinpaint.training import workdir as workdirs
from tests.data import slide_folders as folders

SIDE, STEP = 32, 16
CLASSES = ("normal", "sclerosed")
SUMMARY = {
    "kind": "glomeruli_tiles",
    "source": "phantom",
    "digest": "00",
    "dtype": "uint8",
    "shape": [3, SIDE, SIDE, 3],
    "split": {},
}


def toy(config):
    """Says of a pixel what its first two channels say, more the place in the tile."""
    shape = (config.batch_size, SIDE, SIDE)
    spec = {
        "image": jax.ShapeDtypeStruct((*shape, 3), "float32"),
        "label": jax.ShapeDtypeStruct((*shape, 2), "float32"),
    }

    def init(key):
        gain = jnp.full((1,), 1.0)
        return TrainState(jnp.int32(0), {"segmenter": {"params": {"gain": gain}}}, {})

    def predict(variables, frozen, batch, key):
        gain = variables["segmenter"]["params"]["gain"][0]
        p = gain * (batch["image"][..., :2] + 1.0) / 2.0
        # Otherwise for each tile, so that the mean of two is none of them.
        return {"probabilities": p - 0.3 * (jnp.arange(SIDE) < 8)[None, :, None, None]}

    return System(spec, init, lambda: {}, lambda *a: None, predict)


def probabilities(image):
    """What the toy says, in numpy."""
    p = image[..., :2].astype(np.float64) / 255
    p[:8] -= 0.3
    return p


class Slides:
    """Toy slides: discs of each class, found in part, in tiles that overlap."""

    def __init__(self):
        rng = np.random.default_rng(5)
        self.images, self.labels, self.sizes = {}, {}, {}
        for dataset, slide, height, width in (
            ("test1", "a", 48, 64),
            ("test1", "b", 20, 40),  # smaller than a tile: padded
            ("test2", "c", 48, 32),
        ):
            label = np.zeros((height, width, 2), np.uint8)
            label[2:14, 3:15, 0] = 1
            label[4:12, 20:30, 1] = 1
            image = rng.integers(0, 120, (height, width, 3)).astype(np.uint8)
            sure = rng.random(label.shape) < 0.8
            image[..., :2] += (100 * (label > 0) * sure).astype(np.uint8)
            self.images[dataset, slide] = image
            self.labels[dataset, slide] = label

    def open(self, config):
        return [
            Slide(
                id=slide,
                group=slide,
                stain="PAS",
                split=dataset,
                synthetic=False,
                height=label.shape[0],
                width=label.shape[1],
                factor=1.0,
                mpp=1.0,
                digest="",
                region=None,
                label=lambda label=label: label,
                label_digest="",
            )
            for (dataset, slide), label in self.labels.items()
        ]

    def tiles(self, config, opened):
        for (dataset, slide), image in self.images.items():
            height, width = image.shape[:2]
            for top in range(0, max(height - SIDE, 0) + 1, STEP):
                for left in range(0, max(width - SIDE, 0) + 1, STEP):
                    if (slide, top, left) == ("a", 16, 32):
                        continue  # no tissue
                    box = np.s_[top : top + SIDE, left : left + SIDE]
                    valid = np.ones((*image.shape[:2], 1), np.uint8)
                    parts = [image, self.labels[dataset, slide], valid]
                    padded = []
                    for part, value in zip(parts, (255, 0, 0), strict=True):
                        part = part[box]
                        fill = [(0, SIDE - n) for n in part.shape[:2]] + [(0, 0)]
                        padded.append(np.pad(part, fill, constant_values=value))
                    yield Tile(slide, dataset, top, left, *padded)


def make_run(folder, config, scores):
    """A workdir as training leaves it: a checkpoint of each step in `scores`."""
    folder.mkdir()
    workdirs.open_workdir(folder, config)
    lines = [{"step": 10, "loss/bce": 0.5, "speed/step_ms": 600.0}]
    lines.append({"step": 20, "eval/dice": 0.4})
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    state = toy(config).init(jax.random.key(0))
    with Checkpoints(
        folder / "checkpoints",
        save_every=1,
        keep_latest=9,
        keep_best=1,
        best=("eval/dice", "max"),
    ) as checkpoints:
        for step, dice in scores.items():
            told = {} if dice is None else {"eval/dice": dice}
            checkpoints.save(step, state, {}, told)
    return folder


def make_config(**changes):
    config = glomeruli_segment.get_config("smoke")
    config.update_from_flattened_dict(
        {"image_size": SIDE, "data.min_area": 20, "eval.panels": 2, **changes}
    )
    return config


class Done:
    def __init__(self, folder, patch):
        self.slides = Slides()
        use_toy(patch, self.slides)
        self.config = make_config(**{"eval.batch_size": 3})
        scores = {10: 0.5, 20: 0.7, 30: 0.6}
        self.workdir = make_run(folder / "run", self.config, scores)
        self.page = evaluate.evaluate(self.config, self.workdir, None)
        self.folder = self.workdir / "eval"
        self.results = json.loads((self.folder / "metrics.json").read_text())
        self.tiles = list(self.slides.tiles(None, None))

    def row(self, dataset, bin, region, metric):
        (row,) = [
            r
            for r in self.results["rows"]
            if (r["dataset"], r["bin"], r["region"], r["metric"])
            == (dataset, bin, region, metric)
        ]
        return row


def use_toy(patch, slides):
    patch.setattr(segmentation.systems, "build", toy)
    patch.setattr(segmentation.systems, "validate_inputs", lambda *a: None)
    patch.setattr(segmentation.glomeruli_tiles, "test_tiles", slides.tiles)
    patch.setattr(segmentation, "open_slides", slides.open)
    data = RunData(None, None, {}, None, SUMMARY)
    patch.setattr(segmentation.glomeruli, "build_tiles", lambda *a, slides: data)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield Done(tmp_path_factory.mktemp("segment"), patch)


def counts(truth, found, valid):
    """TP, FP, FN pixel by pixel."""
    tp = fp = fn = 0
    for t, f, v in zip(truth.ravel(), found.ravel(), valid.ravel(), strict=True):
        if v:
            tp, fp, fn = tp + (t and f), fp + (f and not t), fn + (t and not f)
    return int(tp), int(fp), int(fn)


@pytest.mark.parametrize("dataset", ["test1", "test2"])
@pytest.mark.parametrize("number", [0, 1])
def test_scores_of_the_tiles_by_loops(done, dataset, number):
    own = [tile for tile in done.tiles if tile.split == dataset]
    tables = [
        counts(t.label[..., number], probabilities(t.image)[..., number] > 0.5, t.valid)
        for t in own
    ]
    tp, fp, fn = np.sum(tables, axis=0)
    dice = [2 * a / (2 * a + b + c) for a, b, c in tables if a + b + c]
    want = {
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "dice_pooled": 2 * tp / (2 * tp + fp + fn),
        "dice_image": np.mean(dice),
        "tp": tp,
        "fp": fp,
        "fn": fn,
    }
    assert 0 < tp and 0 < fn and 0 < want["f1"] < 1
    for metric, value in want.items():
        row = done.row(dataset, CLASSES[number], "image", metric)
        assert row["value"] == pytest.approx(value, rel=1e-12), metric
        assert row["n"] == (len(dice) if metric == "dice_image" else len(own))
        assert row["method"] == "glomeruli"


@pytest.mark.parametrize("number", [0, 1])
def test_scores_of_the_slides_by_loops(done, number):
    totals = []
    for (dataset, slide), label in done.slides.labels.items():
        if dataset != "test1":
            continue
        height, width = label.shape[:2]
        total, count = np.zeros((2, height, width))
        for t in done.tiles:
            if t.slide == slide:
                one = probabilities(t.image)[..., number]
                for y in range(min(SIDE, height - t.top)):
                    for x in range(min(SIDE, width - t.left)):
                        total[t.top + y, t.left + x] += one[y, x]
                        count[t.top + y, t.left + x] += 1
        found = total / np.maximum(count, 1) > 0.5
        totals.append(counts(label[..., number], found, count > 0))
        path = done.folder / "predictions" / "test1" / CLASSES[number]
        written = np.array(Image.open(path / f"{slide}.png"))
        np.testing.assert_array_equal(written, found)
    tp, fp, fn = np.sum(totals, axis=0)
    name = CLASSES[number]
    assert done.row("test1", name, "stitched", "tp")["value"] == tp
    assert done.row("test1", name, "stitched", "fp")["value"] == fp
    assert done.row("test1", name, "stitched", "fn")["value"] == fn
    # The second class lies where tiles overlap, and is in their counts twice.
    assert (done.row("test1", name, "image", "tp")["value"] > tp) == (number == 1)


def test_means_over_classes(done):
    for region in ("image", "stitched"):
        own = [
            {m: done.row("test1", c, region, m)["value"] for m in segmentation_metrics}
            for c in CLASSES
        ]
        p, r = (np.mean([x[m] for x in own]) for m in ("precision", "recall"))
        want = {
            "precision": p,
            "recall": r,
            "f1": 2 * p * r / (p + r),
            "macro_f1": np.mean([x["f1"] for x in own]),
            "dice_image": np.mean([x["dice_image"] for x in own]),
        }
        for metric, value in want.items():
            row = done.row("test1", "mean", region, metric)
            assert row["value"] == pytest.approx(value, rel=1e-12)


segmentation_metrics = ("precision", "recall", "f1", "dice_image")


def test_glomeruli_of_the_slides(done):
    told = {s["slide"]: s for s in done.results["slides"]}
    assert list(told) == ["a", "b", "c"]
    assert told["a"]["true"] == {"normal": 1, "sclerosed": 1}
    assert told["a"]["percent_true"] == 50.0
    # Tile (16, 32) is missing; (0, 32) covers the upper 32 rows, (16, 16) columns to 48.
    assert told["a"]["uncovered_pixels"] == 16 * 16
    assert told["b"]["uncovered_pixels"] == 20 * 8  # columns 32 to 40


def test_the_checkpoint_of_the_highest_dice_is_scored(done):
    assert done.results["run"]["steps"] == 20
    assert done.results["run"]["chosen_by"] == "highest validation Dice"


def test_counts_of_every_tile(done):
    with open(done.folder / "scores.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * len(done.tiles)
    for line, tile in zip(lines[::2], done.tiles, strict=True):
        assert (line["slide"], line["dataset"]) == (tile.slide, tile.split)
        assert (int(line["top"]), int(line["left"])) == (tile.top, tile.left)
        want = counts(
            tile.label[..., 0], probabilities(tile.image)[..., 0] > 0.5, tile.valid
        )
        assert tuple(int(line[name]) for name in ("tp", "fp", "fn")) == want
        tp, fp, fn = want
        if tp + fp + fn:
            assert float(line["dice"]) == pytest.approx(2 * tp / (2 * tp + fp + fn))
        else:
            assert line["dice"] == ""


def test_the_page(done):
    text = done.page.read_text()
    assert "<h3>Table 3: " in text and "<h3>Table 5: " not in text  # none synthetic
    # Two tiles of the first test set; the second has one that shows a glomerulus.
    assert text.count("<article") == 3
    assert "0.8451 ± 0.0021" in text  # printed
    row = done.row("test1", "sclerosed", "image", "recall")
    assert f"{row['value']:.4f}" in text
    assert "Phantom: synthetic data" in text


def test_a_step_may_be_named(done):
    with pytest.MonkeyPatch.context() as patch:
        use_toy(patch, done.slides)
        evaluate.evaluate(done.config, done.workdir, 10)
        results = json.loads((done.folder / "metrics.json").read_text())
        assert results["run"]["steps"] == 10
        assert results["run"]["chosen_by"] == "asked for"
        with pytest.raises(FileNotFoundError, match="no step 11"):
            evaluate.evaluate(done.config, done.workdir, 11)


def test_a_folder_of_test_slides_alone_is_scored(tmp_path, monkeypatch):
    """By a run of another source; real files, opened once."""
    monkeypatch.setattr(segmentation.systems, "build", toy)
    monkeypatch.setattr(segmentation.systems, "validate_inputs", lambda *a: None)
    opened = []

    def once(config):
        opened.append(open_slides(config))
        return opened[-1]

    monkeypatch.setattr(segmentation, "open_slides", once)
    workdir = make_run(tmp_path / "run", make_config(), {5: 0.1})
    slides = Slides()
    for (dataset, slide), image in slides.images.items():
        normal, sclerosed = 255 * np.moveaxis(slides.labels[dataset, slide], -1, 0)
        folders.add(tmp_path / "own", slide, image, normal, sclerosed)
    folders.splits(tmp_path / "own", test1=["a", "b"], test2=["c"])
    form = {"data.source": str(tmp_path / "own"), "data.tile": SIDE}
    config = make_config(**form, **{"data.tile_step": STEP, "data.min_tissue": 0.0})
    page = evaluate.evaluate(config, workdir, None).read_text()
    results = json.loads((workdir / "eval" / "metrics.json").read_text())
    assert len(opened) == 1
    # The name of a source says nothing about the slides in it.
    assert (
        "was trained on; whether some of these slides were among those is not" in page
    )
    assert "another collection" not in page
    assert results["run"]["images"] == {
        "kind": "glomeruli_tiles",
        "slides": {slide.id: slide.digest for slide in opened[0]},
    }
    assert [told["slide"] for told in results["slides"]] == ["a", "b", "c"]
    assert not results["run"]["trained_on_these_images"]
    with pytest.raises(ValueError, match="config.data.tile is 16, .* 32 x 32"):
        evaluate.evaluate(make_config(**form | {"data.tile": 16}), workdir, None)


def test_what_nobody_sees_has_no_number(tmp_path, monkeypatch):
    slides = Slides()
    for key, image in slides.images.items():
        slides.labels[key][..., 1] = 0
        image[..., 1] = 0
    use_toy(monkeypatch, slides)
    config = make_config()
    workdir = make_run(tmp_path / "run", config, {5: None})
    page = evaluate.evaluate(config, workdir, None)
    results = json.loads((workdir / "eval" / "metrics.json").read_text())
    values = {
        (r["bin"], r["metric"]): r["value"]
        for r in results["rows"]
        if r["dataset"] == "test1"
    }
    assert values["sclerosed", "precision"] is None
    assert values["sclerosed", "dice_image"] is None
    assert values["mean", "f1"] is None
    assert values["normal", "f1"] > 0
    assert "n/a" in page.read_text()
    assert results["run"]["chosen_by"] == "newest, none has a validation Dice"


def test_no_test_tile_is_an_error_and_removes_nothing(tmp_path, monkeypatch):
    slides = Slides()
    use_toy(monkeypatch, slides)
    config = make_config()
    workdir = make_run(tmp_path / "run", config, {5: 0.1})
    (workdir / "eval").mkdir()
    (workdir / "eval" / "report.html").write_text("earlier")
    monkeypatch.setattr(segmentation.glomeruli_tiles, "test_tiles", lambda *a: iter(()))
    with pytest.raises(ValueError, match="no test slide has a tile"):
        evaluate.evaluate(config, workdir, None)
    assert (workdir / "eval" / "report.html").read_text() == "earlier"


def test_tiles_without_a_class_are_not_shown():
    tiles = [
        segmentation.TileResult("test1", "a", 0, left, np.array(table))
        for left, table in enumerate(
            ([[0, 0, 0], [0, 0, 0]], [[1, 0, 0], [0, 0, 0]], [[1, 1, 0], [0, 3, 0]])
        )
    ]
    assert math.isnan(tiles[0].mean_dice())
    assert tiles[1].mean_dice() == 1.0
    assert tiles[2].mean_dice() == pytest.approx((2 / 3 + 0) / 2)
