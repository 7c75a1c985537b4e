"""Turns a trained system into programs and arrays that need none of its code.

What `predict` reads is found by tracing it: networks and inputs that it does not touch,
such as discriminators and the feature networks of losses, are left out. Weights are
arguments of the programs, so that they are stored once.

Which sizes can be symbols was tried on jax 0.10.2. Batches always can. Height and width
can for `unet`, `ipa_medgan` and both stages of `rnon`; not for `ccpgan` and FlowInpaint,
whose attention counts its key cells, and whose cost volume its rows, in Python numbers.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from ml_collections import ConfigDict

from jaxinpaint import systems
from jaxinpaint.bundle.manifest import PARAMS
from jaxinpaint.core.checks import InpaintInputError, UnalignedSizeError
from jaxinpaint.core.manifest import by_path
from jaxinpaint.core.system import System, Tree, Variables

PLATFORMS = ("cpu", "cuda", "tpu", "rocm")  # that `jax.export` lowers for
MEANINGS = {
    "image": "the damaged image; what lies in the hole is not read",
    "mask": "1 = hole, 0 = valid",
    "neighbor": "one adjacent section",
    "previous": "the section before",
    "following": "the section after",
}
_TRACING = {  # the programs name no folder of this machine
    "jax_hlo_source_file_canonicalization_regex": ".*",
    "jax_include_full_tracebacks_in_locations": False,
}
_SHOWN = 300  # characters of a reason

Flat = Mapping[str, Any]
Sizes = Sequence[tuple[int, int]]


class Exported(NamedTuple):
    """A system as files.

    Attributes:
      facts: of `model.json`, those that tell how to call it.
      contents: bytes of params.safetensors and of every program, by name.
      variables: what the programs read, by the path of the leaf.
    """

    facts: Mapping[str, Any]
    contents: Mapping[str, bytes]
    variables: Mapping[str, np.ndarray]


class _Function(NamedTuple):
    """`predict` of flat arguments, and what it reads of them."""

    call: Callable[[Flat, Flat], Flat]
    variables: Mapping[str, Any]
    channels: Mapping[str, int]  # of each input


def export_system(
    config: ConfigDict,
    system: System,
    variables: Variables,
    frozen: Variables,
    platforms: Sequence[str],
    sizes: Sizes | None,
) -> Exported:
    """Exports `predict` of a system, with symbolic sizes where it can be lowered so.

    Args:
      config: of the run; `system`, `seed`, `image_size` and, where the system takes
        other sizes, `eval.size_multiple` and `eval.least_size`.
      system: built from it.
      variables: trained.
      frozen: what `predict` reads besides; more than that is left out.
      platforms: some of `PLATFORMS`.
      sizes: height and width of images, one program each. None: one program for all
        sizes, or where that cannot be, for the training size and twice that.

    Raises:
      ImportError: the extra `export` is not installed.
      UnalignedSizeError: a size does not fit the stride.
      ValueError: a platform that is none, or a stage that reads no image.
    """
    save = _safetensors()
    _check_platforms(platforms)
    multiple, least = _stride(config)
    asked = _check_sizes(sizes, multiple, least)
    run = _reading(config, system, variables, frozen)
    given = {"fill": tuple(run.channels)}
    mask = _mask_rules(config, system, run, least)
    if "mask" in run.channels and not mask["required"]:
        given["blind"] = tuple(name for name in run.channels if name != "mask")

    programs, contents, why = [], {}, ""
    with _quiet_locations():
        for name, inputs in given.items():
            found: list[tuple[dict[str, Any], bytes]] = []
            if asked is None and not why:
                try:
                    found = [_any_size(run, inputs, platforms, multiple, least)]
                except Exception as error:  # whatever an operator raises of a symbol
                    why = _reason(error)
            if not found:
                found = [
                    _one_size(run, inputs, platforms, size)
                    for size in asked or _default_sizes(config, multiple, least)
                ]
            for told, blob in found:
                file = f"{name}{_suffix(told)}.jax_exported"
                contents[file] = blob
                programs.append({"file": file, "inputs": list(inputs), **told})

    arrays = {path: np.asarray(leaf) for path, leaf in run.variables.items()}
    contents[PARAMS] = save(arrays)
    image = system.batch_spec["image"].shape
    derived = systems.derived(config)
    facts = {
        "image": {
            "channels": image[-1],
            "range": [-1.0, 1.0],
            "levels": {"uint8": "v / 127.5 - 1", "uint16": "v / 32767.5 - 1"},
            "layout": "[B, H, W, C] float32",
        },
        "mask": {"polarity": "1 = hole, 0 = valid", "channels": 1, **mask},
        "inputs": [
            {
                "name": name,
                "channels": count,
                "derived": name in derived,
                "is": _meaning(name, derived),
            }
            for name, count in run.channels.items()
        ],
        "outputs": _outputs(run, image),
        "stride": {"multiple": multiple, "least": least},
        "platforms": list(platforms),
        "programs": programs,
        "symbolic_sizes": {"lowered": asked is None and not why, "why_not": why},
        "networks": sorted({_network(path) for path in arrays}),
        "parameters": sum(array.size for array in arrays.values()),
    }
    return Exported(facts, contents, arrays)


def _reading(
    config: ConfigDict, system: System, variables: Variables, frozen: Variables
) -> _Function:
    """`predict` as a function of what it reads, found by tracing it.

    Raises:
      ValueError: it reads no image.
    """
    whole = {"variables": variables, "frozen": frozen}
    leaves, structure = by_path(whole), jax.tree.structure(whole)
    shapes = {name: (x.shape, x.dtype) for name, x in leaves.items()}
    key = jax.random.key(config.seed)

    def predict(flat: Flat, inputs: Flat) -> Flat:
        # What is left out is not read: it is one zero that looks like an array.
        everything = [
            flat[n] if n in flat else np.broadcast_to(np.zeros((), dtype), shape)
            for n, (shape, dtype) in shapes.items()
        ]
        tree = jax.tree.unflatten(structure, everything)
        made = system.predict(tree["variables"], tree["frozen"], inputs, key)
        return {name: x.astype(jnp.float32) for name, x in made.items()}

    traced = jax.make_jaxpr(predict)(leaves, dict(system.batch_spec))
    # Linen hands whole networks on, so a network counts as read if a leaf of it is.
    read = {id(v) for step in traced.jaxpr.eqns for v in step.invars}
    read |= {id(v) for v in traced.jaxpr.outvars}
    names = [*sorted(leaves), *sorted(system.batch_spec)]  # as jax orders dicts
    used = {
        name
        for name, v in zip(names, traced.jaxpr.invars, strict=True)
        if id(v) in read
    }
    networks = {_network(name) for name in used & leaves.keys()}
    channels = {
        name: spec.shape[-1] for name, spec in system.batch_spec.items() if name in used
    }
    if "image" not in channels:
        raise ValueError(
            f"{config.system} reads no image in this stage, so there is nothing to "
            "export."
        )
    kept = {name: x for name, x in leaves.items() if _network(name) in networks}
    return _Function(predict, kept, channels)


def _any_size(
    run: _Function, inputs: Sequence[str], platforms: Sequence[str], of: int, least: int
) -> tuple[dict[str, Any], bytes]:
    sides = [f"{of}*h", f"{of}*w"]
    batch, height, width = export.symbolic_shape(
        f"b, {sides[0]}, {sides[1]}",
        constraints=[f"{side} >= {least}" for side in sides],
    )
    blob = _lowered(run, inputs, platforms, (batch, height, width))
    return {"batch": None, "height": None, "width": None}, blob


def _one_size(
    run: _Function,
    inputs: Sequence[str],
    platforms: Sequence[str],
    size: tuple[int, int],
) -> tuple[dict[str, Any], bytes]:
    height, width = size
    told: dict[str, Any] = {"batch": None, "height": height, "width": width}
    try:
        (batch,) = export.symbolic_shape("b")
        return told, _lowered(run, inputs, platforms, (batch, height, width))
    except Exception as error:  # whatever an operator raises of a symbol
        logging.getLogger(__name__).warning(
            "one image at a time, since a symbolic batch cannot be lowered: %s",
            _reason(error),
        )
    told |= {"batch": 1}
    return told, _lowered(run, inputs, platforms, (1, height, width))


def _lowered(
    run: _Function,
    inputs: Sequence[str],
    platforms: Sequence[str],
    shape: tuple[Any, Any, Any],
) -> bytes:
    arrays = _specs(run, inputs, shape)
    flat = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in run.variables.items()}

    def fill(variables: Flat, inputs: Flat) -> Flat:
        return run.call(variables, inputs)

    return bytes(
        export.export(jax.jit(fill), platforms=platforms)(flat, arrays).serialize()
    )


def _specs(run: _Function, names: Iterable[str], shape: tuple[Any, ...]) -> Flat:
    """Inputs of [B, H, W]; those of the names that are read."""
    return {
        name: jax.ShapeDtypeStruct((*shape, run.channels[name]), jnp.float32)
        for name in names
        if name in run.channels
    }


@contextlib.contextmanager
def _quiet_locations() -> Iterator[None]:
    before = {name: getattr(jax.config, name) for name in _TRACING}
    try:
        for name, value in _TRACING.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _mask_rules(
    config: ConfigDict, system: System, run: _Function, least: int
) -> dict[str, bool]:
    """What the system's own checks say of masks, asked with blank images.

    A mask is optional where these let none pass and `predict` can be traced so.
    """
    blank = {
        name: np.zeros((1, least, least, spec.shape[-1]), np.uint8)
        for name, spec in system.batch_spec.items()
    }

    def passes(batch: Mapping[str, np.ndarray]) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                systems.validate_inputs(config.system, "export", batch)
            except InpaintInputError:
                return False
        return True

    if "mask" not in blank:
        return {"required": False, "may_cover_all": False}
    without = {name: array for name, array in blank.items() if name != "mask"}
    optional = passes(without)
    if optional:
        try:
            jax.eval_shape(
                run.call, run.variables, _specs(run, without, (1, least, least))
            )
        except Exception:  # whatever a stage raises that looks for it
            optional = False
    return {
        "required": not optional,
        "may_cover_all": passes({**blank, "mask": np.ones_like(blank["mask"])}),
    }


def _outputs(run: _Function, image: tuple[int, ...]) -> dict[str, dict[str, int]]:
    inputs = _specs(run, run.channels, image[:3])
    made = jax.eval_shape(run.call, run.variables, inputs)
    return {name: {"channels": x.shape[-1]} for name, x in made.items()}


def _meaning(name: str, derived: Mapping[str, Any]) -> str:
    if name in derived:
        return (
            "the section between previous and following, which the data compute "
            f"once (jaxinpaint.systems.derived; {derived[name].digest})"
        )
    return MEANINGS.get(name, "an input of this system")


def _network(path: str) -> str:
    return "/".join(path.split("/")[:2])


def _suffix(told: Mapping[str, Any]) -> str:
    return "" if told["height"] is None else f"_{told['height']}x{told['width']}"


def _stride(config: ConfigDict) -> tuple[int, int]:
    """What sides must be multiples of, and the least side.

    A config whose images are never padded does not say; then it is the training size,
    which always fits.
    """
    if "size_multiple" in config.eval:
        return config.eval.size_multiple, config.eval.least_size
    return config.image_size, config.image_size


def _default_sizes(config: ConfigDict, of: int, least: int) -> Sizes:
    side = max(least, math.ceil(config.image_size / of) * of)
    return [(side, side), (2 * side, 2 * side)]


def _check_sizes(sizes: Sizes | None, of: int, least: int) -> Sizes | None:
    """Sizes that fit the stride, smallest area first, which `fill` takes first."""
    for size in sizes or ():
        if any(side % of or side < least for side in size):
            raise UnalignedSizeError(
                f"--sizes names {size[0]} x {size[1]}; height and width must be "
                f"multiples of {of}, at least {least}."
            )
    if sizes is None:
        return None
    return sorted(set(sizes), key=lambda size: (math.prod(size), size))


def _check_platforms(platforms: Sequence[str]) -> None:
    wrong = [name for name in platforms if name not in PLATFORMS]
    if wrong or not platforms or len(set(platforms)) < len(platforms):
        raise ValueError(
            f"--platforms is {','.join(platforms)!r}; name some of "
            f"{', '.join(PLATFORMS)}, each once."
        )


def _safetensors() -> Callable[[Tree], bytes]:
    try:
        import flatbuffers  # noqa: F401  jax.export writes its files with it
        from safetensors.numpy import save
    except ImportError as error:
        raise ImportError(
            f"export needs {error.name}: pip install 'jaxinpaint[export]'."
        ) from error
    return save


def _reason(error: Exception) -> str:
    """An error in one line, with where it was raised in the project's code."""
    text = (str(error).splitlines() or [""])[0][:_SHOWN]
    place = ""
    trace = error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        if module.startswith("jaxinpaint.") and module != __name__:
            place = f" in {module}.{trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    return f"{type(error).__name__}{place}: {text}"
