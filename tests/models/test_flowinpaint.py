import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.models.flowinpaint import (
    Discriminator,
    Generator,
    SpectralConv,
    attend,
)
from jaxinpaint.ops.attention import PERCEIVE
from tests.ops.literal import literal as perceive

CHANNELS = (32, 64, 128, 256, 512, 512)
THIN = (4, 4, 4, 8, 4, 4)
FAL, RATES, ATTENTION = (2, 3, 4, 5), (1, 2, 4, 8), (6, 5, 4, 3)
OPTIONS = PERCEIVE._replace(mask_foreground=False, use_neighbor=False)
# Compiling dominates here, so the compiler is told not to try hard.
quick = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def generator(channels=CHANNELS, **changed):
    fields = {
        "fal_levels": FAL,
        "fal_rates": RATES,
        "attention_levels": ATTENTION,
        "attention": OPTIONS,
        "stem_norm": "batch",
        "remat": True,
        "dtype": jnp.dtype("float32"),
    }
    return Generator(channels, **(fields | changed))


def spec(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def abstract(net, *arrays):
    init = functools.partial(net.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), *arrays)


def sections(size, guides=3):
    x = spec(1, size, size, 1)
    return x, x, spec(1, size, size, guides)


def count(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def flat(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    keystr = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return {keystr(path): leaf for path, leaf in leaves}


def random_variables(shapes, seed):
    """Signals stay alive through ReLU; biases, scales and statistics count."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        if "scale" in name or "var" in name:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        fan = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 200
        return (rng.normal(size=leaf.shape) * np.sqrt(2 / fan)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def double(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


# The networks layer by layer in numpy, from sections 4.1 to 4.5 of their definition.


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def relu(x):
    return np.maximum(x, 0)


def convolve(x, layer, stride=1, rate=1):
    """Zeros as far as the kernel reaches on all sides, then every stride-th cell."""
    kernel = layer["kernel"]
    h, w = x.shape[1:3]
    pad = rate * (len(kernel) // 2)
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    total = layer.get("bias", 0.0)
    for i, j in np.ndindex(kernel.shape[:2]):
        part = x[:, i * rate : i * rate + h, j * rate : j * rate + w]
        total = total + part[:, ::stride, ::stride] @ kernel[i, j]
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


def literal_attention(u, mask):
    """Section 4.3, image by image."""
    out = u.copy()
    b, h, w, _ = u.shape
    s = mask.shape[1] // h
    holes = mask.reshape(b, h, s, w, s, 1).max((2, 4))
    for n in range(b):
        cells = holes[n].reshape(h // 2, 2, w // 2, 2).max((1, 3))
        padded = np.pad(cells, 1)
        near = [
            padded[i : i + h // 2, j : j + w // 2] for i in range(3) for j in (0, 1, 2)
        ]
        if (np.max(near, 0) == 0).any():
            out[n] = perceive(u[n], None, holes[n], None, OPTIONS)[0]
    return out


def literal(variables, masked, mask, guides, train):
    params, running = variables["params"], variables["batch_stats"]
    updated = {}

    def encode(name, x, levels):
        x = convolve(x, params[f"{name}_stem"])
        norm, was = params[f"{name}_norm"], running[f"{name}_norm"]
        now = was
        if train:
            now = {"mean": x.mean((0, 1, 2)), "var": x.var((0, 1, 2))}
        updated[f"{name}_norm"] = {k: 0.9 * was[k] + 0.1 * now[k] for k in was}
        x = (x - now["mean"]) / np.sqrt(now["var"] + 1e-5)
        features = [leaky(x * norm["scale"] + norm["bias"])]
        for level in range(2, 7):
            x = leaky(convolve(features[-1], params[f"{name}_down{level}"], stride=2))
            if level in levels:
                fal = params[f"fal{level}"]
                parts = [relu(convolve(x, fal[f"rate{r}"], rate=r)) for r in RATES]
                x = convolve(np.concatenate(parts, -1), fal["fuse"])
            features.append(x)
        return features

    guide = encode("guide", guides, FAL)
    damaged = encode("damaged", np.concatenate([masked, mask], -1), ())
    psi = []
    for level in range(6, 1, -1):
        x = np.concatenate([guide[level - 1], damaged[level - 1], *psi], -1)
        x = bilinear_twice(relu(convolve(x, params[f"fuse{level}"])))
        psi = [literal_attention(x, mask) if level in ATTENTION else x]
    x = relu(convolve(np.concatenate([guide[0], damaged[0], *psi], -1), params["out0"]))
    return np.tanh(convolve(x, params["out1"])), updated


DOWNS = (32, 64, 128, 256, 512, 512)
TABLE = {"guide_stem": (3, 32), "damaged_stem": (2, 32)}
TABLE |= {
    f"{branch}_down{i}": (DOWNS[i - 2], DOWNS[i - 1])
    for branch in ("guide", "damaged")
    for i in range(2, 7)
}
TABLE |= {"fuse6": (1024, 512), "fuse5": (1536, 256), "fuse4": (768, 128)}
TABLE |= {"fuse3": (384, 64), "fuse2": (192, 32)}
COUNTS = {"guide_stem": 864, "damaged_stem": 576, "guide_norm": 64, "damaged_norm": 64}
COUNTS |= {"guide_down2": 18_432, "guide_down3": 73_728, "guide_down4": 294_912}
COUNTS |= {"guide_down5": 1_179_648, "guide_down6": 2_359_296}
COUNTS |= {"fal2": 73_856, "fal3": 295_168, "fal4": 1_180_160, "fal5": 4_719_616}
COUNTS |= {"fuse6": 4_718_592, "fuse5": 3_538_944, "fuse4": 884_736}
COUNTS |= {"fuse3": 221_184, "fuse2": 55_296, "out0": 41_520, "out1": 433}


def test_every_layer_is_the_table_s():
    variables = abstract(generator(), *sections(256))
    shapes = {name: leaf.shape for name, leaf in flat(variables).items()}
    want = {f"params/{k}/kernel": (3, 3, *pair) for k, pair in TABLE.items()}
    for branch in ("guide", "damaged"):
        norm = f"{branch}_norm"
        want |= {f"params/{norm}/{k}": (32,) for k in ("scale", "bias")}
        want |= {f"batch_stats/{norm}/{k}": (32,) for k in ("mean", "var")}
    for level, c in ((2, 64), (3, 128), (4, 256), (5, 512)):
        for name, width in [*((f"rate{r}", c // 4) for r in RATES), ("fuse", c)]:
            want[f"params/fal{level}/{name}/kernel"] = (3, 3, c, width)
            want[f"params/fal{level}/{name}/bias"] = (width,)
    for name, pair in (("out0", (96, 48)), ("out1", (48, 1))):
        want[f"params/{name}/kernel"] = (3, 3, *pair)
        want[f"params/{name}/bias"] = pair[1:]
    assert shapes == want


def test_parameter_counts():
    variables = abstract(generator(), *sections(256))
    params = variables["params"]
    assert count(params) == 23_583_105
    assert count(variables["batch_stats"]) == 128
    assert {k: count(params[k]) for k in COUNTS} == COUNTS
    downs = [params[f"damaged_down{i}"] for i in range(2, 7)]
    assert count(downs) == 3_926_016
    without = abstract(generator(fal_levels=()), *sections(256))["params"]
    assert count(without) == 17_314_305
    guided = abstract(generator(), *sections(256, guides=2))["params"]
    assert count(guided["guide_stem"]) == 576
    # "none": a bias in place of scale, shift and statistics.
    plain = abstract(generator(stem_norm="none"), *sections(256))
    assert set(plain) == {"params"}
    assert count(plain) == 23_583_105 - 128 + 2 * 32
    assert plain["params"]["guide_stem"]["bias"].shape == (32,)


def test_output_has_the_size_of_the_input():
    net, arrays = generator(), sections(256)
    apply = functools.partial(net.apply, train=False)
    raw = jax.eval_shape(apply, abstract(net, *arrays), *arrays)
    assert (raw.shape, str(raw.dtype)) == ((1, 256, 256, 1), "float32")


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    masked = rng.uniform(-1, 1, (3, 64, 64, 1)).astype(np.float32)
    mask = np.zeros_like(masked)
    mask[0, 8:30, 5:40] = 1
    mask[1, 50:, :9] = 1
    mask[2, :, 20:44] = 1  # no valid key at the two coarsest levels
    guides = masked + rng.normal(size=(*masked.shape[:3], 3)) / 2
    guides = np.clip(guides, -1, 1).astype(np.float32)
    return np.where(mask > 0, np.float32(1), masked), mask, guides


@pytest.fixture(scope="module")
def thin(case):
    return random_variables(abstract(generator(THIN), *case), 1)


@pytest.fixture(scope="module")
def weight(case):
    return np.random.default_rng(9).normal(size=case[0].shape) / np.float32(
        case[0].size
    )


def loss(net, weight, params, statistics, arrays):
    variables = {"params": params, "batch_stats": statistics}
    raw, changed = net.apply(variables, *arrays, train=True, mutable=["batch_stats"])
    return (raw * np.float32(weight)).sum(), (raw, changed["batch_stats"])


@pytest.fixture(scope="module")
def trained(case, thin, weight):
    """Raw images, new statistics and gradient of a training pass."""
    run = functools.partial(loss, generator(THIN), weight)
    run = quick(jax.value_and_grad(run, has_aux=True))
    (_, (raw, statistics)), grads = run(thin["params"], thin["batch_stats"], case)
    return raw, statistics, grads


@pytest.fixture(scope="module")
def predict(thin):
    """One program of raw images; attention's scores are kept in this one."""
    net = generator(THIN, remat=False)
    return functools.partial(quick(functools.partial(net.apply, train=False)), thin)


@pytest.fixture(scope="module")
def inattentive(thin):
    """The same without attention."""
    net = generator(THIN, attention_levels=())
    return functools.partial(quick(functools.partial(net.apply, train=False)), thin)


def test_training_agrees_with_numpy(case, thin, trained):
    raw, statistics, _ = trained
    want, updated = literal(double(thin), *double(case), True)
    np.testing.assert_allclose(raw, want, atol=1e-4)
    assert 0.1 < want.std() and (np.abs(want) > 0.99).mean() < 0.3
    for name, leaf in flat(statistics).items():
        np.testing.assert_allclose(leaf, flat(updated)[name], rtol=1e-5, atol=1e-6)


def test_prediction_agrees_with_numpy(case, thin, predict):
    want, _ = literal(double(thin), *double(case), False)
    np.testing.assert_allclose(predict(*case), want, atol=1e-4)
    assert 0.1 < want.std() and (np.abs(want) > 0.99).mean() < 0.3


def test_gradient_agrees_with_finite_differences_of_numpy(case, thin, weight, trained):
    grads = trained[2]
    rng = np.random.default_rng(4)
    at = double(thin["params"])
    along = jax.tree.map(lambda x: rng.normal(size=x.shape) * np.abs(x).mean(), at)

    def moved(step):
        params = jax.tree.map(lambda x, d: x + step * d, at, along)
        variables = {"params": params, "batch_stats": double(thin["batch_stats"])}
        return (literal(variables, *double(case), True)[0] * weight).sum()

    step = 1e-7  # fewer kinks are crossed than with 1e-5
    want = (moved(step) - moved(-step)) / (2 * step)
    got = jax.tree.map(lambda g, d: float(np.sum(np.float64(g) * d)), grads, along)
    np.testing.assert_allclose(sum(jax.tree.leaves(got)), want, rtol=1e-2)


def test_recomputing_keeps_no_scores(case, thin, weight):
    """Float numbers kept for the backward pass, found by tracing alone."""

    def kept(remat):
        net = generator(THIN, remat=remat)
        value = lambda p: loss(net, weight, p, thin["batch_stats"], case)[0]
        return count(jax.eval_shape(lambda p: jax.vjp(value, p)[1], thin["params"]))

    scores = 3 * sum((64 // side) ** 4 for side in (4, 8, 16, 32))
    assert kept(False) - kept(True) > 2 * scores


def test_an_image_sees_its_own_alone(case, predict):
    want = predict(*case)
    got = predict(*(np.stack([x[0], x[1, ::-1], x[2]]) for x in case))
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[2], want[2])
    assert np.abs(got[1] - want[1]).max() > 1e-2


def test_attention_is_nothing_without_a_hole(case, predict, inattentive):
    masked, mask, guides = case
    whole = (masked, np.zeros_like(mask), guides)
    np.testing.assert_array_equal(inattentive(*whole), predict(*whole))
    assert np.abs(inattentive(*case) - predict(*case)).max() > 1e-3


def test_initialisation(case):
    net = generator((16, 16, 16, 16, 16, 16))
    made = quick(functools.partial(net.init, train=True))(
        jax.random.key(0, impl="rbg"), *(x[:1, :32, :32] for x in case)
    )
    spread = []
    for name, leaf in flat(made["params"]).items():
        if name.endswith("kernel"):
            spread.append(np.ravel(leaf) * np.sqrt(np.prod(leaf.shape[:-1])))
        else:
            assert np.all(leaf == ("scale" in name)), name
    spread = np.concatenate(spread)
    # Uniform in [-1, 1]: variance 1/3, fourth moment 1/5.
    assert np.abs(spread).max() <= 1 + 1e-6
    np.testing.assert_allclose(np.mean(spread**2), 1 / 3, rtol=0.02)
    np.testing.assert_allclose(np.mean(spread**4), 1 / 5, rtol=0.02)


def test_bfloat16_stays_near_float32(case, thin, inattentive):
    half = jnp.dtype("bfloat16")
    shapes = abstract(generator(THIN, dtype=half), *case)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    # Attention apart, whose scores are times 90 before the exponential.
    net = generator(THIN, dtype=half, attention_levels=())
    got = quick(functools.partial(net.apply, train=False))(thin, *case)
    assert got.dtype == jnp.float32
    want = inattentive(*case)
    gap = np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2))
    assert gap <= 2e-2


def golden():
    y, x = np.mgrid[:16, :16].astype(np.float64)
    a = ((7 * y + 3 * x) % 11) / 5 - 1
    b = ((5 * y + 2 * x) % 13) / 6 - 1
    mask = ((y >= 4) & (y < 10) & (x >= 5) & (x < 12)).astype(np.float64)
    return np.stack([a, b, a * b], -1)[None], mask[None, ..., None]


@pytest.mark.parametrize(
    "fuse, at, total, means",
    [
        (
            True,
            (-0.3533642211, 0.2506228509, -0.2004955709),
            7.9935405506,
            (0.0039780430, 0.0468830807, 0.0426358736),
        ),
        (False, (-0.3235782679, 0.1701937782, -0.1081835684), 3.8669095394, None),
    ],
)
def test_attention_s_golden_values(fuse, at, total, means):
    u, mask = golden()
    # Beside it an image that is all hole: no key, and so it stays as it is.
    u, mask = np.concatenate([u, u]), np.concatenate([mask, np.ones_like(mask)])
    with jax.enable_x64(True):
        options = OPTIONS._replace(fuse=fuse)
        out = np.asarray(quick(lambda u, mask: attend(u, mask, options))(u, mask))
    np.testing.assert_allclose(out[0, 6, 8], at, atol=1e-9)
    np.testing.assert_allclose(out[0].sum(), total, atol=1e-8)
    np.testing.assert_array_equal(out[1], u[1])
    hole = np.broadcast_to(mask[0] > 0, u[0].shape)
    np.testing.assert_array_equal(out[0][~hole], u[0][~hole])
    if means is not None:
        got = out[0][hole].reshape(-1, 3).mean(0)
        np.testing.assert_allclose(got, means, atol=1e-9)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"channels": THIN[:5]}, "channels is .* give 6 positive numbers"),
        ({"fal_levels": (1, 2)}, r"fal_levels is \(1, 2\); levels are 2 to 6"),
        ({"attention_levels": (7,)}, r"attention_levels is \(7,\); levels are 2 to 6"),
        (
            {"stem_norm": "layer"},
            r"stem_norm is 'layer'; it is one of \['batch', 'none'",
        ),
        (
            {"channels": (4, 6, 4, 4, 4, 4)},
            "6 channels do not divide among the 4 rates",
        ),
        ({"attention": PERCEIVE}, "use_neighbor"),
    ],
)
def test_wrong_fields_say_so(changed, message):
    net = generator(**({"channels": THIN} | changed))
    with pytest.raises(ValueError, match=message):
        abstract(net, *sections(64))


