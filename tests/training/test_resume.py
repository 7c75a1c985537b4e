"""A run that was cut short and resumed equals one that never was."""

import shutil
import signal
import subprocess
import sys

import jax.numpy as jnp
import pytest

from jaxinpaint.core.checkpoint import DamagedCheckpointError
from tests.training import toy


class Crash(Exception):
    pass


def crash_at(fatal):
    def before(step):
        if step == fatal:
            raise Crash

    return before


def same(one, other, step):
    assert toy.leaves(one, step) == toy.leaves(other, step)
    assert toy.records(one) == toy.records(other)
    assert toy.records(one, "eval/") == toy.records(other, "eval/")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_crashed_run_goes_on_bit_for_bit(tmp_path, seed):
    """Lost at step 5, after the checkpoint of step 3."""
    assert toy.run(tmp_path / "straight", seed=seed) == (6, 0)
    asked = []
    with pytest.raises(Crash):
        toy.run(tmp_path / "cut", crash_at(5), seed=seed)
    assert toy.steps_saved(tmp_path / "cut") == [3]
    assert toy.records(tmp_path / "cut")[-1][0] == 4
    assert toy.run(tmp_path / "cut", asked.append, seed=seed) == (6, 0)
    assert asked == [3, 4, 5]
    same(tmp_path / "straight", tmp_path / "cut", 6)


def test_seeds_make_a_difference(tmp_path):
    toy.run(tmp_path / "0", steps=1)
    toy.run(tmp_path / "1", steps=1, seed=1)
    assert toy.records(tmp_path / "0") != toy.records(tmp_path / "1")


def frozen(value):
    """The toy with an earlier stage that it never reads."""
    weights = {"earlier": {"params": {"w": jnp.full(2, value)}}}
    return toy.system()._replace(load_frozen=lambda: weights)


def test_another_earlier_stage_is_refused(tmp_path):
    toy.run(tmp_path, of=frozen(1.0), steps=3)
    with pytest.raises(ValueError, match="step 3 was trained with frozen weights"):
        toy.run(tmp_path, of=frozen(1.5))
    assert toy.steps_saved(tmp_path) == [3]
    assert toy.run(tmp_path, of=frozen(1.0)) == (6, 0)


def test_a_killed_process_goes_on_bit_for_bit(tmp_path):
    assert toy.run(tmp_path / "straight") == (6, 0)
    child = [sys.executable, "-m", "tests.training.toy", str(tmp_path / "cut"), "6"]
    kill = [str(int(signal.SIGKILL)), "5"]
    assert subprocess.run([*child, *kill], capture_output=True).returncode == -9
    assert toy.records(tmp_path / "cut")[-1][0] in (3, 4)
    assert toy.run(tmp_path / "cut") == (6, 0)
    same(tmp_path / "straight", tmp_path / "cut", 6)


def test_a_longer_run_goes_on_from_a_finished_one(tmp_path):
    assert toy.run(tmp_path / "straight") == (6, 0)
    toy.run(tmp_path / "cut", steps=3)
    assert toy.run(tmp_path / "cut") == (6, 0)
    assert toy.run(tmp_path / "cut") == (6, 0)  # nothing left to do
    same(tmp_path / "straight", tmp_path / "cut", 6)


def test_records_after_the_checkpoint_are_dropped_and_half_a_line_too(tmp_path):
    toy.run(tmp_path, steps=3)
    metrics = tmp_path / "metrics.jsonl"
    before = metrics.read_text()
    metrics.write_text(before + '{"step": 4, "loss/generator": 9.0}\n{"step": 5, "lo')
    toy.run(tmp_path)
    after = metrics.read_text()
    assert after.startswith(before)
    assert [step for step, _, _ in toy.records(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert 9.0 not in [value for _, _, value in toy.records(tmp_path)]


def test_a_lost_checkpoint_is_no_fresh_start(tmp_path):
    toy.run(tmp_path, steps=3)
    metrics = (tmp_path / "metrics.jsonl").read_text()
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match="tells that step 3 was saved, but .* no step"):
        toy.run(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == metrics


def test_a_damaged_checkpoint_is_no_fresh_start(tmp_path):
    toy.run(tmp_path, steps=3)
    shutil.rmtree(tmp_path / "checkpoints" / "3" / "state" / "d")
    with pytest.raises(DamagedCheckpointError, match="none of the steps"):
        toy.run(tmp_path)
    assert toy.steps_saved(tmp_path) == [3]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    toy.run(tmp_path / "straight", steps=9)
    toy.run(tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "6" / "state" / "d")
    with pytest.warns(UserWarning, match="step 6 is damaged"):
        assert toy.run(tmp_path / "cut", steps=9) == (9, 0)
    same(tmp_path / "straight", tmp_path / "cut", 9)


def test_killed_before_the_first_checkpoint_starts_afresh(tmp_path):
    with pytest.raises(Crash):
        toy.run(tmp_path / "cut", crash_at(2))
    assert toy.run(tmp_path / "cut") == (6, 0)
    toy.run(tmp_path / "straight")
    same(tmp_path / "straight", tmp_path / "cut", 6)
