"""Scoring what other programs wrote: folders in, rows, a table and a report out."""

import csv
import hashlib
import json
import math
import re
import statistics

import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from PIL import Image
from rich.console import Console

from jaxinpaint import cli
from jaxinpaint.evaluation import folder_inputs, folder_report, folders, scoring
from jaxinpaint.metrics.evaluate import image_metric, together
from jaxinpaint.metrics.pixel import mae, psnr
from jaxinpaint.metrics.ssim import ssim

RESULTS = {"report.html", "metrics.json", "masks.json", "scores.csv"}
HOLES = {"a": 40, "b": 41, "c": 80, "d": 250}  # of 20 x 20 = 400 pixels
TOP = {"uint8": 255, "uint16": 65535}


def few_metrics(dtype, shape):
    """PSNR, MAE and SSIM alone: the others take long to compile."""
    metrics = {}
    for name, one in {"psnr": psnr, "mae": mae, "ssim": ssim}.items():

        def hole(t, p, r, one=one):
            return one(t, p, r, data_range=float(TOP[dtype]))

        metrics["hole", name] = image_metric(hole)
        metrics["image", name] = image_metric(
            lambda t, p, r, hole=hole: hole(t, p, jnp.ones_like(r))
        )
    return together(metrics)


CACHED = {}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    def cached(dtype, shape):
        if (dtype, shape) not in CACHED:
            CACHED[dtype, shape] = few_metrics(dtype, shape)
        return CACHED[dtype, shape]

    monkeypatch.setattr(scoring, "metrics_for", cached)


def save(path, pixels):
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels.squeeze())
    else:
        Image.fromarray(pixels.squeeze()).save(path)


class Set:
    """Four images, their masks, and what one program made of them."""

    def __init__(self, folder, channels=3, dtype="uint8", ending=".png"):
        rng = np.random.default_rng(4)
        self.folder = folder
        self.truth, self.made, self.hole = {}, {}, {}
        for name, pixels in HOLES.items():
            shape = (20, 20) if name != "b" else (25, 16)
            truth = rng.integers(0, TOP[dtype], (*shape, channels), dtype)
            hole = np.zeros(400, bool)
            hole[:pixels] = True
            hole = np.roll(hole, 60).reshape(shape)
            made = truth.copy()
            made[hole] = rng.integers(0, TOP[dtype], (pixels, channels), dtype)
            self.truth[name], self.made[name], self.hole[name] = truth, made, hole
        for name in HOLES:
            save(folder / "kidney" / f"{name}{ending}", self.truth[name])
            save(folder / "lama" / f"{name}.png", self.made[name])
            save(folder / "mask" / f"{name}.png", self.hole[name] * np.uint8(255))

    def run(self, *more, **folders):
        """The exit code; `folders` replaces what an option is given."""
        given = {"truth": "kidney", "pred": "lama", "mask": "mask"} | folders
        words = ["score"]
        for option, name in given.items():
            words += [f"--{option}", str(self.folder / name)]
        return cli.main([*words, *more])

    def results(self, *more, code=0, **folders):
        out = self.folder / "out"
        assert self.run("--output", str(out), *more, **folders) == code
        assert {path.name for path in out.iterdir()} == RESULTS
        assert not list(self.folder.glob(".*"))  # no half-written folder
        return json.loads((out / "metrics.json").read_text())

    def expected(self, metric, region, names, made=None):
        found = []
        for name in names:
            truth = self.truth[name].astype(np.float64)
            error = truth - (made or self.made)[name]
            if region == "hole":
                error = error[self.hole[name]]
            top = TOP[str(self.truth[name].dtype)]
            found.append(
                np.abs(error).mean()
                if metric == "mae"
                else 10 * math.log10(top**2 / (error**2).mean())
            )
        return found


@pytest.fixture
def images(tmp_path):
    return Set(tmp_path)


def value(results, method="lama", bin="all", region="hole", metric="psnr"):
    place = {"method": method, "bin": bin, "region": region, "metric": metric}
    (row,) = [row for row in results["rows"] if {k: row[k] for k in place} == place]
    return row


