"""`model.json` of a bundle: what it holds, and the digests of all its files.

A bundle is a folder:

    model.json                the facts below, and the digest of every other file
    params.safetensors        float32 arrays, named by the path of their leaf
    fill.jax_exported         StableHLO by `jax.export`, one file for each program
    README.md                 a card for people
    sha256sums                for `sha256sum -c`

A program is a function of (variables, inputs): what params.safetensors holds, as a flat
dict, and a dict of float32 arrays [B, H, W, C] in [-1, 1], masks of 0 and 1.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = "jaxinpaint bundle"
VERSION = 1
MODEL, PARAMS, CARD, SUMS = (
    "model.json",
    "params.safetensors",
    "README.md",
    "sha256sums",
)
# What the reader relies on.
KEYS = frozenset(
    ("system", "image", "mask", "inputs", "outputs", "stride", "programs", "files")
)
_PLAIN = re.compile(r"[A-Za-z0-9][\w.-]{0,127}")
_MOST_JSON = 64 << 20  # bytes


class DamagedBundleError(ValueError):
    """A bundle that is incomplete, or differs from what was written."""


def write(
    folder: Path, facts: Mapping[str, Any], contents: Mapping[str, bytes]
) -> None:
    """Writes a bundle, `model.json` last.

    Args:
      folder: empty.
      facts: JSON values; `format`, `version`, `files` and `sha256` are added.
      contents: bytes of every other file, by its plain name.
    """
    files = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in contents.items()
    }
    model = {"format": FORMAT, "version": VERSION, **facts, "files": files}
    text = json.dumps({**model, "sha256": _digest(model)}, indent=1, allow_nan=False)
    whole = {**contents, MODEL: (text + "\n").encode()}
    sums = (f"{hashlib.sha256(c).hexdigest()}  {n}\n" for n, c in sorted(whole.items()))
    for name, content in {**contents, SUMS: "".join(sums).encode()}.items():
        (folder / name).write_bytes(content)
    (folder / MODEL).write_bytes(whole[MODEL])


def read(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Reads a bundle and compares every file with its digest.

    Args:
      folder: that `write` filled.

    Returns:
      The content of `model.json`, and the bytes of every other file by its name.

    Raises:
      FileNotFoundError: the folder holds no `model.json`.
      DamagedBundleError: a file is missing, or is not what was written.
      ValueError: a bundle of a later format.
    """
    model = read_model(folder)
    contents = {}
    for name, told in model["files"].items():
        try:
            content = (folder / name).read_bytes()
        except FileNotFoundError as error:
            raise DamagedBundleError(
                f"{folder}: {name} is missing; get the bundle again."
            ) from error
        if hashlib.sha256(content).hexdigest() != told["sha256"]:
            raise DamagedBundleError(
                f"{folder}: {name} is damaged ({len(content)} bytes of "
                f"{told['bytes']}, and another SHA-256 than model.json says); get the "
                "bundle again."
            )
        contents[name] = content
    return model, contents


def read_model(folder: Path) -> dict[str, Any]:
    """Reads `model.json` alone, verified by its own digest.

    Raises:
      FileNotFoundError: the folder holds none.
      DamagedBundleError: it is not what was written.
      ValueError: it is of a later format.
    """
    path = folder / MODEL
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no bundle (no {MODEL}); name a folder that `jaxinpaint "
            "export` wrote."
        )
    damaged = DamagedBundleError(f"{path} is damaged; get the bundle again.")
    if os.path.getsize(path) > _MOST_JSON:
        raise damaged
    try:
        model = json.loads(path.read_bytes())
        told = model.pop("sha256")
        version = model["version"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged from error
    if told != _digest(model) or model.get("format") != FORMAT:
        raise damaged
    if version != VERSION:
        raise ValueError(
            f"{path} is of format {version}, and this version of jaxinpaint reads "
            f"{VERSION}; install a newer one, or export the run again."
        )
    if not KEYS <= model.keys() or not all(map(_PLAIN.fullmatch, model["files"])):
        raise damaged
    return model


def _digest(model: Mapping[str, Any]) -> str:
    text = json.dumps(model, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
