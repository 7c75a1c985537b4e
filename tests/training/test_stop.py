"""SIGTERM and SIGINT save, end the run, and lose at most a step."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from jaxinpaint.core.checkpoint import Checkpoints
from jaxinpaint.training.stop import StopRequest
from tests.training import toy

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    toy.run(workdir, steps=8)
    return workdir


@pytest.fixture(autouse=True)
def handlers_are_put_back():
    before = [signal.getsignal(number) for number in CODES]
    yield
    assert [signal.getsignal(number) for number in CODES] == before


def goes_on_like(straight, workdir):
    assert toy.run(workdir, steps=8) == (8, 0)
    assert toy.leaves(workdir, 8) == toy.leaves(straight, 8)
    assert toy.records(workdir) == toy.records(straight)
    assert toy.records(workdir, "eval/") == toy.records(straight, "eval/")


@pytest.mark.parametrize("number", CODES)
def test_a_signal_saves_the_step_in_hand(tmp_path, straight, number):
    """It comes while batch 4, the fifth, is waited for: 4 steps are done."""
    assert toy.run(tmp_path, toy.signal_at(4, number)) == (4, CODES[number])
    assert toy.steps_saved(tmp_path) == [3, 4]
    goes_on_like(straight, tmp_path)


def test_a_stop_off_the_interval_waits_for_no_score(tmp_path):
    traces = []
    of = toy.system(traces=traces)
    assert toy.run(tmp_path, toy.signal_at(2, signal.SIGTERM), of=of) == (2, 143)
    assert "predict" not in traces
    assert toy.steps_saved(tmp_path) == [2]


def test_a_signal_before_the_first_step_does_none(tmp_path, straight):
    assert toy.run(tmp_path, toy.signal_at(0, signal.SIGTERM)) == (0, 143)
    assert toy.steps_saved(tmp_path) == []
    goes_on_like(straight, tmp_path)


def test_a_second_signal_during_the_save_changes_nothing(
    tmp_path, straight, monkeypatch
):
    save = Checkpoints.save

    def disturbed(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        done = save(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGTERM)
        return done

    monkeypatch.setattr(Checkpoints, "save", disturbed)
    assert toy.run(tmp_path, toy.signal_at(2, signal.SIGTERM)) == (2, 143)
    monkeypatch.undo()
    goes_on_like(straight, tmp_path)


def test_a_signal_ends_the_wait_for_data_that_never_come(tmp_path, straight):
    def hang(step):
        if step == 4:
            kill = lambda: os.kill(os.getpid(), signal.SIGTERM)
            threading.Timer(0.2, kill).start()
            time.sleep(120)

    began = time.monotonic()
    assert toy.run(tmp_path, hang) == (4, 143)
    assert time.monotonic() - began < 60
    goes_on_like(straight, tmp_path)


def test_the_wait_is_interrupted_and_nothing_else():
    with StopRequest() as stop:
        assert stop.next_of(iter([7])) == 7
        os.kill(os.getpid(), signal.SIGINT)  # not waiting: only remembered
        assert stop.asked(1)
        assert stop.exit_code == 130
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.exit_code == 130


def test_two_processes_stop_together_when_one_is_asked_to(tmp_path):
    """SIGINT to the second while it waits for batch 4; then both go on.

    jax looks for signals once a second, so they take 50 ms for a batch.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    toy.run(one, steps=80)
    assert pair(two, (0, -1), (signal.SIGINT, 4)) == [143, 130]
    assert 4 <= toy.steps_saved(two)[-1] < 80
    assert pair(two, (0, -1), (0, -1)) == [0, 0]
    one, two = toy.records(one), toy.records(two)
    assert [record[:2] for record in one] == [record[:2] for record in two]
    losses = [[record[2] for record in records] for records in (one, two)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def pair(workdir, *signals):
    """Exit codes of two processes that train together, a device each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    children = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.training.toy", str(workdir), "80"),
                *(str(int(number)), str(at), address, str(index)),
            ],
            stdout=subprocess.DEVNULL,
        )
        for index, (number, at) in enumerate(signals)
    ]
    return [child.wait() for child in children]
