"""Opens a bundle: verified arrays, and pure functions of them."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax import export

from jaxinpaint.bundle import manifest
from jaxinpaint.bundle.manifest import DamagedBundleError

Arrays = Mapping[str, jax.Array]
_PLATFORMS = {
    "gpu": ("cuda", "rocm")
}  # jax's backend, and what programs are lowered for


class Program(NamedTuple):
    """A function that was exported, and what it may be called with.

    Attributes:
      inputs: names of the arrays that it takes.
      batch: how many images it takes; None for any number.
      height: of those images; None for any that fits the stride.
      width: likewise.
      call: (variables, inputs) -> outputs; pure, compiled once a shape.
    """

    inputs: Sequence[str]
    batch: int | None
    height: int | None
    width: int | None
    call: Callable[[Arrays, Arrays], Arrays]


class Bundle(NamedTuple):
    """A restored system: what it is, its numbers, its functions.

    Attributes:
      model: the content of `model.json`.
      variables: float32 arrays, by the path of their leaf.
      programs: smallest images first.
    """

    model: Mapping[str, Any]
    variables: Arrays
    programs: Sequence[Program]


def load(directory: str | os.PathLike) -> Bundle:
    """Opens what `jaxinpaint export` wrote, on this machine's first device.

    Neither flax nor the code of the system is needed. Digests tell damage, not who wrote
    a bundle: its programs are run, so take bundles from people you trust.

    Args:
      directory: of the bundle.

    Returns:
      The bundle; `jaxinpaint.fill` restores images with it, and its parts can be used
      alone: `program.call(bundle.variables, inputs)`.

    Raises:
      FileNotFoundError: there is no bundle.
      DamagedBundleError: a file is missing or damaged.
      ImportError: safetensors or flatbuffers is not installed.
      ValueError: the bundle is of a later format, was not exported for this machine, or
        is by a version of jax that this one cannot read.
    """
    folder = Path(directory)
    try:
        import flatbuffers  # noqa: F401  jax.export reads its files with it
        from safetensors import SafetensorError
        from safetensors.numpy import load as parse
    except ImportError as error:
        raise ImportError(
            f"a bundle needs {error.name}: pip install safetensors flatbuffers."
        ) from error
    model, contents = manifest.read(folder)
    platform = jax.default_backend()
    served = _PLATFORMS.get(platform, (platform,))
    if not set(served) & set(model["platforms"]):
        raise ValueError(
            f"{folder} was exported for {', '.join(model['platforms'])}, and jax runs on "
            f"{served[0]} here; export with --platforms {served[0]}, or set "
            f"JAX_PLATFORMS={model['platforms'][0]}."
        )
    try:
        variables = parse(contents[manifest.PARAMS])
        programs = [_program(told, contents) for told in model["programs"]]
    except (SafetensorError, KeyError) as error:
        raise DamagedBundleError(
            f"{folder}: cannot be read ({error}); get the bundle again."
        ) from error
    return Bundle(model, jax.device_put(variables), tuple(programs))


def _program(told: Mapping[str, Any], contents: Mapping[str, bytes]) -> Program:
    file, content = told["file"], bytearray(contents[told["file"]])
    try:
        exported = export.deserialize(content)
    except Exception as error:  # of many kinds, by version
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"{file} cannot be read by jax {jax.__version__} ({type(error).__name__}: "
            f"{reason}); its version is in model.json, and an export by this one helps."
        ) from error
    sides = (told["batch"], told["height"], told["width"])
    return Program(tuple(told["inputs"]), *sides, jax.jit(exported.call))
