"""What a config of ipA-MedGAN says, and what it may not say."""

import jax
import numpy as np
import pytest

from configs import ipa_medgan as configs
from jaxinpaint.core.schedules import schedule
from jaxinpaint.features import store
from jaxinpaint.systems import ipa_medgan


def config_of(**changes):
    config = configs.get_config("smoke")
    config.update_from_flattened_dict(changes)
    return config


def test_the_defaults_are_the_paper_s():
    """Sections 2.3, 2.5, 3, 4 and 5.2."""
    config = configs.get_config()
    assert config.image_size == 256 and config.channels == 1
    assert (config.batch_size, config.steps) == (8, 100 * (3028 // 8))
    model = config.model
    assert tuple(model.widths) == (32, 64, 128, 256, 512)
    assert (model.cascade_depth, model.share_weights) == (2, False)
    assert tuple(model.patch_widths) == (64, 128, 256, 512)
    assert tuple(model.global_widths) == (64, 128, 256, 512, 512, 512)
    assert model.hole_fill == -1.0
    assert config.loss.to_dict() == {
        "adversarial": 1.0,
        "style": 1e3,
        "perceptual": 20.0,
        "l1": 1.0,
        "features": (1.0,) * 4,
        "intermediate": 0.0,
        "gan_g": "nonsaturating",
        "style_layers": (
            *("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1"),
        ),
        "style_weights": (1.0,) * 6,
        "gram_norm": "hw",
        "vgg_preprocess": "imagenet",
        "vgg": "imported",
    }
    adam = config.optimizer
    assert (adam.learning_rate, adam.b1, adam.b2, adam.eps) == (2e-4, 0.5, 0.999, 1e-8)
    assert (adam.schedule, adam.warmup_steps) == ("constant", 0)
    mask = config.mask
    assert (mask.sampler, mask.ranges) == ("walk", ((0.0136, 0.0546),))
    assert (mask.bank, mask.bank_seed, mask.widths) == (100, 0, (8.0, 24.0))
    assert (mask.start, mask.symmetries) == ("centre", False)
    masks = config.eval.masks
    assert (masks.walk_ranges, masks.walk_bank) == (((0.0166, 0.0456),), 50)
    assert (masks.walk_widths, masks.walk_start) == ((8.0, 24.0), "centre")
    assert not masks.squares
    assert not config.data.hflip and not config.data.flips
    assert (config.data.percentile, config.data.bits) == (99.5, 8)
    assert config.eval.whole == ("raw",)


def test_the_other_experiment_differs_in_its_masks_alone():
    square = configs.get_config("square")
    assert (square.mask.sampler, square.mask.side) == ("square", 64)
    assert tuple(square.eval.masks.squares) == (64,)
    assert not square.eval.masks.walk_ranges
    for preset in (square, usual := configs.get_config()):
        preset.unlock()
        del preset["mask"], preset.eval["masks"]
    assert square.to_dict() == usual.to_dict()


def test_the_paper_s_networks_have_the_paper_s_size():
    """Section 2.4 and 2.5; 12,944,960 parameters of VGG19 are read besides."""
    system = ipa_medgan.build(configs.get_config())
    state = jax.eval_shape(system.init, jax.random.key(0))
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    sizes = {
        n: (count(v["params"]), count(v["batch_stats"]))
        for n, v in state.variables.items()
    }
    assert sizes == {
        "generator": (14_475_964, 49_040),
        "patch": (2_764_609, 1_792),
        "global": (11_155_265, 3_840),
    }
    weights = configs.get_config().loss
    vgg = ipa_medgan.style_network(weights, np.dtype("float32"))
    image = jax.ShapeDtypeStruct((1, 256, 256, 1), np.float32)
    assert count(jax.eval_shape(vgg.init, jax.random.key(0), image)) == 12_944_960
    seen = jax.eval_shape(vgg.init_with_output, jax.random.key(0), image)[0]
    assert [x.shape[1:] for x in seen.values()] == [
        (256, 256, 64), (128, 128, 128), (64, 64, 256),
        (32, 32, 512), (32, 32, 512), (16, 16, 512),
    ]  # fmt: skip


def test_three_optimizers():
    state = jax.eval_shape(ipa_medgan.build(config_of()).init, jax.random.key(0))
    assert (
        set(state.opt_state)
        == set(state.variables)
        == {
            "generator",
            "patch",
            "global",
        }
    )
    for name, variables in state.variables.items():
        mu = state.opt_state[name][0].mu
        assert jax.tree.structure(mu) == jax.tree.structure(variables["params"])


def test_a_linear_tail_falls_over_the_second_half():
    made = jax.vmap(schedule("linear_tail", 2e-4, 100, 0, 0.0))
    got = made(np.asarray([0, 49, 50, 75, 100, 500]))
    np.testing.assert_allclose(got, [2e-4, 2e-4, 2e-4, 1e-4, 0, 0], atol=1e-10)
    made = jax.vmap(schedule("linear_tail", 2e-4, 100, 20, 0.5))
    got = made(np.asarray([10, 20, 50, 75, 100]))
    np.testing.assert_allclose(got, [1e-4, 2e-4, 2e-4, 1.5e-4, 1e-4], rtol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_size": 80}, "image_size is 80; .* the global discriminator at least"),
        ({"image_size": 100}, "image_size is 100; the generator needs a multiple of 16"),
        ({"channels": 3}, "channels is 3; .* of 1 channel"),
        ({"loss.gan_g": "hinge"}, r"loss.gan_g is 'hinge'; .*\['nonsaturating', 'sat"),
        ({"loss.gram_norm": "h"}, r"gram_norm is 'h'; gram_norm must be one of \['hw', 'hwd'\]"),
        ({"loss.vgg_preprocess": "tf"}, r"is 'tf'; .*\['imagenet', 'caffe'\]"),
        ({"model.dtype": "float16"}, r"dtype is 'float16'; .*\['float32', 'bfloat16'"),
        ({"optimizer.schedule": "step"}, "schedule is 'step'; .*'linear_tail'"),
        ({"loss.features": (1.0, 1.0)}, "give 4 weights, one for each of model.patch"),
        ({"loss.style_weights": (1.0,)}, "give 6 weights, one for each of style_laye"),
        ({"eval.whole": ("coarse",)}, r"name \['coarse'\]; .* makes 'raw'"),
    ],
)  # fmt: skip
def test_wrong_configs_say_so(change, message):
    with pytest.raises(ValueError, match=message):
        ipa_medgan.build(config_of(**change))


# VGG19.


def test_missing_weights_name_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXINPAINT_HOME", str(tmp_path))
    system = ipa_medgan.build(config_of(**{"loss.vgg": "imported"}))
    with pytest.raises(FileNotFoundError, match="weights import FILE --as vgg19"):
        system.load_frozen()


@pytest.mark.parametrize(
    "change", [{"loss.vgg": "none"}, {"loss.vgg": "imported", "loss.style": 0.0}]
)
def test_without_the_style_loss_no_file_is_needed(monkeypatch, tmp_path, change):
    monkeypatch.setenv("JAXINPAINT_HOME", str(tmp_path))
    system = ipa_medgan.build(config_of(**change))
    assert system.load_frozen() == {}
    logs = shapes_of(system, {})
    assert "loss/style" not in logs


def test_the_style_loss_reads_frozen_weights(monkeypatch):
    asked = []

    def load(name, source, network, image):
        asked.append((name, source, network.taps, image.shape))
        variables = jax.eval_shape(network.init, jax.random.key(0), image)
        return store.Pretrained(variables, name, "")

    monkeypatch.setattr(store, "load", load)
    config = config_of(**{"loss.vgg": "random:3"})
    system = ipa_medgan.build(config)
    frozen = system.load_frozen()
    assert asked == [
        ("vgg19", "random:3", tuple(config.loss.style_layers), (1, 96, 96, 1))
    ]
    assert "loss/style" in shapes_of(system, frozen)


def shapes_of(system, frozen):
    """The logs of an update that is traced alone."""
    state = jax.eval_shape(system.init, jax.random.key(0))
    batch, key = dict(system.batch_spec), jax.random.key(0)
    new, logs = jax.eval_shape(system.update, state, frozen, batch, key)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    return logs
