"""Both stages of RNON, against slow numpy and the values of its specification, 9."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import rnon_optimize, rnon_repair
from jaxinpaint.core.checkpoint import Checkpoints
from jaxinpaint.inference.restore import predictor
from jaxinpaint.losses.perceptual import absolute, elements, style
from jaxinpaint.models.rnon import (
    Discriminator,
    OptimizationGenerator,
    RepairGenerator,
)
from jaxinpaint.systems import rnon
from jaxinpaint.systems.rnon import optimize, repair
from jaxinpaint.training.workdir import to_json
from tests.models.literal import random_params

# Compiling dominates here, so the compiler is told not to try hard.
quick = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)
FLOAT = jnp.dtype("float32")


def config_of(stage, **changes):
    module = {"repair": rnon_repair, "optimize": rnon_optimize}[stage]
    config = module.get_config("smoke")
    config.update_from_flattened_dict(changes)
    return config


def stage_of(name, **changes):
    config = config_of(name, **changes)
    return rnon.STAGES[name](config, None)


# The losses, pixel by pixel.


def case(seed=0, side=5):
    """Image and result in [0, 1], and a mask with a hole at the border and a dot."""
    rng = np.random.default_rng(seed)
    image, raw = rng.random((2, 2, side, side, 3)).astype(np.float32)
    mask = np.zeros((2, side, side, 1), np.float32)
    mask[0, 1:4, 2:] = 1
    mask[1, 4, 0] = mask[1, 0:2, 0:3] = 1
    return image, raw, mask


def literal_variation(image, mask, region):
    b, h, w, c = image.shape
    inside = np.zeros((b, h, w))
    for n, i, j in np.ndindex(b, h, w):
        near = mask[n, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        inside[n, i, j] = {"hole": mask[n, i, j, 0], "dilated": near.max(), "all": 1}[
            region
        ]
    total = 0.0
    for n, i, j, k in np.ndindex(b, h, w, c):
        for i2, j2 in ((i, j + 1), (i + 1, j)):
            if i2 < h and j2 < w and inside[n, i, j] and inside[n, i2, j2]:
                total += abs(float(image[n, i2, j2, k]) - float(image[n, i, j, k]))
    return total / (b * h * w * c)


def features(image):
    """Two networks of three tensors in all; the second is not linear in the image."""
    x = np if isinstance(image, np.ndarray) else jnp
    return {
        "first/a": image * 3.0,
        "first/b": x.concatenate([image[:, ::2] ** 2, image[:, ::2]], axis=-1),
        "second/c": x.exp(image[:, 1:4, 1:3]),
    }


def read(images):
    return [features(image) for image in images]


def literal_perceptual(truth, made, weights):
    return sum(
        weights[k.split("/")[0]] * np.abs(made[k] - truth[k]).mean() for k in truth
    )


def literal_gram(x):
    b, h, w, c = x.shape
    out = np.zeros((b, c, c))
    for n, i, j in np.ndindex(b, h, w):
        out[n] += np.outer(x[n, i, j], x[n, i, j])
    return out / (c * h * w)


def literal_style(truth, made, weights):
    return sum(
        weights[k.split("/")[0]]
        * np.abs(literal_gram(made[k]) - literal_gram(truth[k])).mean()
        for k in truth
    )


def wide(x):
    return x.astype(np.float64)


NETS = {"first": 0.7, "second": 5.0}
STYLE_NETS = {"first": 2.0, "second": 0.3}
ODD_A = {"valid": 1.3, "hole": 2.7, "perceptual": 0.9, "style": 3.1, "variation": 7.0}


@pytest.mark.parametrize("region", repair.TV_REGIONS)
def test_the_repair_loss_is_equation_1(region):
    image, raw, mask = case()
    stage = stage_of("repair", **{"loss.tv_region": region})
    with stage.loss.unlocked():
        stage.loss.update(ODD_A)
        stage.loss.perceptual_nets, stage.loss.style_nets = NETS, STYLE_NETS
    total, logs = stage.terms(*map(jnp.asarray, (image, raw, mask)), read)

    completed = np.where(mask > 0, raw, image)
    error = np.abs(wide(raw) - wide(image))
    truth = features(wide(image))
    made = [features(wide(raw)), features(wide(completed))]
    want = {
        "valid": (error * (1 - mask)).mean(),
        "hole": (error * mask).mean(),
        "variation": literal_variation(completed, mask, region),
        "perceptual": sum(literal_perceptual(truth, one, NETS) for one in made),
        "style": sum(literal_style(truth, one, STYLE_NETS) for one in made),
    }
    assert set(logs) == {f"loss/{name}" for name in want}
    for name, value in want.items():
        np.testing.assert_allclose(logs[f"loss/{name}"], value, rtol=1e-5)
    weighted = sum(ODD_A[name] * value for name, value in want.items())
    np.testing.assert_allclose(total, weighted, rtol=1e-5)

    _, logs = stage.terms(*map(jnp.asarray, (image, raw, mask)), None)
    assert set(logs) == {"loss/valid", "loss/hole", "loss/variation"}


def test_regions_of_the_variation_differ():
    image, _, mask = case()
    values = [float(literal_variation(image, mask, r)) for r in repair.TV_REGIONS]
    assert values == sorted(values) and len(set(values)) == 3


def test_golden_variation():
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    mask = np.zeros((1, 4, 4, 1), np.float32)
    mask[:, 1:3, 1:4] = 1
    got = repair.total_variation(image, jnp.asarray(mask), "hole")
    assert got == pytest.approx(1.0)  # a sum of 16 over 16 elements


def test_golden_style_term():
    with jax.enable_x64(True):
        tensor = jnp.arange(1.0, 9.0).reshape(1, 2, 2, 2)
        got = style({"f": tensor}, {"f": tensor + 1}, {"f": 1.0}, elements, absolute)
    assert got == pytest.approx(5.0, abs=1e-9)


def test_nothing_pulls_where_all_is_right():
    """Not at 0 of an absolute value either, where `jnp.abs` has the slope 1."""
    _, _, mask = case()
    flat = jnp.full((2, 5, 5, 3), 0.4)
    stage = stage_of("repair")
    loss = lambda raw: stage.terms(flat, raw, jnp.asarray(mask), None)[0]
    value, gradient = jax.value_and_grad(loss)(flat)
    assert value == 0 and not np.any(gradient)


@pytest.mark.parametrize("region", optimize.REGIONS)
@pytest.mark.parametrize("composite", [True, False])
def test_the_optimization_loss_is_equation_11(region, composite):
    image, raw, mask = case(1)
    stage = stage_of(
        "optimize",
        **{
            "loss.content": 3.0,
            "loss.perceptual": 0.6,
            "loss.content_region": region,
            "loss.per_composite": composite,
        },
    )
    with stage.loss.unlocked():
        stage.loss.perceptual_nets = NETS
    total, logs = stage.terms(*map(jnp.asarray, (image, raw, mask)), read)

    error = np.abs(wide(raw) - wide(image))
    content = (error * (1 - mask)).mean() if region == "valid" else error.mean()
    truth = features(wide(image))
    made = [raw, np.where(mask > 0, raw, image)][: 1 + composite]
    per = sum(literal_perceptual(truth, features(wide(x)), NETS) for x in made)
    np.testing.assert_allclose(logs["loss/content"], content, rtol=1e-5)
    np.testing.assert_allclose(logs["loss/perceptual"], per, rtol=1e-5)
    np.testing.assert_allclose(total, 3.0 * content + 0.6 * per, rtol=1e-5)
    _, logs = stage.terms(*map(jnp.asarray, (image, raw, mask)), None)
    assert set(logs) == {"loss/content"}


# Adversarial losses, as numpy has them.

REAL = np.float32([[1.3], [-0.4], [2.2]])
FAKE = np.float32([[-0.7], [0.9], [3.0]])


def sigmoid(x):
    return 1 / (1 + np.exp(-wide(x)))


def softplus(x):
    return np.log1p(np.exp(wide(x)))


def entropy(p, q):
    p, q = (np.clip(x, 1e-6, 1 - 1e-6) for x in (p, q))
    return -(p * np.log(q) + (1 - p) * np.log(1 - q)).mean()


def gap(p, q):
    return np.abs(p - q).mean()


CROSS = (softplus(-REAL).mean() + softplus(FAKE).mean()) / 2
WANT = {  # generator's, discriminator's
    ("repair", "nonsaturating"): (softplus(-FAKE).mean(), CROSS),
    ("repair", "score_gap"): (gap(sigmoid(FAKE), sigmoid(REAL)), CROSS),
    ("repair", "literal"): (gap(sigmoid(FAKE), sigmoid(REAL)),) * 2,
    ("optimize", "nonsaturating"): (softplus(-FAKE).mean(), CROSS),
    ("optimize", "literal"): (entropy(sigmoid(FAKE), sigmoid(REAL)),) * 2,
}


@pytest.mark.parametrize("name, kind", WANT)
def test_adversarial_losses(name, kind):
    key = {"repair": "repair_adv", "optimize": "opt_adv"}[name]
    stage = stage_of(name, **{f"loss.{key}": kind})
    of_generator, of_discriminator = WANT[name, kind]
    judge = lambda logits: logits * scale  # an image here is its own logit
    scale = 1.0
    got = stage.adversarial(judge, jnp.asarray(REAL), jnp.asarray(FAKE))
    np.testing.assert_allclose(got, of_generator, rtol=1e-5)
    sign = -1 if kind == "literal" else 1
    got = stage.discriminator(jnp.asarray(REAL), jnp.asarray(FAKE))
    np.testing.assert_allclose(got, sign * of_discriminator, rtol=1e-5)
    # The discriminator learns from both; the generator's target is a constant.
    pulls = jax.grad(stage.discriminator, (0, 1))(jnp.asarray(REAL), jnp.asarray(FAKE))
    assert all(np.all(np.asarray(pull) != 0) for pull in pulls)
    pull = jax.grad(lambda x: stage.adversarial(judge, x, jnp.asarray(FAKE)))
    assert not np.any(pull(jnp.asarray(REAL)))


@pytest.mark.parametrize(
    "p, q, nine, fourteen",
    [(0.2, 0.8, 0.6, 1.33218), (0.5, 0.5, 0.0, 0.69315), (0.9, 0.99, 0.09, 0.46956)],
)
def test_golden_equations_9_and_14(p, q, nine, fourteen):
    logit = lambda x: jnp.full((2, 1), np.log(x / (1 - x)), FLOAT)
    assert repair.score_gap(logit(q), logit(p)) == pytest.approx(nine, abs=1e-6)
    scores = (jnp.full((2, 1), x) for x in (p, q))
    got = optimize.score_cross_entropy(*scores)
    assert got == pytest.approx(fourteen, abs=1e-5)


def test_a_certain_discriminator_leaves_equation_14_finite():
    stage = stage_of("optimize", **{"loss.opt_adv": "literal"})
    sure = jnp.full((2, 1), 200.0)
    value = stage.adversarial(lambda x: x, sure, -sure)
    assert value == pytest.approx(-np.log(1e-6), rel=0.01)
    assert stage.discriminator(sure, -sure) == pytest.approx(-float(value), rel=1e-3)


# Which features the losses read.


def test_features_are_those_of_section_3_1():
    want = {
        "repair": {
            "vgg16/pool1": (128, 128, 64),
            "vgg16/pool2": (64, 64, 128),
            "vgg16/pool3": (32, 32, 256),
            "densenet121/conv1_relu": (128, 128, 64),
            "densenet121/pool2_pool": (32, 32, 128),
            "densenet121/pool3_pool": (16, 16, 256),
        },
        "optimize": {
            "vgg19/relu3_4": (64, 64, 256),
            "densenet121/pool2_conv": (64, 64, 128),
        },
    }
    counts = {"repair": 1_735_488 + 1_429_632, "optimize": 2_325_568 + 377_856}
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), FLOAT)
    for name, module in (("repair", rnon_repair), ("optimize", rnon_optimize)):
        config = module.get_config()
        taps = rnon.STAGES[name](config, None).taps
        extractor = rnon.feature_networks(config, taps)
        frozen = {
            net: jax.eval_shape(network.init, jax.random.key(0), image)
            for net, network in extractor.networks.items()
        }
        got = jax.eval_shape(extractor, frozen, image)
        assert {tap: tensor.shape[1:] for tap, tensor in got.items()} == want[name]
        params = [net["params"] for net in frozen.values()]
        assert sum(x.size for x in jax.tree.leaves(params)) == counts[name]


def test_imported_weights_are_asked_for_where_they_weigh(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXINPAINT_HOME", str(tmp_path))
    on = {"features.vgg16": "imported"}
    with pytest.raises(FileNotFoundError, match="weights import FILE --as vgg16"):
        rnon.build(config_of("repair", **on)).load_frozen()
    off = {"loss.perceptual": 0.0, "loss.style_nets.vgg16": 0.0}
    assert rnon.build(config_of("repair", **on, **off)).load_frozen() == {}
    half = on | {"loss.perceptual": 0.0}  # the style term alone reads them too
    with pytest.raises(FileNotFoundError, match="vgg16"):
        rnon.build(config_of("repair", **half)).load_frozen()


# One whole update, against the same losses put together apart.


class Toy(nn.Module):
    """In the place of a pretrained network: knows the range that it is given."""

    taps: tuple[str, ...]

    def __call__(self, image):
        return {tap: image**2 * (i + 1.0) for i, tap in enumerate(self.taps)}


SMALL = {"image_size": 16, "optimizer.weight_decay": 0.1, "optimizer.b1": 0.4}
ODD = {
    "repair": {
        "discriminator.widths": (4, 4),
        "features.vgg16": "random:0",
        "loss.repair_adv": "score_gap",
    },
    "optimize": {
        "discriminator.widths": (4, 4),
        "features.vgg19": "random:0",
        "loss.opt_adv": "nonsaturating",
        "optimize.rates": (1, 2),
        "optimize.norm": "batch",
        "optimize.opt_input": "composite",
        "loss.content_region": "all",
    },
}


@pytest.fixture(scope="module", params=["repair", "optimize"])
def run(request):
    """A stage, a state of no special numbers, and one update of it."""
    config = config_of(request.param, **SMALL, **ODD[request.param])
    patch = pytest.MonkeyPatch()
    toy = {name: lambda taps, dtype: Toy(taps) for name in rnon._NETWORKS}
    patch.setattr(rnon, "_NETWORKS", toy)
    request.addfinalizer(patch.undo)
    system = rnon.build(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    variables = filled(shapes.variables, 0)
    state = state.__class__(state.step, variables, state.opt_state)
    frozen = {name: {} for name in config.features if "vgg" in name}
    if config.stage == "optimize":
        frozen["repair"] = filled(repair_shapes(config), 9)
    image, _, mask = case(3, side=16)
    batch = {"image": 2 * image - 1, "mask": mask}
    update = quick(system.update)
    new, logs = update(state, frozen, batch, jax.random.key(1))
    return config, system, state, frozen, batch, new, logs


def filled(shapes, seed):
    drawn = random_params(shapes, seed)
    positive = lambda path, x: jnp.abs(x) + 0.5 if path[-1].key == "var" else x
    return jax.tree_util.tree_map_with_path(positive, drawn)


def repair_net(config):
    options = config.repair
    return RepairGenerator(options.widths, options.kernels, "nearest", FLOAT)


def repair_shapes(config):
    image = jnp.zeros((1, config.image_size, config.image_size, 3))
    init = functools.partial(repair_net(config).init, train=False)
    return jax.eval_shape(init, jax.random.key(0), image, image[..., :1])


@pytest.fixture(scope="module")
def apart(run):
    """Losses, the generator's gradient and all statistics, in passes of their own."""
    config, _, state, frozen, batch, new, _ = run
    judge = Discriminator(
        tuple(config.discriminator.widths),
        config.discriminator.hidden,
        "flatten",
        FLOAT,
    )
    options, weights = config.optimize if "optimize" in config else None, config.loss
    image, mask = (batch["image"] + 1) / 2, batch["mask"]
    damaged, valid = image * (1 - mask), 1 - mask
    g = state.variables["generator"]
    net, given = repair_net(config), (damaged, valid)
    if options is not None:
        given = net.apply(frozen["repair"], damaged, valid, train=False)
        given = (given * mask + image * valid,)
        net = OptimizationGenerator(
            options.width, options.blocks, (1, 2), 3, "batch", False, False, FLOAT
        )
    pair = functools.partial(judge.apply, train=True, mutable=["batch_stats"])

    def per_net(made):
        square = lambda x: (2 * x - 1) ** 2
        apart = jnp.abs(square(made) - square(image)).mean()
        return apart * (6 if "style" in weights else 1)  # taps of weight 1, 2, 3

    def per_style(made):
        total = 0
        for i in (1, 2, 3):
            grams = []
            for x in (made, image):
                f = (i * (2 * x - 1) ** 2).reshape(2, -1, 3)
                grams.append(jnp.einsum("bnc,bnd->bcd", f, f) / (f.shape[1] * 3))
            total += jnp.abs(grams[0] - grams[1]).mean()
        return total

    @quick
    def everything(g, before, after):
        def total(params):
            raw, changed = net.apply(
                {**g, "params": params}, *given, train=True, mutable=["batch_stats"]
            )
            completed = raw * mask + image * valid
            error = jnp.abs(raw - image)
            fake, real = pair(after, raw)[0], pair(after, image)[0]
            if options is None:
                across = jnp.abs(jnp.diff(completed, axis=2))
                down = jnp.abs(jnp.diff(completed, axis=1))
                across = across * mask[:, :, 1:] * mask[:, :, :-1]
                down = down * mask[:, 1:] * mask[:, :-1]
                terms = {
                    "valid": (error * valid).mean(),
                    "hole": (error * mask).mean(),
                    "variation": (across.sum() + down.sum()) / image.size,
                    "perceptual": per_net(raw) + per_net(completed),
                    "style": per_style(raw) + per_style(completed),
                }
                s = jax.nn.sigmoid
                adversarial, weight = jnp.abs(s(fake) - s(real)).mean(), 100.0
            else:
                both = 1.25 * (per_net(raw) + per_net(completed))
                terms = {"content": error.mean(), "perceptual": both}
                adversarial, weight = jnp.logaddexp(0, -fake).mean(), 0.75
            value = sum(weights[k] * v for k, v in terms.items()) + weight * adversarial
            logs = terms | {"generator": value, "adversarial": adversarial}
            return value, (logs, changed["batch_stats"], raw)

        (_, rest), grads = jax.value_and_grad(total, has_aux=True)(g["params"])
        logs, of_generator, raw = rest

        def of_discriminator(params):
            real, fake = (pair({**before, "params": params}, x) for x in (image, raw))
            cross = jnp.logaddexp(0, -real[0]).mean() + jnp.logaddexp(0, fake[0]).mean()
            return cross / 2, (real[1]["batch_stats"], fake[1]["batch_stats"])

        (cross, seen), grads_d = jax.value_and_grad(of_discriminator, has_aux=True)(
            before["params"]
        )
        old = before["batch_stats"]
        mean = [jax.tree.map(lambda a, b: (b - 0.9 * a) / 0.1, old, x) for x in seen]
        carried = jax.tree.map(
            lambda a, r, f: 0.81 * a + 0.09 * r + 0.1 * f, old, *mean
        )
        logs["discriminator"] = cross
        return logs, (grads, grads_d), (of_generator, carried)

    return everything(
        g, state.variables["discriminator"], new.variables["discriminator"]
    )


