"""What train.py answers to wrong use: one line, and exit code 2."""

import json
import subprocess
import sys

import pytest

from configs.ccpgan import get_config
from jaxinpaint.training.workdir import open_workdir

SMOKE = "--config=configs/ccpgan.py:smoke"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A workdir of another seed, and a file where a workdir should be."""
    folder = tmp_path_factory.mktemp("cli")
    other = get_config("smoke")
    other.seed = 3
    open_workdir(folder / "begun", other)
    (folder / "begun" / "checkpoints").mkdir()
    (folder / "file").write_text("")
    return folder


@pytest.fixture(scope="module")
def train():
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.training.cli_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask(*arguments):
        child.stdin.write(json.dumps(arguments) + "\n")
        child.stdin.flush()
        return json.loads(child.stdout.readline())

    yield ask
    child.stdin.close()
    child.stdout.close()
    assert child.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--config=configs/ccpgan.py:tiny", "--workdir={}/new"],
            "the presets are ['demo', 'paper', 'smoke'], not 'tiny'.",
        ),
        (
            ["--config=configs/none.py", "--workdir={}/new"],
            "No such file or directory: 'configs/none.py'",
        ),
        (
            [SMOKE, "--workdir={}/new", "--config.data.sourc=x"],
            "--config has no key 'sourc' Did you mean \"source\"",
        ),
        (
            [SMOKE, "--workdir={}/new", "--config.steps=many"],
            "flag --config.steps=many: invalid literal for int()",
        ),
        (
            [SMOKE, "--workdir={}/new", "--config.system=rnn"],
            "config.system is 'rnn'; the systems here are ['ccpgan'",
        ),
        (
            [SMOKE, "--workdir={}/new", "--config.data.source={}/none"],
            "No such file or directory: '{}/none'",
        ),
        (
            [SMOKE, "--workdir={}/begun", "--config.data.cache_dir={}/cache"],
            "{}/begun holds a run with another config: seed (3, now 0). Give",
        ),
        (
            [SMOKE, "--workdir={}/file", "--config.data.cache_dir={}/cache"],
            "Not a directory: '{}/file",
        ),
        ([SMOKE], "Flag --workdir must have a value other than None."),
        ([SMOKE, "--wordir={}/new"], "Unknown command line flag 'wordir'."),
        ([SMOKE, "--workdir={}/new", "more"], "unexpected arguments: ['more']"),
        (
            [SMOKE, "--workdir={}/new", "--processes=2"],
            "--processes=2 needs --coordinator=HOST:PORT",
        ),
    ],
)
def test_wrong_use_is_told_in_one_line(train, folder, arguments, says):
    code, out, err = train(*(word.replace("{}", str(folder)) for word in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("train.py: ") and err.count("\n") == 1
    assert not err.startswith("train.py: train:")
    assert says.replace("{}", str(folder)) in err
    assert not (folder / "new").exists()
