"""Pictures without neighbours, and outputs that are scored as they are predicted."""

import csv
import functools
import json
import re
import statistics

import jax
import numpy as np
import pytest
from PIL import Image

from configs import unet as unet_config
from jaxinpaint.core.system import System
from jaxinpaint.data import mask_sets
from jaxinpaint.data.cases import Case, RunData
from jaxinpaint.evaluation import checkpoint, facts, filling, runs, scoring
from tests.evaluation import test_checkpoint as stage
from tests.report.test_page import Reader

HEIGHT, WIDTH = 40, 52
few_metrics = functools.cache(stage.few_metrics)  # compiled once for all runs
METHODS = ["unet", "raw", "raw whole", "seen whole", "constant", "telea"] + [
    "navier_stokes"
]
ALONE = ["constant", "telea", "navier_stokes"]


def blind(config):
    """Brightens all it gets, hole and valid pixels alike; never looks at the mask."""
    shape = (config.batch_size, config.image_size, config.image_size)
    image = jax.ShapeDtypeStruct((*shape, config.channels), "float32")
    mask = jax.ShapeDtypeStruct((*shape, 1), "float32")

    def predict(variables, frozen, batch, key):
        gain = variables["generator"]["params"]["gain"][0]  # 0.1
        raw = batch["image"] + gain
        completed = raw * batch["mask"] + batch["image"] * (1 - batch["mask"])
        return {"completed": completed, "raw": raw, "seen": batch["image"]}

    init = stage.toy(config).init
    return System({"image": image, "mask": mask}, init, dict, lambda *a: None, predict)


