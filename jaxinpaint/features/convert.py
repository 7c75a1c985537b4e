"""Turns the tensors of a public weight file into Linen variables, and back.

A network's file lists its layers as data, `Layer(foreign, ours, kind)`; the kinds say
which tensors a layer has in the file, where Linen keeps them and in which axis order.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxinpaint.core.manifest import listed


class Layer(NamedTuple):
    """One layer under both of its names.

    Attributes:
      foreign: the module in the file, as in "features.0"; of a vector the tensor.
      ours: the Linen module, nested by slashes, as in "block1/conv1"; of a vector
        the parameter itself, as in "attention/gamma".
      kind: a key of `KINDS`.
    """

    foreign: str
    ours: str
    kind: str


class Slot(NamedTuple):
    """One tensor of a layer.

    Attributes:
      collection: of the Linen variables, "params" or "batch_stats".
      leaf: the name in that collection; "" where `Layer.ours` is the whole path.
      axes: ours[k] is axis axes[k] of the foreign tensor, as `numpy.transpose` takes.
      optional: whether the file may go without it.
    """

    collection: str
    leaf: str
    axes: tuple[int, ...]
    optional: bool = False


_BIAS = Slot("params", "bias", (0,), optional=True)

KINDS: Mapping[str, Mapping[str, Slot]] = {
    "conv": {"weight": Slot("params", "kernel", (2, 3, 1, 0)), "bias": _BIAS},
    "depthwise_conv": {"weight": Slot("params", "kernel", (2, 3, 1, 0)), "bias": _BIAS},
    "conv_transpose": {"weight": Slot("params", "kernel", (2, 3, 1, 0)), "bias": _BIAS},
    "linear": {"weight": Slot("params", "kernel", (1, 0)), "bias": _BIAS},
    "batch_norm": {
        "weight": Slot("params", "scale", (0,)),
        "bias": Slot("params", "bias", (0,)),
        "running_mean": Slot("batch_stats", "mean", (0,)),
        "running_var": Slot("batch_stats", "var", (0,)),
    },
    "vector": {"": Slot("params", "", (0,))},
}
"""Foreign suffix to slot, for each kind of layer.

