import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.core import arrays
from jaxinpaint.core.manifest import DamagedCheckpointError
from jaxinpaint.features import densenet, registry, store
from jaxinpaint.features.convert import foreign
from jaxinpaint.features.load import ForeignFileError
from jaxinpaint.features.normalization import IMAGENET
from jaxinpaint.metrics.lpips import LinearWeights
from tests.features import toy
from tests.features.toy import IMAGE, Toy

WHOLE = Toy(("logits",))


@pytest.fixture
def file(monkeypatch, tmp_path):
    return toy.furnish(monkeypatch, tmp_path)


def take(file, name="toy", replace=False, unverified=False):
    return store.import_file(file, name, replace=replace, unverified=unverified)


def everything_below(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def test_the_whole_network_comes_back_bit_for_bit(file):
    take(file)
    got = store.load("toy", "imported", WHOLE, IMAGE)
    assert (got.name, got.sha256) == ("toy", toy.sha256(file))
    assert set(got.variables) == {"params", "batch_stats"}
    params, stats = got.variables["params"], got.variables["batch_stats"]
    given = toy.tensors()
    # Element by element: ours is HWIO and IO, torch has OIHW and OI.
    for o in range(4):
        for i in range(3):
            for y in range(3):
                for x in range(3):
                    want = given["features.0.weight"][o, i, y, x]
                    assert params["conv1"]["kernel"][y, x, i, o] == want
    np.testing.assert_array_equal(params["head"]["kernel"], given["head.weight"].T)
    np.testing.assert_array_equal(
        stats["norm1"]["var"], given["features.1.running_var"]
    )
    assert set(params["conv2"]) == {"kernel"}
    answer = WHOLE.apply(got.variables, jnp.ones(IMAGE.shape))["logits"]
    assert answer.shape == (1, 2)
    assert np.isfinite(answer).all()


def test_a_truncated_network_reads_its_own_part_alone(file):
    take(file)
    short = Toy(("norm1",))
    part = store.load("toy", "imported", short, IMAGE).variables
    whole = store.load("toy", "imported", WHOLE, IMAGE).variables
    assert set(part["params"]) == {"conv1", "norm1"}
    jax.tree.map(
        np.testing.assert_array_equal, part["params"]["conv1"], whole["params"]["conv1"]
    )
    short.apply(part, jnp.ones(IMAGE.shape))


def test_the_manifest_tells_where_the_weights_are_from(file, tmp_path):
    record = take(file)
    assert record == store.record_of("toy")
    content = json.loads((tmp_path / "home/weights/toy/manifest.json").read_text())
    meta = content["content"]["meta"]
    assert meta["file"] == "toy.safetensors"
    assert meta["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert meta["verified"] is True
    table = json.dumps([list(layer) for layer in toy.LAYERS], sort_keys=True)
    assert meta["layers"] == hashlib.sha256(table.encode()).hexdigest()
    assert set(meta) == set(store.Record._fields)
    assert len(content["content"]["leaves"]) == len(toy.SHAPES)


def test_missing_weights_name_the_commands(file):
    with pytest.raises(store.MissingWeightsError) as caught:
        store.load("toy", "imported", WHOLE, IMAGE)
    text = str(caught.value)
    assert "jaxinpaint weights import FILE --as toy" in text
    assert "random:0" in text
    assert "toy.safetensors" in text
    assert "\n" not in text
    assert isinstance(caught.value, FileNotFoundError)
    assert store.record_of("toy") is None


@pytest.mark.parametrize(
    "name", ["../toy", "/etc", "toy/../toy", "", ".", "a\0b", "x" * 999]
)
def test_only_names_of_the_registry_become_paths(file, tmp_path, name):
    before = everything_below(tmp_path)
    for act in (
        lambda: take(file, name),
        lambda: store.load(name, "imported", WHOLE, IMAGE),
        lambda: store.verify(name),
        lambda: store.record_of(name),
    ):
        with pytest.raises(ValueError, match="There are no weights"):
            act()
    assert everything_below(tmp_path).keys() - before.keys() <= {
        "home",
        "home/weights",
        "home/weights/import.lock",
    }


def test_another_file_than_the_published_one_is_refused(file, tmp_path):
    other = toy.write_safetensors(tmp_path / "other", toy.tensors(seed=1))
    with pytest.raises(
        ValueError, match="is not the published toy.safetensors"
    ) as caught:
        take(other)
    assert toy.sha256(other) in str(caught.value)
    assert "--unverified" in str(caught.value)
    assert store.record_of("toy") is None


def test_an_unverified_file_is_named_for_good(file, tmp_path, caplog):
    other = toy.write_safetensors(tmp_path / "other", toy.tensors(seed=1))
    assert take(other, unverified=True).verified is False
    assert store.verify("toy").verified is False
    got = store.load("toy", "imported", WHOLE, IMAGE)
    assert got.sha256 == toy.sha256(other)
    assert "which is not the published file" in caplog.text
    # The published file is verified even where nobody asks.
    assert take(file, replace=True, unverified=True).verified is True


@pytest.mark.parametrize("digits", [8, 64])
def test_a_prefix_of_the_digest_is_compared_too(monkeypatch, tmp_path, digits):
    file = toy.furnish(monkeypatch, tmp_path)
    published = toy.sha256(file)[:digits]
    toy.furnish(monkeypatch, tmp_path, sha256=published)
    assert take(file).verified
    wrong = ("0" if published[0] != "0" else "1") + published[1:]
    toy.furnish(monkeypatch, tmp_path, sha256=wrong)
    with pytest.raises(ValueError, match="not the published"):
        take(file, replace=True)


def test_a_file_without_a_published_digest_needs_trust(monkeypatch, tmp_path):
    file = toy.furnish(monkeypatch, tmp_path, sha256=None)
    with pytest.raises(ValueError, match="no SHA-256 of toy.safetensors is published"):
        take(file)
    assert take(file, unverified=True).verified is False


def test_the_file_of_other_weights_is_recognised(file, tmp_path):
    other = toy.write_safetensors(tmp_path / "other", toy.tensors(seed=1))
    registry.WEIGHTS["neighbour"] = toy.entry(sha256=toy.sha256(other))
    with pytest.raises(ValueError, match="that of neighbour"):
        take(other)


def spoiled(change):
    given = toy.tensors()
    change(given)
    return given


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("head.weight"), ["missing", "head.weight"]),
        (lambda t: t.update(extra=np.ones(3)), ["unused", "extra"]),
        (
            lambda t: t.update({"features.3.weight": np.ones((6, 4, 1, 1))}),
            ["params/conv2/kernel", "[1, 1, 4, 6]", "[1, 1, 4, 5]"],
        ),
        (lambda t: t.pop("features.0.bias"), ["params/conv1/bias"]),
        (
            lambda t: t.update({"features.3.bias": np.ones(5)}),
            ["params/conv2/bias"],
        ),
        (
            lambda t: t.update({"head.bias": np.float32([1, np.nan])}),
            ["NaN", "params/head/bias"],
        ),
    ],
)
def test_the_file_of_another_network_is_refused(file, tmp_path, change, words):
    other = toy.write_safetensors(tmp_path / "other", spoiled(change))
    with pytest.raises(ValueError) as caught:
        take(other, unverified=True)
    for word in [str(other), *words]:
        assert word in str(caught.value)
    assert store.record_of("toy") is None