def test_the_losses_are_those_of_the_paper_and_the_discriminator_moves_first(
    run, apart
):
    # "loss/adversarial" is of the discriminator after its update.
    want, got = apart[0], run[-1]
    assert set(got) == {f"loss/{name}" for name in want}
    for name, value in want.items():
        np.testing.assert_allclose(got[f"loss/{name}"], value, rtol=2e-4, err_msg=name)


def test_both_networks_follow_their_gradients_with_the_decay_in_them(run, apart):
    _, _, state, _, _, new, _ = run
    for name, grads in zip(("generator", "discriminator"), apart[1], strict=True):
        _, (adam, _) = new.opt_state[name]
        assert adam.count == 1
        first = jax.tree.map(lambda m: m / (1 - 0.4), adam.mu)
        params = state.variables[name]["params"]
        want = jax.tree.map(lambda g, p: g + 0.1 * p, grads, params)
        largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want))
        jax.tree.map(
            functools.partial(
                np.testing.assert_allclose, rtol=2e-3, atol=1e-4 * largest
            ),
            first,
            want,
        )


def test_statistics_come_from_one_forward_pass_and_from_the_discriminator_s_step(
    run, apart
):
    new = run[-2]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    for name, want in zip(("generator", "discriminator"), apart[2], strict=True):
        jax.tree.map(close, new.variables[name]["batch_stats"], want)


