"""Kills, damaged files, a full disk: what is listed restores, what is not is said."""

import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from jaxinpaint.core.checkpoint import Checkpoints, restore_variables
from jaxinpaint.core.manifest import DamagedCheckpointError

CHILD = pathlib.Path(__file__).with_name("checkpoint_child.py")
ROOT = CHILD.parents[2]
OPTIONS = dict(save_every=1, keep_latest=2, keep_best=1, best=("psnr", "max"))


def one_device():
    return SingleDeviceSharding(jax.devices()[0])


def run_child(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(CHILD), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        **options,
    )


@pytest.mark.parametrize("kills", [20])
def test_every_listed_step_survives_kills(tmp_path, kills):
    """State of step s is i * ramp + s: the oracle needs no second checkpoint."""
    ramp = np.arange(200_000, dtype=np.float32)
    template = {f"w{i}": jax.ShapeDtypeStruct(ramp.shape, "float32") for i in range(5)}
    rng = np.random.default_rng(0)
    checked = interrupted = done = 0
    pipe = subprocess.PIPE
    with run_child("serve", tmp_path, stdin=pipe, stdout=pipe) as child:
        for _ in range(kills):
            print("go", file=child.stdin, flush=True)
            lines = {child.stdout.readline(), child.stdout.readline()}
            pid = next(int(line.split()[1]) for line in lines if line[:3] == "pid")
            assert "open\n" in lines
            time.sleep(rng.uniform(0.0, 0.5))
            os.kill(pid, signal.SIGKILL)
            while (line := child.stdout.readline()) != "gone\n":
                done = int(line)
            interrupted += bool(list(tmp_path.glob("*tmp*")))
            with Checkpoints(tmp_path, **OPTIONS) as checkpoints:
                checkpoints.wait()
                left = {p.name for p in tmp_path.iterdir()}
                steps = checkpoints.steps() if done else []
                # `save(n)` returns when n - 1 is on disk and n is in flight.
                assert not done or steps[-1:] >= [done - 1] or done == 1
                for step in steps:
                    got = checkpoints.restore(template, one_device(), step)
                    assert got.meta == {"step": step}
                    for i in range(5):
                        np.testing.assert_array_equal(
                            got.state[f"w{i}"], ramp * (i + 1) + np.float32(step)
                        )
                    checked += 1
            assert left == {"writer.lock", *map(str, steps)}
        child.stdin.close()
    print(f"{kills} kills, {interrupted} within a save, {checked} steps good")
    assert interrupted >= kills // 4 and checked >= kills


def state_of(step):
    bits = np.random.default_rng(step)
    return {
        "kernel": jnp.asarray(bits.standard_normal((64, 65)), jnp.float32),
        "scale": jnp.asarray(bits.standard_normal(700), jnp.bfloat16),
        "zeros": jnp.zeros(900),
        "count": jnp.int32(step),
    }


TEMPLATE = jax.eval_shape(lambda: state_of(1))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pristine")
    with Checkpoints(directory, **OPTIONS) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state_of(step), {"seed": step}, {"psnr": step})
    return directory


