"""What a workdir says about its run: config, command, machine."""

import importlib.metadata
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
FREE = ("steps", "data.threads", "data.cache_dir")
FREE_GROUPS = ("train.", "eval.")


def open_workdir(workdir: Path, config: ConfigDict) -> None:
    """Begins a workdir, or checks that it holds this run.

    Longer runs and other intervals of logging, saving and scoring are no difference.

    Raises:
      ValueError: it holds a run whose config differs elsewhere; names the keys.
    """
    path = workdir / "config.json"
    if path.exists() and (workdir / "checkpoints").exists():
        changes = {
            name: change
            for name, change in differences(path, config).items()
            if name not in FREE and not name.startswith(FREE_GROUPS)
        }
        refuse(workdir, changes)
    if jax.process_index() > 0:
        return
    (workdir / "images").mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(to_json(config), indent=2))
    write_atomically(workdir / "environment.json", json.dumps(environment(), indent=2))
    write_atomically(workdir / "command.txt", shlex.join(sys.argv) + "\n")


def check_same_model(workdir: Path, config: ConfigDict, keys: tuple[str, ...]) -> None:
    """Checks that a config describes the model that a workdir holds.

    Args:
      workdir: of a run.
      config: asked for.
      keys: what makes the model, as beginnings of dotted keys.

    Raises:
      FileNotFoundError: no run was begun there.
      ValueError: it is another model; names the keys.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{workdir} holds no run; train first with --workdir={workdir}."
        )
    changes = differences(path, config)
    refuse(workdir, {k: v for k, v in changes.items() if k.startswith(keys)})


def differences(path: Path, config: ConfigDict) -> dict[str, str]:
    """What a config changes against a saved one, by dotted key."""
    old, new = dict(flat(json.loads(path.read_text()))), dict(flat(to_json(config)))
    return {
        name: f"{name} ({old.get(name)!r}, now {new.get(name)!r})"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }


def refuse(workdir: Path, changes: dict[str, str]) -> None:
    """Refuses another config than the run's.

    Raises:
      ValueError: there are changes.
    """
    if changes:
        raise ValueError(
            f"{workdir} holds a run with another config: {', '.join(changes.values())}."
            " Give another --workdir, or the config it was begun with."
        )


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts with their dotted names."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The config as plain JSON values."""
    return json.loads(config.to_json_best_effort())


def write_atomically(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.chmod(name, 0o644)
    os.replace(name, path)


def environment() -> dict[str, Any]:
    """Versions, devices and machine of this process."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cpu_count": os.cpu_count(),
        "devices": [f"{d.platform}:{d.device_kind}" for d in jax.devices()],
        "processes": jax.process_count(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
