"""The three stages of the glomeruli system: check values, order of a step, laws.

Section numbers are those of the system's specification.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint import systems
from jaxinpaint.features.normalization import IMAGENET
from jaxinpaint.features.vgg import VGG, VGG19
from jaxinpaint.losses.perceptual import absolute, elements, perceptual, style
from jaxinpaint.models.glomeruli import Discriminator
from jaxinpaint.systems.glomeruli import inpaint, segment
from tests.compiling import quick
from tests.features import hashed

F32 = jnp.dtype("float32")


def config_of(stage, /, **changes):
    config = importlib.import_module(f"configs.glomeruli_{stage}").get_config("smoke")
    config.update_from_flattened_dict(changes)
    return config


def disc(side, radius, batch):
    """Section 10.1."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    inside = (y**2 + x**2 <= radius**2).astype(np.float32)
    return np.repeat(inside[None, :, :, None], batch, axis=0)


A = hashed.image((2, 64, 64, 3))
B = hashed.image((2, 64, 64, 3), 50000)
HOLE = disc(64, 20, 2)


# Stage "inpaint": its losses.


def test_pixel_terms_have_the_check_values():
    assert HOLE.sum() == 2 * 1264
    terms = inpaint.pixel_terms(jnp.asarray(A), jnp.asarray(B), jnp.asarray(HOLE))
    assert terms["l1_global"] == pytest.approx(0.673906, abs=1e-6)
    assert terms["l1_local"] == pytest.approx(0.206079, abs=1e-6)
    # Eq. 9 as printed: of the two images on white.
    white = [np.where(HOLE > 0, x, 1.0) for x in (A, B)]
    np.testing.assert_array_equal(inpaint.on_white(A, HOLE), white[0])
    assert terms["l1_local"] == pytest.approx(np.abs(white[0] - white[1]).mean())


def test_feature_terms_have_the_check_values():
    taps = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1", *inpaint.STYLE)
    taps = tuple(sorted(taps))
    net = VGG(VGG19, taps, IMAGENET, F32)
    shape = jax.eval_shape(net.init, jax.random.key(0), A)
    weights = hashed.variables(shape)
    truth, made = (
        {f"vgg19/{k}": v for k, v in net.apply(weights, x).items()} for x in (A, B)
    )
    terms = inpaint.feature_terms(truth, made)
    assert terms["perceptual"] == pytest.approx(2.511405, rel=1e-5)
    assert terms["style"] == pytest.approx(6.59977e-4, rel=1e-4)
    layers = {"relu1_1": 0.978770, "relu3_1": 0.473130, "relu5_1": 0.167530}
    for tap, want in layers.items():
        got = perceptual(truth, made, {f"vgg19/{tap}": 1.0}, absolute)
        assert got == pytest.approx(want, rel=1e-5)
    for tap, want in {"relu2_2": 2.48373e-4, "relu5_2": 1.35864e-4}.items():
        got = style(truth, made, {f"vgg19/{tap}": 1.0}, elements, absolute)
        assert got == pytest.approx(want, rel=1e-4)


def test_one_pass_over_made_images_serves_both_sides():
    judge = Discriminator((4, 4, 4, 4, 4, 1), F32)
    real, fake = hashed.image((2, 64, 64, 3)), hashed.image((2, 64, 64, 3), 50000)
    d = hashed.variables(
        jax.eval_shape(lambda k: judge.init(k, real, train=False), jax.random.key(0))
    )
    got = quick(lambda d, real, fake: inpaint.judged(judge, d, real, fake))(
        d, real, fake
    )

    def scores(params, image):
        return judge.apply(
            {**d, "params": params}, image, train=True, mutable=["batch_stats"]
        )

    def own(params):
        of_real, of_fake = scores(params, real)[0], scores(params, fake)[0]
        return ((1 - of_real) ** 2).mean() + (of_fake**2).mean()

    def other(image):
        return ((1 - scores(d["params"], image)[0]) ** 2).mean()

    loss, of_params = quick(jax.value_and_grad(own))(d["params"])
    side, of_fake = quick(jax.value_and_grad(other))(fake)
    np.testing.assert_allclose(got.losses, (loss, side), rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        got.of_params,
        of_params,
    )
    np.testing.assert_allclose(got.of_fake, of_fake, rtol=1e-3, atol=1e-6)
    # Running averages: a tenth of the true batch's, then a tenth of the made one's.
    first = scores(d["params"], real)[1]["batch_stats"]["bn2"]["mean"]
    second = scores(d["params"], fake)[1]["batch_stats"]["bn2"]["mean"]
    np.testing.assert_allclose(
        got.statistics["batch_stats"]["bn2"]["mean"], 0.9 * first + second, atol=1e-6
    )