def pictures():
    """Smooth pictures of levels that a tenth of a half brightens without clipping."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin(x / (5 + i)) + np.cos(y / (6 + i)) for i in range(6)]
    grey = [100 + 40 * wave + rng.normal(0, 4, wave.shape) for wave in waves]
    return np.rint(np.clip(grey, 0, 240)).astype(np.uint8)[..., None]


def picture_data(config, kind, more):
    """Run data of pictures as `image_set` gives them: two for test, whole."""
    images = pictures()

    def test_cases():
        holes = mask_sets.evaluation_masks(
            config.eval.masks, HEIGHT, WIDTH, 2, config.eval.seed
        )
        for label, index, hole in holes:
            yield Case(f"p{index + 4}_crop_00", label, images[index + 4], hole)

    split = {"training": [0, 1, 2], "validation": [3], "test": [4, 5]}
    summary = {"kind": kind, "source": "somewhere/faces", "digest": "d", **more}
    summary |= {"dtype": "uint8", "shape": [6, HEIGHT, WIDTH, 1], "split": split}
    return RunData(None, None, None, test_cases, summary)


def make_config(**changes):
    config = unet_config.get_config("smoke")
    with config.unlocked():
        del config.eval.crops_per_section
        config.eval.crops_per_image = 1
    config.data.kind, config.data.source = "photographs", "somewhere/faces"
    config.eval.crop_size, config.eval.panels = 0, 1
    config.eval.also, config.eval.whole = ("raw",), ("raw", "seen")
    config.eval.masks.squares, config.eval.masks.exact_ratios = (12,), (0.2,)
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return config


class Done:
    """One evaluation of the blind toy on two pictures with two masks."""

    def __init__(self, folder, patch, config, kind="photographs", **more):
        patch.setattr(checkpoint.systems, "build", blind)
        patch.setattr(checkpoint.systems, "validate_inputs", lambda *a: None)
        patch.setattr(scoring, "metrics_for", few_metrics)
        data = picture_data(config, kind, more)
        patch.setattr(checkpoint.pipeline, "build", lambda *a: data)
        if not folder.exists():
            stage.make_run(folder, config)
        self.page = checkpoint.evaluate_run(config, folder, None)
        self.folder = folder / "eval"
        self.results = json.loads((self.folder / "metrics.json").read_text())
        self.cases = list(data.test_cases())
        self.text = self.page.read_text(encoding="utf-8")
        self.said = " ".join("".join(Reader(self.text).text).split())

    def written(self, case, end=""):
        place = self.folder / "images" / case.label.replace("%", "_percent")
        pixels = np.array(Image.open(place / f"{case.name}{end}.png"))
        return pixels.reshape(HEIGHT, WIDTH, 1).astype(float)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        made = Done(tmp_path_factory.mktemp("whole") / "run", patch, make_config())
    return made


def test_pictures_have_the_fills_that_need_no_section(done):
    rows = [r for r in done.results["rows"] if not r["method"].startswith("paper")]
    assert list(dict.fromkeys(row["method"] for row in rows)) == METHODS
    assert {row["dataset"] for row in rows} == {"faces"}
    case = done.cases[0]
    filled = filling.read_filled("unet", [case], 1, done.folder / "images")
    assert list(filled.made) == ["unet", *ALONE]
    beside = case._replace(following=case.image)
    filled = filling.read_filled("unet", [beside], 1, done.folder / "images")
    assert list(filled.made)[2:4] == ["copy_neighbor", "mean_neighbors"]


def test_a_whole_output_is_written_as_predicted(done):
    """Every level 12.75 higher, 0.1 of the half range, the blanked hole too."""
    for case in done.cases:
        hole = case.mask[..., 0] == 1
        truth = case.image.astype(float)
        whole = done.written(case, "_raw_whole")
        np.testing.assert_array_equal(whole[~hole], truth[~hole] + 13)
        assert (whole[hole] == 13).all()  # round(12.75): the network saw level 0
        seen = done.written(case, "_seen_whole")
        np.testing.assert_array_equal(seen, np.where(hole[..., None], 0, truth))
        for end in ("", "_raw"):  # the same output, put into the hole
            made = done.written(case, end)
            np.testing.assert_array_equal(made[~hole], truth[~hole])
            np.testing.assert_array_equal(made[hole], whole[hole])


def test_its_scores_are_those_of_its_file_in_both_regions(done):
    want = {}
    for case in done.cases:
        made, hole = done.written(case, "_raw_whole"), case.mask[..., 0] == 1
        for place, value in stage.expected_scores(case.image, made, hole, 255.0):
            want.setdefault((case.label, *place), []).append(value)
    rows = {
        (r["bin"], r["region"], r["metric"]): r
        for r in done.results["rows"]
        if r["method"] == "raw whole"
    }
    assert set(rows) == set(want) and len(want) == 2 * 6
    for place, values in want.items():
        assert rows[place]["n"] == len(values) == 2
        assert rows[place]["value"] == pytest.approx(statistics.mean(values), rel=1e-4)
    with open(done.folder / "scores.csv", newline="") as file:
        lines = [r for r in csv.DictReader(file) if r["method"] == "raw whole"]
    assert len(lines) == 2 * len(want)


def test_what_it_changes_is_told_apart(done):
    run = done.results["run"]
    valid = sum(int((case.mask == 0).sum()) for case in done.cases)
    assert run["valid_pixels_changed"] == 0
    changed = {"raw whole": valid, "seen whole": 0}
    assert run["changed_by_whole_outputs"] == changed
    line = "raw whole is an output of the network as it is, not composited: its valid "
    line += f"pixels are scored too, and {valid} of {valid} (100.00%) differ from"
    assert line in done.said
    assert f"and 0 of {valid} (0.00%) differ" in done.said
    line = "0 valid pixels were changed, by all methods that fill a hole in all images."
    assert line in done.said


def test_the_page_shows_it_and_says_that_it_is_not_composited(done):
    assert "Every method but raw whole and seen whole fills only the hole" in done.said
    assert "the valid pixels are the image's own" in done.said
    frames = re.findall(r'alt="([^"]*), whole frame"', done.text)
    per_panel = ["truth", "masked", "unet", "raw whole"]
    per_panel += ["difference of raw whole from the truth", "seen whole"]
    per_panel += ["difference of seen whole from the truth"]
    assert frames == per_panel * 3  # worst, best, median of the four
    zooms = re.findall(r'alt="([^"]*), around the hole"', done.text)
    assert zooms == ["truth", *METHODS] * 3
    captions = "<figcaption>raw whole<small>not composited</small>"
    assert done.text.count(captions) == 2 * 3
    heads = [line[0] for table in Reader(done.text).tables for line in table]
    assert "raw whole not composited" in heads and "raw" in heads


def test_the_words_are_of_pictures(done):
    run = done.results["run"]
    assert run["kind"] == run["images"]["kind"] == "photographs"
    assert run["trained_on_these_images"] is True
    assert not {"trained_on_this_stack", "cases_guided_by_training_sections"} & set(run)
    line = "4 test images of 40 x 52 pixels; from 2 test pictures, beside 3 for "
    line += "training, 1 for validation; no test picture was trained on (config: "
    line += "validation_fraction 0.05, test_fraction 0.25, seed 0)."
    assert line in done.said
    assert run["images"]["split"] == {"training": 3, "validation": 1, "test": 2}
    line = "No method sees another image, and none what lies under the hole."
    assert line in done.said
    main = done.said[: done.said.index("Mask manifest")]  # before the records
    assert not re.search(r"section|neighbo|stack", main, re.IGNORECASE)
    assert "Images: worst, median, best" in main and "Real data: faces" in main


def test_slices_are_split_by_subject(done, tmp_path, monkeypatch):
    subjects = {"training": ["a", "b"], "validation": ["c"], "test": ["d", "e"]}
    config = make_config(data__kind="slices", eval__whole=(), eval__also=())
    more = {"subjects": subjects}
    made = Done(tmp_path / "run", monkeypatch, config, "slices", **more)
    line = "from 2 test slices of 2 subjects, beside 3 for training, 1 for validation; "
    line += "a subject is in one part of the split alone (config: "
    line += "validation_fraction 0.05, test_fraction 0.25, seed 0)."
    assert line in made.said
    assert "Slices: worst, median, best" in made.said
    assert "Every method fills only the hole; the valid pixels are the slice's" in (
        made.said
    )
    assert "not composited" not in made.said
    assert made.results["run"]["changed_by_whole_outputs"] == {}
    config.data.source = "elsewhere"
    other = Done(tmp_path / "run", monkeypatch, config, "slices", **more)
    assert "of other slices than those that were trained on" in other.said
    assert other.results["run"]["trained_on_these_images"] is False


def test_runs_on_pictures_stand_beside_each_other(done, tmp_path, monkeypatch):
    first = str(done.folder.parent)
    config = make_config(eval__compare=(("blind", first),))
    made = Done(tmp_path / "run", monkeypatch, config)
    rows = {
        (r["method"], r["bin"], r["region"], r["metric"]): r["value"]
        for r in made.results["rows"]
    }
    mine = {place: value for place, value in rows.items() if place[0] == "unet"}
    assert mine == {
        ("unet", *place): value
        for (method, *place), value in rows.items()
        if method == "blind"
    }
    config.eval.crops_per_image = 2
    with pytest.raises(
        ValueError, match="another config.eval.crops_per_image, 1, here"
    ):
        Done(tmp_path / "run", monkeypatch, config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval__whole": ("depth",)}, r"eval.whole names 'depth'; .* 'raw', 'seen'\]"),
        ({"eval__also": ("raw_whole",)}, "eval.whole names 'raw', which is the name"),
    ],
)
def test_names_of_whole_outputs_are_checked(done, monkeypatch, changes, message):
    with pytest.raises(ValueError, match=message):
        Done(done.folder.parent, monkeypatch, make_config(**changes))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("repair.depth", r"repair.depth \(1, now 2\)"),
        ("optimize.blocks", r"optimize.blocks \(1, now 2\)"),
        ("generator.cascade_depth", r"generator.cascade_depth \(1, now 2\)"),
        ("discriminator.width", r"discriminator.width \(1, now 2\)"),
        ("data.celeba_split", r"data.celeba_split \(1, now 2\)"),
        ("data.limit_train", r"data.limit_train \(1, now 2\)"),
        ("data.lesion_free", r"data.lesion_free \(1, now 2\)"),
        ("data.test_subjects", r"data.test_subjects \(1, now 2\)"),
        ("data.limit_test", None),
        ("optimizer.learning_rate", None),
    ],
)
def test_another_network_or_split_is_refused(tmp_path, key, message):
    configs = []
    for value in (1, 2):
        config = make_config()
        group, name = key.split(".")
        with config.unlocked():
            config[group] = {**config.get(group, {}), name: value}
        configs.append(config)
    runs_folder = tmp_path / "run"
    (runs_folder / "checkpoints").mkdir(parents=True)
    stage.workdirs.open_workdir(runs_folder, configs[0])

    def check():
        stage.workdirs.check_same_model(runs_folder, configs[1], runs.SAME_MODEL)
        return runs.check_same_split(runs_folder, configs[1])

    if message is None:
        assert check() is True
        return
    with pytest.raises(ValueError, match=message):
        check()


def test_another_kind_is_another_set(tmp_path):
    config = make_config()
    stage.workdirs.open_workdir(tmp_path, config)
    config.data.kind, config.seed = "slices", 9
    assert runs.check_same_split(tmp_path, config) is False


def test_names_of_prepared_data(tmp_path):
    for parts, config, want in (
        ("celeb_a/2.0.1", None, "celeb_a/2.0.1"),
        ("coco/2017/1.1.0", "2017", "coco/2017/1.1.0"),
    ):
        folder = tmp_path / "tensorflow_datasets" / parts
        folder.mkdir(parents=True)
        told = {"name": parts.split("/")[0]} | (
            {"configName": config} if config else {}
        )
        (folder / "dataset_info.json").write_text(json.dumps(told))
        assert facts.dataset_name(str(folder)) == want
    assert facts.dataset_name("tfds:coco/2017") == "coco/2017"


@pytest.mark.parametrize(
    ("dataset", "key", "value", "said"),
    [
        ("celeb_a/2.0.1", "celeba_split", "official", ", celeba_split official, seed"),
        (
            "places365_small/2.1.0",
            "celeba_split",
            "official",
            "test_fraction 0.25, seed",
        ),
        ("heads", "test_subjects", ("s3",), "test_subjects ('s3',), seed 0)."),
    ],
)
def test_the_split_is_told_with_what_the_config_says(dataset, key, value, said):
    config = make_config()
    with config.unlocked():
        config.data[key] = value
    split = {"training": 7, "validation": 0, "test": 2}
    known = {"kind": "photographs", "trained_on_these_images": True}
    known |= {"dataset": dataset, "images": {"split": split}}
    assert said in facts.split_of_images(config, known)


def test_a_system_of_sections_that_sees_none():
    said = facts.seen_by_methods(["image", "mask"], True)
    assert said.startswith("The system sees no neighbour; mean_neighbors sees both")
