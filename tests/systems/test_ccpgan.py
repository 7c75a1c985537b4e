"""Golden numbers of the losses, made by a separate program in float64.

Source: section 4.7 of the system's specification.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.ccpgan import get_config
from jaxinpaint.core.checks import ShapeMismatchError
from jaxinpaint.losses.adversarial import slopes
from jaxinpaint.models.ccpgan import Critic, Generator
from jaxinpaint.ops.attention import PERCEIVE
from jaxinpaint.systems import ccpgan
from tests.models import literal
from tests.models.literal import double, random_params

SIZE, BOX = 64, 32
# Compiling dominates here, so the compiler is told not to try hard.
quick = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def number(name):
    return int(re.search(r"\d+", name)[0])


def draw(rng, tree):
    """Kernel, then bias, of each layer in the order of its number; `fc` last."""
    out = {}
    for layer in sorted(tree, key=lambda n: (n == "fc", n == "fc" or number(n))):
        shape = tree[layer]["kernel"].shape
        fan_in = np.prod(shape[:-1])
        kernel = rng.standard_normal(shape) * np.sqrt(1.5 / fan_in)
        bias = rng.standard_normal(shape[-1]) * 0.1
        out[layer] = {"kernel": np.float32(kernel), "bias": np.float32(bias)}
    return out


@pytest.fixture(scope="module")
def case():
    generator = Generator(32, 3, PERCEIVE, jnp.dtype("float32"))
    critic = Critic(64, jnp.dtype("float32"))
    image = jax.ShapeDtypeStruct((2, SIZE, SIZE, 3), jnp.float32)
    hole = jax.ShapeDtypeStruct((2, SIZE, SIZE, 1), jnp.float32)
    box = jax.ShapeDtypeStruct((2, BOX, BOX, 3), jnp.float32)
    key = jax.random.key(0)
    shapes = jax.eval_shape(generator.init, key, image, image, hole)["params"]
    rng = np.random.RandomState(0)  # noqa: NPY002, the golden program's generator
    params = {name: draw(rng, shapes[name]) for name in ("n_d", "n_ref")}
    refine = {}
    for prefix in ("xconv", "pmconv", "allconv"):
        part = {k: v for k, v in shapes["refine"].items() if k.startswith(prefix)}
        refine |= draw(rng, part)
    params["refine"] = refine
    critics = {}
    for name, x in (("critic_global", image), ("critic_local", box)):
        critics[name] = draw(rng, jax.eval_shape(critic.init, key, x)["params"])
    rng = np.random.RandomState(1)  # noqa: NPY002
    x = rng.uniform(-1, 1, (2, SIZE, SIZE, 3))
    neighbor = np.clip(x + 0.1 * rng.standard_normal(x.shape), -1, 1)
    mask = np.zeros((2, SIZE, SIZE, 1), np.float32)
    mask[0, 16:48, 8:40] = 1
    mask[1, 13:38, 29:55] = 1
    batch = {"image": np.float32(x), "neighbor": np.float32(neighbor), "mask": mask}
    corner = np.int32([[16, 8], [8, 24]])
    t = (np.float32([0.25, 0.75]), np.float32([0.5, 0.5]))
    return generator, critic, params, critics, batch, corner, t


def close(got, want, atol=3e-6):
    np.testing.assert_allclose(got, want, rtol=3e-6, atol=atol)


@pytest.fixture(scope="module")
def made(case):
    """The generator's images, its losses and their gradient, from one program."""
    generator, critic, params, critics, batch, corner, _ = case

    def generator_loss(params):
        out = generator.apply(
            {"params": params}, batch["image"], batch["neighbor"], batch["mask"]
        )
        weights = get_config().loss
        logs = ccpgan.reconstruction_losses(weights, out, batch, corner)
        fake = out["completed"]
        whole = critic.apply({"params": critics["critic_global"]}, fake)
        boxed = ccpgan.crop(fake, corner, BOX)
        local = critic.apply({"params": critics["critic_local"]}, boxed)
        gan = -whole.mean() - local.mean()
        total = weights.l1_weight * logs["loss/l1"] + weights.gan_weight * gan
        total += weights.ae_weight * logs["loss/ae"]
        return total, ({**logs, "gan": gan}, out)

    run = quick(jax.value_and_grad(generator_loss, has_aux=True))
    (total, (logs, out)), grads = run(params)
    return total, logs, out, grads