def outcome(directory):
    """Restores and says which step came back; wrong numbers fail here."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Checkpoints(directory, **OPTIONS) as checkpoints:
            got = checkpoints.restore(TEMPLATE, one_device())
    assert got.meta == {"seed": got.step}
    expected = state_of(got.step)
    for name, leaf in got.state.items():
        assert leaf.dtype == expected[name].dtype
        assert np.asarray(leaf).tobytes() == np.asarray(expected[name]).tobytes()
    messages = [str(w.message) for w in caught]
    if got.step == 2:
        assert not messages and not (directory / "2.corrupt").exists()
        return "harmless"
    assert len(messages) == 1 and "step 2 is damaged and was renamed" in messages[0]
    assert (directory / "2.corrupt").is_dir()
    return "fell back"


def files_of(step_directory):
    files = [p for p in step_directory.rglob("*") if p.is_file()]
    return sorted(files, key=lambda p: (p.stat().st_size, p.parent.name, p.name))


def data_files(step_directory):
    return [p for p in files_of(step_directory / "state") if p.parent.name == "d"]


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("kind", "flips"), [(data_files, 50), (files_of, 30)], ids=["arrays", "any file"]
)
def test_no_flipped_bit_becomes_a_wrong_number(pristine, tmp_path, kind, flips):
    rng = np.random.default_rng(1)
    files = [p.relative_to(pristine) for p in kind(pristine / "2")]
    sizes = np.array([(pristine / p).stat().st_size for p in files])
    # Array data by size, so most flips hit numbers; other files all alike.
    odds = sizes / sizes.sum() if kind is data_files else None
    counts = Counter()
    for number in range(flips):
        directory = tmp_path / str(number)
        shutil.copytree(pristine, directory)
        chosen = rng.choice(len(files), p=odds)
        flip(directory / files[chosen], int(rng.integers(sizes[chosen] * 8)))
        counts[outcome(directory)] += 1
        shutil.rmtree(directory)
    print(f"{flips} flips: {dict(counts)}")
    assert sum(counts.values()) == flips
    assert counts["fell back"] >= (0.6 * flips if kind is data_files else 1)


@pytest.mark.parametrize("damage", ["truncated", "deleted"])
def test_every_file_may_be_truncated_or_deleted(pristine, tmp_path, damage):
    counts = Counter()
    for file in [p.relative_to(pristine) for p in files_of(pristine / "2")]:
        directory = tmp_path / "work"
        shutil.copytree(pristine, directory)
        if damage == "deleted":
            (directory / file).unlink()
        else:
            os.truncate(directory / file, (directory / file).stat().st_size // 2)
        counts[outcome(directory)] += 1
        shutil.rmtree(directory)
    print(f"{damage}: {dict(counts)}")
    assert counts["fell back"] >= 3


@pytest.fixture
def copy(pristine, tmp_path):
    return pathlib.Path(shutil.copytree(pristine, tmp_path / "run"))


def spoil(directory, step):
    largest = max(data_files(directory / str(step)), key=lambda p: p.stat().st_size)
    flip(largest, largest.stat().st_size * 4)


def test_a_damaged_step_asked_for_by_number_is_not_replaced(copy):
    spoil(copy, 2)
    with Checkpoints(copy, **OPTIONS) as checkpoints:
        with pytest.raises(DamagedCheckpointError, match="2: the digest differs"):
            checkpoints.restore(TEMPLATE, one_device(), step=2)
        assert checkpoints.steps() == [1, 2]


def test_where_all_steps_are_damaged_nothing_moves_and_nothing_starts(copy):
    spoil(copy, 1)
    spoil(copy, 2)
    with Checkpoints(copy, **OPTIONS) as checkpoints:
        with pytest.raises(DamagedCheckpointError, match=r"none of the steps \[1, 2\]"):
            checkpoints.restore(TEMPLATE, one_device())
        assert checkpoints.steps() == [1, 2]


def test_damaged_checkpoints_alone_are_no_fresh_start(copy):
    (copy / "1").rename(copy / "1.corrupt")
    (copy / "2").rename(copy / "2.corrupt")
    with Checkpoints(copy, **OPTIONS) as checkpoints:
        with pytest.raises(DamagedCheckpointError, match="1.corrupt, 2.corrupt"):
            checkpoints.steps()
        with pytest.raises(DamagedCheckpointError, match="to start afresh"):
            checkpoints.restore(TEMPLATE, one_device())


def test_a_step_set_aside_is_written_again_and_set_aside_again(copy):
    for name in ("2.corrupt", "2.corrupt-2"):
        spoil(copy, 2)
        with Checkpoints(copy, **OPTIONS) as checkpoints:
            with pytest.warns(UserWarning, match=f"renamed to '{name}'; step 1 takes"):
                assert checkpoints.restore(TEMPLATE, one_device()).step == 1
            assert (copy / name).is_dir()
            checkpoints.save(2, state_of(2), {"seed": 2}, {})
            checkpoints.wait()
            assert checkpoints.restore(TEMPLATE, one_device()).step == 2


def test_a_step_under_another_number_is_not_believed(copy):
    (copy / "2").rename(copy / "3")
    with Checkpoints(copy, **OPTIONS) as checkpoints:
        with pytest.warns(UserWarning, match="step 3 is damaged"):
            assert checkpoints.restore(TEMPLATE, one_device()).step == 1


def test_a_reader_passes_over_a_damaged_step_and_renames_nothing(tmp_path):
    with Checkpoints(tmp_path, **OPTIONS) as checkpoints:
        for step in (1, 2):
            state = {"variables": {"net": state_of(step)}, "opt_state": jnp.ones(3)}
            checkpoints.save(step, state, {}, {})
    spoil(tmp_path, 2)
    with pytest.warns(UserWarning, match="step 2 is damaged, step 1 takes its place"):
        got = restore_variables(tmp_path, {"net": TEMPLATE}, one_device())
    np.testing.assert_array_equal(got.state["net"]["kernel"], state_of(1)["kernel"])
    assert (tmp_path / "2").is_dir()


def test_a_full_disk_is_told_and_leaves_older_steps(copy):
    """A file size limit stands for the full disk; Python ignores its signal."""
    big = {"w": jnp.asarray(np.random.default_rng(0).standard_normal(400_000))}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(copy, **OPTIONS) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        try:
            checkpoints.save(3, big, {}, {})
            with pytest.raises(OSError, match=r"failed .*steps \[1, 2\] are intact"):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert checkpoints.restore(TEMPLATE, one_device()).step == 2
        assert checkpoints.save(3, big, {}, {})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]


def test_two_processes_save_and_fall_back_together(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    pipe = subprocess.PIPE
    children = [
        run_child("pair", tmp_path, address, index, stdout=pipe, stderr=pipe)
        for index in range(2)
    ]
    try:
        outputs = [child.communicate(timeout=90) for child in children]
    finally:
        for child in children:
            child.kill()
    for child, (out, err) in zip(children, outputs, strict=True):
        assert child.returncode == 0 and "done" in out, err[-3000:]
    # What two processes wrote, one reads.
    whole = {f"w{i}": jax.ShapeDtypeStruct((200_000,), "float32") for i in range(5)}
    got = restore_variables(tmp_path, whole, one_device())
    assert got.step == 2
    np.testing.assert_array_equal(got.state["w0"][:3], [2.0, 3.0, 4.0])