def test_rows_are_the_numbers_worked_by_hand(images):
    results = images.results()
    # 40 of 400 is 10 %, the upper edge; 41 is above it; 80 is 20 %.
    bins = {"0-10%": "a", "10-20%": "bc", "60-70%": "d", "all": "abcd"}
    assert list(dict.fromkeys(row["bin"] for row in results["rows"])) == list(bins)
    for bin, names in bins.items():
        for region in ("hole", "image"):
            for metric in ("psnr", "mae"):
                row = value(results, bin=bin, region=region, metric=metric)
                want = images.expected(metric, region, names)
                assert row["value"] == pytest.approx(statistics.mean(want), rel=1e-5)
                assert row["n"] == len(want) and row["dataset"] == "kidney"
                if len(want) > 1:
                    assert row["sd"] == pytest.approx(statistics.stdev(want), rel=1e-4)
                else:
                    assert row["sd"] is None


def test_ssim_is_that_of_scikit_image(images):
    similarity = pytest.importorskip("skimage.metrics").structural_similarity
    want = [
        similarity(
            images.truth[name],
            images.made[name],
            data_range=255,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for name in HOLES
    ]
    row = value(images.results(), region="image", metric="ssim")
    assert row["value"] == pytest.approx(statistics.mean(want), rel=1e-4)


def test_the_scores_of_every_image_are_kept(images):
    images.results()
    with open(images.folder / "out" / "scores.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    got = {
        line["image"]: float(line["value"])
        for line in lines
        if (line["region"], line["metric"]) == ("hole", "psnr")
    }
    want = images.expected("psnr", "hole", HOLES)
    assert got == pytest.approx(dict(zip(HOLES, want, strict=True)), rel=1e-5)
    assert {line["image"]: (line["bin"], float(line["hole"])) for line in lines} == {
        "a": ("0-10%", 0.1),
        "b": ("10-20%", 0.1025),
        "c": ("10-20%", 0.2),
        "d": ("60-70%", 0.625),
    }


def test_batches_change_nothing(images):
    job = a_job(images, batch_size=1)
    outcome = folders.score_job(job, Console(quiet=True))
    scored = outcome.groups[-1].methods["lama"]
    want = images.expected("psnr", "hole", HOLES)
    np.testing.assert_allclose(scored.scores["hole", "psnr"]["values"], want, rtol=1e-6)


def test_a_batch_is_never_above_the_asked_size(images, monkeypatch):
    sizes = []

    def score(parts, size, more):
        parts = list(parts)
        sizes.append((size, [len(part.truth) for part in parts]))
        return scoring.score(parts, size, more)

    monkeypatch.setattr(folders, "score", score)
    assert images.run("--batch-size", "2") == 0
    assert sizes == [(2, [2, 1]), (1, [1])]  # 20 x 20: a, c, d; 25 x 16: b alone


def test_changed_valid_pixels_are_a_finding(images, capsys):
    images.made["a"][~images.hole["a"]] ^= 1  # every valid one: 360
    images.made["c"][0, :2, 1] ^= 4  # 2 pixels, above the hole
    for name in "ac":
        save(images.folder / "lama" / f"{name}.png", images.made[name])
    results = images.results()
    assert results["run"]["valid_pixels_changed"] == {"lama": 362}
    assert results["run"]["images_changed"] == {"lama": 2}
    share = 362 / (1600 - sum(HOLES.values()))
    line = f"362 valid pixels changed by lama ({share:.2%} of them, images: 2 of 4)."
    assert line in capsys.readouterr().out
    assert line in (images.folder / "out" / "report.html").read_text()
    with open(images.folder / "out" / "scores.csv", newline="") as file:
        lines = [x for x in csv.DictReader(file) if x["metric"] == "changed"]
    assert [(x["image"], x["value"]) for x in lines] == [
        ("a", "360"),
        ("b", "0"),
        ("c", "2"),
        ("d", "0"),
    ]


def test_the_table_is_plain_words_where_there_is_no_terminal(images, capsys):
    assert images.run() == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert re.split("  +", head.strip())[:4] == [
        "hole",
        "method",
        "n",
        "PSNR hole",
    ]
    (line,) = [line for line in lines if line.split()[:1] == ["10-20%"]]
    want = [
        statistics.mean(images.expected("psnr", region, "bc"))
        for region in ("hole", "image")
    ]
    assert line.split()[:5] == ["10-20%", "lama", "2", *(f"{x:.2f}" for x in want)]
    assert lines[-1].strip() == "0 valid pixels changed by lama."
    assert not list(images.folder.glob("out*"))


def test_valid_polarity_inverts(images):
    for name, hole in images.hole.items():
        save(images.folder / "inverse" / f"{name}.png", np.uint8(255) * ~hole)
    straight = images.results()
    inverse = images.results("--mask-polarity", "valid", mask="inverse")
    assert straight["rows"] == inverse["rows"]
    assert inverse["run"]["mask_polarity"] == "valid"
    assert straight["run"]["mask_manifest"] == inverse["run"]["mask_manifest"]


def test_wrong_polarity_is_suspected(images, capsys):
    for name, hole in images.hole.items():
        save(images.folder / "inverse" / f"{name}.png", np.uint8(255) * ~hole)
    assert images.run(mask="inverse") == 0
    error = capsys.readouterr().err
    assert (
        "lama equals the truth in the hole of every image and differs from it outside: "
        "if white marks what is valid in these files, pass --mask-polarity valid."
    ) in error
    for name in "abc":  # d alone is below half hole when inverted
        (images.folder / "inverse" / f"{name}.png").rename(
            images.folder / f"half_{name}.png"
        )
    assert "Every mask is more than half hole" not in error
    for name in "abc":
        save(
            images.folder / "large" / f"{name}.png", np.uint8(255) * ~images.hole[name]
        )
    assert images.run("--skip-missing", mask="large") == 1
    error = capsys.readouterr().err
    assert "Every mask is more than half hole (least 80.0%)" in error


def test_the_truth_as_prediction_is_counted_and_suspected(images, capsys):
    results = images.results("--name", "perfect", pred="kidney")
    row = value(results, method="perfect")
    assert (row["value"], row["n"], row["infinite"]) == (None, 0, 4)
    captured = capsys.readouterr()
    assert "equals the truth in every pixel of every image" in captured.err
    assert "∞" in captured.out


def test_masks_without_hole_are_named(images, capsys):
    save(images.folder / "mask" / "a.png", np.zeros((20, 20), np.uint8))
    results = images.results()
    assert (
        "Masks without a hole: 1 ('a'). Their images"
        in capsys.readouterr().err.replace("\n", " ")
    )
    assert value(results, bin="no hole")["undefined"] == 1
    row = value(results)
    assert (row["n"], row["undefined"]) == (3, 1)
    assert value(results, region="image", metric="mae")["n"] == 4


def test_one_mask_for_all(images):
    for name in "acd":  # those of one size
        save(images.folder / "some" / f"{name}.png", images.made[name])
    (images.folder / "kidney" / "b.png").unlink()
    images.results(pred="some", mask="mask/c.png")
    manifest = json.loads((images.folder / "out" / "masks.json").read_text())
    bits = hashlib.sha256(np.packbits(images.hole["c"]).tobytes()).hexdigest()
    assert [mask["sha256"] for mask in manifest["masks"]] == [bits] * 3
    assert manifest["images"] == ["a", "c", "d"]


def test_single_files_need_no_common_name(images, capsys):
    save(images.folder / "restored.png", images.made["a"])
    results = images.results(
        truth="kidney/a.png", pred="restored.png", mask="mask/a.png"
    )
    (want,) = images.expected("psnr", "hole", "a")
    assert value(results, method="restored")["value"] == pytest.approx(want, rel=1e-6)
    assert images.run(pred="restored.png") == 2
    assert "is one image, but" in capsys.readouterr().err


def test_masks_beside_the_images_and_suffixes(images):
    both = images.folder / "both"
    for name in HOLES:
        save(both / f"{name}.png", images.made[name])
        save(both / f"{name}_mask.png", images.hole[name] * np.uint8(255))
        save(images.folder / "named" / f"{name}_mask.png", images.made[name])
    want = images.results("--name", "x")
    got = images.results(
        "--name", "x", "--mask-suffix", "_mask", pred="both", mask="both"
    )
    assert got["rows"] == want["rows"]
    ends = ("--mask-suffix", "_mask", "--pred-suffix", "_mask")
    got = images.results("--name", "x", *ends, pred="named", mask="both")
    assert got["rows"] == want["rows"]
    for name in HOLES:
        save(both / f"{name}_raw.png", images.truth[name])
    ends = ("--mask-suffix", "_mask", "--truth-suffix", "_raw", "--pred-suffix", "_out")
    for name in HOLES:
        (both / f"{name}.png").rename(both / f"{name}_out.png")
    one = dict.fromkeys(("truth", "pred", "mask"), "both")
    got = images.results("--name", "x", "--dataset", "kidney", *ends, **one)
    assert got["rows"] == want["rows"]


def test_several_methods_and_classical_fills(images):
    worse = {}
    for name, made in images.made.items():
        worse[name] = np.where(images.hole[name][..., None], 255 - made, made)
        save(images.folder / "worse" / f"{name}.png", worse[name])
    results = images.results("--pred", f"w={images.folder / 'worse'}", "--baselines")
    methods = ["lama", "w", "constant", "telea", "navier_stokes"]
    assert results["run"]["methods"] == methods
    assert results["run"]["valid_pixels_changed"] == {"lama": 0, "w": 0}
    assert list(dict.fromkeys(row["method"] for row in results["rows"])) == methods
    want = images.expected("mae", "hole", HOLES, worse)
    got = value(results, method="w", metric="mae")["value"]
    assert got == pytest.approx(statistics.mean(want), rel=1e-5)
    flat = {}
    for name, truth in images.truth.items():
        flat[name] = truth.astype(float)
        for channel in range(3):  # the mean of the valid pixels
            plane, hole = flat[name][..., channel], images.hole[name]
            plane[hole] = round(plane[~hole].mean())
    want = images.expected("mae", "hole", HOLES, flat)
    got = value(results, method="constant", metric="mae")["value"]
    assert got == pytest.approx(statistics.mean(want), rel=1e-5)
    page = (images.folder / "out" / "report.html").read_text()
    assert "lama, w on kidney" in page


def test_classical_fills_do_not_see_the_truth(images, monkeypatch):
    def copy(image, mask, *sections):
        return image

    fills = dict.fromkeys(folder_inputs.ALONE, copy)
    monkeypatch.setattr(folder_inputs, "BASELINES", fills)
    job = a_job(images, baselines=True)
    files, _ = folder_inputs.find(job)
    filled = folder_inputs.load(files[:1], job)
    hole = images.hole["a"]
    for name in folder_inputs.ALONE:
        assert not filled.made[name][0][hole].any()
        np.testing.assert_array_equal(
            filled.made[name][0][~hole], images.truth["a"][~hole]
        )


def a_job(images, **changes):
    job = folder_inputs.Job(
        truth=images.folder / "kidney",
        made={"lama": images.folder / "lama"},
        mask=images.folder / "mask",
        polarity="hole",
        truth_suffix="",
        made_suffix="",
        mask_suffix="",
        edges=folders.percent_edges("0,50,100"),
        baselines=False,
        batch_size=None,
        skip_missing=False,
        dataset="kidney",
        lpips="",
        lpips_vgg="",
        fid="",
    )
    return job._replace(**changes)


@pytest.mark.parametrize(
    ("channels", "dtype", "ending"),
    [(1, "uint16", ".png"), (1, "uint16", ".tif"), (1, "uint8", ".tif")],
)
def test_grey_and_sixteen_bits(tmp_path, channels, dtype, ending):
    images = Set(tmp_path, channels, dtype, ending)
    results = images.results()
    for metric in ("psnr", "mae"):
        want = statistics.mean(images.expected(metric, "hole", HOLES))
        assert value(results, metric=metric)["value"] == pytest.approx(want, rel=1e-5)


def test_two_depths_are_two_datasets(images, tmp_path):
    (tmp_path / "deep").mkdir()
    deep = Set(tmp_path / "deep", 1, "uint16")
    for kind in ("kidney", "lama", "mask"):
        for name in HOLES:
            place = deep.folder / kind / f"{name}.png"
            place.rename(images.folder / kind / f"{name}16.png")
    results = images.results("--dataset", "rat")
    rows = [r for r in results["rows"] if (r["bin"], r["metric"]) == ("all", "mae")]
    got = {(r["dataset"], r["region"]): r["value"] for r in rows}
    for name, one in (("rat, 8 bit", images), ("rat, 16 bit", deep)):
        for region in ("hole", "image"):
            want = statistics.mean(one.expected("mae", region, HOLES))
            assert got.pop((name, region)) == pytest.approx(want, rel=1e-5)
    assert not got


def test_files_that_cannot_be_read_are_named_and_the_others_scored(images, capsys):
    (images.folder / "lama" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    soft = images.hole["b"] * np.uint8(255)
    soft[0, 3] = 7
    save(images.folder / "mask" / "b.png", soft)
    results = images.results(code=1)
    want = images.expected("psnr", "hole", "cd")
    assert value(results)["value"] == pytest.approx(statistics.mean(want), rel=1e-5)
    error = capsys.readouterr().err
    assert "Left out: 'a': " in error and "cannot be read as an image" in error
    assert "got 7 at row 0, column 3; threshold soft edges" in error
    assert results["run"]["left_out"]["not_readable"] == ["a", "b"]


def test_missing_files_are_refused_or_skipped(images, capsys):
    (images.folder / "lama" / "a.png").unlink()
    (images.folder / "mask" / "d.png").unlink()
    save(images.folder / "lama" / "e.png", images.made["c"])
    assert images.run("--output", str(images.folder / "out")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "some names are not in every folder: 'a' (not in lama), 'd' (not in mask), "
        in line
    )
    assert "'e' (not in truth, mask)" in line and "to score 2 without them." in line
    assert not (images.folder / "out").exists()
    results = images.results("--skip-missing", code=1)
    assert results["run"]["left_out"]["not_in_every_folder"] == {
        "a": ["lama"],
        "d": ["mask"],
        "e": ["truth", "mask"],
    }
    assert "Left out: 'e' is not in truth, mask." in capsys.readouterr().err
    want = images.expected("psnr", "hole", "bc")
    assert value(results)["value"] == pytest.approx(statistics.mean(want), rel=1e-5)


def wrong_size(images):
    save(images.folder / "lama" / "c.png", images.made["c"][:19])
    return "c.png is 19 x 20 RGB, but .*c.png is 20 x 20 RGB; nothing is resized"


def wrong_mask_size(images):
    save(images.folder / "mask" / "c.png", np.zeros((10, 10), np.uint8))
    return "c.png is 10 x 10, but .*c.png is 20 x 20; nothing is resized"


def grey_prediction(images):
    save(images.folder / "lama" / "c.png", images.made["c"][..., 0])
    return "is 20 x 20 grey, but .* is 20 x 20 RGB"


def wrong_depth(images):
    for kind in ("kidney", "lama"):
        save(images.folder / kind / "c.png", images.truth["c"][..., 0])
    save(images.folder / "lama" / "c.png", images.truth["c"][..., 0].astype(np.uint16))
    return "is uint16, but .* is uint8; nothing is rescaled"


def no_common_name(images):
    for path in (images.folder / "lama").iterdir():
        path.rename(path.with_stem(f"out_{path.stem}"))
    return "no name is in every folder: truth has 'a', 'b', 'c' and 1 more; lama has"


def ambiguous(images):
    save(images.folder / "lama" / "c.bmp", images.made["c"])
    return "c.bmp and c.png have one name"


def soft_masks(images):
    for name in HOLES:
        save(images.folder / "mask" / f"{name}.png", np.full((20, 20), 9, np.uint8))
    return "none of the 4 images can be read: .*must hold {0, 255} or {0, 1} alone"


def no_hole(images):
    for name in HOLES:
        save(images.folder / "mask" / f"{name}.png", images.hole[name] * np.uint8(0))
    return "no mask of .* has a hole, read with polarity 'hole'"


def too_small(images):
    for kind, made in (("kidney", images.truth), ("lama", images.made)):
        for name in HOLES:
            save(images.folder / kind / f"{name}.png", made[name][:10])
    return "is 10 x 20; SSIM needs sides of at least 11"


def no_folder(images):
    (images.folder / "lama").rename(images.folder / "elsewhere")
    return "No such file or directory: .*lama"


@pytest.mark.parametrize(
    "spoil",
    [
        wrong_size,
        wrong_mask_size,
        grey_prediction,
        wrong_depth,
        no_common_name,
        ambiguous,
        soft_masks,
        no_hole,
        too_small,
        no_folder,
    ],
)
def test_wrong_use_is_one_sentence_and_nothing_is_written(images, capsys, spoil):
    message = spoil(images)
    out = images.folder / "new" / "out"
    assert images.run("--output", str(out)) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert re.search(message, line), line
    assert line.startswith("jaxinpaint score: ") and captured.out == ""
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--bins", "10,5"], "bins are '10,5'"),
        (["--bins", "0,0.1,0.2"], "per cent"),
        (["--bins", "0,ten"], "bins are"),
        (["--bins", "0,101"], "from 0 to 100"),
        (["--batch-size", "0"], "batch size is 0"),
        (["--name", "telea", "--baselines"], "adds a method 'telea'"),
        (["--name", "paper_x"], "cannot be called 'paper_x'"),
        (["--name", "truth"], "cannot be called 'truth'"),
        (["--name", "x", "--pred", "y=z"], "--name is for a single --pred DIR"),
        (["--pred", "lama=z"], "two methods are called 'lama'"),
    ],
)
def test_options_that_cannot_be(images, capsys, more, message):
    assert images.run(*more) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_full_holes_cannot_be_filled_classically(images, capsys):
    save(images.folder / "mask" / "a.png", np.full((20, 20), 255, np.uint8))
    assert images.run("--baselines") == 2
    assert "the masks of 'a' have none" in capsys.readouterr().err
    assert value(images.results(), bin="90-100%")["n"] == 1