@pytest.fixture(scope="module")
def out(made):
    return made[2]


def test_golden_images(out):
    for name, mean in (
        ("damaged", -0.099040408),
        ("reference", -0.045503409),
        ("coarse", 0.221120028),
        ("features", 0.117150338),
        ("refined", 0.001448777),
        ("completed", 0.021747547),
    ):
        close(np.asarray(out[name], np.float64).mean(), mean)
    close(out["coarse"][0, 20, 20], [0.53095946, 0.24463521, -0.05022431])
    close(out["refined"][0, 20, 20], [-0.53354579, 0.33232166, 0.42277320], 1e-5)
    close(out["refined"][1, 30, 30], [-0.43136563, -0.21476613, 1], 1e-5)


def test_golden_generator_losses_and_gradients(made):
    total, logs, _, grads = made
    close(logs["loss/l1"], 1.323865733)
    close(logs["loss/ae"], 1.300275728)
    close(logs["gan"], -0.476965856)
    close(total, 3.148492788)

    def norm(tree):
        return np.sqrt(sum(np.sum(np.float64(x) ** 2) for x in jax.tree.leaves(tree)))

    refine = grads["refine"]
    parts = {
        prefix: {k: v for k, v in refine.items() if k.startswith(prefix)}
        for prefix in ("xconv", "pmconv", "allconv")
    }
    for tree, want in (
        (grads["n_d"], 6.66432441),
        (grads["n_ref"], 7.18445835),
        (parts["xconv"], 1.75090556),
        (parts["pmconv"], 7.02010234),
        (parts["allconv"], 9.80806137),
    ):
        np.testing.assert_allclose(norm(tree), want, rtol=2e-5)


def test_golden_critic_losses_and_gradients(case, out):
    _, critic, _, critics, batch, corner, t = case
    score = lambda params, x: critic.apply({"params": params}, x)

    @quick
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        logs = ccpgan.critic_losses(score, params, batch, out["completed"], corner, t)
        penalties = logs["loss/penalty_global"] + logs["loss/penalty_local"]
        weight = get_config().loss.gp_lambda
        return logs["loss/wasserstein"] + weight * penalties, logs

    (total, logs), grads = loss(critics)
    close(logs["loss/wasserstein"], 0.256609061)
    close(logs["loss/penalty_global"], 0.464808607)
    close(logs["loss/penalty_local"], 0.374133943)
    close(total, 8.646034555, 3e-5)
    for name, want in (("critic_global", 21.2918381), ("critic_local", 21.3877155)):
        squares = [np.sum(np.float64(x) ** 2) for x in jax.tree.leaves(grads[name])]
        np.testing.assert_allclose(np.sqrt(sum(squares)), want, rtol=2e-5)


def test_golden_scores_and_slopes(case, out):
    _, critic, _, critics, batch, corner, t = case
    places = {
        "critic_global": (batch["image"], out["completed"], batch["mask"], t[0]),
        "critic_local": tuple(
            ccpgan.crop(jnp.asarray(x), corner, BOX)
            for x in (batch["image"], out["completed"], batch["mask"])
        )
        + (t[1],),
    }
    want = {
        "critic_global": (
            [0.72446267, 0.63704247],
            [0.76041517, 0.25347375],
            [0.34582359, 0.29171303],
        ),
        "critic_local": (
            [-0.65598273, -0.26480883],
            [0.06880315, -0.12876036],
            [0.39835680, 0.37847499],
        ),
    }
    for name, (real, fake, hole, mix) in places.items():
        score = lambda x, name=name: critic.apply({"params": critics[name]}, x)
        mix = mix.reshape(-1, 1, 1, 1)
        norm, _ = slopes(score, mix * real + (1 - mix) * fake, hole)
        close(score(real), want[name][0])
        close(score(fake), want[name][1])
        close(norm, want[name][2])


