import itertools
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxinpaint.data import pipeline
from jaxinpaint.data.cases import RunData


def make_batch(step):
    rng = np.random.default_rng([1, step])
    time.sleep(float(rng.random()) * 0.004)  # batches are not ready in order
    return {"step": np.array(step), "image": rng.integers(0, 256, 64, np.uint8)}


def take(batches, count):
    return [bytes(b["image"]) for b in itertools.islice(batches, count)]


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_threads_change_nothing(threads):
    want = [bytes(make_batch(step)["image"]) for step in range(40)]
    for start in (0, 1, 17):
        batches = pipeline.prefetch(make_batch, start, threads, 2 * threads)
        assert take(batches, 20) == want[start : start + 20]
        batches.close()


def test_batches_are_read_ahead_but_not_without_end():
    made = []
    ready = threading.Event()

    def note(step):
        made.append(step)
        if len(made) >= 4:
            ready.set()
        return {"step": np.array(step)}

    batches = pipeline.prefetch(note, 3, 2, 3)
    assert int(next(batches)["step"]) == 3
    assert ready.wait(10)  # steps 4, 5 and 6 without being asked for
    time.sleep(0.1)
    assert sorted(made) == [3, 4, 5, 6]
    batches.close()


@pytest.mark.parametrize("threads", [0, 3])
def test_an_error_arrives_at_its_step(threads):
    def fail(step):
        if step == 2:
            raise ValueError("section 5 is torn")
        return {"step": np.array(step)}

    batches = pipeline.prefetch(fail, 0, threads, 4)
    assert [int(next(batches)["step"]) for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="section 5 is torn"):
        next(batches)


@pytest.mark.parametrize("close", [True, False])
def test_closing_or_dropping_ends_the_threads(close):
    before = set(threading.enumerate())
    batches = pipeline.prefetch(make_batch, 0, 4, 8)
    next(batches)
    ours = set(threading.enumerate()) - before
    assert ours
    if close:
        batches.close()
    else:
        del batches
    for thread in ours:
        thread.join(10)
    assert not any(thread.is_alive() for thread in ours)


def test_a_program_may_end_without_closing():
    code = (
        "import numpy as np\n"
        "from jaxinpaint.data import pipeline\n"
        "batches = pipeline.prefetch(lambda step: {'a': np.zeros(step)}, 5, 3, 6)\n"
        "print(len(next(batches)['a']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")


def test_numbers_that_make_no_sense():
    for threads, buffer in ((-1, 2), (2, 0)):
        with pytest.raises(ValueError, match=f"{threads} threads and a buffer"):
            pipeline.prefetch(make_batch, 0, threads, buffer)


def test_build_finds_the_kind_and_reads_ahead(monkeypatch):
    asked = []

    def build(*arguments):
        asked.append(arguments)
        return RunData(make_batch, None, {}, None, {"digest": "d"})

    monkeypatch.setitem(pipeline.KINDS, "sections", build)
    config = ConfigDict({"data": {"kind": "sections", "threads": 2}})
    data = pipeline.build(config, {"image": 1}, 1, 2, {"mean": 3})
    assert asked == [(config, {"image": 1}, 1, 2, {"mean": 3})]
    assert data.summary == {"digest": "d"}
    batches = data.train(7)
    assert [int(next(batches)["step"]) for _ in range(3)] == [7, 8, 9]
    batches.close()
    config.data.kind = "films"
    with pytest.raises(ValueError, match=r"'films'; it is one of \['sections', 'pho"):
        pipeline.build(config, {}, 0, 1)


def test_from_a_config_to_batches(tmp_path):
    config = ConfigDict(
        {
            "seed": 1,
            "channels": 3,
            "mask": {"sampler": "deepfill_box", "box": 16, "max_delta": 4},
            "data": {
                "kind": "sections",
                "threads": 0,
                "source": "phantom",
                "cache_dir": str(tmp_path),
                "max_pixels": 100_000,
                "split": "random",
                "validation_fraction": 0.1,
                "test_fraction": 0.2,
                "spacing": 1,
                "largest_shift": 0,
                "neighbor": "psnr",
                "validation_crops": 4,
                "phantom": {"sections": 10, "height": 64, "width": 72, "seed": 0},
                "damage": "",
                "flag_lost": False,
                "both_neighbors": False,
            },
            "eval": {
                "crop_size": 48,
                "crops_per_section": 2,
                "masks": {
                    "squares": [8, 16],
                    "centre": [32],
                    "half": True,
                    "irregular_ratios": [0.3],
                    "stroke_width": [2, 6],
                },
                "seed": 2,
            },
        }
    )
    image = np.empty((4, 32, 32, 3))
    spec = {"image": image, "neighbor": image, "mask": image[..., :1]}
    data = pipeline.build(config, spec, 0, 1)
    config.data.threads = 3
    ahead = pipeline.build(config, spec, 0, 1)
    one, two = data.train(2), ahead.train(2)
    for _ in range(5):
        batch = next(one)
        for name, array in next(two).items():
            np.testing.assert_array_equal(array, batch[name])
        assert batch["image"].shape == (4, 32, 32, 3)
        holes = batch["mask"].sum(axis=(1, 2, 3))
        assert ((holes >= 12 * 12) & (holes <= 16 * 16)).all()
    two.close()
    cases = list(data.test_cases())
    assert len(cases) == 5 * 2 * 2  # masks, sections, crops
    assert {c.label: int(c.mask.sum()) for c in cases} == {
        "8x8": 64,
        "16x16": 256,
        "24x48": 24 * 48,
        "32x32": 1024,
        "30%": round(0.3 * 48 * 48),
    }
    assert all(c.image.shape == c.neighbor.shape == (48, 48, 3) for c in cases)