def test_the_hole_is_never_read_and_known_pixels_come_back(run):
    config, system, state, frozen, _, _, _ = run
    config.update_from_flattened_dict({"eval.size_multiple": 16, "eval.least_size": 16})
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 16, 20, 3)).astype(np.uint8)
    mask = np.zeros((1, 16, 20, 1), np.uint8)
    mask[:, 5:, 12:] = 1  # at the border, which the padding repeats
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", quick)
        predict = predictor(config, system, state.variables, frozen, (), ())
        first = predict({"image": image, "mask": mask})["completed"]
        np.testing.assert_array_equal(
            np.where(mask, 0, first), np.where(mask, 0, image)
        )
        assert not np.array_equal(np.where(mask, first, 0), np.where(mask, image, 0))
        again = predict(
            {"image": np.where(mask > 0, 99, image).astype("u1"), "mask": mask}
        )
    np.testing.assert_array_equal(again["completed"], first)


def test_what_predict_returns(run):
    config, system, state, frozen, batch, _, _ = run
    out = quick(system.predict)(state.variables, frozen, batch, jax.random.key(0))
    more = {"repaired"} if config.stage == "optimize" else set()
    assert set(out) == {"completed", "raw"} | more
    for image in out.values():
        assert image.shape == (2, 16, 16, 3) and image.min() < -0.05  # not [0, 1]
    known = batch["mask"] == 0
    want = np.where(known, batch["image"], out["raw"])  # bit for bit
    np.testing.assert_array_equal(out["completed"], want)


