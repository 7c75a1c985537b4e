"""Every key of both configs is read, and the defaults are the paper's."""

import inspect

import jax
import pytest

from configs import rnon_optimize, rnon_repair
from jaxinpaint.data.phantom_photographs import photographs
from jaxinpaint.systems import rnon
from tests.systems import test_ccpgan_config as ccpgan

CONFIGS = [rnon_repair, rnon_optimize]
OWN = {name: ("options", name) for name in ("repair", "optimize", "optimizer")} | {
    "discriminator": ("discriminator",),
    "loss": ("loss", "weights"),
}
BY_NAME = {  # sections whose keys are looked up
    *("features", "loss.perceptual_nets", "loss.style_nets", "loss.adversarial"),
}
LOOKED_UP = {  # and these keys: weights by the name of their term, and a `get`
    *(("loss", name) for name in ("valid", "hole", "variation", "content")),
    ("eval.masks", "walk_ranges"),
}


@pytest.mark.parametrize("module", CONFIGS, ids=["repair", "optimize"])
def test_every_key_is_read(module):
    files = [*(ccpgan.ROOT / "jaxinpaint").rglob("*.py"), ccpgan.ROOT / "eval.py"]
    found = {read for path in files for read in ccpgan.reads(path)}
    config, names = module.get_config(), ccpgan.NAMES | OWN
    unread = [
        f"{section}.{key}"
        for section, key in ccpgan.flat(config)
        if section not in BY_NAME | {"data.phantom"}
        and (section, key) not in LOOKED_UP
        and not any((name, key) in found for name in names[section])
    ]
    assert not unread
    assert set(config.data.phantom) == set(inspect.signature(photographs).parameters)


def test_the_losses_are_the_paper_s():
    """Eq. 1, 6, 11 and 13; sections 3.2 and 3.3 of the specification."""
    first, second = (module.get_config() for module in CONFIGS)
    assert first.loss.to_dict() == {
        "valid": 2.0,
        "hole": 12.0,
        "perceptual": 0.04,
        "perceptual_nets": {"vgg16": 1.0, "densenet121": 30.0},
        "style": 100.0,
        "style_nets": {"vgg16": 1.0, "densenet121": 1.0},
        "variation": 0.3,
        "tv_region": "hole",
        "repair_adv": "nonsaturating",
        "adversarial": {"nonsaturating": 0.1, "score_gap": 100.0, "literal": 100.0},
    }
    assert second.loss.to_dict() == {
        "content": 40.0,
        "content_region": "valid",
        "perceptual": 1.0,
        "perceptual_nets": {"vgg19": 1.25, "densenet121": 50.0},
        "per_composite": True,
        "opt_adv": "nonsaturating",
        "adversarial": {"nonsaturating": 0.75, "literal": 0.75},
    }
    for config in (first, second):
        assert set(config.features.values()) == {"imported"}


def test_the_rest_is_the_paper_s_too():
    """Sections 2, 4 and 5 of the specification."""
    ranges = ((0.01, 0.25), (0.25, 0.40), (0.40, 0.50), (0.50, 0.60))
    for module in CONFIGS:
        config = module.get_config()
        assert (config.batch_size, config.image_size) == (4, 256)
        assert (config.steps, config.channels) == (100_000, 3)
        adam = config.optimizer
        assert (adam.learning_rate, adam.b1, adam.b2) == (2e-4, 0.5, 0.999)
        assert (adam.eps, adam.weight_decay) == (1e-8, 1e-7)
        assert (adam.schedule, adam.warmup_steps) == ("constant", 0)
        assert (config.mask.sampler, config.mask.ranges) == ("walk", ranges)
        assert (config.mask.bank, config.mask.bank_seed) == (2000, 0)
        assert (config.mask.widths, config.mask.start) == ((6.0, 28.0), "anywhere")
        masks = config.eval.masks
        assert config.mask.symmetries and masks.walk_ranges == ranges
        assert (masks.walk_bank, config.eval.seed) == (1000, 1)
        assert config.data.hflip and not config.data.flips


COUNTS = {  # section 2.7
    "repair": {"generator": 32_859_808, "discriminator": 138_907_009},
    "optimize": {"generator": 1_207_043, "discriminator": 42_964_353},
}
STATISTICS = {"repair": 10_880 + 3_712, "optimize": 5_760}


@pytest.mark.parametrize("module", CONFIGS, ids=["repair", "optimize"])
def test_the_networks_have_the_paper_s_sizes(module):
    config = module.get_config()
    state = jax.eval_shape(rnon.build(config).init, jax.random.key(0))
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    got = {name: size(parts["params"]) for name, parts in state.variables.items()}
    assert got == COUNTS[config.stage]
    statistics = [parts.get("batch_stats", {}) for parts in state.variables.values()]
    assert size(statistics) == STATISTICS[config.stage]


@pytest.mark.parametrize("preset", rnon_repair.PRESETS)
def test_both_stages_agree_on_stage_a(preset):
    first, second = (module.get_config(preset) for module in CONFIGS)
    for key in ("repair", "mask", "data"):
        assert first[key] == second[key], key
    assert first.image_size == second.image_size
    assert first.eval.masks == second.eval.masks