# The local box.


def corner_of(mask, box):
    return np.asarray(ccpgan.local_corner(jnp.asarray(mask, jnp.float32), box))


def test_the_sampler_s_own_box_comes_back():
    rng = np.random.default_rng(0)
    size, box = 64, 32
    masks, want = np.zeros((50, size, size, 1)), []
    for mask in masks:
        top, left = rng.integers(0, size - box + 1, 2)
        a, b = rng.integers(0, 5, 2)
        mask[top + a : top + box - a, left + b : left + box - b] = 1
        want.append([top, left])
    np.testing.assert_array_equal(corner_of(masks, box), want)


def test_a_paper_s_square_is_in_the_middle_of_the_clamped_box():
    rng = np.random.default_rng(1)
    size, box = 64, 32
    sides = np.repeat([4, 6, 8, 12, 16, 32, 48, 56], 12)  # eight of 512, scaled
    masks, want = np.zeros((len(sides), size, size, 1)), []
    for mask, side in zip(masks, sides, strict=True):
        at = rng.integers(0, size - side + 1, 2)
        mask[at[0] : at[0] + side, at[1] : at[1] + side] = 1
        want.append(np.clip(at + side // 2 - box // 2, 0, size - box))
    np.testing.assert_array_equal(corner_of(masks, box), want)


def test_any_hole_is_met_by_a_box_inside_the_image():
    rng = np.random.default_rng(2)
    size, box = 12, 6
    masks = rng.random((60, size, size, 1)) < rng.choice(
        [0.01, 0.1, 0.9], (60, 1, 1, 1)
    )
    masks[:20, 3:9] = 0  # two parts, and nothing in the middle
    masks = masks[masks.any(axis=(1, 2, 3))]
    places = list(np.ndindex(size - box + 1, size - box + 1))
    for mask, corner in zip(masks, corner_of(masks, box), strict=True):
        held = [mask[i : i + box, j : j + box].sum() for i, j in places]
        rows, columns, _ = np.nonzero(mask)
        middle = [(x.min() + x.max() + 1) // 2 - box // 2 for x in (rows, columns)]
        apart = [(i - middle[0]) ** 2 + (j - middle[1]) ** 2 for i, j in places]
        best = min(zip(np.negative(held), apart, places, strict=True))
        assert tuple(corner) == best[2]  # of those with most hole, the nearest
        assert max(held) > 0
        cut = ccpgan.crop(jnp.asarray(mask[None]), jnp.asarray(corner[None]), box)
        assert cut.shape == (1, box, box, 1) and cut.sum() == max(held)


def test_rows_are_taken_in_strides():
    x = jnp.arange(12).reshape(6, 2)
    parts = ccpgan.split_rows(x, 3)
    for i in range(3):
        np.testing.assert_array_equal(parts[i], x[i::3])


# One whole update, its parts recorded, against numpy.

ODD = {  # no two weights alike
    "loss.coarse_alpha": 1.7,
    "loss.l1_weight": 2.0,
    "loss.ae_weight": 3.0,
    "loss.gan_weight": 0.5,
    "loss.global_gan_alpha": 7.0,
    "loss.gp_lambda": 5.0,
    "optimizer.learning_rate": 0.01,
    "optimizer.b1": 0.4,
    "optimizer.b2": 0.8,
    "optimizer.eps": 1e-3,
}


@pytest.fixture(scope="module")
def recorded():
    config = get_config("smoke")
    config.update_from_flattened_dict(ODD)
    system = ccpgan.build(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    state = dataclasses.replace(
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
        variables=random_params(shapes.variables, 0),
    )
    rng = np.random.default_rng(0)
    batch = {
        name: rng.uniform(-1, 1, spec.shape).astype(np.float32)
        for name, spec in system.batch_spec.items()
    }
    batch["mask"][:] = 0
    for i, mask in enumerate(batch["mask"]):
        mask[4 * i : 4 * i + 20, 10 : 40 - i] = 1
    seen = {}

    def keep(name, *values):
        seen[name] = jax.tree.map(np.asarray, values)

    def critic_losses(score, params, part, fake, corner, t):
        name = f"critic {sum(n.startswith('critic') for n in names)}"
        names.append(name)
        jax.debug.callback(functools.partial(keep, name), part, fake, corner, t)
        return whole_critic(score, params, part, fake, corner, t)

    def reconstruction_losses(weights, out, part, corner):
        jax.debug.callback(functools.partial(keep, "generator"), part, out, corner)
        return whole_generator(weights, out, part, corner)

    names = []
    whole_critic, whole_generator = ccpgan.critic_losses, ccpgan.reconstruction_losses
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ccpgan, "critic_losses", critic_losses)
        patch.setattr(ccpgan, "reconstruction_losses", reconstruction_losses)
        new, logs = quick(system.update)(state, {}, batch, jax.random.key(1))
        jax.effects_barrier()
    return batch, double(state.variables), double(new), double(logs), seen


def test_each_update_has_its_own_rows_and_box(recorded):
    batch, _, _, _, seen = recorded
    assert set(seen) == {"critic 0", "critic 1", "generator"}
    for i, part in enumerate((seen["critic 0"], seen["critic 1"], seen["generator"])):
        for name, array in batch.items():
            np.testing.assert_array_equal(part[0][name], array[i::3])
        np.testing.assert_array_equal(part[2], corner_of(batch["mask"][i::3], BOX))


def test_every_mixing_weight_is_drawn_anew(recorded):
    seen = recorded[-1]
    t = np.concatenate([seen[f"critic {i}"][3] for i in (0, 1)])
    assert t.shape == (4, 2) and np.unique(t).size == 8
    assert 0 <= t.min() < 0.5 < t.max() <= 1


def restored(variables, batch):
    arrays = [np.float64(batch[name]) for name in ("image", "neighbor", "mask")]
    params = variables["generator"]["params"]
    return literal.generator(params, *arrays, None, PERCEIVE)


def test_the_generator_stands_still_while_the_critics_move(recorded):
    batch, before, _, _, seen = recorded
    for i in (0, 1):
        part = {name: array[i::3] for name, array in batch.items()}
        want = restored(before, part)["completed"]
        np.testing.assert_allclose(seen[f"critic {i}"][1], want, atol=1e-4)


def generator_objective(recorded, params):
    """Sections 4.1 and 4.2 in numpy, with the critics after their updates."""
    batch, before, new, _, _ = recorded
    part = {name: array[2::3] for name, array in batch.items()}
    out = restored({**before, "generator": {"params": params}}, part)
    image, mask = np.float64(part["image"]), part["mask"]
    fake = out["completed"]
    boxes = np.stack(
        [
            one[top : top + BOX, left : left + BOX]
            for one, (top, left) in zip(fake, corner_of(mask, BOX), strict=True)
        ]
    )
    critics = {name: new.variables[name]["params"] for name in PLACES}
    gan = -7.0 * literal.critic(critics["critic_global"], fake).mean()
    gan -= literal.critic(critics["critic_local"], boxes).mean()
    apart = {name: np.abs(image - out[name]) for name in ("coarse", "refined")}
    l1, ae = (
        1.7 * mean(apart["coarse"]) + mean(apart["refined"])
        for mean in (lambda x: (x * mask).sum() / mask.sum(), np.mean)
    )
    return {
        "loss/l1": l1,
        "loss/ae": ae,
        "loss/gan": gan,
        "loss/generator": 2.0 * l1 + 3.0 * ae + 0.5 * gan,
    }


PLACES = ("critic_global", "critic_local")


def test_the_logged_losses_are_the_weighted_sums(recorded):
    logs = recorded[3]
    want = generator_objective(recorded, recorded[1]["generator"]["params"])
    for name, value in want.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-4, err_msg=name)
    penalties = logs["loss/penalty_global"] + logs["loss/penalty_local"]
    total = logs["loss/wasserstein"] + 5.0 * penalties
    np.testing.assert_allclose(logs["loss/critic"], total, rtol=1e-5)


def test_the_generator_takes_an_adam_step_along_the_gradient_of_its_loss(recorded):
    _, before, new, _, _ = recorded
    adam = new.opt_state["generator"][0]
    old = before["generator"]["params"]
    gradient = jax.tree.map(lambda m: m / (1 - 0.4), adam.mu)
    rng = np.random.default_rng(5)
    along = jax.tree.map(lambda x: rng.normal(size=x.shape), old)
    step = 1e-7
    ahead, behind = (
        generator_objective(
            recorded, jax.tree.map(lambda x, d, s=sign: x + s * step * d, old, along)
        )["loss/generator"]
        for sign in (1, -1)
    )
    got = jax.tree.map(lambda g, d: np.sum(g * d), gradient, along)
    np.testing.assert_allclose(
        sum(jax.tree.leaves(got)), (ahead - behind) / (2 * step), rtol=2e-3
    )
    # The first step of Adam: both means, corrected, are the gradient's own.
    moved = jax.tree.map(lambda x, g: x - 0.01 * g / (np.abs(g) + 1e-3), old, gradient)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-6),
        new.variables["generator"]["params"],
        moved,
    )
    assert adam.count == 1 and new.opt_state["critics"][0].count == 2


