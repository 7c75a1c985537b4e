"""CCPGAN's networks layer by layer in numpy, from the specification's tables.

A row is name, kernel side, stride, dilation, channels in and out, for width 32,
critic width 64 and 3 image channels (sections 2.1 to 2.4).
"""

import jax
import numpy as np

from tests.ops.literal import literal as perceive

N_REF = (
    ("conv1", 5, 1, 1, 5, 32),
    ("conv2_downsample", 3, 2, 1, 32, 64),
    ("conv3", 3, 1, 1, 64, 64),
    ("conv4_downsample", 3, 2, 1, 64, 128),
    ("conv5", 3, 1, 1, 128, 128),
    ("conv6", 3, 1, 1, 128, 128),
    ("conv7_atrous", 3, 1, 2, 128, 128),
    ("conv8_atrous", 3, 1, 4, 128, 128),
    ("conv9_atrous", 3, 1, 8, 128, 128),
    ("conv10_atrous", 3, 1, 16, 128, 128),
    ("conv11", 3, 1, 1, 128, 128),
    ("conv12", 3, 1, 1, 128, 128),
    ("conv13_upsample", 3, 1, 1, 128, 64),
    ("conv14", 3, 1, 1, 64, 64),
    ("conv15_upsample", 3, 1, 1, 64, 32),
    ("conv16", 3, 1, 1, 32, 16),
    ("conv17", 3, 1, 1, 16, 3),
)
WIDER = {"conv14": 128, "conv16": 64}  # inputs of N_d beside N_ref's features
N_D = tuple((*row[:4], WIDER.get(row[0], row[4]), row[5]) for row in N_REF)
DILATED = (
    ("xconv1", 5, 1, 1, 5, 32),
    ("xconv2_downsample", 3, 2, 1, 32, 32),
    ("xconv3", 3, 1, 1, 32, 64),
    ("xconv4_downsample", 3, 2, 1, 64, 64),
    ("xconv5", 3, 1, 1, 64, 128),
    ("xconv6", 3, 1, 1, 128, 128),
    ("xconv7_atrous", 3, 1, 2, 128, 128),
    ("xconv8_atrous", 3, 1, 4, 128, 128),
    ("xconv9_atrous", 3, 1, 8, 128, 128),
    ("xconv10_atrous", 3, 1, 16, 128, 128),
)
PERCEIVING = (
    ("pmconv1", 5, 1, 1, 5, 32),
    ("pmconv2_downsample", 3, 2, 1, 32, 32),
    ("pmconv3", 3, 1, 1, 32, 64),
    ("pmconv4_downsample", 3, 2, 1, 64, 128),
    ("pmconv5", 3, 1, 1, 128, 128),
    ("pmconv6", 3, 1, 1, 128, 128),
    ("pmconv9", 3, 1, 1, 128, 128),
    ("pmconv10", 3, 1, 1, 128, 128),
)
DECODER = (
    ("allconv11", 3, 1, 1, 256, 128),
    ("allconv12", 3, 1, 1, 128, 128),
    ("allconv13_upsample", 3, 1, 1, 128, 64),
    ("allconv14", 3, 1, 1, 64, 64),
    ("allconv15_upsample", 3, 1, 1, 64, 32),
    ("allconv16", 3, 1, 1, 32, 16),
    ("allconv17", 3, 1, 1, 16, 3),
)
CRITIC = (
    ("conv1", 5, 2, 1, 3, 64),
    ("conv2", 5, 2, 1, 64, 128),
    ("conv3", 5, 2, 1, 128, 256),
    ("conv4", 5, 2, 1, 256, 256),
)
GENERATOR = {"n_ref": N_REF, "n_d": N_D, "refine": DILATED + PERCEIVING + DECODER}


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def relu(x):
    return np.maximum(x, 0)


def clip(x):
    return np.clip(x, -1, 1)


