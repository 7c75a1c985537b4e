"""Golden numbers of the losses, made by a separate program in float64.

Source: section 4.7 of the system's specification.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.ccpgan import get_config
from jaxinpaint.losses.adversarial import slopes
from jaxinpaint.models.ccpgan import Critic, Generator
from jaxinpaint.ops.attention import PERCEIVE
from jaxinpaint.systems import ccpgan

SIZE, BOX = 64, 32


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


@pytest.fixture(scope="module")
def out(case):
    generator, _, params, _, batch, _, _ = case
    apply = jax.jit(generator.apply)
    return apply({"params": params}, batch["image"], batch["neighbor"], batch["mask"])


def close(got, want, atol=3e-6):
    np.testing.assert_allclose(got, want, rtol=3e-6, atol=atol)


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


def generator_loss(case, params):
    generator, critic, _, critics, batch, corner, _ = case
    out = generator.apply(
        {"params": params}, batch["image"], batch["neighbor"], batch["mask"]
    )
    logs = ccpgan.reconstruction_losses(get_config().loss, out, batch, corner)
    fake = out["completed"]
    whole = critic.apply({"params": critics["critic_global"]}, fake)
    boxed = ccpgan.crop(fake, corner, BOX)
    local = critic.apply({"params": critics["critic_local"]}, boxed)
    gan = -whole.mean() - local.mean()
    total = 1.2 * logs["loss/l1"] + 1.2 * logs["loss/ae"] + 0.001 * gan
    return total, {**logs, "gan": gan}


def test_golden_generator_losses_and_gradients(case):
    loss = jax.jit(jax.value_and_grad(lambda p: generator_loss(case, p), has_aux=True))
    (total, logs), grads = loss(case[2])
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

    @jax.jit
    def loss(params):
        logs = ccpgan.critic_losses(score, params, batch, out["completed"], corner, t)
        penalties = logs["loss/penalty_global"] + logs["loss/penalty_local"]
        return logs["loss/wasserstein"] + 10 * penalties, logs

    (total, logs), grads = jax.value_and_grad(loss, has_aux=True)(critics)
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


def test_a_box_at_the_border_is_clamped():
    mask = np.zeros((1, 64, 64, 1))
    mask[0, :6, 58:] = 1
    assert corner_of(mask, 32).tolist() == [[0, 32]]


def test_no_box_misses_the_hole():
    # Two far corners: their bounding box's centre holds nothing.
    mask = np.zeros((1, 64, 64, 1))
    mask[0, :4, :4] = mask[0, 60:, 58:] = 1
    ((top, left),) = corner_of(mask, 16)
    assert mask[0, top : top + 16, left : left + 16].sum() == 24


def test_a_hole_larger_than_the_box():
    mask = np.zeros((1, 64, 64, 1))
    mask[0, 8:56, 10:58] = 1
    assert corner_of(mask, 32).tolist() == [[16, 18]]


def test_rows_are_taken_in_strides():
    x = jnp.arange(12).reshape(6, 2)
    parts = ccpgan.split_rows(x, 3)
    for i in range(3):
        np.testing.assert_array_equal(parts[i], x[i::3])


# What a config may not say.


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_size": 80}, "image_size is 80; the critics need a multiple of 32"),
        ({"image_size": 32}, "at least 64"),
        ({"loss.l1_mode": "l2"}, r"l1_mode is 'l2'; the choices are \['hole'"),
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
