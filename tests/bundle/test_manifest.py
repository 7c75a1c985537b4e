"""A bundle is what was written, or it is refused in one sentence."""

import hashlib
import json
import subprocess

import numpy as np
import pytest

from jaxinpaint.bundle import manifest
from jaxinpaint.bundle.load import load
from jaxinpaint.bundle.manifest import DamagedBundleError
from tests.bundle import toy


@pytest.fixture
def folder(tmp_path, monkeypatch):
    toy.accept(monkeypatch, mask=True, whole=False)
    toy.bundle(tmp_path / "toy")
    return tmp_path / "toy"


def test_every_file_has_its_digest(folder):
    model = json.loads((folder / "model.json").read_text())
    names = {path.name for path in folder.iterdir()} - {"model.json", "sha256sums"}
    assert set(model["files"]) == names
    for name, told in model["files"].items():
        content = (folder / name).read_bytes()
        assert told["sha256"] == hashlib.sha256(content).hexdigest()
        assert told["bytes"] == len(content)
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "sha256sums"], cwd=folder, capture_output=True
    )
    assert done.returncode == 0 and done.stdout.count(b": OK") == len(names) + 1


def refused(folder):
    with pytest.raises(DamagedBundleError) as raised:
        load(folder)
    text = str(raised.value)
    assert str(folder) in text and "get the bundle again" in text and "\n" not in text
    return text


@pytest.mark.parametrize("name", ["params.safetensors", "fill.jax_exported"])
def test_any_flipped_bit_cut_or_loss_is_refused(folder, name):
    path, content = folder / name, (folder / name).read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 20):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        assert f"{name} is damaged" in refused(folder)
    for short in (content[:-1], content[:7], b""):
        path.write_bytes(short)
        assert f"{name} is damaged ({len(short)} bytes" in refused(folder)
    path.unlink()
    assert f"{name} is missing" in refused(folder)
    path.write_bytes(content)
    load(folder)


def test_any_flipped_bit_of_the_model_is_refused_or_harmless(folder):
    path, content = folder / "model.json", (folder / "model.json").read_bytes()
    want = json.loads(content)
    rng = np.random.default_rng(1)
    harmless = 0
    for place in rng.integers(0, len(content), 200):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            found = manifest.read_model(folder)
        except DamagedBundleError:
            continue
        harmless += 1  # a space of the layout
        assert {**found, "sha256": want["sha256"]} == want
    assert harmless < 40


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", "[" * 100_000, '{"sha256": 1}']
)
def test_a_model_that_is_none_is_refused(folder, text):
    (folder / "model.json").write_text(text)
    refused(folder)


def rewrite(folder, **changes):
    """Writes another model.json, whose own digest is right."""
    model = {**json.loads((folder / "model.json").read_text()), **changes}
    model.pop("sha256")
    text = json.dumps(model, sort_keys=True).encode()
    model["sha256"] = hashlib.sha256(text).hexdigest()
    (folder / "model.json").write_text(json.dumps(model))
    return model


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/b", "..", ".hidden"])
def test_no_file_outside_the_folder_is_read(folder, name):
    content = b"secret"
    (folder.parent / "secret").write_bytes(content)
    told = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    rewrite(folder, files={name: told})
    refused(folder)


def test_a_program_that_has_no_file_is_refused(folder):
    model = json.loads((folder / "model.json").read_text())
    rewrite(folder, programs=[{**model["programs"][0], "file": "other"}])
    refused(folder)


def test_a_program_that_this_jax_cannot_read_says_so(folder):
    content = b"of another age"
    (folder / "fill.jax_exported").write_bytes(content)
    told = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    files = json.loads((folder / "model.json").read_text())["files"]
    rewrite(folder, files={**files, "fill.jax_exported": told})
    with pytest.raises(ValueError, match="fill.jax_exported cannot be read by jax"):
        load(folder)


def test_a_later_format_says_so(folder):
    rewrite(folder, version=2)
    with pytest.raises(ValueError, match="is of format 2, and this version") as raised:
        load(folder)
    assert not isinstance(raised.value, DamagedBundleError)


def test_another_machine_than_it_was_exported_for(folder):
    rewrite(folder, platforms=["tpu", "cuda"])
    with pytest.raises(ValueError, match="exported for tpu, cuda, and jax runs on cpu"):
        load(folder)


def test_no_bundle_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no bundle .no model.json."):
        load(tmp_path)