- conv: torch [O, I, H, W], `nn.Conv` [H, W, I, O]; I is per group on both sides.
- depthwise_conv: torch [C, 1, H, W], `nn.Conv(feature_group_count=C)` [H, W, 1, C].
- conv_transpose: torch [I, O, H, W], `nn.ConvTranspose(transpose_kernel=True)`
  [H, W, O, I], no axis flipped. Torch's `ConvTranspose2d(kernel k, stride s, padding p,
  output_padding q)` is `strides=s, padding=(k - 1 - p, k - 1 - p + q)` on each axis;
  for k 4, s 2, p 1, q 0 that is "SAME". One group alone.
- linear: torch [O, I], `nn.Dense` [I, O]. A linear layer behind the flattening of a
  map sees channels first in torch; reorder its columns or flatten in that order.
- batch_norm: scale and bias to params, running mean and variance to batch_stats;
  torch's `num_batches_tracked` is dropped, Linen has none. The variance is the same.
- vector: one tensor [N] under its own name, kept as it is.
"""

_DROPPED = {"batch_norm": ("num_batches_tracked",)}
_WIDENED = ("float16", "bfloat16")
_KEPT = ("float32", "float64")


def convert(
    tensors: Mapping[str, np.ndarray],
    layers: Sequence[Layer],
    ignored: Sequence[str] = (),
) -> dict[str, Any]:
    """Turns tensors in the foreign layout into Linen variables.

    A bias that the file lacks is left out here; whether the network wants one shows
    when its shapes are compared.

    Args:
      tensors: foreign name to array; float32 and float64 keep their dtype, float16
        and bfloat16 become float32.
      layers: all layers of the file that count.
      ignored: foreign names of tensors, or of modules with all that is under them,
        that are left out on purpose; they need not be in the file.

    Returns:
      {"params": ..., "batch_stats": ...}, nested dicts of arrays; a collection
      without leaves is absent.

    Raises:
      ValueError: names missing or left over (lists the first of both), a rank, size or
        dtype that does not fit its kind, an unknown kind, two layers of one name.
    """
    used: set[str] = set()
    missing = []
    flat: dict[tuple[str, ...], np.ndarray] = {}
    for name, path, slot in _slots("convert", layers):
        if name in tensors:
            used.add(name)
            flat[path] = tensors[name]
        elif not slot.optional:
            missing.append(name)
    dropped = {_join(x.foreign, s) for x in layers for s in _DROPPED.get(x.kind, ())}
    unused = [
        name
        for name in tensors
        if name not in used
        and name not in dropped
        and not any(name == i or name.startswith(f"{i}.") for i in ignored)
    ]
    if missing or unused:
        raise ValueError(
            f"convert: the names do not fit: missing {_listed(missing)}; unused "
            f"{_listed(unused)}; give the file of this very network, or name what is "
            "to be left out in `ignored`."
        )
    for layer in layers:
        _check_sizes(layer, tensors)
    variables: dict[str, Any] = {}
    for name, path, slot in _slots("convert", layers):
        if path in flat:
            _place(variables, path, _ours(name, flat[path], slot))
    return variables


def foreign(
    variables: Mapping[str, Any], layers: Sequence[Layer]
) -> dict[str, np.ndarray]:
    """Turns Linen variables into the foreign layout: the inverse of `convert`.

    What `convert` drops (`num_batches_tracked`) does not come back, and what it
    widened stays wide.

    Args:
      variables: {"params": ..., "batch_stats": ...}, nested mappings of arrays.
      layers: those that `convert` took.

    Returns:
      Foreign name to array, in the order of the layers.

    Raises:
      ValueError: leaves missing or left over (lists the first of both), a rank that
        does not fit its kind, an unknown kind, two layers of one name.
    """
    leaves = dict(_leaves(variables, ()))
    tensors = {}
    missing = []
    for name, path, slot in _slots("foreign", layers):
        if path in leaves:
            leaf = np.asarray(leaves.pop(path))
            if leaf.ndim != len(slot.axes):
                raise ValueError(
                    f"foreign: {'/'.join(path)} must have {len(slot.axes)} axes, got "
                    f"{list(leaf.shape)}; give the layer its right kind."
                )
            back = leaf.transpose(np.argsort(slot.axes))
            tensors[name] = np.ascontiguousarray(back)
        elif not slot.optional:
            missing.append("/".join(path))
    unused = ["/".join(path) for path in leaves]
    if missing or unused:
        raise ValueError(
            f"foreign: the leaves do not fit: missing {_listed(missing)}; unused "
            f"{_listed(unused)}; give the variables and the layers of one network."
        )
    return tensors


def _slots(
    where: str, layers: Sequence[Layer]
) -> Iterator[tuple[str, tuple[str, ...], Slot]]:
    """Yields foreign name, path in the variables and slot of every tensor."""
    names: set[str] = set()
    paths: set[tuple[str, ...]] = set()
    for layer in layers:
        if layer.kind not in KINDS:
            raise ValueError(
                f"{where}: layer {layer.foreign!r} is of kind {layer.kind!r}; the "
                f"kinds here are {sorted(KINDS)}."
            )
        for suffix, slot in KINDS[layer.kind].items():
            name = _join(layer.foreign, suffix)
            leaf = (slot.leaf,) if slot.leaf else ()
            path = (slot.collection, *layer.ours.split("/"), *leaf)
            if name in names or path in paths:
                raise ValueError(
                    f"{where}: two layers hold {name!r} or {'/'.join(path)!r}; name "
                    "each tensor once."
                )
            names.add(name)
            paths.add(path)
            yield name, path, slot


def _ours(name: str, tensor: np.ndarray, slot: Slot) -> np.ndarray:
    kind = str(tensor.dtype)
    if kind not in _WIDENED + _KEPT:
        raise ValueError(
            f"convert: {name} must be one of {', '.join(_KEPT + _WIDENED)}, got {kind}."
        )
    turned = np.ascontiguousarray(tensor.transpose(slot.axes))
    return turned.astype(jnp.float32) if kind in _WIDENED else turned


def _check_sizes(layer: Layer, tensors: Mapping[str, np.ndarray]) -> None:
    """Ranks of all tensors of a layer, and the sizes that must agree."""
    slots = KINDS[layer.kind]
    have = {s: tensors.get(_join(layer.foreign, s)) for s in slots}
    shapes = {s: t.shape for s, t in have.items() if t is not None}
    for suffix, shape in shapes.items():
        if len(shape) != len(slots[suffix].axes):
            raise ValueError(
                f"convert: {_join(layer.foreign, suffix)} must have "
                f"{len(slots[suffix].axes)} axes for kind {layer.kind}, got "
                f"{list(shape)}."
            )
    if layer.kind == "depthwise_conv" and shapes["weight"][1] != 1:
        raise ValueError(
            f"convert: {layer.foreign}.weight must be [C, 1, H, W] for a depthwise "
            f"convolution, got {list(shapes['weight'])}; its kind may be conv."
        )
    if "weight" in shapes:
        size = shapes["weight"][1 if layer.kind == "conv_transpose" else 0]
        for suffix, shape in shapes.items():
            if suffix != "weight" and shape != (size,):
                raise ValueError(
                    f"convert: {_join(layer.foreign, suffix)} must be [{size}] like "
                    f"its weight {list(shapes['weight'])}, got {list(shape)}."
                )


def _place(variables: dict, path: tuple[str, ...], array: np.ndarray) -> None:
    node = variables
    for word in path[:-1]:
        node = node.setdefault(word, {})
        if not isinstance(node, dict):
            raise ValueError(
                f"convert: {'/'.join(path)} lies under a tensor; rename the layer."
            )
    if path[-1] in node:
        raise ValueError(
            f"convert: {'/'.join(path)} holds other tensors; rename the layer."
        )
    node[path[-1]] = array


def _leaves(
    tree: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for word, node in tree.items():
        if isinstance(node, Mapping):
            yield from _leaves(node, (*path, word))
        else:
            yield (*path, word), node


def _join(module: str, suffix: str) -> str:
    return f"{module}.{suffix}" if suffix else module


def _listed(names: Sequence[str]) -> str:
    """The first names for a message: a file can hold thousands, and any letters."""
    short = [name[:100] for name in names]
    plain = [name if name.isprintable() else ascii(name) for name in short]
    return listed(plain) or "none"
