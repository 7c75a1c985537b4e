"""Counts the arithmetic of a traced function, and bounds its time from below.

Only matrix products and convolutions count, a multiply-add as 2 FLOP, densely: taps
that fall on padding count, zeros that a dilation inserts do not. Elementwise work,
reductions and shifts count nothing. XLA's own count differs: it takes the body of a
loop once, leaves out padded taps, and does not see inside kernels.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr


class Contraction(NamedTuple):
    """A matrix product or convolution.

    Attributes:
      primitive: jax's name of it.
      flops: of one execution.
      traffic: bytes of both operands and the result, each moved once.
      times: how often it is executed.
    """

    primitive: str
    flops: int
    traffic: int
    times: int


class Work(NamedTuple):
    """What a function computes.

    Attributes:
      contractions: in program order.
      open_loops: loops without a fixed number of turns; their bodies count once.
    """

    contractions: tuple[Contraction, ...]
    open_loops: int


def count(function: Callable[..., Any], *args: Any) -> Work:
    """The work of a function of arrays or shapes; nothing is computed.

    A scan counts its body times its length, a kernel times its grid, a conditional
    its dearest branch. What is recomputed in a backward pass counts again. Under
    `shard_map` the count is that of one device.
    """
    return walk(jax.make_jaxpr(function)(*args).jaxpr)


def walk(jaxpr: Jaxpr) -> Work:
    """As `count`, of a program that is traced already."""
    total = Work((), 0)
    for eqn in jaxpr.eqns:
        total = _join(total, _equation(eqn))
    return total


def flops(work: Work) -> int:
    """FLOP of one call."""
    return sum(c.flops * c.times for c in work.contractions)


def traffic(work: Work) -> int:
    """Bytes of one call, were each contraction to read and write memory once."""
    return sum(c.traffic * c.times for c in work.contractions)


def bound(work: Work, flops_per_s: float, bytes_per_s: float) -> float:
    """Seconds that one call takes at least: the roofline, summed over contractions."""
    return sum(
        c.times * max(c.flops / flops_per_s, c.traffic / bytes_per_s)
        for c in work.contractions
    )


def _equation(eqn: Any) -> Work:
    name, params = eqn.primitive.name, eqn.params
    if name in ("dot_general", "conv_general_dilated"):
        each = _product(eqn) if name == "dot_general" else _convolution(eqn)
        moved = sum(
            math.prod(v.aval.shape) * v.aval.dtype.itemsize
            for v in (*eqn.invars[:2], *eqn.outvars)
        )
        return Work((Contraction(name, each, moved, 1),), 0)
    if name == "cond":
        return max((walk(b.jaxpr) for b in params["branches"]), key=flops)
    total = Work((), 0)
    for inner in _programs(params):
        total = _join(total, walk(inner))
    if name == "while":
        return Work(total.contractions, total.open_loops + 1)
    if name == "scan":
        return _repeat(total, params["length"])
    if name == "pallas_call":
        return _repeat(total, math.prod(params["grid_mapping"].grid))
    return total


def _join(a: Work, b: Work) -> Work:
    return Work(a.contractions + b.contractions, a.open_loops + b.open_loops)


def _repeat(work: Work, times: int) -> Work:
    repeated = (c._replace(times=c.times * times) for c in work.contractions)
    return Work(tuple(repeated), work.open_loops)


def _programs(value: Any) -> Iterator[Jaxpr]:
    """The programs among an equation's parameters."""
    if isinstance(value, ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, Jaxpr):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _programs(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _programs(item)


def _product(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    length = math.prod(shape[axis] for axis in contracted)
    return 2 * length * math.prod(eqn.outvars[0].aval.shape)


def _convolution(eqn: Any) -> int:
    """2 x outputs x input features of a group x taps on cells that are not inserted.

    An output sees the same number of taps in every row and column alike, so the axes
    multiply. Feature groups are in the kernel's shape, batch groups in the result's.
    """
    params = eqn.params
    numbers = params["dimension_numbers"]
    kernel, out = eqn.invars[1].aval.shape, eqn.outvars[0].aval.shape
    batch, features, *places = numbers.out_spec
    _, inputs, *taps = numbers.rhs_spec
    total = 2 * out[batch] * out[features] * kernel[inputs]
    for axis, (place, tap) in enumerate(zip(places, taps, strict=True)):
        stride, hole = params["window_strides"][axis], params["rhs_dilation"][axis]
        inserted, (low, _) = params["lhs_dilation"][axis], params["padding"][axis]
        at = np.arange(out[place])[:, None] * stride + np.arange(kernel[tap]) * hole
        total *= int(np.count_nonzero((at - low) % inserted == 0))
    return total