@pytest.mark.parametrize(
    "arrays, message",
    [
        (sections(48), "multiples of 32 and at least 32, got 48 x 48; pad to 64 x 64"),
        ((spec(1, 64, 64, 3), *sections(64)[1:]), r"masked must be \[B, H, W, 1\]"),
        ((*sections(64)[:1], *sections(96)[1:]), r"mask must be \[1, 64, 64, 1\]"),
        ((*sections(64)[:2], spec(1, 64, 32, 3)), r"guides must be \[1, 64, 64, G\]"),
        (
            (*sections(64)[:2], jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)),
            "guides must be float32, got uint8",
        ),
    ],
)
def test_wrong_arrays_say_so(arrays, message):
    with pytest.raises(ValueError, match=message):
        abstract(generator(THIN), *arrays)


def discriminator(width=64, dtype="float32"):
    return Discriminator(width, jnp.dtype(dtype))


def test_discriminator_table():
    net = discriminator()
    variables = abstract(net, spec(1, 256, 256, 1))
    shapes = {name: leaf.shape for name, leaf in flat(variables).items()}
    widths = (1, 64, 128, 256, 512)
    want = {"params/head/kernel": (5, 5, 512, 1), "params/head/bias": (1,)}
    for i, pair in enumerate(zip(widths, widths[1:], strict=False)):
        want[f"params/conv{i}/kernel"] = (5, 5, *pair)
        want[f"batch_stats/conv{i}/u"] = pair[1:]
        want[f"batch_stats/conv{i}/sigma"] = ()
    assert shapes == want
    assert count(variables["params"]) == 4_315_201
    assert count(variables["batch_stats"]) == 964
    apply = functools.partial(net.apply, train=False)
    for size, out in ((256, 32), (128, 16)):
        logits = jax.eval_shape(apply, variables, spec(2, size, size, 1))
        assert logits.shape == (2, out, out, 1)


