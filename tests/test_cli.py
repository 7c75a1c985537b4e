"""The command: what it lists, and how it answers to wrong use."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import jaxinpaint
from jaxinpaint import cli


def test_the_version(capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out.strip() == jaxinpaint.__version__


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["paint"],
        ["score"],
        ["score", "--truth", "t", "--pred", "p", "--mask", "m", "--colour"],
        ["score", "--truth", "t", "--pred", "p", "--mask", "m", "--mask-polarity", "1"],
    ],
)
def test_unknown_words_exit_with_2(words, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(words)
    assert done.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main([name, "--help"])
    assert done.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert cli.COMMANDS[name].help in text


def test_the_words_of_score_do_not_wait_for_jax():
    code = (
        "import argparse, sys; from jaxinpaint.commands import score\n"
        "score.add_arguments(argparse.ArgumentParser())\n"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_score_with_all_its_metrics(tmp_path, capsys):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (24, 30), np.uint8)
    mask = np.zeros((24, 30), np.uint8)
    mask[6:18, 8:20] = 255
    made = np.where(mask, 255 - truth, truth)
    for kind, pixels in (("truth", truth), ("made", made), ("mask", mask)):
        (tmp_path / kind).mkdir()
        Image.fromarray(pixels).save(tmp_path / kind / "x.png")
    words = ["--truth", "--pred", "--mask"]
    kinds = ["truth", "made", "mask"]
    given = [f"{w}={tmp_path / k}" for w, k in zip(words, kinds, strict=True)]
    assert cli.main(["score", *given, f"--output={tmp_path / 'out'}"]) == 0
    out = capsys.readouterr().out
    error = (255.0 - 2.0 * truth)[mask > 0]
    psnr = 10 * np.log10(255**2 / np.mean(error**2))
    assert f"{psnr:.2f}" in out and "0 valid pixels changed by made." in out
    text = (tmp_path / "out" / "scores.csv").read_text()
    places = {tuple(line.split(",")[4:6]) for line in text.splitlines()[1:]}
    assert places >= {("hole", "fsim"), ("image", "ssim_eq7"), ("image", "fsim")}