def test_what_is_no_weight_file_is_refused(file, tmp_path):
    text = tmp_path / "page.html"
    text.write_text("<html>404</html>")
    with pytest.raises(ForeignFileError):
        take(text, unverified=True)
    with pytest.raises(FileNotFoundError):
        take(tmp_path / "absent")


def test_a_second_import_has_to_be_asked_for(file):
    take(file)
    with pytest.raises(ValueError, match="--replace"):
        take(file)
    take(file, replace=True)
    store.verify("toy")


def bits_of(folder):
    """Every file below, with a byte in its middle; empty ones have none."""
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size]


def test_a_flipped_bit_is_found_wherever_it_is(file, tmp_path):
    take(file)
    folder = tmp_path / "home/weights/toy"
    want = store.load("toy", "imported", WHOLE, IMAGE).variables
    found = 0
    bits = np.random.default_rng(0)
    for path in bits_of(folder):
        good = path.read_bytes()
        for _ in range(4):
            bad = bytearray(good)
            bad[bits.integers(len(bad))] ^= 1 << bits.integers(8)
            path.write_bytes(bad)
            try:
                store.verify("toy")
            except DamagedCheckpointError as error:
                found += 1
                assert "weights import FILE --as toy --replace" in str(error)
                continue
            got = store.load("toy", "imported", WHOLE, IMAGE).variables
            jax.tree.map(np.testing.assert_array_equal, got, want)
        path.write_bytes(good)
    assert found >= 4  # the rest was proven harmless
    store.verify("toy")