@pytest.fixture(scope="module")
def judged():
    image = np.random.default_rng(0).uniform(-1, 1, (2, 32, 40, 1)).astype(np.float32)
    net = discriminator(4)
    init = quick(functools.partial(net.init, train=False))
    variables = init(jax.random.key(1), image)
    update = functools.partial(net.apply, train=True, mutable=["batch_stats"])
    return net, variables, image, quick(update)


def literal_discriminator(variables, image):
    """Logits and the power iteration's new state, one step (section 4.5)."""
    x, params, states = image, variables["params"], variables["batch_stats"]
    updated = {}
    for i in range(4):
        kernel = params[f"conv{i}"]["kernel"]
        matrix = kernel.reshape(-1, kernel.shape[-1])
        u = states[f"conv{i}"]["u"]
        v = matrix @ u / np.linalg.norm(matrix @ u)
        u = v @ matrix / np.linalg.norm(v @ matrix)
        sigma = v @ matrix @ u
        updated[f"conv{i}/u"] = u
        updated[f"conv{i}/sigma"] = sigma
        stride = 2 if i < 3 else 1
        x = leaky(convolve(x, {"kernel": kernel / sigma}, stride=stride))
    return convolve(x, params["head"]), updated


def test_discriminator_agrees_with_numpy(judged):
    net, variables, image, update = judged
    want, updated = literal_discriminator(double(variables), np.float64(image))
    logits, changed = update(variables, image)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-6)
    for name, leaf in flat(changed["batch_stats"]).items():
        np.testing.assert_allclose(leaf, updated[name], rtol=1e-5, atol=1e-6)


