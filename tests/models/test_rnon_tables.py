"""RNON's networks against the tables of their definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import flops
from jaxinpaint.models.rnon import DiscriminatorBlock
from tests.models.rnon_nets import (
    IMAGE,
    JUDGES,
    MASK,
    RATES,
    WIDTHS,
    abstract,
    count,
    flat,
    judge,
    optimize,
    quick,
    random_variables,
    repair,
    spec,
)

# The tables: side of the kernel, channels in and out, parameters, GFLOP at 256 x 256.
REPAIR = {
    "enc1": (7, 3, 64, 9_472, 0.308),
    "enc2": (5, 64, 128, 205_056, 1.678),
    "enc3": (5, 128, 256, 819_712, 1.678),
    "enc4": (3, 256, 512, 1_180_672, 0.604),
    "enc5": (3, 512, 512, 2_360_320, 0.302),
    "enc6": (3, 512, 512, 2_360_320, 0.075),
    "enc7": (3, 512, 512, 2_360_320, 0.019),
    "enc8": (3, 512, 512, 2_360_320, 0.005),
    "dec1": (3, 1024, 512, 4_719_616, 0.038),
    "dec2": (3, 1024, 512, 4_719_616, 0.151),
    "dec3": (3, 1024, 512, 4_719_616, 0.604),
    "dec4": (3, 1024, 512, 4_719_616, 2.416),
    "dec5": (3, 768, 256, 1_769_984, 3.624),
    "dec6": (3, 384, 128, 442_624, 3.624),
    "dec7": (3, 192, 64, 110_720, 3.624),
    "dec8": (3, 67, 3, 1_812, 0.237),
}
FOLDED = {"dec5": 512, "dec6": 256, "dec7": 128, "dec8": 64}  # channels enlarged
JUDGE = {
    "b1": (3, 64, 1_792, 0.226),
    "b2": (64, 64, 36_992, 1.208),
    "b3": (64, 128, 73_984, 2.416),
    "b4": (128, 128, 147_712, 1.208),
    "b5": (128, 256, 295_424, 2.416),
    "b6": (256, 256, 590_336, 1.208),
    "b7": (256, 512, 1_180_672, 2.416),
    "b8": (512, 512, 2_360_320, 1.208),
    "b9": (512, 512, 2_360_320, 1.208),
    "b10": (512, 512, 2_360_320, 0.302),
}
OPTIMIZE = {"stem": 7_808, "trunk": 9_248, "head": 7_779}


def normed(name, width):
    """Names and shapes of a batch norm, of parameters and of statistics."""
    out = {f"params/{name}/bn/{k}": (width,) for k in ("scale", "bias")}
    return out | {f"batch_stats/{name}/bn/{k}": (width,) for k in ("mean", "var")}


def test_every_layer_of_the_repair_generator_is_the_table_s():
    variables = abstract(repair(), IMAGE, MASK)
    want = {"params/head/kernel": (1, 1, 3, 3), "params/head/bias": (3,)}
    for name, (k, before, after, _, _) in REPAIR.items():
        want[f"params/{name}/pconv/kernel"] = (k, k, before, after)
        if name in ("enc1", "dec8"):
            want[f"params/{name}/pconv/bias"] = (after,)
        else:
            want |= normed(name, after)
    assert {k: v.shape for k, v in flat(variables).items()} == want
    params = variables["params"]
    assert count(params) == 32_859_808
    assert count(params["head"]) == 12
    assert {k: count(params[k]) for k in REPAIR} == {k: v[3] for k, v in REPAIR.items()}
    assert count(variables["batch_stats"]) == 10_880


@pytest.mark.parametrize("depth", [4, 5, 7])
def test_a_shallower_repair_generator_lacks_the_inner_layers(depth):
    net = repair(WIDTHS[:depth])
    size = 2**depth
    arrays = spec(1, size, size, 3), spec(1, size, size, 1)
    params = abstract(net, *arrays)["params"]
    names = [f"enc{i}" for i in range(1, depth + 1)]
    names += [f"dec{j}" for j in range(9 - depth, 9)]
    assert set(params) == {*names, "head"}
    assert {k: count(params[k]) for k in names} == {k: REPAIR[k][3] for k in names}


@pytest.mark.parametrize(
    "blocks, fc_input, total, statistics, dense",
    [
        (8, "flatten", 138_907_009, 3_712, 131_072),
        (8, "gap", 5_213_569, 3_712, 512),
        (10, "flatten", 42_964_353, 5_760, 32_768),
        (10, "gap", 9_934_209, 5_760, 512),
    ],
)
def test_every_layer_of_the_discriminators_is_the_table_s(
    blocks, fc_input, total, statistics, dense
):
    widths = (*JUDGES, 512, 512)[:blocks]
    variables = abstract(judge(widths, fc_input=fc_input), IMAGE)
    table = {f"b{i}": JUDGE[f"b{i}"] for i in range(1, blocks + 1)}
    want = {"params/b1/conv/bias": (64,)}
    for name, (before, after, _, _) in table.items():
        want[f"params/{name}/conv/kernel"] = (3, 3, before, after)
        want |= {} if name == "b1" else normed(name, after)
    for name, before, after in (("fc1", dense, 1024), ("fc2", 1024, 1)):
        want[f"params/{name}/kernel"] = (before, after)
        want[f"params/{name}/bias"] = (after,)
    assert {k: v.shape for k, v in flat(variables).items()} == want
    params = variables["params"]
    assert count(params) == total
    assert {k: count(params[k]) for k in table} == {k: v[2] for k, v in table.items()}
    convolutional = {8: 4_687_232, 10: 9_407_872}[blocks]
    assert sum(count(params[k]) for k in table) == convolutional
    assert count(variables["batch_stats"]) == statistics


@pytest.mark.parametrize(
    "kernel, fuse, total", [(3, 36_896, 1_207_043), (1, 4_128, 682_755)]
)
def test_every_layer_of_the_optimization_generator_is_the_table_s(kernel, fuse, total):
    variables = abstract(optimize(fusion_kernel=kernel), spec(1, 16, 24, 3))
    assert set(variables) == {"params"}
    params = variables["params"]
    assert count(params) == total
    assert {k: count(params[k]) for k in OPTIMIZE} == OPTIMIZE
    blocks = {f"block{i}" for i in range(1, 17)}
    assert set(params) == {*OPTIMIZE, *blocks}
    want = {f"d{rate}": 9_248 for rate in RATES} | {"fuse": fuse}
    for name in blocks:
        assert {k: count(v) for k, v in params[name].items()} == want
        assert set(params[name]["fuse"]) == {"kernel", "bias"}


def test_a_normed_optimization_generator_has_scales_for_biases():
    plain = abstract(optimize(), spec(1, 16, 24, 3))["params"]
    variables = abstract(optimize(norm="batch"), spec(1, 16, 24, 3))
    convolutions = 16 * 5 + 1
    assert count(variables["params"]) == count(plain) + 32 * convolutions
    assert count(variables["batch_stats"]) == 2 * 32 * convolutions
    assert set(variables["params"]["block3"]["d4"]) == {"kernel"}
    assert set(variables["params"]["trunk_bn"]) == {"scale", "bias"}


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def traced(net, *arrays):
    variables = abstract(net, *arrays)
    apply = functools.partial(net.apply, train=False)
    jaxpr = jax.make_jaxpr(apply)(variables, *arrays).jaxpr
    out = jax.eval_shape(apply, variables, *arrays)
    return jaxpr, [c.flops for c in flops.walk(jaxpr).contractions], out


def test_arithmetic_of_the_repair_generator():
    """The tables' figures, but 4/9 of them for what is enlarged on folded kernels."""
    jaxpr, got, out = traced(repair(), IMAGE, MASK)
    assert (out.shape, str(out.dtype)) == ((1, 256, 256, 3), "float32")
    sides = [128 >> i for i in range(8)] + [2 << i for i in range(8)]
    literal = 0
    for (name, row), side in zip(REPAIR.items(), sides, strict=True):
        k, before, after, _, printed = row
        tap = 2 * side**2 * k**2 * after
        assert round(tap * before / 1e9, 3) == printed
        literal += tap * before
        if name in FOLDED:
            folded = [got.pop(0) for _ in range(4)]
            assert 9 * sum(folded) == 4 * tap * FOLDED[name]
            assert got.pop(0) == tap * (before - FOLDED[name])
        else:
            assert got.pop(0) == tap * before
    assert got == [2 * 256**2 * 9]  # the head, and nothing that convolves masks
    assert round((literal + got[0]) / 1e9, 2) == 18.99
    sums = [e for e in equations(jaxpr) if e.primitive.name == "reduce_window_sum"]
    adds = [
        np.prod(e.params["window_dimensions"]) * np.prod(e.outvars[0].aval.shape)
        for e in sums
    ]
    assert len(adds) == 16
    assert 2 * sum(adds) < 1e-3 * flops.flops(flops.walk(jaxpr))


