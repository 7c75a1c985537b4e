"""Both stages of FlowInpaint; golden numbers are those of its specification, 5.7."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import flowinpaint_inpaint, flowinpaint_refine
from jaxinpaint.core.checkpoint import Checkpoints
from jaxinpaint.features.normalization import IMAGENET
from jaxinpaint.features.vgg import VGG, VGG16
from jaxinpaint.inference.restore import restorer
from jaxinpaint.losses.adversarial import hinge_generator
from jaxinpaint.losses.reconstruction import masked_l1
from jaxinpaint.losses.structure import ssim_loss
from jaxinpaint.models.flowinpaint import Discriminator, Generator
from jaxinpaint.ops.attention import AttentionOptions
from jaxinpaint.systems import flowinpaint
from jaxinpaint.systems.flowinpaint import inpaint, refine
from jaxinpaint.training.workdir import to_json
from tests.losses.grids import A, B, M
from tests.models.literal import random_params

# Compiling dominates here, so the compiler is told not to try hard.
quick = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def config_of(stage, **changes):
    module = {"refine": flowinpaint_refine, "inpaint": flowinpaint_inpaint}[stage]
    config = module.get_config("smoke")
    config.update_from_flattened_dict(changes)
    return config


def sections(seed, size=64, rows=2):
    rng = np.random.default_rng(seed)
    names = ("image", "previous", "following", "intermediate")
    batch = {n: rng.uniform(-1, 1, (rows, size, size, 1)) for n in names}
    batch = {name: array.astype(np.float32) for name, array in batch.items()}
    batch["mask"] = np.zeros((rows, size, size, 1), np.float32)
    batch["mask"][0, 8:40, 12:30] = 1
    batch["mask"][1:, 30:60, 1:50] = 1
    return batch


# The loss of stage 1.


def one_level(mask):
    with jax.enable_x64(True):
        batch = {"intermediate": A, "image": B, "mask": mask}
        loss, logs = refine.reference_loss(
            [jnp.zeros((1, 16, 16, 2))],
            jax.tree.map(jnp.asarray, batch),
            level_weights=(1.0,),
            hole_weight=5.0,
            flow_unit=20.0,
            extract=None,
        )
    assert loss == logs["loss/generator"]
    return float(loss)


def test_golden_loss_of_one_level():
    assert one_level(M) == pytest.approx(5.3209431524, abs=1e-9)


def test_a_mask_of_the_other_polarity_is_another_loss():
    # 5 * 0.7119937695 + 0.7230158730 + 1 - 0.0061299817
    assert one_level(1 - M) == pytest.approx(5.2768547388, abs=1e-9)


def test_the_loss_weighs_levels_and_regions_and_reads_flows_in_their_unit():
    """In numpy, with whole displacements, so that warping is a shift."""
    rng = np.random.default_rng(0)
    image, moved = rng.uniform(-1, 1, (2, 2, 32, 32, 1)).astype(np.float32)
    mask = np.zeros((2, 32, 32, 1), np.float32)
    mask[0, 3:20, 5:31], mask[1, 6:9, 2:4] = 1, 1
    weights, unit, dx = (1.0, 0.5, 0.25), 8.0, (3, -2, 1)  # dx in pixels of the level

    want = 0
    for k, (weight, shift) in enumerate(zip(weights, dx, strict=True)):
        n, side = 2**k, 32 // 2**k
        truth, source, hole = (
            x.reshape(2, side, n, side, n).mean(axis=(2, 4))
            for x in (image, moved, mask)
        )
        made = source[:, :, np.clip(np.arange(side) + shift, 0, side - 1)]
        error = np.abs(made - truth)
        l1 = [(w * error).sum() / w.sum() for w in (hole, 1 - hole)]
        ssim = float(ssim_loss(truth[..., None], made[..., None]))
        features = error.mean() + 4 * error.mean()
        want += weight * (7 * l1[0] + l1[1] + ssim + features)

    flows = [
        np.zeros((2, 32 // 2**k, 32 // 2**k, 2), np.float32)
        + np.float32([shift * 2**k / unit, 0])[None, None, None]
        for k, shift in enumerate(dx)
    ]
    taps = dict(zip(refine.TAPS, (1.0, -4.0, 0.0, 0.0), strict=True))
    given = {"image": image, "intermediate": moved, "mask": mask}
    got, logs = refine.reference_loss(
        flows,
        jax.tree.map(jnp.asarray, given),
        level_weights=weights,
        hole_weight=7.0,
        flow_unit=unit,
        extract=lambda x: {name: factor * x for name, factor in taps.items()},
    )
    assert got == pytest.approx(float(want), rel=1e-5)
    assert set(logs) == {
        *("loss/generator", "loss/hole", "loss/valid"),
        *("loss/ssim", "loss/perceptual"),
    }


def test_the_perceptual_loss_reads_frozen_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXINPAINT_HOME", str(tmp_path))
    changes = {"image_size": 256, "refine.perceptual": "vgg16"}
    system = flowinpaint.build(config_of("refine", **changes))
    with pytest.raises(FileNotFoundError, match="weights import FILE --as vgg16"):
        system.load_frozen()
    vgg = VGG(VGG16, refine.TAPS, IMAGENET, jnp.dtype("float32"))
    image = jax.ShapeDtypeStruct((1, 256, 256, 1), jnp.float32)
    key = jax.random.key(0)
    frozen = {"vgg": jax.eval_shape(vgg.init, key, image)}
    state = jax.eval_shape(system.init, key)
    _, logs = jax.eval_shape(system.update, state, frozen, system.batch_spec, key)
    assert "loss/perceptual" in logs


# Where the local discriminator looks.


def corner_of(mask):
    return np.asarray(inpaint.local_corner(jnp.asarray(mask)))


def test_golden_corners():
    mask = np.zeros((2, 256, 256, 1), np.float32)
    mask[0, 10:60, 200:250] = 1  # mean (34.5, 224.5); the second has no hole
    np.testing.assert_array_equal(corner_of(mask), [[0, 128], [64, 64]])


def test_corners_are_those_of_the_mean_hole_pixel():
    rng = np.random.default_rng(0)
    masks = np.zeros((40, 64, 64, 1), np.float32)
    want = []
    for mask in masks:
        for top, left in rng.integers(0, 60, (2, 2)):
            mask[top : top + rng.integers(1, 30), left : left + rng.integers(1, 30)] = 1
        mean = np.argwhere(mask[..., 0]).mean(axis=0)
        want.append(np.clip(np.floor(mean + 0.5) - 16, 0, 32))
    np.testing.assert_array_equal(corner_of(masks), want)
    everything = np.ones((1, 64, 64, 1), np.float32)  # mean 31.5
    np.testing.assert_array_equal(corner_of(everything), [[16, 16]])


# One whole update of stage 2, against the same losses put together apart.

ODD = {  # no two weights alike, and fewer parts, which compile sooner
    "inpaint.hole_weight": 3.0,
    "inpaint.adversarial_weight": 0.7,
    "inpaint.attention_levels": (6, 5),
    "inpaint.fal_levels": (3,),
    "optimizer.b1": 0.4,
    "refine.dense": False,
}


@pytest.fixture(scope="module")
def stage():
    config = config_of("inpaint", **ODD)
    system = flowinpaint.build(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    variables = {}
    for i, (name, part) in enumerate(sorted(shapes.variables.items())):
        variables[name] = random_params(part, i)
        # Variances and singular values are positive.
        variables[name] = jax.tree_util.tree_map_with_path(
            lambda path, x: jnp.abs(x) + 0.5 if path[-1].key in ("var", "sigma") else x,
            variables[name],
        )
    state = state.__class__(state.step, variables, state.opt_state)
    frozen = {"refine": random_params(refine_shapes(config), 9)}
    update = quick(system.update)
    return config, system, state, frozen, update


def refine_shapes(config):
    other = config_of("refine", **{"refine.dense": config.refine.dense})
    assert all(config.refine[k] == other.refine[k] for k in inpaint.SHARED)
    system = flowinpaint.build(other)
    return jax.eval_shape(system.init, jax.random.key(0)).variables["generator"]


@pytest.fixture(scope="module")
def updated(stage):
    _, _, state, frozen, update = stage
    batch = sections(0)
    new, logs = update(state, frozen, batch, jax.random.key(1))
    return batch, new, logs


@pytest.fixture(scope="module")
def predicted(stage):
    """What `predict` makes of the same batch, and its gradient to stage 1."""
    _, system, state, frozen, _ = stage
    batch = jax.tree.map(jnp.asarray, sections(0))

    @quick
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(frozen):
        out = system.predict(state.variables, frozen, batch, jax.random.key(0))
        return out["raw"].sum(), out

    (_, out), gradient = run(frozen)
    return out, gradient


@pytest.fixture(scope="module")
def apart(stage, updated, predicted):
    """The losses and their gradients, each with a forward pass of its own."""
    config, _, state, _, _ = stage
    batch, new, _ = updated
    options = config.inpaint
    generator = Generator(
        channels=tuple(options.channels),
        fal_levels=options.fal_levels,
        fal_rates=options.fal_rates,
        attention_levels=options.attention_levels,
        attention=AttentionOptions(**config.attention),
        stem_norm="batch",
        remat=False,
        dtype=jnp.dtype("float32"),
    )
    judge = Discriminator(options.discriminator_width, jnp.dtype("float32"))
    image, mask = batch["image"], batch["mask"]
    g = state.variables["generator"]
    corner = corner_of(mask)
    guides = [batch["previous"], predicted[0]["reference"], batch["following"]]

    def views(x):
        local = [x[i, t : t + 32, u : u + 32] for i, (t, u) in enumerate(corner)]
        return {"discriminator_global": x, "discriminator_local": jnp.stack(local)}

    def logits(variables, x):
        out = [judge.apply(variables[n], v, train=False) for n, v in views(x).items()]
        return jnp.concatenate([o.ravel() for o in out])

    @quick
    def everything(before, after):
        def total(params):
            raw, changed = generator.apply(
                {**g, "params": params},
                jnp.where(mask == 1, 1.0, image),
                mask,
                jnp.concatenate(guides, axis=-1),
                train=True,
                mutable=["batch_stats"],
            )
            fake = raw * mask + image * (1 - mask)
            hole, valid = masked_l1(image, raw, mask), masked_l1(image, raw, 1 - mask)
            adversarial = -logits(after, fake).mean()
            parts = (hole, valid, adversarial, fake, changed)
            return 3.0 * hole + valid + 0.7 * adversarial, parts

        (value, parts), grads = jax.value_and_grad(total, has_aux=True)(g["params"])
        hole, valid, adversarial, fake, changed = parts
        of_fake, of_real = logits(before, fake), logits(before, image)
        hinge = jnp.maximum(0, 1 + of_fake).mean() + jnp.maximum(0, 1 - of_real).mean()
        logs = {
            "loss/generator": value,
            "loss/hole": hole,
            "loss/valid": valid,
            "loss/adversarial": adversarial,
            "loss/discriminator": 0.7 * hinge,
        }
        return logs, grads, changed["batch_stats"]

    return everything(state.variables, new.variables)


def test_the_losses_are_those_of_the_paper_and_the_discriminators_move_first(
    apart, updated
):
    # "loss/adversarial" is of the discriminators after their update.
    want, (_, _, got) = apart[0], updated
    assert set(got) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=2e-4, err_msg=name)


def test_the_generator_follows_the_gradient_of_its_loss(apart, updated):
    new = updated[1]
    assert new.opt_state["generator"][0].count == 1
    assert new.opt_state["discriminators"][0].count == 1
    first = jax.tree.map(lambda m: m / (1 - 0.4), new.opt_state["generator"][0].mu)
    for name, want in apart[1].items():
        for leaf, value in want.items() if "kernel" in want else ():
            scale = float(np.abs(value).max())
            np.testing.assert_allclose(
                first[name][leaf], value, atol=2e-3 * scale, err_msg=name
            )


def test_statistics_are_carried_on(stage, apart, updated):
    old, new = stage[2].variables, updated[1].variables
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        new["generator"]["batch_stats"],
        apart[2],
    )
    for name in ("discriminator_global", "discriminator_local"):
        for layer in ("conv0", "conv3"):
            kernel = np.asarray(old[name]["params"][layer]["kernel"], np.float64)
            matrix = kernel.reshape(-1, kernel.shape[-1])
            v = matrix @ np.asarray(old[name]["batch_stats"][layer]["u"], np.float64)
            u = matrix.T @ (v / np.linalg.norm(v))
            sigma = new[name]["batch_stats"][layer]["sigma"]
            assert sigma == pytest.approx(np.linalg.norm(u), rel=1e-4)


def test_only_the_hole_s_own_loss_reads_the_hole(stage, updated):
    _, _, state, frozen, update = stage
    batch, _, logs = updated
    other = {**batch, "image": np.where(batch["mask"] > 0, -0.3, batch["image"])}
    other["image"] = other["image"].astype(np.float32)
    new, changed = update(state, frozen, other, jax.random.key(1))
    assert changed["loss/valid"] == logs["loss/valid"]
    assert changed["loss/hole"] != logs["loss/hole"]
    jax.tree.map(
        np.testing.assert_array_equal,
        new.variables["generator"]["batch_stats"],
        updated[1].variables["generator"]["batch_stats"],
    )


def test_golden_loss_of_the_generator():
    with jax.enable_x64(True):
        a, b, m = jnp.asarray(A), jnp.asarray(B), jnp.asarray(M)
        hole, valid = masked_l1(b, a, m), masked_l1(b, a, 1 - m)
        total = 6.0 * hole + valid + 0.1 * hinge_generator(b)  # D(fake) = b
    assert total == pytest.approx(5.0503493944, abs=1e-7)  # printed from float32


def test_no_gradient_reaches_stage_one(predicted):
    out, gradient = predicted
    assert np.abs(out["flow"]).max() > 0.01  # stage 1 does something
    assert all(not np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(gradient))
    assert set(out) == {"completed", "raw", "reference", "intermediate", "flow"}


def test_integer_sections_of_any_size_come_back_bit_for_bit(stage, monkeypatch):
    """Also where the hole touches the border, which the padding repeats."""
    config, system, state, frozen, _ = stage
    rng = np.random.default_rng(0)
    names = ("image", "previous", "following", "intermediate")
    batch = {n: rng.integers(0, 256, (1, 70, 100, 1)).astype(np.uint8) for n in names}
    batch["mask"] = np.zeros((1, 70, 100, 1), np.uint8)
    batch["mask"][:, 40:, 60:] = 1
    monkeypatch.setattr(jax, "jit", quick)
    restore = restorer(config, system, state.variables, frozen)
    first = restore(batch)
    known = batch["mask"] == 0
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first[known], batch["image"][known])
    assert np.any(first[~known] != batch["image"][~known])
    batch["image"] = np.where(known, batch["image"], 0).astype(np.uint8)
    np.testing.assert_array_equal(restore(batch), first)


# Ablations and where stage 1 comes from.


def test_the_smoke_stage_without_adversaries_has_none():
    system = flowinpaint.build(
        config_of("inpaint", **{"inpaint.adversarial_weight": 0})
    )
    state, new = shapes_of(system)
    assert set(state.variables) == set(state.opt_state) == {"generator"}
    assert jax.tree.structure(state) == jax.tree.structure(new)


def shapes_of(system, frozen=None):
    state = jax.eval_shape(system.init, jax.random.key(0))
    if frozen is None:
        frozen = {"refine": refine_shapes(config_of("inpaint"))}
    batch = system.batch_spec
    new, _ = jax.eval_shape(system.update, state, frozen, batch, jax.random.key(0))
    return state, new


@pytest.mark.parametrize(
    "changes, guides, judges",
    [
        (  # GuidedGAN
            {"inpaint.guides": ("previous", "following"), "eval.also": ()},
            2,
            2,
        ),
        (
            {
                "eval.also": ("intermediate",),
                "inpaint.guides": ("previous", "intermediate", "following"),
                "inpaint.fal_levels": (),
                "inpaint.local_discriminator": False,
                "inpaint.stem_norm": "none",
            },
            3,
            1,
        ),
    ],
)
def test_guides_without_a_reference_need_no_stage_one(changes, guides, judges):
    config = config_of("inpaint", refine_from="", **changes)
    system = flowinpaint.build(config)
    assert system.load_frozen() == {}
    state, new = shapes_of(system, {})
    assert jax.tree.structure(state) == jax.tree.structure(new)
    params = state.variables["generator"]["params"]
    assert params["guide_stem"]["kernel"].shape == (3, 3, guides, 4)
    assert len(state.variables) == 1 + judges
    reads = "intermediate" in config.inpaint.guides
    assert ("intermediate" in system.batch_spec) == reads
    assert ("intermediate" in flowinpaint.derived(config)) == reads
    assert any(name.startswith("fal") for name in params) == (guides == 2)


def save_stage_one(workdir, config):
    variables = random_params(refine_shapes(config_of("inpaint")), 5)
    state = {"variables": {"generator": variables}}
    options = {"save_every": 1, "keep_latest": 1, "keep_best": 0}
    with Checkpoints(
        workdir / "checkpoints", best=("eval/psnr", "max"), **options
    ) as checkpoints:
        checkpoints.save(7, jax.tree.map(jnp.asarray, state), {}, {}, force=True)
    (workdir / "config.json").write_text(json.dumps(to_json(config)))
    return variables


def test_stage_one_is_read_from_its_workdir(tmp_path):
    want = save_stage_one(tmp_path, config_of("refine"))
    config = config_of("inpaint", refine_from=str(tmp_path))
    got = flowinpaint.build(config).load_frozen()
    jax.tree.map(np.testing.assert_array_equal, got, {"refine": want})

    config.intermediate.winsize = 15
    with pytest.raises(ValueError, match="intermediate .*'winsize': 33.*'winsize': 15"):
        flowinpaint.build(config).load_frozen()


def test_another_stage_is_no_stage_one(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(to_json(config_of("inpaint"))))
    config = config_of("inpaint", refine_from=str(tmp_path))
    with pytest.raises(ValueError, match="stage .'inpaint', not 'refine'"):
        flowinpaint.build(config).load_frozen()


@pytest.mark.parametrize("begun", [False, True])
def test_a_missing_stage_one_names_the_command(tmp_path, begun):
    if begun:  # but never saved
        path = tmp_path / "config.json"
        path.write_text(json.dumps(to_json(config_of("refine"))))
    for source in ("", str(tmp_path)):
        system = flowinpaint.build(config_of("inpaint", refine_from=source))
        command = "train.py --config=configs/flowinpaint_refine.py"
        with pytest.raises(FileNotFoundError, match=command):
            system.load_frozen()


# What a config may not say.


@pytest.mark.parametrize(
    "stage, changes, message",
    [
        ("refine", {"stage": "warp"}, r"stage is 'warp'; the stages are \['refine'"),
        ("refine", {"channels": 3}, "channels is 3; FlowInpaint restores grey"),
        ("refine", {"image_size": 96}, "image_size is 96; .* multiple of 64"),
        ("refine", {"model.dtype": "float16"}, "dtype is 'float16'"),
        ("refine", {"refine.perceptual": "lpips"}, "perceptual is 'lpips'"),
        ("refine", {"refine.perceptual": "vgg16"}, "image_size is 64, .* needs 256"),
        ("refine", {"refine.level_weights": (1.0, 0.5)}, "give 6 weights"),
        ("refine", {"eval.also": ("raw",)}, r"also is .'raw',.; .*'reference'\]"),
        ("inpaint", {"inpaint.guides": ("previous",)}, "eval.also is"),
        (
            "inpaint",
            {"inpaint.guides": ("next",), "eval.also": ()},
            "guides is .*'next'",
        ),
        ("inpaint", {"inpaint.guides": ("reference",) * 2}, "each once"),
        ("inpaint", {"inpaint.adversarial_weight": -1.0}, "adversarial_weight is -1"),
    ],
)
def test_wrong_configs_say_so(stage, changes, message):
    config = config_of(stage)
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        flowinpaint.build(config)


def test_the_released_preset_is_the_published_length():
    first = flowinpaint_refine.get_config("released")
    second = flowinpaint_inpaint.get_config("released")
    assert (first.batch_size, first.steps) == (60, 60_000)
    assert (second.batch_size, second.steps) == (60, 54_000)
    assert first.optimizer.schedule == "constant"
    assert tuple(second.optimizer.boundaries) == (50_000,)
    for config in (first, second):
        flowinpaint.build(config)
    rate = lambda config, at: flowinpaint.rate(config)(at)
    paper = flowinpaint_refine.get_config("paper")
    at = [(0, 1e-4), (400_000, 5e-5), (700_000, 2.5e-5), (1_100_000, 6.25e-6)]
    for step, want in at:
        assert rate(paper, step) == pytest.approx(want, rel=1e-5)
    assert rate(second, 49_999) == pytest.approx(1e-4)
    assert rate(second, 50_000) == pytest.approx(1e-5)


# Learning: specification section 10, law 9.


@pytest.mark.slow
def test_stage_one_learns_a_shift():
    config = config_of("refine", batch_size=4)
    config.refine.update(channels=(8,) * 6, hidden=(8,) * 5, max_displacement=2)
    config.optimizer.update(learning_rate=1e-3, schedule="constant")
    system = flowinpaint.build(config)
    state = quick(system.init)(jax.random.key(0))
    update, predict = jax.jit(system.update), quick(system.predict)

    def triplets(seed):
        rng = np.random.default_rng(seed)
        spectrum = np.fft.rfft2(rng.normal(size=(4, 80, 80)))
        low = np.hypot(np.fft.fftfreq(80)[:, None], np.fft.rfftfreq(80)[None]) < 0.12
        plain = np.fft.irfft2(spectrum * low, (80, 80))
        plain = np.clip(plain / np.abs(plain).max(axis=(1, 2), keepdims=True), -1, 1)
        batch = sections(seed, rows=4)
        for i, (dy, dx) in enumerate(rng.integers(-3, 4, (4, 2))):
            batch["image"][i, ..., 0] = plain[i, 8:72, 8:72]
            moved = plain[i, 8 + dy : 72 + dy, 8 + dx : 72 + dx]
            batch["intermediate"][i, ..., 0] = moved
        return batch

    def psnr(batch, made):
        valid = batch["mask"] == 0
        return -10 * np.log10(np.mean((made - batch["image"])[valid] ** 2))

    for step in range(300):
        state, _ = update(state, {}, triplets(step), jax.random.key(0))
    test = triplets(1000)
    reference = predict(state.variables, {}, test, jax.random.key(0))["reference"]
    before, after = psnr(test, test["intermediate"]), psnr(test, np.asarray(reference))
    assert after > before + 1.0, (before, after)
