"""Every key of the config is read, and every attention option reaches the layer."""

import ast
import inspect
import pathlib

import jax
import numpy as np
import pytest

from configs import ccpgan as configs
from jaxinpaint.data.phantoms import tissue
from jaxinpaint.ops.attention import DEEPFILL_V1, PERCEIVE, AttentionOptions
from jaxinpaint.systems import ccpgan
from tests.models.literal import random_params

ROOT = pathlib.Path(__file__).parents[2]
NAMES = {  # what the code calls a section of the config
    "": ("config",),
    "model": ("model",),
    "loss": ("loss", "weights"),
    "optimizer": ("optimizer", "options"),
    "mask": ("mask_config",),
    "data": ("data",),
    "train": ("train", "options"),
    "eval": ("eval",),
    "eval.masks": ("mask_set",),
}
WHOLE = {  # sections that are handed on as keyword arguments
    "attention": set(AttentionOptions._fields),
    "data.phantom": set(inspect.signature(tissue).parameters),
}


def reads(path):
    """(name, key) of every `name.key` and `name["key"]`; the last name of a chain."""
    last = lambda node: getattr(node, "attr", getattr(node, "id", None))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield last(node.value), node.attr
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            yield last(node.value), node.slice.value


def flat(config, section=""):
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from flat(value, f"{section}.{key}".lstrip("."))
        else:
            yield section, key


def test_every_key_is_read():
    files = [*(ROOT / "jaxinpaint").rglob("*.py"), ROOT / "train.py", ROOT / "eval.py"]
    found = {read for path in files for read in reads(path)}
    unread = [
        f"{section}.{key}"
        for section, key in flat(configs.get_config())
        if section not in WHOLE
        and not any((name, key) in found for name in NAMES[section])
    ]
    assert not unread


def test_whole_sections_hold_what_is_asked_for():
    config = configs.get_config()
    assert set(config.attention) == WHOLE["attention"]
    assert set(config.data.phantom) == WHOLE["data.phantom"]


def test_the_defaults_are_the_paper_s():
    """Section 9 of the specification."""
    config = configs.get_config()
    assert AttentionOptions(**config.attention) == PERCEIVE
    assert (config.model.width, config.model.critic_width) == (32, 64)
    assert (config.image_size, config.channels, config.batch_size) == (512, 3, 16)
    assert (config.steps, config.n_critic, config.seed) == (150_000, 5, 0)
    assert config.loss.to_dict() == {
        "coarse_alpha": 1.2,
        "l1_weight": 1.2,
        "ae_weight": 1.2,
        "gan_weight": 1e-3,
        "global_gan_alpha": 1.0,
        "gp_lambda": 10.0,
        "l1_mode": "hole",
        "spatial_discount": 0.9,
    }
    adam = config.optimizer
    assert (adam.learning_rate, adam.b1, adam.b2, adam.eps) == (1e-4, 0.5, 0.9, 1e-8)
    assert (adam.schedule, adam.warmup_steps) == ("constant", 0)
    assert (config.mask.sampler, config.mask.box, config.mask.max_delta) == (
        "deepfill_box",
        config.image_size // 2,
        config.image_size // 8,
    )
    assert (config.data.neighbor, config.data.split) == ("psnr", "random")
    assert not config.data.flips


def test_the_local_critic_s_box_is_the_sampler_s_in_every_preset():
    for preset in configs.PRESETS:
        config = configs.get_config(preset)
        assert config.mask.box == config.image_size // 2


@pytest.mark.parametrize("key", ["model.widht", "optimizer.lr", "attention.scale"])
def test_a_misspelt_key_is_refused(key, monkeypatch):
    section, name = key.split(".")
    with pytest.raises(AttributeError, match=name):
        setattr(configs.get_config("smoke")[section], name, 1)
    monkeypatch.setitem(configs.PRESETS["smoke"], key, 1)
    with pytest.raises(KeyError, match=name):
        configs.get_config("smoke")


# Each option once. The generator runs unjitted: one program for each would take
# minutes. 64 x 128 pixels are a matching grid that blocks of 4 cells divide.
SAME = {
    "score_precision": {"score_precision": "default"},  # on a CPU
    "value_precision": {"value_precision": "highest"},
    "query_block_rows": {"query_block_rows": 4},
    "restrict_queries": {"query_block_rows": 4, "restrict_queries": True},
}
OTHER = {
    "eps": {"eps": 1e3},
    "softmax_scale": {"softmax_scale": 10.0},
    "fuse": {"fuse": False},
    "normalize_query": {"normalize_query": False},
    "mask_foreground": {"mask_foreground": False},
    "exclude_masked_keys": {"exclude_masked_keys": False},
    "composite": {"composite": False},
    "use_neighbor": {"use_neighbor": False},
    "deepfill_v1": DEEPFILL_V1._asdict(),
}
FIXED = {"rate", "match_size", "value_size"}


def test_the_sweep_is_complete():
    assert {*SAME, *OTHER, *FIXED} - {"deepfill_v1"} == WHOLE["attention"]


def restore(changes):
    config = configs.get_config("smoke")
    config.attention.softmax_scale = 0.5  # flat: every score counts
    config.attention.update(changes)
    system = ccpgan.build(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0)).variables
    variables = random_params(shapes, 3)
    rng = np.random.default_rng(4)
    batch = {
        name: rng.uniform(-1, 1, (1, 64, 128, 1)).astype(np.float32)
        for name in ("image", "neighbor")
    }
    batch["mask"] = np.zeros((1, 64, 128, 1), np.float32)
    batch["mask"][:, 9:45, 20:61] = 1
    out = system.predict(variables, {}, batch, jax.random.key(0))
    for array in out.values():
        assert array.shape == (1, 64, 128, 1) and np.isfinite(array).all()
    return np.asarray(out["completed"])


@pytest.fixture(scope="module")
def usual():
    return restore({})


@pytest.mark.parametrize("name", SAME)
def test_an_option_of_speed_changes_nothing(usual, name):
    np.testing.assert_allclose(restore(SAME[name]), usual, atol=1e-4)


@pytest.mark.parametrize("name", OTHER)
def test_an_option_of_meaning_changes_the_hole(usual, name):
    assert (
        np.abs(restore(OTHER[name]) - usual).max() > 1e-7
    )  # a masked key left in weighs that little here


@pytest.mark.parametrize("name", sorted(FIXED))
def test_a_size_that_is_not_built_is_refused(name):
    with pytest.raises(ValueError, match="must be 2, 3 and 4"):
        restore({name: 5})
