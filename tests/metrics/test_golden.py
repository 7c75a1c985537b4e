"""Scores of closed-form images against another program's (tests/golden)."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.metrics.fsim import fsim, fsimc
from jaxinpaint.metrics.ssim import ms_ssim, ssim

pytestmark = pytest.mark.usefixtures("quick_programs")
GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "metrics_piq.json").read_text()
)


def images(height, width, channels):
    y, x, c = np.meshgrid(*map(np.arange, (height, width, channels)), indexing="ij")
    truth = (
        128
        + 60 * np.sin(0.05 * y + 0.0021 * x * y + c)
        + 50 * np.cos(0.11 * x + 0.03 * y - 0.7 * c)
    )
    prediction = (
        truth
        + 18 * np.sin(0.37 * x - 0.23 * y + 2 * c)
        + 9 * np.cos(0.011 * x * x + 0.5 * c)
    )
    return [
        jnp.asarray(np.clip(np.rint(image), 0, 255)[None], jnp.float32)
        for image in (truth, prediction)
    ]


SCORES = {
    "ssim": ssim,
    "ms_ssim": lambda t, p, r, data_range: ms_ssim(t, p, data_range=data_range),
    "fsim": fsim,
    "fsimc": fsimc,
}


@pytest.mark.parametrize(
    ("case", "name"),
    [(case, name) for case in GOLDEN["cases"] for name in SCORES if name in case],
    ids=lambda value: value if isinstance(value, str) else str(value["shape"]),
)
def test_score_equals_the_other_program(case, name):
    truth, prediction = images(*case["shape"])
    score = jax.jit(lambda t, p, r: SCORES[name](t, p, r, data_range=255.0))
    with jax.numpy_dtype_promotion("strict"):
        got = score(truth, prediction, jnp.ones_like(truth[..., :1]))
    np.testing.assert_allclose(got, [case[name]], rtol=1e-5)