def test_a_warm_up_lasts_as_many_steps_for_the_critics():
    options = get_config().optimizer
    options.update(schedule="linear", warmup_steps=10, learning_rate=1.0, final=0.5)
    gradient = {"x": jnp.ones(())}

    def moves(updates, at):
        adam = ccpgan.adam(options, 30, updates)
        state = adam.init(gradient)
        state = jax.tree.map(lambda x: x + at if x.dtype == jnp.int32 else x, state)
        return -float(adam.update(gradient, state)[0]["x"])

    ratio = moves(5, 25) / moves(1, 5)
    counts = np.float64([[25, 5]]) + 1  # of the updates, in Adam's corrections
    fixed = np.sqrt(1 - 0.9**counts) / (1 - 0.5**counts)
    np.testing.assert_allclose(ratio, fixed[0, 0] / fixed[0, 1], rtol=1e-5)


def test_an_update_refuses_another_size():
    system = ccpgan.build(get_config("smoke"))
    state = jax.eval_shape(system.init, jax.random.key(0))
    large = {
        name: jax.ShapeDtypeStruct((s.shape[0], 96, 96, s.shape[3]), s.dtype)
        for name, s in system.batch_spec.items()
    }
    with pytest.raises(ShapeMismatchError, match=r"image must be \[6, 64, 64, 1\]"):
        jax.eval_shape(system.update, state, {}, large, jax.random.key(0))


