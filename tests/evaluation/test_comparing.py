"""Runs beside each other: what is read of the others, and when it is refused."""

import csv
import json

import numpy as np
import pytest

from jaxinpaint.evaluation import comparing

HERE = {
    "dataset": "kidney",
    "digest of the images": "d1",
    "masks": "m1",
    "config.eval.seed": 1,
    "config.eval.crop_size": 64,
    "config.eval.crops_per_section": 2,
    "weights of fid": {"source": "imported", "sha256": {"inception_fid": "9f"}},
}
VALUES = {("30%", "s1"): 20.0, ("30%", "s2"): 26.0, ("50%", "s1"): float("inf")}


def write_run(folder, **changes):
    """An evaluated workdir with a PSNR and an FID, of another method too."""
    rows = []
    for method, shift in (("unet", 0.0), ("telea", -7.0)):
        kept = {"method": method, "dataset": "kidney", "region": "image"}
        none = {"infinite": None, "undefined": None, "sd": None}
        rows += [
            {**kept, "bin": "30%", "metric": "psnr", "value": 23.0 + shift}
            | {"sd": 18**0.5, "n": 2, "infinite": 0, "undefined": 0},
            {**kept, "bin": "50%", "metric": "psnr", "value": None}
            | {"sd": None, "n": 0, "infinite": 1, "undefined": 0},
            {**kept, "bin": "30%", "metric": "fid", "value": 3.5, "n": 2}
            | {**none, "weights": "imported", "note": "few"},
        ]
    run = {
        "system": "unet",
        "dataset": "kidney",
        "steps": 7,
        "weights": "ab",
        "images": {"digest": "d1"},
        "mask_manifest": "m1",
        "metric_weights": {"fid": HERE["weights of fid"]},
        "config": {"eval": {"seed": 1, "crop_size": 64, "crops_per_section": 2}},
    }
    (folder / "eval").mkdir(parents=True)
    results = {"rows": rows, "run": run | changes}
    (folder / "eval" / "metrics.json").write_text(json.dumps(results))
    with (folder / "eval" / "scores.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["method", "bin", "image", "region", "metric", "value"])
        for (label, image), value in VALUES.items():
            lines.writerow(["unet", label, image, "image", "psnr", value])
            lines.writerow(["telea", label, image, "image", "psnr", value - 7])
    return folder


def test_the_systems_own_scores_are_read(tmp_path):
    rival = comparing.read_rival("plain", write_run(tmp_path), HERE)
    assert (rival.name, rival.facts["steps"], rival.facts["weights"]) == (
        "plain",
        7,
        "ab",
    )
    scored = rival.scored("30%", ["s2", "s1"])
    psnr, fid = scored.scores["image", "psnr"], scored.scores["image", "fid"]
    np.testing.assert_array_equal(psnr["values"], [26.0, 20.0])  # in the order asked
    assert (psnr["value"], psnr["sd"], psnr["n"]) == (23.0, 18**0.5, 2)
    assert (fid["value"], fid["weights"], fid["note"]) == (3.5, "imported", "few")
    assert "values" not in fid and np.isnan(fid["sd"])
    none = rival.scored("50%", ["s1"]).scores["image", "psnr"]
    assert np.isnan(none["value"]) and none["infinite"] == 1
    with pytest.raises(ValueError, match="'plain' scored other images .* masks 30%"):
        rival.scored("30%", ["s1", "s3"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "liver"}, "another dataset, 'liver', here 'kidney'"),
        (
            {"config": {"eval": {"seed": 1, "crop_size": 64, "crops_per_image": 2}}},
            "another config.eval.crops_per_section, None, here 2",
        ),
        ({"mask_manifest": "m2"}, "another masks, 'm2'"),
        ({"images": {"digest": "d2"}}, "another digest of the images, 'd2'"),
        (
            {"config": {"eval": {"seed": 1, "crop_size": 8, "crops_per_section": 2}}},
            "another config.eval.crop_size, 8, here 64",
        ),
        (
            {"metric_weights": {"fid": {"source": "random:0", "sha256": {}}}},
            "another weights of fid",
        ),
    ],
)
def test_other_cases_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=f"'plain' was scored with {message}"):
        comparing.read_rival("plain", write_run(tmp_path, **changes), HERE)


def test_a_learned_metric_may_be_that_of_one_run(tmp_path):
    other = {"lpips": {"source": "imported", "sha256": {}}}
    comparing.read_rival("plain", write_run(tmp_path, metric_weights=other), HERE)


def test_a_run_that_was_not_evaluated(tmp_path):
    write_run(tmp_path)
    (tmp_path / "eval" / "scores.csv").unlink()
    with pytest.raises(FileNotFoundError, match="run eval.py with --workdir=") as told:
        comparing.read_rival("plain", tmp_path, HERE)
    assert "scores.csv" in str(told.value)


@pytest.mark.parametrize(
    ("also", "whole", "compare", "message"),
    [
        (("completed",), (), (), "also names 'completed'"),
        (("reference", "reference"), (), (), "also names 'reference'"),
        (("mask",), (), (), "also names 'mask'"),
        ((), (), (("unet", "a"),), "compare names 'unet'"),
        (("reference",), (), (("reference", "a"),), "compare names 'reference'"),
        ((), (), (("", "a"),), "compare names ''"),
        ((), (), (("a", "b", "c"),), "holds pairs of a name and a workdir"),
        ((), ("raw", "raw"), (), "whole names 'raw'"),
        ((), ("",), (), "whole names ''"),
        (("raw_whole",), ("raw",), (), "whole names 'raw'"),  # one file for both
        ((), ("raw",), (("raw whole", "a"),), "compare names 'raw whole'"),
    ],
)
def test_every_method_has_a_name_of_its_own(also, whole, compare, message):
    with pytest.raises(ValueError, match=message):
        comparing.check_methods("unet", also, whole, compare)
    names = ("raw", "reference")  # put into the hole, and as they are
    comparing.check_methods("unet", names, names, (("no GAN", "a"),))