def test_what_the_generators_are_given():
    image, _, mask = case(4, side=16)
    stage = stage_of("repair")
    broken = np.where(mask > 0, np.nan, image)
    (damaged, valid), shown = stage.inputs({}, jnp.asarray(broken), jnp.asarray(mask))
    np.testing.assert_array_equal(damaged, image * (1 - mask))
    np.testing.assert_array_equal(valid, 1 - mask)
    assert shown == {}

    config = config_of("optimize", image_size=16)
    frozen = {"repair": filled(repair_shapes(config), 1)}
    net = repair_net(config)
    want = net.apply(frozen["repair"], damaged, valid, train=False)
    whole = image * (1 - mask) + want * mask
    for choice, given in (("raw", want), ("composite", whole)):
        config.optimize.opt_input = choice
        stage = optimize.Optimize(config, net)
        args = frozen, jnp.asarray(image), jnp.asarray(mask)
        (got,), shown = stage.inputs(*args)
        np.testing.assert_allclose(got, given, atol=1e-6)
        np.testing.assert_allclose(shown["repaired"], want, atol=1e-6)


def test_no_gradient_reaches_stage_a():
    config = config_of("optimize", image_size=16)
    stage, frozen = optimize.Optimize(config, repair_net(config)), repair_shapes(config)
    image, _, mask = case(4, side=16)

    def loss(frozen):
        (given,), _ = stage.inputs({"repair": frozen}, image, mask)
        return given.sum()

    text = str(jax.make_jaxpr(jax.grad(loss))(frozen))
    assert "transpose" not in text and "conv_general_dilated" in text


