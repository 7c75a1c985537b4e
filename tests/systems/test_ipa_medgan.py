"""ipA-MedGAN's losses against slow numpy, its update against PyTorch, its promises.

Section numbers are those of the system's specification.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.ipa_medgan import get_config
from jaxinpaint.losses.adversarial import softplus_discriminator
from jaxinpaint.losses.perceptual import elements, positions, style
from jaxinpaint.systems import ipa_medgan

# Compiling dominates here, so the compiler is told not to try hard.
quick = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)
ODD = {  # no two weights alike
    "loss.adversarial": 1.5,
    "loss.style": 40.0,
    "loss.perceptual": 3.0,
    "loss.l1": 2.5,
    "loss.features": (0.5, 0.25, 2.0, 1.25),
    "loss.style_layers": ("relu1_1", "relu2_1"),
    "loss.style_weights": (0.75, 2.0),
}


def config_of(**changes):
    config = get_config("smoke")
    config.update_from_flattened_dict(changes)
    return config


# The loss of the generator, number by number.


@pytest.fixture(scope="module")
def case():
    """Images, logits and features of no network."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    shapes = ((2, 4, 4, 3), (2, 2, 2, 5), (2, 1, 2, 2), (2, 1, 1, 4))
    return {
        "image": rng.uniform(-1, 1, (2, 6, 6, 1)).astype(np.float32),
        "painted": [draw(2, 6, 6, 1), draw(2, 6, 6, 1)],
        "logits": {"patch": 3 * draw(2, 3, 3, 1), "global": 3 * draw(2, 2, 1, 1)},
        "features": ([draw(*s) for s in shapes], [draw(*s) for s in shapes]),
    }


def taps(image):
    """Features that a reader can follow: shifted levels, products of levels."""
    stack = lambda *maps: jnp.concatenate(maps, axis=-1)
    return {
        "relu1_1": stack(image, image + 1.0, image * image),
        "relu2_1": stack(image[:, ::2, ::3], -image[:, ::2, ::3]),
    }


def loss_of(case, changes, extract=taps):
    config = config_of(**{**ODD, **changes})
    given = jax.tree.map(jnp.asarray, case)
    total, logs = ipa_medgan.generator_loss(
        config.loss,
        given["image"],
        given["painted"],
        given["logits"],
        given["features"],
        extract,
    )
    return float(total), {name: float(value) for name, value in logs.items()}


def mean(values):
    values = [float(v) for v in values]
    return sum(values) / len(values)


def mean_apart(a, b):
    return mean(abs(float(x) - float(y)) for x, y in zip(a.flat, b.flat, strict=True))


def slow_gan(case, form):
    total = 0.0
    for z in case["logits"].values():
        p = [1 / (1 + np.exp(-float(v))) for v in z.flat]
        if form == "nonsaturating":
            total += mean(-np.log(v) for v in p)
        else:
            total += mean(np.log(1 - v) for v in p)
    return total


def slow_style(case, norm):
    """Eq. 4, loop by loop."""
    seen = [taps(jnp.asarray(x)) for x in (case["image"], case["painted"][-1])]
    total = 0.0
    for name, weight in zip(ODD["loss.style_layers"], (0.75, 2.0), strict=True):
        real, fake = (np.float64(s[name]) for s in seen)
        n, h, w, d = real.shape
        divisor = h * w if norm == "hw" else h * w * d
        for b in range(n):
            square = 0.0
            for c in range(d):
                for e in range(d):
                    entry = [
                        sum(
                            f[b, i, j, c] * f[b, i, j, e]
                            for i in range(h)
                            for j in range(w)
                        )
                        for f in (real, fake)
                    ]
                    square += ((entry[1] - entry[0]) / divisor) ** 2
            total += weight * square / (4 * d * d) / n
    return total


