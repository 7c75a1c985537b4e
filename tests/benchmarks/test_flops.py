import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from benchmarks import flops
from configs import ccpgan
from jaxinpaint import systems

NHWC = ("NHWC", "HWIO", "NHWC")


def f32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def counted(function, *args):
    return flops.flops(flops.count(function, *args))


def conv(x, kernel, stride=1, padding="SAME", hole=1, inserted=1, groups=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        (inserted, inserted),
        (hole, hole),
        NHWC,
        groups,
    )


def slow_count(side, taps, stride, low, high, hole, inserted):
    """Taps of one axis that stand on a cell, or on padding in a cell's place."""
    last = (side - 1) * inserted + high
    starts = range(-low, last - (taps - 1) * hole + 1, stride)
    return sum(
        (start + tap * hole) % inserted == 0
        for start, tap in itertools.product(starts, range(taps))
    )


def test_a_product_and_a_batch_of_products():
    assert counted(jnp.dot, f32(3, 4), f32(4, 5)) == 2 * 3 * 4 * 5
    got = counted(
        lambda a, b: jnp.einsum("bqc,bkc->bqk", a, b), f32(2, 3, 4), f32(2, 5, 4)
    )
    assert got == 2 * 2 * 3 * 5 * 4


def test_one_convolution():
    assert counted(conv, f32(1, 8, 8, 2), f32(3, 3, 2, 4)) == 2 * 64 * 9 * 2 * 4


@pytest.mark.parametrize(
    "taps, stride, padding, hole, inserted, groups",
    [
        (3, 2, (0, 1), 1, 1, 1),
        (3, 1, (4, 4), 4, 1, 1),
        (4, 1, (2, 2), 1, 2, 1),  # a transposed convolution
        (3, 2, (3, 1), 2, 3, 1),
        (5, 1, (2, 2), 1, 1, 4),
    ],
)
def test_taps_are_counted_as_a_slow_loop_counts(
    taps, stride, padding, hole, inserted, groups
):
    got = counted(
        lambda x, k: conv(x, k, stride, (padding, padding), hole, inserted, groups),
        f32(2, 9, 9, 8),
        f32(taps, taps, 8 // groups, 4),
    )
    line = slow_count(9, taps, stride, *padding, hole, inserted)
    assert got == 2 * 2 * 4 * (8 // groups) * line**2


@pytest.mark.parametrize("stride, hole, groups", [(1, 1, 1), (2, 1, 1), (1, 2, 4)])
def test_a_gradient_costs_three_times(stride, hole, groups):
    run = lambda x, k: conv(x, k, stride, "SAME", hole, 1, groups)
    args = f32(2, 8, 8, 8), f32(3, 3, 8 // groups, 4)
    both = jax.grad(lambda x, k: (run(x, k) ** 2).sum(), (0, 1))
    assert counted(both, *args) == 3 * counted(run, *args)


def test_a_gradient_of_a_product_costs_three_times():
    both = jax.grad(lambda a, b: ((a @ b) ** 2).sum(), (0, 1))
    assert counted(both, f32(3, 4), f32(4, 5)) == 3 * 120


def square(x):
    return x @ x  # 2 * 4**3 = 128 at [4, 4]


def test_a_scan_counts_every_turn():
    def seven(x):
        return jax.lax.scan(lambda c, _: (square(c), None), x, None, length=7)[0]

    assert counted(seven, f32(4, 4)) == 7 * 128
    twice = lambda x: jax.lax.scan(lambda c, _: (seven(c), None), x, None, length=3)[0]
    assert counted(twice, f32(4, 4)) == 21 * 128


def test_programs_inside_programs():
    plain = jax.custom_vjp(square)
    plain.defvjp(lambda x: (square(x), x), lambda x, g: (g @ x,))
    tangent = jax.custom_jvp(square)
    tangent.defjvp(lambda p, t: (square(p[0]), t[0]))
    for wrapped in (jax.jit(square), jax.checkpoint(square), plain, tangent):
        assert counted(wrapped, f32(4, 4)) == 128


def test_what_a_checkpoint_repeats_counts_again():
    inner = lambda x: jnp.sin(square(x)).sum()  # forward, its repeat, two products back
    assert counted(jax.grad(inner), f32(4, 4)) == 3 * 128
    assert counted(jax.grad(jax.checkpoint(inner)), f32(4, 4)) == 4 * 128


def test_a_conditional_counts_its_dearest_branch():
    def choose(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: square(square(x)), square, x)

    assert counted(choose, f32(4, 4)) == 2 * 128


def test_a_loop_without_end_counts_once_and_is_told():
    work = flops.count(
        lambda x: jax.lax.while_loop(lambda c: c[0, 0] < 1, square, x), f32(4, 4)
    )
    assert (flops.flops(work), work.open_loops) == (128, 1)
    assert flops.count(square, f32(4, 4)).open_loops == 0


def test_a_kernel_counts_its_grid():
    def body(x, out):
        out[...] = x[...] @ x[...]

    block = pl.BlockSpec((4, 4), lambda i: (i, 0))
    kernel = pl.pallas_call(
        body, f32(12, 4), grid=3, in_specs=[block], out_specs=block, interpret=True
    )
    assert counted(kernel, f32(12, 4)) == 3 * 128


def test_traffic_and_bound_by_hand():
    work = flops.count(lambda x: square(square(x)), f32(4, 4))
    assert flops.traffic(work) == 2 * 3 * 16 * 4
    assert flops.bound(work, 64.0, 1e9) == pytest.approx(2 * 128 / 64)  # arithmetic
    assert flops.bound(work, 1e9, 96.0) == pytest.approx(2 * 192 / 96)  # memory
    mixed = flops.Work(
        (flops.Contraction("a", 10, 2, 3), flops.Contraction("b", 1, 8, 1)), 0
    )
    assert flops.bound(mixed, 10.0, 4.0) == pytest.approx(3 * 1 + 2)


def test_the_paper_generator_is_the_specification_s():
    """263.95 GFLOP of convolutions, 57.98 of which the joined upsampling makes 25.77;
    then 8.59 of scores and 34.36 of pasting. The specification's 275.2 also holds 0.46
    of additions along diagonals, which are no products."""
    system = systems.build(ccpgan.get_config())
    variables = jax.eval_shape(system.init, jax.random.key(0)).variables
    batch = {
        name: f32(1, 512, 512, entry.shape[-1])
        for name, entry in system.batch_spec.items()
    }
    got = counted(system.predict, variables, {}, batch, jax.random.key(0)) / 1e9
    assert got == pytest.approx(263.95 - 57.98 + 25.77 + 8.59 + 34.36, abs=0.02)
    assert got + 0.13 + 0.13 + 0.20 == pytest.approx(275.2, abs=0.06)
    scores = np.prod([2, 4096, 8192, 128]) / 1e9
    assert scores == pytest.approx(8.59, abs=0.01)
