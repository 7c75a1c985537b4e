"""What a saved step holds, leaf by leaf: written beside it, checked on reading.

A manifest is JSON: {"content": {"step", "meta", "metrics", "leaves"}, "digest"}, where
`leaves` maps the path of each leaf ("variables/generator/params/conv/kernel") to its
dtype, shape and SHA-256, and `digest` is the SHA-256 of the content itself.
"""

import contextlib
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.core.system import Tree

Leaves = Mapping[str, np.ndarray]  # path -> array
Table = dict[str, dict[str, Any]]  # path -> dtype, shape, digest

_SHOWN = 20  # paths listed in one message
# Words by which the storage layer reports a fault of the machine, not of the files.
_NOT_THE_FILES = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAVAILABLE")


class DamagedCheckpointError(ValueError):
    """A step on disk that cannot be read, or differs from what was saved."""


def by_path(tree: Tree) -> dict[str, Any]:
    """Names every leaf by the keys that lead to it, joined by slashes."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    keystr = jax.tree_util.keystr
    named = {keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    assert len(named) == len(leaves), "two leaves share one path"
    return named


def tree_digest(tree: Tree) -> str:
    """SHA-256 over the paths and bytes of all leaves, in the tree's order."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def listed(words: Sequence[str]) -> str:
    """Joins words for a message and cuts a long list."""
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more


def copy_to_host(where: str, state: Tree) -> dict[str, np.ndarray]:
    """Copies every leaf to the host, by path; refuses what must not be saved.

    Copies, because on CPU a view would show what the next step writes into the
    donated buffers.

    Args:
      where: the caller, for the message.
      state: tree of `jax.Array`; with several processes, replicated over them all.

    Raises:
      ValueError: a leaf is no such array, or holds NaN or infinity.
    """
    here = {}
    for path, leaf in by_path(state).items():
        if not isinstance(leaf, jax.Array) or not isinstance(leaf.dtype, np.dtype):
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise ValueError(
                f"{where}: {path} is {kind}, not a jax.Array of numbers; put host "
                "values and PRNG seeds into meta."
            )
        if jax.process_count() == 1:
            here[path] = leaf
        elif leaf.is_fully_replicated and not leaf.is_fully_addressable:
            here[path] = leaf.addressable_data(0)
        else:
            raise ValueError(
                f"{where}: {path} is not replicated over all processes; place the "
                "whole state with one replicated NamedSharding."
            )
    fetched = jax.device_get(list(here.values()))  # all transfers at once
    host = dict(zip(here, _in_threads(np.array, fetched), strict=True))
    finite = _in_threads(_is_finite, host.values())
    bad = [path for path, ok in zip(host, finite, strict=True) if not ok]
    if bad:
        raise ValueError(
            f"{where}: NaN or infinity in {listed(bad)}; nothing was saved. Go back to "
            "the last checkpoint."
        )
    return host


def leaf_table(leaves: Leaves) -> Table:
    """Dtype, shape and digest of every leaf; what `read` and the next save compare."""
    return dict(zip(leaves, _in_threads(_facts, leaves.values()), strict=True))


def make(
    where: str,
    step: int,
    meta: Mapping[str, Any],
    metrics: Mapping[str, float],
    leaves: Table,
) -> dict[str, Any]:
    """Makes a manifest.

    Raises:
      ValueError: `meta` holds something that JSON cannot, NaN included.
    """
    content = {
        "step": step,
        "meta": dict(meta),
        "metrics": {k: v if math.isfinite(v) else None for k, v in metrics.items()},
        "leaves": leaves,
    }
    try:
        return {"content": content, "digest": _digest(content)}
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: meta must hold finite JSON values alone, got {error}; store "
            "arrays in the state."
        ) from error


def read(file: pathlib.Path, step: int) -> dict[str, Any]:
    """Reads the content of the manifest of one step.

    Raises:
      DamagedCheckpointError: unreadable, of another step, or not what was written.
    """
    with damage_of(file):
        manifest = json.loads(file.read_bytes())
        content = manifest["content"]
        if manifest["digest"] != _digest(content) or content["step"] != step:
            raise DamagedCheckpointError(f"{file}: differs from what was saved.")
    return content


def differences(saved: Table, asked: Mapping[str, Any]) -> list[str]:
    """Says where a saved table differs from the leaves of a template, path by path.

    Args:
      saved: as `leaf_table` gives.
      asked: path to anything that has a shape and a dtype.

    Returns:
      One clause for each leaf that is missing, one too many, or of another shape or
      dtype; none where they agree.
    """
    wrong = []
    for path in sorted(saved.keys() | asked.keys()):
        if path not in asked:
            wrong.append(f"{path} (in the checkpoint alone)")
        elif path not in saved:
            wrong.append(f"{path} (not in the checkpoint)")
        else:
            have = f"{saved[path]['dtype']}{saved[path]['shape']}"
            want = f"{asked[path].dtype}{list(asked[path].shape)}"
            if have != want:
                wrong.append(f"{path} (saved {have}, asked for {want})")
    return wrong


def refuse_mismatch(where: str, saved: Table, asked: Mapping[str, Any]) -> None:
    """Compares a saved table with the leaves of a template, before any is loaded.

    Raises:
      ValueError: a leaf is missing or one too many, or a shape or dtype differs.
    """
    wrong = differences(saved, asked)
    if wrong:
        raise ValueError(
            f"{where} does not fit the model asked for at {listed(wrong)}; use the "
            "config that it was trained with, or another checkpoint."
        )


def refuse_damage(where: str, saved: Table, got: Leaves) -> None:
    """Compares leaves that were read with the table that was saved with them.

    Raises:
      DamagedCheckpointError: they differ; names the paths.
    """
    found = leaf_table(got)
    wrong = [path for path in saved if found.get(path) != saved[path]]
    if wrong:
        raise DamagedCheckpointError(
            f"{where}: the digest differs from the saved one at {listed(wrong)}."
        )


@contextlib.contextmanager
def damage_of(where: object) -> Iterator[None]:
    """Turns whatever goes wrong while reading into `DamagedCheckpointError`.

    Except what tells of the machine instead: memory, permission, open files.
    """
    try:
        yield
    except (DamagedCheckpointError, MemoryError, PermissionError):
        raise
    except Exception as error:
        if any(word in str(error) for word in _NOT_THE_FILES):
            raise
        raise DamagedCheckpointError(
            f"{where}: cannot be read ({reason(error)})."
        ) from error


def reason(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def _facts(array: np.ndarray) -> dict[str, Any]:
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "sha256": hashlib.sha256(flat.data).hexdigest(),
    }


def _is_finite(array: np.ndarray) -> bool:
    inexact = jnp.issubdtype(array.dtype, jnp.inexact)
    return not inexact or bool(np.isfinite(array).all())


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _in_threads(function: Callable, items: Iterable) -> list:
    # Copying, hashing and comparing release the interpreter's lock.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))
