"""`fill-volume` with the networks themselves, as they are before any training."""

import json
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tifffile

from configs import ccpgan as ccpgan_config
from configs import unet as unet_config
from jaxinpaint import systems
from jaxinpaint.core.checkpoint import Checkpoints
from jaxinpaint.training import workdir as workdirs
from tests.data import volume_examples as examples
from tests.evaluation.toy_volumes import files, fill_volume

CONFIGS = {"unet": unet_config, "ccpgan": ccpgan_config}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory, quick_programs):
    """Makes runs of no step, each once."""
    home = tmp_path_factory.mktemp("runs")
    return lambda name: home / name if (home / name).exists() else begin(home / name)


def begin(folder):
    name = folder.name
    config = CONFIGS[name].get_config("smoke")
    folder.mkdir()
    workdirs.open_workdir(folder, config)
    (folder / "metrics.jsonl").write_text("")
    state = jax.jit(systems.build(config).init)(jax.random.key(0))
    options = {"save_every": 1, "keep_latest": 2, "keep_best": 0}
    with Checkpoints(
        folder / "checkpoints", **options, best=("eval/psnr", "max")
    ) as checkpoints:
        checkpoints.save(1, state, {}, {})
    return folder


def smooth(count=6, shape=(50, 70)):
    z, y, x = np.meshgrid(*map(np.arange, (count, *shape)), indexing="ij")
    return (127 + 90 * np.sin(x / 9 + z / 5) * np.cos(y / 7)).astype(np.uint8)


@pytest.mark.parametrize("name", CONFIGS)
def test_holes_through_adjacent_sections(tmp_path, untrained, name):
    (tmp_path / "run").symlink_to(untrained(name))
    given, mask = smooth(), np.zeros((6, 50, 70), np.uint8)
    mask[2, 5:20, 30:50] = mask[3, 15:30, 10:35] = 255
    source = examples.write_tiff(tmp_path / "a.tif", np.where(mask > 0, 0, given))
    examples.write_tiff(tmp_path / "m.tif", mask)
    assert fill_volume(tmp_path, source, f"--mask={tmp_path / 'm.tif'}") == 0
    got = tifffile.imread(tmp_path / "out" / "a.tif")
    np.testing.assert_array_equal(got[mask == 0], given[mask == 0])
    assert len(np.unique(got[mask > 0])) > 5  # something was made up
    told = json.loads((tmp_path / "out" / "repaired.json").read_text())
    assert told["run"]["system"] == name
    assert told["sections"]["2"]["scores"]["disagreement_mean"]


def test_a_section_that_is_bad_whole(tmp_path, untrained):
    (tmp_path / "run").symlink_to(untrained("unet"))
    given = smooth()
    noise = given.copy()
    noise[2] = examples.content(0, shape=given.shape[1:])
    made = []
    for number, pixels in enumerate((given, noise)):
        source = examples.write_tiff(tmp_path / f"{number}.tif", pixels)
        words = ("--bad-sections=2",)
        output = f"out{number}"
        assert fill_volume(tmp_path, source, *words, output=output) == 0
        made.append(tifffile.imread(tmp_path / output / source.name))
    np.testing.assert_array_equal(*made)  # what is bad is never read
    assert (made[0][2] != given[2]).any()
    sound = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(made[0][sound], given[sound])


@pytest.mark.slow
def test_a_process_that_is_killed_anywhere_goes_on(tmp_path, untrained):
    given = np.tile(smooth(), (4, 1, 1))
    source = examples.write_tiff(tmp_path / "a.tif", given)
    words = [sys.executable, "-m", "jaxinpaint.cli", "fill-volume"]
    words += [f"--workdir={untrained('unet')}", f"--volume={source}"]
    words += ["--bad-sections=1-3,6,8-11,15,20", f"--output={tmp_path / 'out'}"]
    begun = time.monotonic()
    subprocess.run(words, check=True, capture_output=True)
    took = time.monotonic() - begun
    want = files(tmp_path / "out")
    rng = np.random.default_rng(0)
    for _ in range(6):
        shutil.rmtree(tmp_path / "out")
        child = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.3, 0.95) * took)
        child.kill()
        child.wait()
        if not (tmp_path / "out" / "repaired.json").exists():
            subprocess.run(words, check=True, capture_output=True)
            assert files(tmp_path / "out") == want


def test_ccpgan_restores_no_section_that_is_bad_whole(tmp_path, untrained, capsys):
    (tmp_path / "run").symlink_to(untrained("ccpgan"))
    source = examples.write_tiff(tmp_path / "a.tif", smooth())
    assert fill_volume(tmp_path, source, "--bad-sections=2") == 2
    assert "'ccpgan', which restores no section that is" in capsys.readouterr().err