@pytest.mark.parametrize(
    "net, table, total",
    [
        (judge(), [r[3] for r in JUDGE.values()][:8] + [0.268, 0.0], 12.57),
        (
            judge((*JUDGES, 512, 512)),
            [r[3] for r in JUDGE.values()] + [0.067, 0.0],
            13.88,
        ),
        (
            optimize(),
            [1.019, *[*[1.208] * 4, 4.832] * 16, 1.208, 1.019],
            157.87,
        ),
        (optimize(fusion_kernel=1), None, 89.15),
    ],
    ids=["repair's judge", "optimization's judge", "optimization", "1 x 1"],
)
def test_arithmetic_of_the_others(net, table, total):
    _, got, _ = traced(net, IMAGE)
    if table:
        assert [round(f / 1e9, 3) for f in got] == table
    assert round(sum(got) / 1e9, 2) == total


def extent(grad):
    """Rows and columns of an image's gradient that are not zero."""
    seen = np.asarray(grad)[0].any(-1)
    return [int(np.ptp(np.flatnonzero(seen.any(axis)))) + 1 for axis in (1, 0)]


def test_fields_of_view_of_the_discriminator():
    net = judge((2,) * 8, 2, "gap")
    image = np.random.default_rng(0).random((1, 96, 96, 3)).astype(np.float32)
    variables = random_variables(abstract(net, image), 3)

    def centres(image):
        _, kept = net.apply(
            variables,
            image,
            train=False,
            capture_intermediates=lambda m, _: isinstance(m, DiscriminatorBlock),
            mutable=["intermediates"],
        )
        blocks = [kept["intermediates"][f"b{i}"]["__call__"][0] for i in range(1, 9)]
        return jnp.stack([x[0, x.shape[1] // 2, x.shape[2] // 2, 0] for x in blocks])

    seen = [extent(grad) for grad in quick(jax.jacrev(centres))(image)]
    assert seen == [[rf, rf] for rf in (3, 5, 9, 13, 21, 29, 45, 61)]


@pytest.mark.parametrize("kernel, side", [(3, 307), (1, 275)])
def test_field_of_view_of_the_optimization_generator(kernel, side):
    """Positive weights, so that no ReLU closes; one row sees as far as one column."""
    net = optimize(1, 16, fusion_kernel=kernel, remat=False)
    image = np.ones((1, 1, 321, 3), np.float32)
    positive = lambda x: np.full(x.shape, 0.3, np.float32)
    variables = jax.tree.map(positive, abstract(net, image))
    variables["params"]["head"]["kernel"] *= np.float32(1e-12)  # no sigmoid either
    centre = lambda x: net.apply(variables, x, train=False)[0, 0, 160, 0]
    # Not compiled as one: 82 layers are few different ones.
    assert extent(jax.grad(centre)(image)) == [1, side]