@pytest.mark.parametrize("form", ["nonsaturating", "saturating"])
@pytest.mark.parametrize("norm", ["hw", "hwd"])
def test_every_term_and_the_total(case, form, norm):
    total, logs = loss_of(case, {"loss.gan_g": form, "loss.gram_norm": norm})
    gan, styled = slow_gan(case, form), slow_style(case, norm)
    l1 = mean_apart(case["image"], case["painted"][-1])
    pairs = zip(ODD["loss.features"], *case["features"], strict=True)
    percep = 2.5 * l1 + sum(w * mean_apart(a, b) for w, a, b in pairs)
    want = {
        "loss/gan": gan,
        "loss/l1": l1,
        "loss/perceptual": percep,
        "loss/style": styled,
        "loss/generator": 1.5 * gan + 40.0 * styled + 3.0 * percep,
    }
    assert set(logs) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-5, err_msg=name)
    assert total == logs["loss/generator"]


def test_the_first_network_s_image_counts_where_asked(case):
    bare, _ = loss_of(case, {}, None)
    more, logs = loss_of(case, {"loss.intermediate": 5.0}, None)
    first = mean_apart(case["image"], case["painted"][0])
    np.testing.assert_allclose(more - bare, 5.0 * first, rtol=1e-4)
    assert "loss/style" not in logs


def test_features_of_the_truth_are_constants(case):
    config, found = config_of(**ODD), case["features"][1]
    image, painted, logits = (
        jax.tree.map(jnp.asarray, case[name]) for name in ("image", "painted", "logits")
    )

    def loss(wanted):
        pair = wanted, found
        return ipa_medgan.generator_loss(
            config.loss, image, painted, logits, pair, None
        )[0]

    slopes = jax.grad(loss)([jnp.asarray(f) for f in case["features"][0]])
    assert all((slope == 0).all() for slope in slopes)


def test_printed_values():
    """Section 9: one style layer, and all logits 0."""
    f = np.float32([[1, 2], [3, 4], [5, 6], [7, 8]]).reshape(1, 2, 2, 2)
    layers = {"x": jnp.asarray(f)}, {"x": jnp.asarray(f + 1)}
    # lambda_s / 4, since `style` divides by d^2 itself.
    got = style(*layers, {"x": 1.0 / 4.0}, positions, jnp.square)
    np.testing.assert_allclose(got, 25.125, rtol=1e-6)
    got = style(*layers, {"x": 1.0 / 4.0}, elements, jnp.square)
    np.testing.assert_allclose(got, 25.125 / 4, rtol=1e-6)  # a half, squared
    zero = jnp.zeros((2, 3, 3, 1))
    np.testing.assert_allclose(softplus_discriminator(zero, zero), np.log(2), rtol=1e-6)
    case = {
        "image": zero,
        "painted": [zero],
        "logits": {"patch": zero, "global": zero},
        "features": ([zero] * 4, [zero] * 4),
    }
    _, logs = loss_of(case, {"loss.gan_g": "nonsaturating"}, None)
    np.testing.assert_allclose(logs["loss/gan"], 2 * np.log(2), rtol=1e-6)
    _, logs = loss_of(case, {"loss.gan_g": "saturating"}, None)
    np.testing.assert_allclose(logs["loss/gan"], -2 * np.log(2), rtol=1e-6)


