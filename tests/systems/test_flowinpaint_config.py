"""Every key of both configs is read, and the defaults are the paper's."""

import inspect

import pytest

from configs import flowinpaint_inpaint, flowinpaint_refine
from jaxinpaint.data.phantoms import tissue
from jaxinpaint.ops.attention import AttentionOptions
from jaxinpaint.ops.optical_flow import ISOFLOW, FarnebackOptions
from tests.systems import test_ccpgan_config as ccpgan

CONFIGS = [flowinpaint_refine, flowinpaint_inpaint]
OWN = {name: ("options", name) for name in ("refine", "inpaint", "optimizer")}
WHOLE = {  # sections that are handed on as keyword arguments
    "attention": set(AttentionOptions._fields),
    "intermediate": set(FarnebackOptions._fields),
    "data.phantom": set(inspect.signature(tissue).parameters),
}


@pytest.mark.parametrize("module", CONFIGS, ids=["refine", "inpaint"])
def test_every_key_is_read(module):
    files = [*(ccpgan.ROOT / "jaxinpaint").rglob("*.py"), ccpgan.ROOT / "eval.py"]
    found = {read for path in files for read in ccpgan.reads(path)}
    config, names = module.get_config(), ccpgan.NAMES | OWN
    unread = [
        f"{section}.{key}"
        for section, key in ccpgan.flat(config)
        if section not in WHOLE
        and not any((name, key) in found for name in names[section])
    ]
    assert not unread
    for section, keys in WHOLE.items():
        if section != "attention" or module is flowinpaint_inpaint:
            part = config.data.phantom if "." in section else config[section]
            assert set(part) == keys


def test_the_defaults_are_the_paper_s():
    """Sections 5 and 11 of the specification."""
    first, second = (module.get_config() for module in CONFIGS)
    assert FarnebackOptions(**first.intermediate) == ISOFLOW
    assert first.refine.to_dict() == {
        "channels": (16, 32, 64, 96, 128, 196),
        "hidden": (128, 96, 64, 32, 16),
        "dense": True,
        "max_displacement": 4,
        "flow_unit": 20.0,
        "level_weights": (1.0, 0.64, 0.32, 0.16, 0.08, 0.04),
        "hole_weight": 5.0,
        "perceptual": "vgg16",
        "vgg": "imported",
    }
    inpaint = second.inpaint
    assert inpaint.guides == ("previous", "reference", "following")
    assert inpaint.channels == (32, 64, 128, 256, 512, 512)
    assert (inpaint.fal_levels, inpaint.fal_rates) == ((2, 3, 4, 5), (1, 2, 4, 8))
    assert (inpaint.attention_levels, inpaint.stem_norm) == ((6, 5, 4, 3), "batch")
    assert (inpaint.hole_weight, inpaint.adversarial_weight) == (6.0, 0.1)
    assert inpaint.local_discriminator and inpaint.discriminator_width == 64
    attention = second.attention
    assert (attention.fuse, attention.softmax_scale) == (True, 10.0)
    assert attention.normalize_query and attention.composite
    assert not attention.use_neighbor and not attention.mask_foreground
    assert (first.batch_size, first.steps) == (8, 1_200_000)
    assert (second.batch_size, second.steps) == (60, 54_000)
    for config in (first, second):
        adam = config.optimizer
        assert (adam.learning_rate, adam.b1, adam.b2) == (1e-4, 0.5, 0.999)
        assert (config.image_size, config.data.spacing) == (256, 1)
        assert config.mask.ratios == config.eval.masks.exact_ratios == (0.1, 0.3, 0.5)


@pytest.mark.parametrize("preset", flowinpaint_refine.PRESETS)
def test_both_stages_agree_on_stage_one(preset):
    first, second = (module.get_config(preset) for module in CONFIGS)
    for key, value in second.refine.items():
        assert first.refine[key] == value
    assert first.intermediate == second.intermediate
    assert first.image_size == second.image_size
