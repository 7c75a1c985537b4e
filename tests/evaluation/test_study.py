"""The study driver with parts that take no time, and its means by hand."""

import importlib.util
import json
import os
import pathlib
import signal

import numpy as np
import pytest

from jaxinpaint import cli
from jaxinpaint.data.cases import RunData
from jaxinpaint.evaluation import study as driver
from jaxinpaint.evaluation import study_report
from jaxinpaint.evaluation.study import Plan, plan, segmenter_config
from jaxinpaint.evaluation.study_report import Trained, lines, means
from jaxinpaint.training.guard import NonFiniteError
from jaxinpaint.training.loop import Outcome

PATH = pathlib.Path(__file__).parents[2] / "configs" / "studies" / "glomeruli.py"


def load(preset):
    spec = importlib.util.spec_from_file_location("study_config", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(preset)


def rows(value):
    """One test set's rows, whose scores are all the same."""
    return [
        {"dataset": "test1", "bin": bin, "region": region, "metric": m, "value": value}
        for bin in ("normal", "sclerosed", "mean")
        for region in ("image", "stitched")
        for m in ("precision", "recall", "f1", "dice_image")
    ]


class Parts:
    """Stands in for training, evaluation and synthesis, and writes down the calls."""

    def __init__(self, patch):
        self.calls = []
        self.during = lambda what, folder: None
        self.exit_codes = {}
        data = RunData(None, None, {}, None, {})
        patch.setattr(driver.pipeline, "build", lambda *a: data)
        patch.setattr(driver, "train", self.train)
        patch.setattr(driver, "evaluate", self.evaluate)
        patch.setattr(driver, "synthesize", self.synthesize)

    def train(self, system, batches, validation, config, workdir):
        self.calls.append(("train", workdir.name))
        self.during("train", workdir)
        (workdir / "checkpoints" / str(config.steps)).mkdir(parents=True)
        return Outcome(config.steps, self.exit_codes.get(workdir.name, 0))

    def evaluate(self, config, workdir, step):
        self.calls.append(("evaluate", workdir.name))
        assert step is None
        folder = workdir / "eval"
        folder.mkdir(exist_ok=True)
        run = {"minutes": 1.0, "device": "cpu", "steps": 4, "weights": "00"}
        results = {"rows": rows(0.5 + 0.1 * config.seed), "run": run}
        (folder / "metrics.json").write_text(json.dumps(results))
        self.during("evaluate", workdir)
        (folder / "report.html").write_text("done")

    def synthesize(self, config, inpaint, masks, output, options):
        self.calls.append(("synthesize", masks))
        self.options = options
        self.during("synthesize", output)
        output.mkdir(exist_ok=True)
        told = {"placements": 5, "outputs": 2, "tiles": options.tiles}
        (output / "report.json").write_text(json.dumps(told))


@pytest.fixture
def parts(monkeypatch):
    return Parts(monkeypatch)


@pytest.fixture
def config():
    config = load("smoke")
    config.study.models = ("unet",)
    config.study.seeds = (0, 1)
    return config


NAMES = ["unet_0percent_plain_seed0", "unet_0percent_seed0", "unet_100percent_seed0"]


def test_every_training_of_the_papers_tables():
    found = plan(load("paper").study)
    assert len(found) == len(set(one.name for one in found)) == 80
    first = [one for one in found if one.seed == 0]
    assert found[:8] == first  # all lines of the tables, then the next seed
    want = {("effb3_unet", False, 0.0)}
    want |= {("effb3_unet", True, p) for p in (0.0, 30.0, 60.0, 100.0)}
    want |= {(m, True, 100.0) for m in ("unet", "unet++", "swin_unet")}
    assert {one[:3] for one in first} == want


@pytest.mark.parametrize(
    "change, words",
    [
        ({"percents": (0.0, 130.0)}, "holds .130.0."),
        ({"seeds": ()}, "seeds is ()"),
        ({"models": ("unet", "unet")}, "each once"),
    ],
)
def test_a_study_that_cannot_be(change, words):
    options = load("smoke").study
    options.update(change)
    with pytest.raises(ValueError, match=words.replace("()", r"\(\)")):
        plan(options)


def test_each_training_has_its_own_config(tmp_path):
    part = load("smoke").segment
    own = segmenter_config(part, Plan("unet", True, 60.0, 7), tmp_path)
    assert (own.seed, own.segment.model, own.segment.trad_aug) == (7, "unet", True)
    assert own.data.synthetic_percent == 60.0
    assert own.data.synthetic == str(tmp_path / "synthetic")
    plain = segmenter_config(part, Plan("unet", False, 0.0, 0), tmp_path)
    assert plain.data.synthetic == "" and not plain.segment.trad_aug
    assert part.segment.model == "effb3_unet"  # the part itself is as it was


@pytest.mark.parametrize("outlines, masks", [("real", "real"), ("network", "masks")])
def test_parts_in_order_and_only_once(tmp_path, parts, config, outlines, masks):
    config.study.outlines = outlines
    config.study.seeds = (0,)
    assert driver.study(config, tmp_path) == 0
    own = [("train", "masks"), ("evaluate", "masks")]
    trained = own if outlines == "network" else []
    source = masks if masks == "real" else str(tmp_path / "masks")
    want = [*trained, ("train", "inpaint"), ("evaluate", "inpaint")]
    want.append(("synthesize", source))
    for name in NAMES:
        want += [("train", name), ("evaluate", name)]
    assert parts.calls == want
    # 16 tiles of the smoke slides show a sclerosed glomerulus; twice as many.
    assert parts.options.tiles == 32 and parts.options.rounds is None
    assert driver.study(config, tmp_path) == 0
    assert parts.calls == want  # nothing is done twice


def test_nothing_is_painted_where_no_training_needs_it(tmp_path, parts, config):
    config.study.percents = (0.0,)
    config.study.without_augmentation = False
    assert driver.study(config, tmp_path) == 0
    assert {folder for _, folder in parts.calls} == {
        "unet_0percent_seed0",
        "unet_0percent_seed1",
    }


def test_a_stop_while_training_and_the_same_command_goes_on(tmp_path, parts, config):
    parts.exit_codes["unet_0percent_seed0"] = 143
    assert driver.study(config, tmp_path) == 143
    assert parts.calls[-1] == ("train", "unet_0percent_seed0")
    before = len(parts.calls)
    assert driver.study(config, tmp_path) == 0
    assert parts.calls[before] == ("evaluate", "unet_0percent_seed0")


@pytest.mark.parametrize("what", ["evaluate", "synthesize"])
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_between_trainings(tmp_path, parts, config, what, number, code):
    kept = signal.getsignal(number)

    def stop(now, folder):
        if now == what and (what == "synthesize" or folder.name == NAMES[0]):
            os.kill(os.getpid(), number)
            pytest.fail("the signal was not heard")

    parts.during = stop
    assert driver.study(config, tmp_path) == code
    assert signal.getsignal(number) is kept
    parts.during = lambda now, folder: None
    before = parts.calls[-1]
    count = len(parts.calls)
    assert driver.study(config, tmp_path) == 0
    assert parts.calls[count] == before  # what was cut short is done again


def test_a_training_that_diverges_is_named_and_the_others_go_on(
    tmp_path, parts, config, capsys
):
    def diverge(now, folder):
        if now == "train" and folder.name == NAMES[1]:
            raise NonFiniteError("step 3: not finite")

    parts.during = diverge
    assert driver.study(config, tmp_path) == 1
    results = json.loads((tmp_path / "metrics.json").read_text())
    assert results["run"]["failed"] == [NAMES[1]]
    assert results["run"]["trainings"] == 5
    assert NAMES[1] in (tmp_path / "report.html").read_text()


def test_another_config_is_refused(tmp_path, parts, config):
    config.study.seeds = (0,)
    driver.study(config, tmp_path)
    config.segment.train.log_every = 3  # no difference
    driver.study(config, tmp_path)
    config.segment.optimizer.learning_rate = 0.5
    with pytest.raises(ValueError, match="segment.optimizer.learning_rate"):
        driver.study(config, tmp_path)


def test_a_wrong_model_comes_to_light_before_anything_is_trained(
    tmp_path, parts, config
):
    config.study.models = ("unet", "swin_unet")  # asks for multiples of 256
    with pytest.raises(ValueError, match="multiples of 256"):
        driver.study(config, tmp_path)
    assert parts.calls == []
    config.study.models = ("unet",)
    config.study.outlines = "drawn"
    with pytest.raises(ValueError, match="outlines is 'drawn'"):
        driver.study(config, tmp_path)
    assert not list(tmp_path.iterdir())  # another config may begin here


def test_what_is_written(tmp_path, parts, config):
    assert driver.study(config, tmp_path) == 0
    results = json.loads((tmp_path / "metrics.json").read_text())
    (row,) = [
        r
        for r in results["rows"]
        if r["method"] == "glomeruli"
        and (r["synthetic_percent"], r["augmented"]) == (100.0, True)
        and (r["bin"], r["region"], r["metric"]) == ("mean", "image", "f1")
    ]
    # Seeds 0 and 1 reach 0.5 and 0.6.
    assert row["value"] == pytest.approx(0.55)
    assert row["sd"] == pytest.approx(np.std([0.5, 0.6], ddof=1))
    assert (row["n"], row["model"]) == (2, "unet")
    printed = [r for r in results["rows"] if r["method"] == "paper"]
    assert len(printed) == 33 * 4
    page = (tmp_path / "report.html").read_text()
    assert "0.5500 ± 0.0707" in page and "0.8425 ± 0.0004" in page
    assert "5 glomeruli were painted on 2 slides" in page


def test_means_and_lines_by_hand():
    trained = [
        Trained(f"r{seed}", "unet", True, 30.0, seed, rows(value), {})
        for seed, value in enumerate((0.2, 0.4, None))
    ]
    got = {(r["bin"], r["region"], r["metric"]): r for r in means(trained[:2])}
    cell = got["normal", "stitched", "recall"]
    assert cell["value"] == pytest.approx(0.3)
    assert cell["sd"] == pytest.approx(0.1 * 2**0.5)
    assert cell["n"] == 2
    assert {r["value"] for r in means(trained)} == {None}
    made = lines(means(trained[:2]), "image")
    assert len(made) == 3  # two classes and their mean
    (line,) = [x for x in made if x.kind == "sclerosed"]
    assert (line.dataset, line.augmented, line.percent) == ("test1", True, 30.0)
    assert line.cells["dice"].value == pytest.approx(0.3)


def test_printed_rows_are_the_papers():
    found = [
        r
        for r in study_report.printed_rows()
        if (r["table"], r["dataset"], r["model"]) == ("5", "test1", "swin_unet")
    ]
    assert {r["metric"]: r["value"] for r in found} == {
        "precision": 0.8545,
        "recall": 0.7730,
        "f1": 0.8117,
        "dice_image": 0.8025,
    }


def test_the_command(tmp_path, parts, capsys):
    words = ["study", "--config", f"{PATH}:smoke", "--workdir", str(tmp_path)]
    change = ["--set", "study.models=('unet',)", "--set", "study.percents=(0.0,)"]
    assert cli.main([*words, *change]) == 0
    assert str(tmp_path / "report.html") in capsys.readouterr().out
    assert cli.main([*words[:2], str(PATH.parents[1] / "unet.py"), *words[3:]]) == 2
    assert "no section `study`" in capsys.readouterr().err