@pytest.mark.parametrize("how", ["imagenet", "caffe"])
def test_the_style_network_reads_levels_as_its_weights_were_trained(how):
    """Its first convolution by hand, at a pixel whose neighbours are all inside."""
    weights = config_of(**{**ODD, "loss.vgg_preprocess": how}).loss
    weights.style_layers = ("relu1_1",)
    vgg = ipa_medgan.style_network(weights, jnp.dtype("float32"))
    rng = np.random.default_rng(1)
    image = rng.uniform(-1, 1, (1, 3, 3, 1)).astype(np.float32)
    variables = jax.tree.map(
        lambda s: rng.normal(size=s.shape).astype(np.float32),
        jax.eval_shape(vgg.init, jax.random.key(0), image),
    )
    v = (np.float64(image[0]) + 1) / 2
    if how == "imagenet":
        levels = (v - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    else:  # blue first
        levels = 255 * v - [103.939, 116.779, 123.68]
    conv = variables["params"]["conv1_1"]
    want = np.einsum("yxc,yxcf->f", levels, np.float64(conv["kernel"])) + conv["bias"]
    got = vgg.apply(variables, image)["relu1_1"][0, 1, 1]
    np.testing.assert_allclose(got, np.maximum(want, 0), rtol=1e-4, atol=1e-3)


# One whole update against PyTorch.

STEP = {
    "model.widths": (8, 12),
    "model.patch_widths": (4, 6, 8, 6),
    "model.global_widths": (4, 6, 8, 6, 4, 6),
    "loss.adversarial": 1.5,
    "loss.perceptual": 3.0,
    "loss.l1": 2.5,
    "loss.features": (0.5, 0.25, 2.0, 1.25),
    "loss.intermediate": 0.5,
    "optimizer.learning_rate": 0.01,
    "optimizer.b1": 0.4,
    "optimizer.b2": 0.8,
    "optimizer.eps": 1e-3,
}
NAMES = ("generator", "patch", "global")


def batch_of(config, seed):
    rng = np.random.default_rng(seed)
    shape = (config.batch_size, config.image_size, config.image_size, 1)
    mask = np.zeros(shape, np.float32)
    for i, hole in enumerate(mask):
        hole[20 + 5 * i : 50, 30 : 60 + i] = 1
    return {"image": rng.uniform(-1, 1, shape).astype(np.float32), "mask": mask}


@pytest.fixture(scope="module")
def stepped():
    """Networks of PyTorch, the same as variables, and one update of these."""
    pytest.importorskip("torch")
    from tests.ports import ipa_medgan as port

    config = config_of(**STEP)
    system = ipa_medgan.build(config)
    networks = {
        "generator": port.Generator(config.model.widths),
        "patch": port.Discriminator(config.model.patch_widths),
        "global": port.Discriminator(config.model.global_widths),
    }
    for seed, network in enumerate(networks.values()):
        port.randomize(network, seed)
    variables = {name: port.convert(network) for name, network in networks.items()}
    state = jax.tree.map(
        lambda s: np.zeros(s.shape, s.dtype),
        jax.eval_shape(system.init, jax.random.key(0)),
    )
    assert jax.tree.structure(state.variables) == jax.tree.structure(variables)
    state = ipa_medgan.TrainState(state.step, variables, state.opt_state)
    batch = batch_of(config, 3)
    new, logs = quick(system.update)(state, {}, batch, jax.random.key(0))
    return config, networks, batch, state, new, logs


@pytest.fixture(scope="module")
def torch_step(stepped):
    """The same update as section 4 words it, in PyTorch, in float64."""
    import torch
    from torch.nn import functional

    config, networks, batch, *_ = stepped
    soft, adam = functional.softplus, config.optimizer
    optimizers = {}
    for name, network in networks.items():
        network.double().train()
        optimizers[name] = torch.optim.Adam(
            network.parameters(), adam.learning_rate, (adam.b1, adam.b2), adam.eps
        )
    image, mask = (
        torch.tensor(batch[name]).double().permute(0, 3, 1, 2)
        for name in ("image", "mask")
    )
    damaged = torch.where(mask > 0, -torch.ones_like(image), image)
    first, fake = networks["generator"](damaged)
    logs = {}
    for name in ("patch", "global"):
        judge = networks[name]
        real = soft(-judge(image, damaged)[0]).mean()
        loss = 0.5 * (real + soft(judge(fake.detach(), damaged)[0]).mean())
        optimizers[name].zero_grad()
        loss.backward()
        optimizers[name].step()
        logs[f"loss/{name}"] = loss.item()
    kept = {
        name: {k: v.clone() for k, v in network.state_dict().items()}
        for name, network in networks.items()
    }
    logits, found = networks["patch"](fake, damaged)
    wanted = networks["patch"](image, damaged)[1]
    gan = soft(-logits).mean() + soft(-networks["global"](fake, damaged)[0]).mean()
    l1 = (fake - image).abs().mean()
    percep = 2.5 * l1
    for weight, a, b in zip((0.5, 0.25, 2.0, 1.25), found, wanted, strict=True):
        percep = percep + weight * (a - b.detach()).abs().mean()
    total = 1.5 * gan + 3.0 * percep + 0.5 * (first - image).abs().mean()
    optimizers["generator"].zero_grad()
    total.backward()
    optimizers["generator"].step()
    logs |= {
        "loss/gan": gan.item(),
        "loss/l1": l1.item(),
        "loss/perceptual": percep.item(),
        "loss/generator": total.item(),
    }
    for name in ("patch", "global"):  # the last passes stored nothing
        networks[name].load_state_dict(kept[name])
    from tests.ports import ipa_medgan as port

    return {name: port.convert(network) for name, network in networks.items()}, logs


def test_the_losses_are_pytorch_s(stepped, torch_step):
    logs, want = stepped[-1], torch_step[1]
    assert set(logs) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_statistics_are_stored_once_a_pass_that_counts(stepped, torch_step, name):
    """G's from its one forward pass; D's from the real, then the fake pass."""
    *_, state, new, _ = stepped
    want = torch_step[0][name]["batch_stats"]
    got = new.variables[name]["batch_stats"]
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, want
    )
    before = state.variables[name]["batch_stats"]
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 1e-3, before, got)
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("name", NAMES)
def test_parameters_move_as_pytorch_s_adam_moves_them(stepped, torch_step, name):
    *_, state, new, _ = stepped
    want, got = torch_step[0][name]["params"], new.variables[name]["params"]
    before = state.variables[name]["params"]
    apart = jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), got, want))
    steps = jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), got, before))
    # A step is up to 0.01; float32 rounds small gradients of sixty layers.
    assert max(apart) < 2e-4 and min(steps) > 2e-4
    assert new.opt_state[name][0].count == 1


