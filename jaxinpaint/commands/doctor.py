"""The subcommand `doctor`: what is here, and what is not."""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jaxinpaint

GIBIBYTE = 2**30
DRIVER = Path("/proc/driver/nvidia/version")


class Need(NamedTuple):
    """A package that this one asks for.

    Attributes:
      name: of the distribution.
      least: version from which it works; "" for any.
      extra: that brings it; "" if it always comes.
    """

    name: str
    least: str
    extra: str


class Package(NamedTuple):
    """A package as it is here; `version` is "" where it is not."""

    name: str
    version: str
    least: str
    extra: str

    @property
    def state(self) -> str:
        """What is to be said of it."""
        if not self.version:
            return "not installed"
        old = self.least and _parts(self.version) < _parts(self.least)
        return f"too old, {self.least} or later is needed" if old else "ok"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `doctor` to its parser."""
    parser.epilog = (
        "Exit codes: 0 all that is always needed is here; 1 something is missing or "
        "too old, or no device can be used, each named."
    )
    parser.add_argument(
        "--json", action="store_true", help="the same for programs and bug reports"
    )


def run(parsed: argparse.Namespace) -> int:
    """Examines and prints; returns the exit code.

    Raises:
      OSError: a cache folder may not be read.
    """
    found = examine()
    if parsed.json:
        print(json.dumps(found, indent=1))
    else:
        for line in lines(found):
            print(line)
    return 1 if found["problems"] else 0


def examine() -> dict[str, Any]:
    """All that is told, as JSON's types."""
    here = [package(need) for need in needs()]
    devices, trouble = _devices()
    problems = [f"{p.name}: {p.state}" for p in here if not p.extra and p.state != "ok"]
    if not here:
        problems.append(
            "jaxinpaint is not installed as a package, so what it needs is not known; "
            "run `pip install .` in its folder"
        )
    problems += trouble
    return {
        "jaxinpaint": jaxinpaint.__version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "devices": devices,
        "packages": [{**p._asdict(), "state": p.state} for p in here],
        "caches": [cache(*one) for one in _caches()],
        "problems": problems,
        "hints": _hints(devices, here),
    }


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What `examine` found, for people."""
    yield f"jaxinpaint {found['jaxinpaint']}, Python {found['python']}"
    yield f"{found['platform']}, {found['cores']} cores"
    yield ""
    yield "devices"
    for one in found["devices"]:
        memory = one["memory_bytes"]
        told = f", {memory / GIBIBYTE:.1f} GiB" if memory else ""
        yield f"  {one['platform']}: {one['kind']}{told}"
    extras: dict[str, list[Mapping[str, Any]]] = {}
    for one in found["packages"]:
        extras.setdefault(one["extra"], []).append(one)
    for extra, packages in extras.items():
        yield ""
        brought = f"extra {extra}: pip install 'jaxinpaint[{extra}]'"
        yield brought if extra else "always needed"
        for one in packages:
            state = "" if one["state"] == "ok" else one["state"]
            told = f"  {one['name']:<26} {one['version']:<12} {state}"
            yield told.rstrip()
    yield ""
    yield "caches"
    for one in found["caches"]:
        place = f"{one['path']} ({one['set_by']})" if one["path"] else one["set_by"]
        size = f", {one['bytes'] / 1e6:.1f} MB" if one["exists"] else ""
        free = f", {one['free_bytes'] / 1e9:.1f} GB free" if one["path"] else ""
        write = "" if one["writable"] or not one["path"] else ", NOT writable"
        yield f"  {one['name']}: {place}{size}{free}{write}"
    for title in ("problems", "hints"):
        if found[title]:
            yield ""
            yield title
            yield from (f"  {line}" for line in found[title])


def needs() -> list[Need]:
    """What the installed package asks for, as its metadata tell it."""
    try:
        told = importlib.metadata.requires("jaxinpaint") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for text in told:
        name = re.match(r"[\w.-]+", text)
        extra = re.search(r"extra\s*==\s*[\"']([\w-]+)[\"']", text)
        least = re.search(r">=\s*([\w.]+)", text.partition(";")[0])
        if name is None or name[0] == "jaxinpaint":  # an extra of extras
            continue
        # jax[cuda13] is told by the devices: jax itself is always here.
        if extra and "[" in text.partition(";")[0]:
            continue
        found.append(
            Need(name[0], least[1] if least else "", extra[1] if extra else "")
        )
    return found


def package(need: Need) -> Package:
    """Looks a package up, without importing it."""
    try:
        version = importlib.metadata.version(need.name)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return Package(need.name, version, need.least, need.extra)


def cache(name: str, path: Path | None, set_by: str) -> dict[str, Any]:
    """A cache folder: whether it is there, its size, and whether it can be written."""
    if path is None:
        none = {"bytes": 0, "free_bytes": 0, "exists": False, "writable": False}
        return {"name": name, "path": "", "set_by": set_by, **none}
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    size = sum(f.lstat().st_size for f in path.rglob("*") if f.is_file())
    return {
        "name": name,
        "path": str(path),
        "set_by": set_by,
        "exists": path.is_dir(),
        "bytes": size,
        "free_bytes": shutil.disk_usage(there).free,
        "writable": os.access(there, os.W_OK),
    }


def _caches() -> Iterator[tuple[str, Path | None, str]]:
    from jaxinpaint.features import store  # imports jax

    own = next(
        (n for n in ("JAXINPAINT_HOME", "XDG_CACHE_HOME") if os.environ.get(n)), ""
    )
    yield "weights and decoded data", store.home(), own or "default"
    tfds = os.environ.get("TFDS_DATA_DIR")
    path = Path(tfds or Path.home() / "tensorflow_datasets")
    yield "prepared data", path, "TFDS_DATA_DIR" if tfds else "default"
    compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    yield (
        "compiled programs",
        Path(compiled) if compiled else None,
        "JAX_COMPILATION_CACHE_DIR"
        if compiled
        else "none; every process compiles anew unless JAX_COMPILATION_CACHE_DIR is set",
    )


def _devices() -> tuple[list[dict[str, Any]], list[str]]:
    """The devices that jax sees, and why it sees none."""
    try:
        import jax

        seen = jax.devices()
    except (ImportError, RuntimeError) as error:
        return [], [f"no device can be used: {' '.join(str(error).split())}"]
    found = []
    for one in seen:
        statistics = one.memory_stats() or {}
        found.append(
            {
                "platform": one.platform,
                "kind": one.device_kind,
                "memory_bytes": int(statistics.get("bytes_limit", 0)),
            }
        )
    return found, []


def _hints(devices: list[dict[str, Any]], here: list[Package]) -> list[str]:
    """What would help, and is no problem."""
    hints = []
    if DRIVER.exists() and all(one["platform"] == "cpu" for one in devices):
        hints.append(
            "an NVIDIA driver is here, but jax sees no GPU: pip install "
            "'jaxinpaint[cuda]'"
        )
    for one in here:
        if one.extra and one.version and one.state != "ok":
            hints.append(f"{one.name}: {one.state} for extra {one.extra}")
    return hints


def _parts(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with, to be compared."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(n) for n in found[0].split(".")) if found else ()