# What a config may not say.


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_size": 80}, "image_size is 80; the critics need a multiple of 32"),
        ({"image_size": 32}, "at least 64"),
        ({"loss.l1_mode": "l2"}, r"l1_mode is 'l2'; the choices are \['hole'"),
        ({"model.dtype": "float16"}, r"dtype is 'float16'; the choices are .*bfloat16"),
        ({"n_critic": 0}, "n_critic is 0; at least 1"),
        ({"optimizer.schedule": "step"}, "schedule is 'step'; the choices are"),
    ],
)
def test_wrong_configs_say_so(change, message):
    config = get_config("smoke")
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        ccpgan.build(config)


def test_the_boxed_l1_mode_weighs_the_border_most():
    config = get_config("smoke")
    config.loss.l1_mode = "deepfill_box"
    image = jnp.zeros((1, 64, 64, 1))
    mask = image.at[0, 16:48, 16:48].set(1)
    corner = ccpgan.local_corner(mask, 32)

    def loss(at):
        raw = image.at[0, at, at].set(1.0)
        out = {"coarse": image, "refined": raw}
        batch = {"image": image, "mask": mask}
        return ccpgan.reconstruction_losses(config.loss, out, batch, corner)["loss/l1"]

    np.testing.assert_allclose(loss(16), 1.0 / 32**2, rtol=1e-6)  # the box's corner
    np.testing.assert_allclose(loss(32), 0.9**16 / 32**2, rtol=1e-5)  # its centre
    assert loss(8) == 0.0  # outside the box