def test_spectral_statistics_move_in_the_own_pass_alone(judged):
    net, variables, image, update = judged
    apply = quick(functools.partial(net.apply, train=False, mutable=["batch_stats"]))
    logits, same = apply(variables, image)
    for name, leaf in flat(same["batch_stats"]).items():
        np.testing.assert_array_equal(leaf, flat(variables["batch_stats"])[name])
    # The step is taken all the same, so both passes judge alike.
    np.testing.assert_allclose(
        logits, update(variables, image)[0], rtol=1e-4, atol=1e-6
    )
    with pytest.raises(Exception, match="immutable"):
        jax.eval_shape(functools.partial(net.apply, train=True), variables, image)


def test_spectral_norms_become_one(judged):
    _, variables, image, update = judged
    for _ in range(60):
        variables = variables | update(variables, image)[1]
    for i in range(4):
        kernel = np.asarray(variables["params"][f"conv{i}"]["kernel"])
        largest = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]))[1][0]
        sigma = variables["batch_stats"][f"conv{i}"]["sigma"]
        np.testing.assert_allclose(sigma, largest, rtol=1e-3)


def test_kernels_begin_narrow(judged):
    """Normal, 0.02, as they are stored: not over their spectral norm."""
    params = judged[1]["params"]
    assert not np.any(params["head"]["bias"])
    for i in range(1, 4):
        kernel = np.ravel(params[f"conv{i}"]["kernel"])
        np.testing.assert_allclose(kernel.std(), 0.02, rtol=4 / np.sqrt(kernel.size))