def test_a_flipped_weight_is_never_loaded(file, tmp_path):
    take(file)
    state = tmp_path / "home/weights/toy/state"
    table = json.loads((state.parent / "manifest.json").read_text())["content"]
    leaves = arrays.read(
        state,
        {
            path: jax.ShapeDtypeStruct(facts["shape"], facts["dtype"])
            for path, facts in table["leaves"].items()
        },
        partial=False,
    )
    one = leaves["params/conv1/bias"].copy()
    one.view(np.uint32)[2] ^= 1  # the last bit of one weight
    shutil.rmtree(state)
    arrays.write(state, {**leaves, "params/conv1/bias": one})
    for act in (
        lambda: store.verify("toy"),
        lambda: store.load("toy", "imported", WHOLE, IMAGE),
    ):
        with pytest.raises(DamagedCheckpointError, match="params/conv1/bias"):
            act()


@pytest.mark.parametrize("part", ["manifest.json", "state"])
def test_what_was_removed_by_hand_is_damage(file, tmp_path, part):
    take(file)
    path = tmp_path / "home/weights/toy" / part
    path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(DamagedCheckpointError, match="--replace"):
        store.load("toy", "imported", WHOLE, IMAGE)
    take(file, replace=True)
    store.verify("toy")


def test_a_network_with_other_leaves_is_refused(file):
    take(file)
    with pytest.raises(ValueError, match=r"params/conv1/kernel .*asked for"):
        store.load("toy", "imported", Toy(("logits",), width=6), IMAGE)


def test_random_weights_depend_on_the_seed_alone_and_are_announced(file, caplog):
    first = store.load("toy", "random:3", WHOLE, IMAGE)
    assert "toy: random weights (random:3)" in caplog.text
    wider = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    third = store.load("toy", "random:3", WHOLE, wider)
    other = store.load("toy", "random:4", WHOLE, IMAGE)
    jax.tree.map(np.testing.assert_array_equal, first.variables, third.variables)
    assert first.sha256 == third.sha256 != other.sha256
    assert first.name == "toy random:3"
    assert np.ptp(first.variables["params"]["conv1"]["kernel"]) > 0
    assert not store.home().exists()


@pytest.mark.parametrize(
    "source", ["", "random", "random:", "random:-1", "random:x", "none"]
)
def test_there_is_no_other_source(file, source):
    with pytest.raises(ValueError, match="'imported' or 'random:SEED'"):
        store.load("toy", source, WHOLE, IMAGE)


@pytest.mark.parametrize(
    ("own", "cache", "want"),
    [
        ("/a/b", "/c", "/a/b"),
        ("", "/c", "/c/jaxinpaint"),
        ("", "", "/h/.cache/jaxinpaint"),
        ("", "relative", "/h/.cache/jaxinpaint"),
        ("~/x", "/c", "/h/x"),
    ],
)
def test_home(monkeypatch, own, cache, want):
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setenv("JAXINPAINT_HOME", own)
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    assert store.home() == pathlib.Path(want)


def test_nothing_is_written_outside_home(file, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.chdir(temporary)
    before = everything_below(tmp_path)
    take(file)
    take(file, replace=True)
    store.verify("toy")
    after = everything_below(tmp_path)
    new = {path for path in after.keys() - before.keys()}
    assert {path.split("/")[0] for path in new} == {"home"}
    assert {k: after[k] for k in before} == before
    assert sorted(os.listdir(tmp_path / "home/weights")) == ["import.lock", "toy"]


def test_a_link_in_the_store_is_replaced_not_followed(file, tmp_path):
    take(file)
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "home/weights/toy").rename(elsewhere)
    (tmp_path / "home/weights/toy").symlink_to(elsewhere)
    before = everything_below(elsewhere)
    take(file, replace=True)
    assert everything_below(elsewhere) == before
    assert not (tmp_path / "home/weights/toy").is_symlink()