@pytest.mark.slow  # the paper's discriminator on 128 x 128
def test_the_discriminators_losses_have_the_check_values():
    judge = Discriminator((64, 128, 256, 512, 512, 1), F32)
    real, fake = hashed.image((2, 128, 128, 3)), hashed.image((2, 128, 128, 3), 50000)
    d = hashed.variables(
        jax.eval_shape(lambda k: judge.init(k, real, train=False), jax.random.key(0))
    )
    found = jax.jit(lambda d, a, b: inpaint.judged(judge, d, a, b).losses)(
        d, real, fake
    )
    np.testing.assert_allclose(found, (3.192172, 2.189224), atol=2e-3)


@pytest.fixture(scope="module")
def painted():
    """One update of stage "inpaint" with each of several weights."""
    out = {}
    for name, weight in {"with": 0.02, "without": 0.0}.items():
        config = config_of("inpaint", **{"loss.adversarial": weight})
        system = systems.build(config)
        state = quick(system.init)(jax.random.key(0, impl="unsafe_rbg"))
        batch = {"image": A, "mask": HOLE}
        new, logs = quick(system.update)(state, {}, batch, jax.random.key(1))
        out[name] = (state, new, logs)
    return out


def test_the_discriminators_do_not_follow_the_generators_loss(painted):
    (_, one, _), (_, other, _) = painted["with"], painted["without"]
    for name in inpaint.DISCRIMINATORS:
        jax.tree.map(
            np.testing.assert_array_equal,
            one.variables[name]["params"],
            other.variables[name]["params"],
        )
    same = jax.tree.map(
        lambda a, b: bool((a == b).all()),
        one.variables["generator"]["params"],
        other.variables["generator"]["params"],
    )
    assert not all(jax.tree.leaves(same))


def test_the_loss_is_the_weighted_sum_of_its_terms(painted):
    _, _, logs = painted["with"]
    want = 0.02 * (logs["loss/adversarial_global"] + logs["loss/adversarial_local"])
    want = want + logs["loss/l1_global"] + logs["loss/l1_local"]
    assert logs["loss/generator"] == pytest.approx(float(want), rel=1e-6)


def test_the_local_game_is_blind_outside_the_glomerulus():
    """Eq. 7: its gradient with respect to the image ends at the outline."""
    config = config_of("inpaint", **{"loss.l1_global": 0.0, "loss.l1_local": 0.0})
    judge = Discriminator(tuple(config.gan.disc_channels), F32)
    d = hashed.variables(
        jax.eval_shape(lambda k: judge.init(k, A, train=False), jax.random.key(0))
    )

    def side(raw):
        found = inpaint.judged(
            judge, d, inpaint.on_white(A, HOLE), inpaint.on_white(raw, HOLE)
        )
        return found.of_fake

    reach = quick(side)(B)
    assert np.abs(reach * (1 - HOLE)).max() > 0  # the judge itself looks everywhere
    outside = np.where(HOLE > 0, B, -B)
    np.testing.assert_array_equal(quick(side)(outside), reach)


# Stage "masks".


def test_the_mask_game_is_the_sum_of_both_sides():
    system = systems.build(config_of("masks"))
    state = quick(system.init)(jax.random.key(0, impl="unsafe_rbg"))
    batch = {"image": hashed.image((2, 64, 64, 3))}
    _, logs = quick(system.update)(state, {}, batch, jax.random.key(1))
    # Fresh networks hardly tell: log 2 a side, two sides of the discriminator.
    assert logs["loss/discriminator"] == pytest.approx(2 * np.log(2), abs=0.3)
    assert logs["loss/generator"] == pytest.approx(np.log(2), abs=0.3)


def test_samples_follow_the_key_and_not_the_batch():
    system = systems.build(config_of("masks"))
    state = quick(system.init)(jax.random.key(0, impl="unsafe_rbg"))
    predict = quick(system.predict)
    draw = lambda image, key: predict(state.variables, {}, {"image": image}, key)
    one = draw(A, jax.random.key(1))["sampled"]
    assert one.shape == (2, 64, 64, 3) and np.abs(one).max() <= 1.0
    np.testing.assert_array_equal(draw(B, jax.random.key(1))["sampled"], one)
    assert (draw(A, jax.random.key(2))["sampled"] != one).any()
    assert (one[0] != one[1]).any()