def test_holes_outside_the_bins_count_in_all_alone(images, capsys):
    results = images.results("--bins", "10,20.5,50")
    assert list(dict.fromkeys(row["bin"] for row in results["rows"])) == [
        "10-20.5%",
        "all",
    ]
    assert value(results, bin="10-20.5%")["n"] == 2 and value(results)["n"] == 4
    assert "outside the bins: 2 ('a', 'd')" in capsys.readouterr().err


def test_other_peoples_files_stay(images, capsys):
    out = images.folder / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("")
    assert images.run("--output", str(out)) == 2
    assert "holds 'thesis.tex'" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    assert images.run("--output", str(out / "thesis.tex")) == 2
    assert images.run("--output", str(out / "thesis.tex" / "deeper")) == 2
    assert "is a file" in capsys.readouterr().err


def test_nothing_is_half_written(images, monkeypatch):
    before = images.results("--name", "first")

    def fail(*arguments, **more):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(folder_report, "write_page", fail)
        for out in ("out", "fresh"):
            assert images.run("--output", str(images.folder / out)) == 2
    kept = json.loads((images.folder / "out" / "metrics.json").read_text())
    assert kept == before
    assert not (images.folder / "fresh").exists()
    assert not list(images.folder.glob(".*"))
    assert images.results("--name", "second")["run"]["system"] == "second"


