"""The search: what it draws, that it goes on as if never stopped, and a dry run."""

import json
import math
import os
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxinpaint import cli, systems
from jaxinpaint.core.system import System, TrainState
from jaxinpaint.data import image_set
from jaxinpaint.evaluation import search
from jaxinpaint.training.guard import NonFiniteError
from jaxinpaint.training.loop import train

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "ipa_medgan.py"
OPTIONS = {
    "seed": 3,
    "random_trials": 4,
    "space": (("loss.style", 1e1, 1e5), ("loss.l1", 0.5, 10.0)),
}


def hill(values, folder):
    """Highest, 0, where loss.style is 1000 and loss.l1 is 2."""
    away = math.log10(values["loss.style"] / 1e3), math.log(values["loss.l1"] / 2)
    return -(away[0] ** 2) - away[1] ** 2


def study(workdir, trials, score=hill, **changes):
    workdir.mkdir(exist_ok=True)
    options = ConfigDict({**OPTIONS, **changes})
    return search.study(options, workdir, trials, score, lambda done: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return study(tmp_path_factory.mktemp("whole"), 16)


def test_values_lie_between_their_bounds_and_are_all_different(whole):
    assert [one.number for one in whole] == list(range(16))
    for key, low, high in OPTIONS["space"]:
        values = [one.values[key] for one in whole]
        assert all(low <= v <= high for v in values) and len(set(values)) == 16
    assert [one.score for one in whole] == [hill(one.values, None) for one in whole]


def test_the_first_are_random_and_the_others_follow_what_was_found(whole, tmp_path):
    """The same hill, mirrored, changes what follows the random trials alone."""
    away = study(tmp_path / "w", 6, lambda values, folder: -hill(values, folder))
    assert [one.values for one in away[:4]] == [one.values for one in whole[:4]]
    assert [one.values for one in away[5:]] != [one.values for one in whole[5:6]]
    flat = study(tmp_path / "r", 16, random_trials=16)
    random, led = (np.mean([one.score for one in done[8:]]) for done in (flat, whole))
    assert led > random + 0.5


def test_another_seed_draws_other_values(whole, tmp_path):
    first = study(tmp_path / "w", 1, seed=4)[0]
    assert first.values != whole[0].values


class Killed(BaseException):
    """As a kill: nothing behind it runs."""


def test_a_search_that_was_killed_goes_on_as_if_it_had_not(whole, tmp_path):
    seen = []

    def killed(values, folder):
        seen.append((dict(values), folder))
        if len(seen) in (3, 7):
            raise Killed
        return hill(values, folder)

    for _ in range(2):
        with pytest.raises(Killed):
            study(tmp_path / "w", 16, killed)
    assert study(tmp_path / "w", 16, killed) == whole
    assert seen[2] == seen[3] and seen[6] == seen[7]  # the trial, its folder
    assert len(seen) == 18
    # Finished, it tries nothing; asked for more, it goes on.
    assert study(tmp_path / "w", 16, killed) == whole and len(seen) == 18
    assert study(tmp_path / "w", 17, killed)[:16] == whole and len(seen) == 19


def test_a_trial_that_diverges_counts_and_is_never_the_best(tmp_path):
    def diverging(values, folder):
        (folder / "checkpoints").mkdir(parents=True)
        if folder.name in ("001", "005"):
            raise NonFiniteError("train: not finite")
        return 1.0 if folder.name == "002" else hill(values, folder)

    done = study(tmp_path / "w", 7, diverging)
    assert [one.number for one in done if one.score is None] == [1, 5]
    assert search.best_of(done).number == 2
    assert search.best_of([done[1], done[5]]) is None
    assert not list((tmp_path / "w" / "trials").glob("*/checkpoints"))


def test_the_mean_ssim_is_of_whole_images_and_fills_the_last_run_up():
    """Scored in one run, or in runs of two with a row repeated: the same."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 24, 24, 1), np.uint8)
    mask = np.zeros_like(image)
    mask[:, 4:9, 4:9] = 1
    batch = {"image": image, "mask": mask}
    spoilt = lambda part: {"raw whole": part["image"] // 2 + 20}
    at_once, in_runs = (
        search.mean_ssim(spoilt, "raw whole", batch, size) for size in (3, 2)
    )
    assert at_once == pytest.approx(in_runs, rel=1e-6) and at_once < 0.95
    same = lambda part: {"raw whole": part["image"]}
    assert search.mean_ssim(same, "raw whole", batch, 2) == pytest.approx(1.0)


# A dry run: everything but the networks is real.


def toy(config):
    """One factor, which training pulls to `loss.l1`; perfect where that is 1."""
    size, rows = config.image_size, config.batch_size
    one = jax.ShapeDtypeStruct((rows, size, size, 1), jnp.float32)

    def init(key):
        gain = {"generator": {"params": {"gain": jnp.zeros(())}}}
        return TrainState(jnp.zeros((), jnp.int32), gain, {})

    def update(state, frozen, batch, key):
        gain = state.variables["generator"]["params"]["gain"]
        gain = gain + 0.5 * (config.loss.l1 - gain)
        new = {"generator": {"params": {"gain": gain}}}
        return TrainState(state.step + 1, new, {}), {"loss/generator": gain}

    def predict(variables, frozen, batch, key):
        raw = (batch["image"] + 1) * variables["generator"]["params"]["gain"] - 1
        completed = jnp.where(batch["mask"] > 0, raw, batch["image"])
        return {"completed": completed, "raw": raw}

    return System({"image": one, "mask": one}, init, dict, update, predict)


@pytest.fixture
def command(monkeypatch, tmp_path):
    monkeypatch.setattr(systems, "build", toy)

    def run(*words, preset=":smoke", workdir="w"):
        given = [f"--config={CONFIG}{preset}", f"--workdir={tmp_path / workdir}"]
        return cli.main(["search", *given, *words])

    return run


SET = [
    *("--set", "search.steps=8", "--set", "search.random_trials=2"),
    *("--set", "search.space=(('loss.l1', 0.5, 2.0),)"),
]


def test_a_dry_run(command, monkeypatch, tmp_path, capsys):
    opened = []
    whole = image_set.run_data

    def run_data(config, spec, images, *rest):
        read = []
        opened.append((set(images.test), read))
        watched = lambda i: read.append(i) or images.read(i)
        return whole(config, spec, images._replace(read=watched), *rest)

    monkeypatch.setattr(image_set, "run_data", run_data)
    assert command(*SET, "--trials=2") == 0
    out, err = capsys.readouterr()
    facts = json.loads((tmp_path / "w" / "search.json").read_text())
    trials = facts["trials"]
    assert [one["number"] for one in trials] == [0, 1]
    assert facts["images"] == 4 and len(facts["subjects"]) == 1
    best = min(trials, key=lambda one: abs(math.log(one["values"]["loss.l1"])))
    assert facts["best"] == best
    assert out == f"--config.loss.l1={best['values']['loss.l1']:.6g}\n"
    assert "Trial 2/2: loss.l1" in err
    assert len(opened) == 3  # by the search, and by each trial
    for tests, read in opened:  # the first slice that is read tells the dtype alone
        assert tests and len(read) > 4 and not tests & set(read[1:])
    folder = tmp_path / "w" / "trials" / "000"
    config = json.loads((folder / "config.json").read_text())
    assert config["steps"] == 8
    assert config["loss"]["l1"] == trials[0]["values"]["loss.l1"]
    # Another config is not mixed in; more trials are.
    assert command(*SET, "--trials=2", "--set", "batch_size=4") == 2
    assert "batch_size" in capsys.readouterr().err
    assert command(*SET, "--trials=3") == 0
    facts = json.loads((tmp_path / "w" / "search.json").read_text())
    assert facts["trials"][:2] == trials and len(facts["trials"]) == 3


def test_a_signal_saves_the_trial(command, monkeypatch, tmp_path):
    at = []

    def interrupted(system, batches, validation, config, workdir):
        def some(first):
            for step, batch in enumerate(batches(first), first):
                at.append(step)
                if step == 5 and at.count(5) == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        return train(system, some, validation, config, workdir)

    monkeypatch.setattr(search, "train", interrupted)
    assert command(*SET, "--trials=1") == 143
    assert not (tmp_path / "w" / "search.json").exists()
    assert command(*SET, "--trials=1") == 0
    assert at.count(0) == 1 and max(at) == 7  # it went on where it was saved


@pytest.mark.parametrize(
    "words, preset, message",
    [
        (["--set", "loss.l2=1"], ":smoke", "no such key"),
        (["--set", "batch_size=two"], ":smoke", "batch_size"),
        (["--trials=0"], ":smoke", "--trials is 0"),
        ([], ":nope", "the presets are"),
        (["--set", "data.validation_fraction=0.0"], ":smoke", "none is held out"),
    ],
)
def test_wrong_use(command, capsys, words, preset, message):
    assert command(*words, preset=preset) == 2
    out, err = capsys.readouterr()
    assert err.startswith("jaxinpaint search: ") and message in err and not out


def test_a_system_without_a_search_says_so(tmp_path, capsys):
    words = [f"--config={CONFIG.with_name('unet.py')}:smoke", f"--workdir={tmp_path}"]
    assert cli.main(["search", *words]) == 2
    assert "no section `search`" in capsys.readouterr().err


def test_optuna_is_asked_for_by_name(command, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    assert command(*SET) == 2
    assert "pip install 'jaxinpaint[search]'" in capsys.readouterr().err
