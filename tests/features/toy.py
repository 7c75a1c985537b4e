"""A small network with a public file of its own, for tests of the store."""

import hashlib
import json
import pathlib
import struct

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.features import registry
from jaxinpaint.features.convert import Layer

ROOT = pathlib.Path(__file__).parents[2]
IMAGE = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
LAYERS = (
    Layer("features.0", "conv1", "conv"),
    Layer("features.1", "norm1", "batch_norm"),
    Layer("features.3", "conv2", "conv"),
    Layer("head", "head", "linear"),
)
SHAPES = {  # in the public file
    "features.0.weight": (4, 3, 3, 3),
    "features.0.bias": (4,),
    "features.1.weight": (4,),
    "features.1.bias": (4,),
    "features.1.running_mean": (4,),
    "features.1.running_var": (4,),
    "features.3.weight": (5, 4, 1, 1),
    "head.weight": (2, 5),
    "head.bias": (2,),
}


class Toy(nn.Module):
    taps: tuple[str, ...]
    width: int = 4

    @nn.compact
    def __call__(self, image):
        x = nn.Conv(self.width, (3, 3), name="conv1")(image)
        found = {"norm1": nn.BatchNorm(True, name="norm1")(x)}
        if self.taps != ("norm1",):
            x = nn.Conv(5, (1, 1), use_bias=False, name="conv2")(found["norm1"])
            found["logits"] = nn.Dense(2, name="head")(x.mean((1, 2)))
        return {tap: found[tap] for tap in self.taps}


def tensors(seed=0):
    bits = np.random.default_rng(seed)
    return {
        name: bits.uniform(0.1, 1, shape).astype(np.float32)
        for name, shape in SHAPES.items()
    }


def write_safetensors(path, arrays):
    """The published format, by hand: header length, JSON header, raw data."""
    header, data = {}, b""
    for name, array in arrays.items():
        raw = array.astype("<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def entry(**changes):
    toy = registry.Entry(
        what="a toy",
        uses=("tests",),
        file="toy.safetensors",
        urls=("http://127.0.0.1:9/toy.safetensors",),
        size=None,
        sha256=None,
        licence="none",
        layers=lambda names: LAYERS,
        ignored=(),
        shapes=lambda: jax.eval_shape(Toy(("logits",)).init, jax.random.key(0), IMAGE),
    )
    return toy._replace(**changes)


def furnish(monkeypatch, tmp_path, **changes):
    """A registry with the toy alone, its published file, and a home of its own."""
    file = write_safetensors(tmp_path / "toy.safetensors", tensors())
    changes = {"sha256": sha256(file), **changes}
    monkeypatch.setattr(registry, "WEIGHTS", {"toy": entry(**changes)})
    monkeypatch.setenv("JAXINPAINT_HOME", str(tmp_path / "home"))
    return file
