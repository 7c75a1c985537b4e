"""Multiply-adds of the glomerulus networks: the figures of their specification, 2.10."""

import functools

import jax
import jax.numpy as jnp
import pytest

from benchmarks import flops
from jaxinpaint.features.efficientnet import B3
from jaxinpaint.models.glomeruli import Discriminator, Generator
from jaxinpaint.models.glomeruli_masks import MaskDiscriminator, MaskGenerator
from jaxinpaint.models.glomeruli_segment import EfficientUnet, Unet, UnetPlusPlus
from jaxinpaint.models.glomeruli_swin import SwinUnet

F32 = jnp.dtype("float32")
RATES, WIDTHS, DECODER = (1, 2, 4, 8), (32, 64, 128, 256, 512), (256, 128, 64, 32, 16)
WINDOW, HOLE, TILE = (1, 256, 256, 3), (1, 256, 256, 1), (1, 1024, 1024, 3)
LATENT, OUTLINE = (1, 100), (1, 64, 64, 3)

# What the decoder's first convolutions spare on maps that are not enlarged first.
INPUTS = (384, 256, 128, 64, 32)
ENLARGED = sum(
    9 * (64 * 2**i) ** 2 * before * after
    for i, (before, after) in enumerate(zip(INPUTS, DECODER, strict=True))
)
SPARED = 5 / 9 * ENLARGED / 1e9

CASES = [
    (Generator(64, 8, RATES, 0, False, F32), (WINDOW, HOLE), 75.942),
    (Generator(64, 8, RATES, 512, True, F32), (WINDOW, HOLE), 75.942),
    (Discriminator((64, 128, 256, 512, 512, 1), F32), (WINDOW,), 1.930),
    (MaskGenerator(64, 100, F32), (LATENT,), 0.117),
    (MaskDiscriminator(64, F32), (OUTLINE,), 0.104),
    (EfficientUnet(B3, DECODER, 0.2, None, F32), (TILE,), 61.196 - SPARED),
    (Unet(WIDTHS, F32), (TILE,), 223.238),
    (UnetPlusPlus(WIDTHS, F32), (TILE,), 551.803),
    (SwinUnet(96, (2,) * 4, (2,) * 3, (3, 6, 12, 24), 8, 0.2, F32), (TILE,), 128.346),
]


@pytest.mark.parametrize(
    ("net", "shapes", "billions"),
    CASES,
    ids=[f"{type(net).__name__}-{n}" for n, (net, *_) in enumerate(CASES)],
)
def test_work_is_that_of_the_specification(net, shapes, billions):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    init = functools.partial(net.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), *arrays)
    apply = functools.partial(net.apply, train=False)
    work = flops.flops(flops.count(apply, variables, *arrays)) / 2e9
    assert work == pytest.approx(billions, abs=0.0006)
