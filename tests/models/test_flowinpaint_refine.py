import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from jaxinpaint.models.flowinpaint_refine import Estimator, Refine, enlarge

CHANNELS, HIDDEN = (16, 32, 64, 96, 128, 196), (128, 96, 64, 32, 16)
THIN = ((2, 3, 2, 3, 2, 3), (4, 3, 2, 3, 2))
# Compiling dominates here, so the compiler is told not to try hard.
quick = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def refine(channels=CHANNELS, hidden=HIDDEN, dense=True, dtype="float32"):
    return Refine(channels, hidden, dense, 4, 20.0, jnp.dtype(dtype))


def spec(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def abstract(module, size=256):
    x = spec(1, size, size, 1)
    return jax.eval_shape(module.init, jax.random.key(0), x, x, x)


def count(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def kernels(params):
    return {name: layer["kernel"].shape for name, layer in params.items()}


def random_params(shapes, seed):
    """Signals stay alive, biases count, and flows reach several pixels."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        scale = 0.1 if leaf.ndim == 1 else np.sqrt(1.8 / np.prod(leaf.shape[:-1]))
        if "flow" in jax.tree_util.keystr(path):
            scale *= 0.3
        return (rng.normal(size=leaf.shape) * scale).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def double(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


# The module layer by layer in numpy, from sections 3.1 to 3.6 of its definition.


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def convolve(x, layer, stride=1, rate=1):
    """Zeros as far as the kernel reaches on all sides, then every stride-th cell."""
    h, w = x.shape[1:3]
    x = np.pad(x, ((0, 0), (rate, rate), (rate, rate), (0, 0)))
    total = layer["bias"]
    for i, j in np.ndindex(3, 3):
        part = x[:, i * rate : i * rate + h, j * rate : j * rate + w]
        total = total + part[:, ::stride, ::stride] @ layer["kernel"][i, j]
    return total


def bilinear_twice(x):
    for axis in (1, 2):
        x = np.moveaxis(x, axis, 0)
        before = np.concatenate([x[:1], x[:-1]])
        after = np.concatenate([x[1:], x[-1:]])
        halves = [0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after]
        x = np.stack(halves, axis=1).reshape(-1, *x.shape[1:])
        x = np.moveaxis(x, 0, axis)
    return x


def sample(x, flow, outside):
    b, h, w, c = x.shape
    out = np.empty_like(x)
    for n in range(b):
        at = np.mgrid[:h, :w] + flow[n, ..., ::-1].transpose(2, 0, 1)
        for k in range(c):
            out[n, ..., k] = map_coordinates(x[n, ..., k], at, order=1, mode="nearest")
        if outside == "zero":
            inside = (at >= 0) & (at <= np.array([h - 1, w - 1])[:, None, None])
            out[n] *= inside.all(axis=0)[..., None]
    return out


def correlate(a, b):
    h, w = a.shape[1:3]
    b = np.pad(b, ((0, 0), (4, 4), (4, 4), (0, 0)))
    shifts = [(dy, dx) for dy in range(9) for dx in range(9)]
    return np.stack(
        [(a * b[:, dy : dy + h, dx : dx + w]).mean(-1) for dy, dx in shifts], -1
    )


def literal(params, masked, mask, intermediate, dense):
    def features(image, hole):
        x, levels = np.concatenate([image, hole], -1), []
        for k in range(1, 7):
            for i in range(3):
                layer = params["pyramid"][f"l{k}_conv{i}"]
                x = leaky(convolve(x, layer, stride=2 if i == 0 else 1))
            levels.append(x)
        return levels

    damaged, other = features(masked, mask), features(intermediate, 0 * mask)
    b, h, w, _ = masked.shape
    u, flows = np.zeros((b, h // 64, w // 64, 2)), {}
    for k in range(6, 0, -1):
        side = 2**k
        there = other[k - 1]
        if k < 6:
            there = sample(there, u * 20 / side, "zero")
        fraction = mask.reshape(b, h // side, side, w // side, side, 1).mean((2, 4))
        costs = leaky(correlate(damaged[k - 1], there))
        s = np.concatenate([costs, damaged[k - 1], u, fraction], -1)
        layers = params[f"estimator{k}"]
        for i in range(1, 6):
            new = leaky(convolve(s, layers[f"conv{i}"]))
            s = np.concatenate([new, s], -1) if dense else new
        t = convolve(s, layers["flow"])
        if k == 1:
            layers, x = params["context"], np.concatenate([s, t], -1)
            for i, rate in enumerate((1, 2, 4, 8, 16, 1)):
                x = leaky(convolve(x, layers[f"conv{i}"], rate=rate))
            t = t + convolve(x, layers["flow"])
        u = flows[k] = bilinear_twice(t)
    return {
        "reference": sample(intermediate, 20 * u, "edge"),
        "flow": 20 * u,
        "flows": tuple(flows[k] for k in range(1, 7)),
    }


PYRAMID = {1: (2, 16), 2: (16, 32), 3: (32, 64), 4: (64, 96), 5: (96, 128)}
PYRAMID |= {6: (128, 196)}
# Inputs of conv1 to conv5 and of the flow head, section 3.4.
ESTIMATORS = {
    6: (280, 408, 504, 568, 600, 616),
    5: (212, 340, 436, 500, 532, 548),
    4: (180, 308, 404, 468, 500, 516),
    3: (148, 276, 372, 436, 468, 484),
    2: (116, 244, 340, 404, 436, 452),
    1: (100, 228, 324, 388, 420, 436),
}
ESTIMATOR_COUNTS = {6: 1_226_786, 5: 1_019_930, 4: 922_586, 3: 825_242}
ESTIMATOR_COUNTS |= {2: 727_898, 1: 679_226}
CONTEXT = ((438, 128), (128, 128), (128, 128), (128, 96), (96, 64), (64, 32))


def test_every_layer_is_the_table_s():
    params = abstract(refine())["params"]
    want = {}
    for k, (into, out) in PYRAMID.items():
        want[f"l{k}_conv0"] = (3, 3, into, out)
        want |= {f"l{k}_conv{i}": (3, 3, out, out) for i in (1, 2)}
    assert kernels(params["pyramid"]) == want
    for k, widths in ESTIMATORS.items():
        outs = zip(widths, (*HIDDEN, 2), strict=True)
        names = ("conv1", "conv2", "conv3", "conv4", "conv5", "flow")
        want = {n: (3, 3, *pair) for n, pair in zip(names, outs, strict=True)}
        assert kernels(params[f"estimator{k}"]) == want
    want = {f"conv{i}": (3, 3, *pair) for i, pair in enumerate(CONTEXT)}
    assert kernels(params["context"]) == want | {"flow": (3, 3, 32, 2)}


def test_parameter_counts():
    variables = abstract(refine())
    params = variables["params"]
    assert set(variables) == {"params"}
    assert count(params) == 8_052_290
    assert count(params["pyramid"]) == 1_665_660
    assert count(params["context"]) == 984_962
    got = {k: count(params[f"estimator{k}"]) for k in ESTIMATOR_COUNTS}
    assert got == ESTIMATOR_COUNTS
    assert count(abstract(refine(dense=False))) == 4_497_578


def test_shapes_at_256():
    net, x = refine(), spec(1, 256, 256, 1)
    out = jax.eval_shape(net.apply, abstract(net), x, x, x)
    shapes = jax.tree.map(lambda a: (a.shape, str(a.dtype)), out)
    want = [((1, n, n, 2), "float32") for n in (256, 128, 64, 32, 16, 8)]
    assert shapes == {
        "reference": ((1, 256, 256, 1), "float32"),
        "flow": ((1, 256, 256, 2), "float32"),
        "flows": tuple(want),
    }


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    masked = rng.uniform(-1, 1, (2, 64, 128, 1)).astype(np.float32)
    intermediate = np.clip(masked + rng.normal(size=masked.shape) / 3, -1, 1)
    mask = np.zeros_like(masked)
    mask[0, 10:31, 21:50] = 1
    mask[1, :, 90:] = 1
    masked = np.where(mask > 0, 1, masked)
    return masked, mask, intermediate.astype(np.float32)


@pytest.fixture(scope="module")
def program():
    """Parameters, and one program of outputs and gradient, for most tests."""
    net = refine(*THIN)
    params = random_params(abstract(net, 64)["params"], 1)

    def loss(params, arrays, weight):
        out = net.apply({"params": params}, *arrays)
        return (out["reference"] * weight).sum() + (out["flow"] ** 2).mean(), out

    return params, quick(jax.value_and_grad(loss, has_aux=True))


def check(got, want):
    for k in range(6):
        np.testing.assert_allclose(
            got["flows"][k], want["flows"][k], atol=2e-5, err_msg=f"u_{k + 1}"
        )
    np.testing.assert_allclose(got["flow"], want["flow"], atol=4e-4)
    np.testing.assert_allclose(got["reference"], want["reference"], atol=2e-3)
    # Flows of about a pixel, of both signs, some out of the frame.
    assert 0.3 < np.abs(want["flow"]).mean() < 10
    assert want["flow"].min() < -0.5 and want["flow"].max() > 0.5


def test_agrees_with_numpy(case, program):
    params, run = program
    (_, got), _ = run(params, case, np.zeros_like(case[0]))
    check(got, literal(double(params), *double(case), True))


def test_chain_of_layers_agrees_with_numpy(case):
    net = refine(*THIN, dense=False)
    params = random_params(abstract(net, 64)["params"], 2)
    got = quick(net.apply)({"params": params}, *case)
    check(got, literal(double(params), *double(case), False))


def test_gradient_agrees_with_finite_differences_of_numpy(case, program):
    params, run = program
    rng = np.random.default_rng(3)
    weight = rng.normal(size=case[0].shape).astype(np.float32) / case[0].size
    grads = run(params, case, weight)[1]
    at = double(params)
    along = jax.tree.map(lambda x: rng.normal(size=x.shape) * np.abs(x).mean(), at)

    def loss(step):
        moved = jax.tree.map(lambda x, d: x + step * d, at, along)
        out = literal(moved, *double(case), True)
        return (out["reference"] * weight).sum() + (out["flow"] ** 2).mean()

    step = 1e-6
    want = (loss(step) - loss(-step)) / (2 * step)
    got = jax.tree.map(lambda g, d: float(np.sum(np.float64(g) * d)), grads, along)
    np.testing.assert_allclose(sum(jax.tree.leaves(got)), want, rtol=1e-2)


def test_initialisation(case):
    """He normal kernels, zero biases and flow heads: the reference is the input."""
    net = refine((16, 8, 8, 8, 8, 8), (16, 8, 8, 8, 8))
    params = quick(net.init)(
        jax.random.key(0, impl="rbg"), *(x[:1, :, :64] for x in case)
    )
    squares = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = jax.tree_util.keystr(path)
        if "flow" in name or "bias" in name:
            assert not np.any(leaf), name
        else:
            squares.append(np.ravel(leaf**2) * np.prod(leaf.shape[:-1]) / 2)
    squares = np.concatenate(squares)  # of standard normals: moments 1 and 3
    np.testing.assert_allclose(squares.mean(), 1, rtol=0.02)
    np.testing.assert_allclose((squares**2).mean(), 3, rtol=0.05)


def test_fresh_reference_is_the_intermediate_bit_for_bit(case, program):
    params, run = program
    heads = lambda path, x: 0 * x if "flow" in jax.tree_util.keystr(path) else x
    fresh = jax.tree_util.tree_map_with_path(heads, params)
    (_, out), grads = run(fresh, case, case[0])
    np.testing.assert_array_equal(out["reference"], case[2])
    for u in (*out["flows"], out["flow"]):
        assert not np.any(u)
    # The heads move first; level 1's moves the reference.
    assert np.abs(grads["estimator1"]["flow"]["kernel"]).max() > 0


def test_an_image_sees_its_own_alone(case, program):
    params, run = program
    zeros = np.zeros_like(case[0])
    want = run(params, case, zeros)[0][1]
    changed = tuple(np.stack([x[0], x[1, ::-1]]) for x in case)
    got = run(params, changed, zeros)[0][1]
    for name in ("reference", "flow"):
        np.testing.assert_array_equal(got[name][0], want[name][0])
        assert np.abs(got[name][1] - want[name][1]).max() > 1e-3


def test_dense_layers_equal_their_concatenated_form():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(2, 7, 9, 6)).astype(np.float32)
    hidden = (5, 4, 3, 2, 3)
    net = Estimator(hidden, True, jnp.dtype("float32"))
    params = jax.eval_shape(net.init, jax.random.key(0), x, [])["params"]
    params = random_params(params, 7)
    other = rng.normal(size=(3, 3, 23, 4)).astype(np.float32)
    t, (read,) = quick(net.apply)({"params": params}, x, [other])
    stack = np.float64(x)
    for i in range(1, 6):
        new = leaky(convolve(stack, double(params[f"conv{i}"])))
        stack = np.concatenate([new, stack], -1)
    for got, layer in ((t, params["flow"]), (read, {"kernel": other, "bias": 0.0})):
        want = convolve(stack, double(layer))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_bfloat16_stays_near_float32(case, program):
    params, run = program
    want = run(params, case, np.zeros_like(case[0]))[0][1]
    net = refine(*THIN, dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(abstract(net))} == {jnp.dtype("float32")}
    got = quick(net.apply)({"params": params}, *case)
    for name in ("flow", "reference"):
        assert got[name].dtype == jnp.float32
        gap = np.sqrt(np.mean((got[name] - want[name]) ** 2) / np.mean(want[name] ** 2))
        assert gap <= 5e-2, name  # six levels, each warping by the one above


def test_enlarging_by_hand():
    x = np.float32([0, 1, 2, 3]).reshape(1, 1, 4, 1)
    want = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    np.testing.assert_array_equal(enlarge(x)[0, 0, :, 0], want)
    x = x.reshape(1, 4, 1, 1)
    np.testing.assert_array_equal(enlarge(x)[0, :, 1, 0], want)


def arrays(**changed):
    x = spec(1, 64, 64, 1)
    return list(({"image_masked": x, "mask": x, "intermediate": x} | changed).values())


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"image_masked": spec(1, 96, 64, 1)}, "mask must be"),
        ({"image_masked": spec(1, 64, 64, 3)}, r"image_masked must be \[B, H, W, 1\]"),
        ({"mask": spec(1, 64, 64)}, r"mask must be \[1, 64, 64, 1\]"),
        ({"intermediate": spec(2, 64, 64, 1)}, "intermediate must be"),
        (
            dict.fromkeys(("image_masked", "mask", "intermediate"), spec(1, 96, 64, 1)),
            "multiples of 64 and at least 64, got 96 x 64; pad to 128 x 64",
        ),
        (
            {"mask": jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.uint8)},
            "mask must be float32, got uint8",
        ),
    ],
)
def test_wrong_arrays_say_so(changed, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(refine(*THIN).init, jax.random.key(0), *arrays(**changed))


@pytest.mark.parametrize(
    "widths, message",
    [
        (((2, 3, 2), THIN[1]), r"channels is \(2, 3, 2\); give 6 positive numbers"),
        ((THIN[0], (4, 3, 2, 0, 2)), "hidden is .* give 5 positive numbers"),
    ],
)
def test_wrong_widths_say_so(widths, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(refine(*widths).init, jax.random.key(0), *arrays())