class Norm(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        layer = nn.Conv(6, (5, 5), padding=((2, 2), (2, 2)), use_bias=False, name="c")
        return nn.SpectralNorm(layer, name="n")(x, update_stats=train)


def test_spectral_norm_is_flax_s():
    rng = np.random.default_rng(2)
    x, kernel = rng.normal(size=(2, 9, 8, 4)), rng.normal(size=(5, 5, 4, 6))
    x, kernel = np.float32(x), np.float32(kernel)
    weight, u = rng.normal(size=(2, 9, 8, 6)), np.float32(rng.normal(size=6))

    def outcome(net, variables):
        def value(kernel):
            params = jax.tree.map(lambda _: kernel, variables["params"])
            y, new = net.apply(
                variables | {"params": params}, x, train=True, mutable=["batch_stats"]
            )
            return (y * np.float32(weight)).sum(), (y, new["batch_stats"])

        return quick(jax.value_and_grad(value, has_aux=True))(kernel)

    one = np.float32(1)
    (_, (y, new)), grad = outcome(
        SpectralConv(6, 1, jnp.dtype("float32")),
        {"params": {"kernel": kernel}, "batch_stats": {"u": u, "sigma": one}},
    )
    states = {"n": {"c/kernel/u": u[None], "c/kernel/sigma": one}}
    (_, (want, states)), want_grad = outcome(
        Norm(), {"params": {"c": {"kernel": kernel}}, "batch_stats": states}
    )
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad, want_grad, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new["u"], states["n"]["c/kernel/u"][0], rtol=1e-5)
    np.testing.assert_allclose(new["sigma"], states["n"]["c/kernel/sigma"], rtol=1e-5)