def convolve(x, kernel, stride, dilation):
    """Cross-correlation with TensorFlow's "SAME" zeros, tap after tap."""
    side = kernel.shape[0]
    pads, out = [(0, 0)], []
    for length in x.shape[1:3]:
        out.append(-(-length // stride))
        need = max((out[-1] - 1) * stride + (side - 1) * dilation + 1 - length, 0)
        pads.append((need // 2, need - need // 2))
    x = np.pad(x, (*pads, (0, 0)))
    total = 0.0
    for i, j in np.ndindex(side, side):
        rows = x[:, i * dilation :: stride][:, : out[0]]
        total = (
            total + rows[:, :, j * dilation :: stride][:, :, : out[1]] @ kernel[i, j]
        )
    return total


def layer(params, row, x, activation=elu):
    name, _, stride, dilation, *_ = row
    if name.endswith("_upsample"):
        x = x.repeat(2, axis=1).repeat(2, axis=2)
    x = convolve(x, params[name]["kernel"], stride, dilation)
    return activation(x + params[name]["bias"])


def pathway(params, table, x, guides):
    """All outputs by name; `guides` are those of the other pathway."""
    outputs = {}
    for row in table:
        name = row[0]
        if name == "conv14" and guides:
            x = np.concatenate([x, guides["conv13_upsample"]], axis=-1)
        if name == "conv16" and guides:
            x = np.concatenate([x, guides["conv15_upsample"]], axis=-1)
        x = outputs[name] = layer(params, row, x, clip if name == "conv17" else elu)
    return outputs


def generator(params, image, neighbor, mask, neighbor_mask, options):
    """Algorithm 1 of the paper, with the names of `Generator`'s outputs."""
    pool = lambda m: m.reshape(
        m.shape[0], m.shape[1] // 4, 4, m.shape[2] // 4, 4, 1
    ).max((2, 4))
    ones = np.ones_like(mask)
    blanked = image * (1 - mask)
    reference = pathway(
        params["n_ref"], N_REF, np.concatenate([neighbor, ones, mask], -1), None
    )
    damaged = pathway(
        params["n_d"], N_D, np.concatenate([blanked, ones, mask], -1), reference
    )
    coarse = np.maximum(damaged["conv17"], reference["conv17"])
    z = np.concatenate([coarse * mask + blanked, ones, mask], -1)

    refine = params["refine"]
    h, p = z, z
    for row in DILATED:
        h = layer(refine, row, h)
    for row in PERCEIVING[:6]:
        p = layer(refine, row, p, relu if row[0] == "pmconv6" else elu)
    keys = relu(reference["conv6"])
    holes = pool(mask)
    damage = None if neighbor_mask is None else pool(neighbor_mask)
    p = np.stack(
        [
            perceive(
                p[i], keys[i], holes[i], None if damage is None else damage[i], options
            )[0]
            for i in range(len(p))
        ]
    )
    for row in PERCEIVING[6:]:
        p = layer(refine, row, p)
    x = np.concatenate([h, p], -1)
    for row in DECODER:
        x = layer(refine, row, x, clip if row[0] == "allconv17" else elu)
    return {
        "damaged": damaged["conv17"],
        "reference": reference["conv17"],
        "coarse": coarse,
        "refined": x,
        "completed": x * mask + image * (1 - mask),
        "features": reference["conv6"],
    }


def critic(params, image):
    x = image
    for row in CRITIC:
        x = layer(params, row, x, lambda x: np.where(x > 0, x, 0.2 * x))
    fc = params["fc"]
    return (x.reshape(len(x), -1) @ fc["kernel"] + fc["bias"])[:, 0]


def random_params(shapes, seed):
    """Variances that keep a signal alive through ELU, and biases that count."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        scale = 0.1 if leaf.ndim == 1 else np.sqrt(1.5 / np.prod(leaf.shape[:-1]))
        return (rng.normal(size=leaf.shape) * scale).astype(np.float32)

    return jax.tree.map(draw, shapes)


def double(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)