# Stage "segment".


def test_the_rate_falls_from_epoch_to_epoch():
    """The values of section 4, at 200 epochs of 3 steps."""
    config = config_of(
        "segment", **{"optimizer.epoch_steps": 3, "optimizer.epochs": 200}
    )
    adam = segment.optimizer(config)
    params = {"w": jnp.zeros(())}
    wanted = {0: 1.0e-3, 50: 8.550e-4, 100: 5.05e-4, 150: 1.5498e-4, 199: 1.00611e-5}
    for epoch, rate in wanted.items():
        for step in (3 * epoch, 3 * epoch + 2):
            state = adam.init(params)
            state = (*state[:2], state[2]._replace(count=jnp.int32(step)))
            # Of a constant gradient Adam makes one whole step, whatever its size.
            moved, _ = adam.update({"w": jnp.float32(7.0)}, state, params)
            assert -moved["w"] == pytest.approx(rate, rel=1e-4), (epoch, step)


def test_the_decay_is_a_part_of_the_gradient():
    """Slow Adam in numpy, with weight_decay as PyTorch couples it."""
    config = config_of("segment", **{"optimizer.epoch_steps": 4, "optimizer.epochs": 1})
    o, adam = config.optimizer, segment.optimizer(config)
    w, m, v = 0.5, 0.0, 0.0
    params = {"w": jnp.float32(w)}
    state = adam.init(params)
    for t, g in enumerate((0.3, -0.2, 1e-5), start=1):
        moved, state = adam.update({"w": jnp.float32(g)}, state, params)
        params = {"w": params["w"] + moved["w"]}
        g = g + o.weight_decay * w
        m, v = o.b1 * m + (1 - o.b1) * g, o.b2 * v + (1 - o.b2) * g * g
        up, low = m / (1 - o.b1**t), v / (1 - o.b2**t)
        w -= o.learning_rate * up / (np.sqrt(low) + o.eps)
        assert params["w"] == pytest.approx(w, rel=1e-6)


def test_turns_and_flips_are_those_of_a_square_and_take_the_label_along():
    image = np.arange(4 * 4 * 3, dtype=np.float32).reshape(1, 4, 4, 3)
    label = (image[..., :2] % 5 == 0).astype(np.float32)
    square = {}
    for turns in range(4):
        for mirrored in (False, True):
            move = lambda x, k=turns, m=mirrored: np.rot90(x[:, ::-1] if m else x, k)
            square[move(image[0]).tobytes()] = (move(label[0]), (turns, mirrored))
    count = 4096
    rows = lambda x: jnp.asarray(np.repeat(x, count, axis=0))
    got = quick(segment.augment)(rows(image), rows(label), jax.random.key(3))
    seen = {}
    for x, t in zip(*map(np.asarray, got), strict=True):
        want, move = square[x.tobytes()]
        np.testing.assert_array_equal(t, want)
        seen[move] = seen.get(move, 0) + 1
    assert len(seen) == 8
    # By hand: no turn 5/8, no flip 1/2; half a turn 1/8, and both flips 1/6, undo
    # each other. 5/16 + 1/48 = 1/3; deviation of the share 0.0074.
    assert seen[0, False] / count == pytest.approx(1 / 3, abs=0.03)
    # A quarter turn alone, or three and both flips: 1/16 + 1/48 = 1/12.
    assert seen[1, False] / count == pytest.approx(1 / 12, abs=0.02)