# What the mask may and may not do.


@pytest.fixture(scope="module")
def painted():
    config = config_of()
    system = ipa_medgan.build(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0)).variables
    rng = np.random.default_rng(5)
    low = {"params": -0.5, "batch_stats": 0.5}
    draw = lambda kind, s: rng.uniform(low[kind], low[kind] + 1, s.shape)
    variables = {
        "generator": {
            kind: jax.tree.map(functools.partial(draw, kind), tree)
            for kind, tree in shapes["generator"].items()
        }
    }
    variables = jax.tree.map(np.float32, variables)
    predict = quick(
        lambda batch: system.predict(variables, {}, batch, jax.random.key(0))
    )
    return predict, batch_of(config, 4)


def test_the_network_is_told_of_the_hole_by_nothing_but_its_level(painted):
    """Same y, other mask: the same raw, bit for bit; and so without any mask."""
    predict, batch = painted
    y = np.where(batch["mask"] > 0, np.float32(-1), batch["image"])
    half = batch["mask"].copy()
    half[:, :35] = 0
    raw = predict(batch)["raw"]
    assert np.ptp(raw) > 0
    np.testing.assert_array_equal(predict({"image": y, "mask": half})["raw"], raw)
    np.testing.assert_array_equal(predict({"image": y, "mask": 0 * half})["raw"], raw)
    blind = predict({"image": y})
    np.testing.assert_array_equal(blind["raw"], raw)
    np.testing.assert_array_equal(blind["completed"], raw)


def test_a_mask_pastes_and_protection_wins(painted):
    predict, batch = painted
    image, mask = batch["image"], batch["mask"]
    image = np.where(mask > 0, np.float32(np.nan), image)  # never read
    out = predict({"image": image, "mask": mask})
    assert np.isfinite(out["raw"]).all()
    np.testing.assert_array_equal(
        out["completed"], np.where(mask > 0, out["raw"], image)
    )
    y = np.where(mask > 0, np.float32(-1), image)
    protect = np.zeros_like(mask)
    protect[:, 10:40, 10:45] = 1
    kept = predict({"image": y, "protect": protect})
    np.testing.assert_array_equal(
        kept["completed"], np.where(protect > 0, y, out["raw"])
    )
    both = predict({"image": y, "mask": mask, "protect": protect})
    hole = (mask > 0) & (protect == 0)
    np.testing.assert_array_equal(both["completed"], np.where(hole, out["raw"], y))


def test_another_fill_is_another_picture(painted):
    config = config_of(**{"model.hole_fill": 0.25})
    _, batch = painted
    image, mask = jnp.asarray(batch["image"]), jnp.asarray(batch["mask"])
    seen = ipa_medgan.damage(image, mask, config.model.hole_fill)
    np.testing.assert_array_equal(
        seen, np.where(batch["mask"] > 0, np.float32(0.25), batch["image"])
    )