# Stage A's checkpoint.


def save_stage_a(workdir, config):
    variables = filled(repair_shapes(config), 5)
    state = {"variables": {"generator": variables}}
    options = {"save_every": 1, "keep_latest": 1, "keep_best": 0}
    with Checkpoints(
        workdir / "checkpoints", best=("eval/psnr", "max"), **options
    ) as checkpoints:
        checkpoints.save(7, jax.tree.map(jnp.asarray, state), {}, {}, force=True)
    (workdir / "config.json").write_text(json.dumps(to_json(config)))
    return variables


def test_stage_a_is_read_from_its_workdir(tmp_path):
    want = save_stage_a(tmp_path, config_of("repair"))
    config = config_of("optimize", repair_from=str(tmp_path))
    got = rnon.build(config).load_frozen()
    jax.tree.map(np.testing.assert_array_equal, got, {"repair": want})

    config.repair.widths = (4, 4, 4, 8)
    with pytest.raises(
        ValueError, match=r"does not match .* repair.widths \(\[4, 4, 4"
    ):
        rnon.build(config).load_frozen()


def test_another_stage_is_no_stage_a(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(to_json(config_of("optimize"))))
    config = config_of("optimize", repair_from=str(tmp_path))
    with pytest.raises(ValueError, match="stage .'optimize', not 'repair'"):
        rnon.build(config).load_frozen()