@pytest.mark.parametrize("model", ["unet", "unet++", "swin_unet"])
def test_the_other_segmenters_take_a_step(model):
    changes = {
        "segment.model": model,
        "segment.widths": (2, 4),
        "segment.swin.width": 4,
        "segment.swin.depths": (2, 2),
        "segment.swin.decoder_depths": (2,),
        "segment.swin.heads": (1, 2),
        "segment.swin.window": 4,
    }
    config = config_of("segment", **changes)
    system = systems.build(config)
    state = quick(system.init)(jax.random.key(0, impl="unsafe_rbg"))
    label = (hashed.uniform((2, 64, 64, 2)) > 0.5).astype(np.float32)
    batch = {"image": A, "label": label}
    new, logs = quick(system.update)(state, {}, batch, jax.random.key(1))
    assert np.isfinite(logs["loss/segmenter"])
    out = quick(system.predict)(new.variables, {}, {"image": A}, jax.random.key(2))
    assert out["probabilities"].shape == (2, 64, 64, 2)
    p = np.asarray(out["probabilities"])
    assert p.min() >= 0 and p.max() <= 1


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("masks", {"image_size": 128}, "image_size is 128; outlines are made at 64 x"),
        ("inpaint", {"image_size": 66}, "multiples of 4 and at least 64, got 66 x 66"),
        ("inpaint", {"eval.also": ("coarse",)}, r"name \['coarse'\]; .* makes 'raw'"),
        ("segment", {"image_size": 48}, "multiples of 32.*got 48 x 48; pad to 64 x 64"),
        ("segment", {"segment.model": "vnet"}, "model must be one of .*'effb3_unet'"),
        ("segment", {"loss.form": "soft"}, r"form must be one of \['sample', 'vnet'\]"),
        ("segment", {"channels": 1}, "channels is 1; stained sections have 3"),
        ("segment", {"model.dtype": "float16"}, "dtype must be one of"),
        ("segment", {"stage": "find"}, "stage must be one of .*'masks', 'inpaint'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(stage, changes, message):
    with pytest.raises(ValueError, match=message):
        systems.build(config_of(stage, **changes))


def test_a_pretrained_encoder_has_one_network():
    system = systems.build(
        config_of("segment", **{"segment.encoder_weights": "imported"})
    )
    with pytest.raises(
        ValueError, match="for the encoder of EfficientNet-B3; say 'none'"
    ):
        jax.eval_shape(system.init, jax.random.key(0))


def good(**changes):
    image = np.full((2, 64, 64, 3), 7, np.uint8)
    mask = np.zeros((2, 64, 64, 1), np.uint8)
    mask[:, 8:16, 8:16] = 1
    return {"image": image, "mask": mask, **changes}


def test_what_can_be_painted_is_taken():
    systems.validate_inputs("glomeruli", "here", good())
    unread = good(image=np.where(good()["mask"] > 0, np.nan, A).astype(np.float32))
    systems.validate_inputs("glomeruli", "here", unread)
    del unread["mask"]
    with pytest.raises(ValueError, match="here: image is nan at"):
        systems.validate_inputs("glomeruli", "here", unread)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "image is missing"),
        ({"image": np.zeros((2, 64, 64, 4), np.uint8)}, r"must be \[B, H, W, 3\]"),
        ({"image": np.zeros((2, 64, 64, 3), np.int32)}, "must be uint8 or uint16 or"),
        ({"mask": np.ones((2, 64, 64, 1), np.uint8)}, "sample 0 of mask is all hole"),
        ({"mask": np.zeros((2, 64, 64, 1), np.uint8)}, "sample 0 of mask is empty"),
        ({"mask": np.full((2, 64, 64, 1), 255, np.uint8)}, "0 .valid. and 1 .hole."),
        ({"image": np.full((2, 64, 64, 3), 2, np.float32)}, r"must lie in \[-1, 1\]"),
    ],
)
def test_what_cannot_be_painted_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        systems.validate_inputs("glomeruli", "here", good(**changes))


@pytest.mark.slow  # EfficientNet-B3 whole
def test_a_pretrained_encoder_is_where_training_begins():
    config = config_of(
        "segment",
        **{
            "segment.width": 1.2,
            "segment.depth": 1.4,
            "segment.encoder_weights": "random:5",
        },
    )
    init = quick(systems.build(config).init)
    state, again = (init(jax.random.key(seed, impl="unsafe_rbg")) for seed in (0, 9))
    one, other = (s.variables["segmenter"]["params"] for s in (state, again))
    jax.tree.map(np.testing.assert_array_equal, one["encoder"], other["encoder"])
    rest = {k: v for k, v in one.items() if k != "encoder"}
    same = jax.tree.map(
        lambda a, b: bool((a == b).all()), rest, {k: other[k] for k in rest}
    )
    assert not all(jax.tree.leaves(same))
    assert jax.tree.structure(state.variables) == jax.tree.structure(
        jax.eval_shape(
            systems.build(
                config_of("segment", **{"segment.width": 1.2, "segment.depth": 1.4})
            ).init,
            jax.random.key(0),
        ).variables
    )