def test_the_page_stands_alone_and_says_what_it_is(images):
    images.results("--pred", f"again={images.folder / 'lama'}")
    text = (images.folder / "out" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!#|data:)', text)
    assert "Outputs made elsewhere" in text and "Data: kidney" in text
    assert "Images: worst, median, best" in text and "Real data" not in text
    assert "Every method fills only the hole" not in text
    assert "lama is below no other method in the" in text
    assert str(images.folder) in text.partition('id="records"')[2]
    assert str(images.folder) not in text.partition('id="records"')[0]
    shown = re.findall(r"<h3>([a-d]) <span", text)
    psnr = dict(zip(HOLES, images.expected("psnr", "hole", HOLES), strict=True))
    rank = sorted(psnr, key=psnr.get)
    assert shown == [rank[0], rank[1], rank[3], rank[2]]  # two worst, two best
    plot = text.partition('class="plot"')[2].partition("</figure>")[0]
    assert "10-20%" in plot and ">all<" not in plot


def test_a_method_called_as_a_classical_fill_has_one_line(images):
    images.results("--name", "telea")
    text = (images.folder / "out" / "report.html").read_text(encoding="utf-8")
    lines = re.findall(r'<th scope="row">(\w+)</th>', text)
    assert lines.count("telea") == text.count("<table") == lines.count("n") > 0


def test_files_that_change_meanwhile_are_noticed(images, monkeypatch, capsys):
    load = folder_inputs.load

    def later(some, job):
        filled = load(some, job)
        filled.made["lama"][0, 0, 0] ^= 1
        return filled

    monkeypatch.setattr(folders, "load", later)
    assert images.run() == 2
    assert "changed while they were scored" in capsys.readouterr().err