def test_a_link_to_nothing_is_replaced(file, tmp_path):
    (tmp_path / "home/weights").mkdir(parents=True)
    (tmp_path / "home/weights/toy").symlink_to(tmp_path / "absent")
    take(file)
    store.verify("toy")


def test_a_failed_import_leaves_the_old_weights(file, tmp_path, monkeypatch):
    take(file)
    before = everything_below(tmp_path / "home")

    def full(directory, arrays):
        directory.mkdir()
        (directory / "half").write_bytes(b"x")
        raise OSError("No space left on device")

    monkeypatch.setattr(arrays, "write", full)
    with pytest.raises(OSError, match="No space"):
        take(file, replace=True)
    assert everything_below(tmp_path / "home") == before


KILLED = """
import os, signal, sys
from jaxinpaint.core import arrays
from jaxinpaint.features import registry, store
from tests.features import toy
registry.WEIGHTS = {"toy": toy.entry(sha256=toy.sha256(toy.pathlib.Path(sys.argv[1])))}
done = arrays.write
def write(directory, leaves):
    done(directory, leaves)
    os.kill(os.getpid(), signal.SIGKILL)
arrays.write = write
store.import_file(sys.argv[1], "toy", replace=True, unverified=False)
"""


def test_a_killed_import_leaves_nothing_listed_and_is_cleaned(file, tmp_path):
    ended = subprocess.run([sys.executable, "-c", KILLED, str(file)], cwd=toy.ROOT)
    assert ended.returncode == -signal.SIGKILL
    assert store.record_of("toy") is None
    weights = tmp_path / "home/weights"
    assert [p for p in weights.iterdir() if p.name.startswith(".import-")]
    take(file)
    assert sorted(os.listdir(weights)) == ["import.lock", "toy"]


def test_two_imports_at_once_are_refused(file, tmp_path):
    with store._importing(), pytest.raises(ValueError, match="is running"):
        take(file)
    take(file)


def test_densenet_from_a_torch_file(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("JAXINPAINT_HOME", str(tmp_path))
    entry = registry.WEIGHTS["densenet121"]
    bits = np.random.default_rng(0)
    whole = entry.shapes()
    ours = jax.tree.map(lambda x: bits.random(x.shape, np.float32), whole)
    # In the public file's spelling, counters and all.
    table = densenet.DENSENET121_FILE_LAYERS
    given = {k: torch.from_numpy(v) for k, v in foreign(ours, table).items()}
    for layer in table:
        if layer.kind == "batch_norm":
            given[f"{layer.foreign}.num_batches_tracked"] = torch.tensor(7)
    assert "features.denseblock1.denselayer1.norm.1.weight" in given
    torch.save(given, tmp_path / "file.pth")
    store.import_file(
        tmp_path / "file.pth", "densenet121", replace=False, unverified=True
    )
    network = densenet.DenseNet(
        densenet.DENSENET121, ("conv1_relu", "pool2_conv"), IMAGENET, jnp.float32
    )
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    got = store.load("densenet121", "imported", network, image).variables
    kernel = got["params"]["pool2"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, ours["params"]["pool2"]["conv"]["kernel"])
    assert kernel.shape == (1, 1, 256, 128)
    assert "fc1000" not in got["params"]


def test_linear_layers_of_lpips(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXINPAINT_HOME", str(tmp_path))
    widths = (64, 192, 384, 256, 256)
    bits = np.random.default_rng(0)
    given = {
        f"lin{i}.model.1.weight": bits.random((1, width, 1, 1), np.float32)
        for i, width in enumerate(widths)
    }
    public = toy.write_safetensors(tmp_path / "alex", given)
    store.import_file(public, "lpips_alex", replace=False, unverified=True)
    linear = LinearWeights(registry.ALEXNET_CHANNELS)
    got = store.load("lpips_alex", "imported", linear, IMAGE).variables
    layers = linear.apply(got, jnp.zeros(IMAGE.shape))
    for layer, array in zip(layers, given.values(), strict=True):
        np.testing.assert_array_equal(layer, array.reshape(-1))
    drawn = store.load("lpips_alex", "random:0", linear, IMAGE).variables
    assert jax.tree.structure(drawn) == jax.tree.structure(got)