@pytest.mark.parametrize("begun", [False, True])
def test_a_missing_stage_a_names_the_command(tmp_path, begun):
    if begun:  # but never saved
        path = tmp_path / "config.json"
        path.write_text(json.dumps(to_json(config_of("repair"))))
    for source in ("", str(tmp_path)):
        system = rnon.build(config_of("optimize", repair_from=source))
        message = "stage B needs a trained repair module.*configs/rnon_repair.py"
        with pytest.raises(FileNotFoundError, match=message):
            system.load_frozen()


# What a config may say.


def test_a_weight_of_0_leaves_the_discriminator_out():
    for name in ("repair", "optimize"):
        config = config_of(name, **{"loss.adversarial.nonsaturating": 0.0})
        system = rnon.build(config)
        state = jax.eval_shape(system.init, jax.random.key(0))
        frozen = {}
        if name == "optimize":
            frozen = {"repair": repair_shapes(config)}
        new, logs = jax.eval_shape(
            system.update, state, frozen, system.batch_spec, jax.random.key(0)
        )
        assert set(new.variables) == set(new.opt_state) == {"generator"}
        assert jax.tree.structure(new) == jax.tree.structure(state)
        assert "loss/discriminator" not in logs and "loss/adversarial" not in logs


@pytest.mark.parametrize(
    "stage, changes, message",
    [
        ("repair", {"stage": "paint"}, r"stage is 'paint'; the stages are \['repair'"),
        ("repair", {"channels": 1}, "channels is 1; RNON restores photographs"),
        ("repair", {"image_size": 72}, "image_size is 72; .* multiples of 16"),
        ("repair", {"model.dtype": "float16"}, "dtype is 'float16'"),
        ("repair", {"batch_size": 1}, "stage A needs a global batch of at least 2"),
        ("repair", {"repair.widths": (4, 4, 4)}, "depth must be in 4..8"),
        ("repair", {"repair.widths": (4,) * 9}, "depth must be in 4..8"),
        ("repair", {"loss.repair_adv": "hinge"}, r"repair_adv must be one of \['nons"),
        ("repair", {"loss.tv_region": "hull"}, r"tv_region must be one of \['hole'"),
        ("optimize", {"loss.opt_adv": "score_gap"}, "opt_adv must be one of"),
        ("optimize", {"loss.content_region": "hole"}, "content_region must be one of"),
        ("optimize", {"optimize.opt_input": "both"}, "opt_input must be one of"),
        ("optimize", {"eval.also": ("raw",)}, r"also is .'raw',.; .*'repaired'\]"),
        ("repair", {"eval.whole": ("repaired",)}, r"whole is .*; .*'raw'\]"),
        ("repair", {"repair.upsample": "bilinear"}, "upsample must be one of"),
        ("repair", {"discriminator.fc_input": "max"}, "fc_input must be one of"),
        ("optimize", {"optimize.norm": "layer"}, "norm must be one of"),
    ],
)
def test_wrong_configs_say_so(stage, changes, message):
    config = config_of(stage)
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        system = rnon.build(config)
        jax.eval_shape(system.init, jax.random.key(0))


def test_features_name_the_networks_of_their_stage():
    config = config_of("repair")
    with config.features.unlocked():
        config.features.vgg19 = "none"
    with pytest.raises(ValueError, match="reads features of .'densenet121', 'vgg16'."):
        rnon.build(config)