def test_a_logit_sees_93_pixels_around_its_own():
    """5 + 4 (2 + 4 + 8 + 8) / 1 in all: 46 on each side of pixel 8 i."""
    net = discriminator(2)
    image = np.random.default_rng(0).normal(size=(1, 112, 112, 1)).astype(np.float32)
    variables = random_variables(abstract(net, image), 3)
    logit = lambda x: net.apply(variables, x, train=False)[0, 7, 6, 0]
    seen = np.asarray(quick(jax.grad(logit))(image))[0, ..., 0] != 0
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    assert (rows[0], rows[-1]) == (56 - 46, 56 + 46)
    assert (columns[0], columns[-1]) == (48 - 46, 48 + 46)


def test_discriminator_in_bfloat16(judged):
    _, variables, image, update = judged
    net = discriminator(4, "bfloat16")
    got = quick(functools.partial(net.apply, train=False))(variables, image)
    want = update(variables, image)[0]
    assert got.dtype == jnp.float32
    gap = np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2))
    assert gap <= 2e-2


@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 60, 64, 1), "multiples of 8 and at least 8, got 60 x 64; pad to 64 x 64"),
        ((1, 64, 64, 3), r"image must be \[B, H, W, 1\], got \[1, 64, 64, 3\]"),
    ],
)
def test_discriminator_s_wrong_shapes_say_so(shape, message):
    with pytest.raises(ValueError, match=message):
        abstract(discriminator(2), spec(*shape))
