"""`jaxinpaint doctor`: what it says of a machine that is made up."""

import importlib.metadata
import json
import tomllib
from pathlib import Path

import jax
import pytest

import jaxinpaint
from jaxinpaint import cli
from jaxinpaint.commands import doctor

ROOT = Path(__file__).parents[2]
TOLD = [
    "numpy>=2.1",
    "jax>=0.10.2",
    'jax[cuda13]; extra == "cuda"',
    'zarr<4,>=3.1; extra == "volume"',
    "nibabel>=5.3; extra == 'volume'",
    'torch>=2.6; extra == "parity"',
    'jaxinpaint[report]; extra == "test"',
]
HERE = {"numpy": "2.4.6", "jax": "0.9.1", "nibabel": "5.10.0", "torch": "2.5.9+cpu"}


@pytest.fixture
def machine(monkeypatch, tmp_path):
    def version(name):
        if name not in HERE:
            raise importlib.metadata.PackageNotFoundError(name)
        return HERE[name]

    monkeypatch.setattr(importlib.metadata, "requires", lambda name: TOLD)
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(doctor, "DRIVER", tmp_path / "driver")
    monkeypatch.setenv("JAXINPAINT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "weights").write_bytes(bytes(1000))
    return tmp_path


def test_packages_and_the_extra_that_brings_each(machine, capsys):
    assert cli.main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    packages = {p["name"]: (p["extra"], p["state"]) for p in found["packages"]}
    assert packages == {
        "numpy": ("", "ok"),
        "jax": ("", "too old, 0.10.2 or later is needed"),  # 9 is less than 10
        "zarr": ("volume", "not installed"),
        "nibabel": ("volume", "ok"),
        "torch": ("parity", "too old, 2.6 or later is needed"),
    }
    assert found["problems"] == ["jax: too old, 0.10.2 or later is needed"]
    assert found["hints"] == ["torch: too old, 2.6 or later is needed for extra parity"]
    assert found["jaxinpaint"] == jaxinpaint.__version__


def test_it_reads_well(machine, capsys):
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "extra volume: pip install 'jaxinpaint[volume]'" in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "zarr not installed" in lines and "numpy 2.4.6" in lines
    assert "cpu: cpu" in lines
    (weights,) = [line for line in lines if line.startswith("weights and decoded")]
    assert f"{machine / 'home'} (JAXINPAINT_HOME), 0.0 MB" in weights
    (compiled,) = [line for line in lines if line.startswith("compiled programs")]
    assert "unless JAX_COMPILATION_CACHE_DIR is set" in compiled


def test_caches(machine):
    found = {one["name"]: one for one in doctor.examine()["caches"]}
    home = found["weights and decoded data"]
    assert (home["exists"], home["bytes"], home["writable"]) == (True, 1000, True)
    prepared = found["prepared data"]
    assert (prepared["exists"], prepared["bytes"]) == (False, 0)
    assert prepared["path"] == str(machine / "tfds") and prepared["free_bytes"] > 0
    assert list(machine.iterdir()) == [machine / "home"]  # nothing was made


def test_no_device(machine, monkeypatch):
    def none():
        raise RuntimeError("Unable to initialize backend\n'cuda'")

    monkeypatch.setattr(jax, "devices", none)
    found = doctor.examine()
    assert found["devices"] == []
    text = "no device can be used: Unable to initialize backend 'cuda'"
    assert text in found["problems"]


def test_a_driver_that_jax_does_not_see(machine):
    (machine / "driver").write_text("NVIDIA")
    assert any("jaxinpaint[cuda]" in hint for hint in doctor.examine()["hints"])


def test_a_folder_that_was_not_installed(machine, monkeypatch):
    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", none)
    (problem,) = doctor.examine()["problems"]
    assert "run `pip install .`" in problem


def test_every_extra_of_the_project_is_told():
    """The metadata of the installed package against the file they come from."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = {need.extra for need in doctor.needs()} - {""}
    assert told == set(project["optional-dependencies"]) - {"cuda", "tpu"}
