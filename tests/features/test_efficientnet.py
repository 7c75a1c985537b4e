import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import unfreeze
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxinpaint.features import efficientnet
from jaxinpaint.features.convert import convert, foreign
from jaxinpaint.features.efficientnet import (
    B3,
    TAPS,
    Block,
    EfficientNet,
    MBConv,
    Scale,
    drop_branch,
    encoder_layers,
    public_layers,
    same_padding,
    scaled_features,
    stages,
)
from jaxinpaint.features.load import read_torch
from jaxinpaint.features.normalization import IMAGENET, SIGNED
from tests.features import hashed
from tests.features.parity import (
    expect_close,
    expect_same,
    images,
    ours,
    quick,
    theirs,
    through_file,
)

SKIPS = TAPS[:5]
TINY = Scale(width=0.2, depth=0.2)  # one block a stage, 8 to 64 channels
# Blocks of B3 that add their input, by the table of the specification.
ADDING = [1, 3, 4, 6, 7, *range(9, 13), *range(14, 18), *range(19, 24), 25]


def network(
    taps=TAPS, scale=B3, static_pad=None, drop_connect=0.2, dtype="float32", **fields
):
    fields = {"normalization": SIGNED, **fields}
    return EfficientNet(
        scale,
        taps,
        drop_connect=drop_connect,
        static_pad=static_pad,
        dtype=jnp.dtype(dtype),
        **fields,
    )


def spec(side=64, batch=1, channels=3):
    return jax.ShapeDtypeStruct((batch, side, side, channels), jnp.float32)


def shapes(net, image=None):
    return jax.eval_shape(
        net.init, jax.random.key(0), spec() if image is None else image
    )


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def drawn(net, image):
    """Variables without compiling an initializer."""
    draw = np.random.default_rng(0)

    def leaf(path, shape):
        if path[-1].key == "kernel":
            spread = math.sqrt(2 / math.prod(shape.shape[:-1]))
            return np.float32(draw.normal(0, spread, shape.shape))
        low = 0.5 if path[-1].key in ("scale", "var") else -0.1
        return np.float32(draw.uniform(low, low + 1.0, shape.shape))

    found = jax.tree_util.tree_map_with_path(leaf, shapes(net, image))
    return unfreeze(found)


# ---- what is built ----


@pytest.mark.parametrize(
    ("taps", "params", "statistics"),
    [
        (SKIPS, 10_103_336, 84_224),  # the encoder as used
        (("features",), 10_696_232, 87_296),  # that of segmentation_models.pytorch
        (TAPS, 12_233_232, 87_296),  # the published B3
        (("skip1",), 1_080 + 80, 80),
        (("skip2", "skip1"), 1_160 + 3_504 + 48_118, 2_608),
    ],
)
def test_parameter_counts(taps, params, statistics):
    variables = shapes(network(taps))
    assert count(variables["params"]) == params
    assert count(variables["batch_stats"]) == statistics


def test_every_stage_is_as_large_as_the_table_says():
    params = shapes(network())["params"]
    blocks = [count(params[f"blocks_{number}"]) for number in range(26)]
    ends = np.cumsum([2, 3, 3, 5, 5, 6, 2])
    want = [3_504, 48_118, 110_912, 638_700, 1_387_760, 4_628_964, 3_284_218]
    assert [sum(part) for part in np.split(blocks, ends[:-1])] == want


def test_channels_of_other_widths():
    # Public widths of B0, B4 and B7; 20 * 1.1 = 22 goes up, 16 being 27 % below it.
    assert [scaled_features(32, width) for width in (1.0, 1.4, 2.0)] == [32, 48, 64]
    assert [scaled_features(320, width) for width in (1.4, 2.0)] == [448, 640]
    assert scaled_features(20, 1.1) == 24
    assert sum(len(stage) for stage in stages(Scale(2.0, 3.1))) == 55


def test_taps_keep_their_order_and_their_strides():
    net = network(("logits", "skip4", "skip1"))
    image = spec(side=70, batch=2, channels=1)
    names = []

    def tensors(variables, x):
        found = net.apply(variables, x)
        names.extend(found)  # here, because transformations sort a dict
        return list(found.values())

    found = jax.eval_shape(tensors, shapes(net, image), image)
    assert names == ["logits", "skip4", "skip1"]
    assert [x.shape for x in found] == [(2, 1000), (2, 5, 5, 136), (2, 35, 35, 40)]


def test_compute_in_bfloat16_keeps_parameters_and_statistics():
    net = network(("skip5",), TINY, dtype="bfloat16", drop_connect=0.0)
    image = images((2, 32, 32, 3))
    variables = drawn(net, image)
    found, changed = quick(
        lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"])
    )(variables, image)
    assert found["skip5"].dtype == jnp.bfloat16
    for leaf in jax.tree.leaves((variables, changed)):
        assert leaf.dtype == jnp.float32


def test_initial_kernels_have_the_variance_of_the_specification():
    net = MBConv(Block(1, 3, 1, 6, 384), 0.2, None, jnp.dtype("float32"))
    init = quick(functools.partial(net.init, train=False))
    block = init(jax.random.key(0), images((1, 4, 4, 232)))["params"]
    for name, fan_out in [
        ("expand_conv", 1392),
        ("depthwise_conv", 9),
        ("se_reduce", 58),
        ("se_expand", 1392),
        ("project_conv", 384),
    ]:
        kernel = np.asarray(block[name]["kernel"])
        assert kernel.std() == pytest.approx(math.sqrt(2 / fan_out), rel=0.02), name
        assert abs(kernel.mean()) < 4 * kernel.std() / math.sqrt(kernel.size)
    assert not np.any(block["se_reduce"]["bias"])


# ---- the specification's check values ----


def filled(shape):
    scale = math.sqrt(6 / math.prod(shape[:-1]))
    return np.float32(scale * (2 * hashed.uniform(shape) - 1))


def bias(size):
    return np.float32(0.01 * (2 * hashed.uniform((size,)) - 1))


def fill(path, leaf):
    if path[-1].key in ("scale", "var"):
        return np.ones(leaf.shape, np.float32)
    if path[-1].key == "mean":
        return np.zeros(leaf.shape, np.float32)
    if path[-1].key == "bias":
        return bias(leaf.size)
    return filled(leaf.shape)


def conv3(x, features):
    kernel = filled((3, 3, x.shape[-1], features))
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=layout, precision="highest"
    )


def decoded(skips):
    """The specification's decoder (2.7) and head, filled by its rule."""
    x = skips["skip5"]
    for tap, features in zip(
        ("skip4", "skip3", "skip2", "skip1", None), (256, 128, 64, 32, 16), strict=True
    ):
        x = x.repeat(2, axis=1).repeat(2, axis=2)
        x = x if tap is None else jnp.concatenate([x, skips[tap]], axis=-1)
        for _ in range(2):
            x = conv3(x, features) / np.sqrt(np.float32(1 + 1e-5))
            x = jax.nn.relu(x + bias(features).reshape(1, 1, 1, -1))
    return conv3(x, 2) + bias(2).reshape(1, 1, 1, -1)


def test_check_values_of_the_specification():
    net = network(SKIPS)
    variables = jax.tree_util.tree_map_with_path(fill, unfreeze(shapes(net)))
    image = hashed.image((1, 64, 64, 3))
    with jax.default_matmul_precision("highest"):
        logits = np.asarray(
            quick(lambda v, x: decoded(net.apply(v, x)))(variables, image)
        )
    summary = [logits.mean(), logits.std(), logits.min(), logits.max()]
    want = [0.174196, 0.234578, -0.597720, 1.009033]
    np.testing.assert_allclose(summary, want, atol=1e-4)
    np.testing.assert_allclose(logits[0, 0, 0], [0.065990, 0.051451], atol=1e-4)
    np.testing.assert_allclose(logits[0, 32, 32], [0.215871, 0.322730], atol=1e-4)


# ---- the public network ----


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A weight file of the public layout, with random weights."""
    torch = pytest.importorskip("torch")
    from tests.ports.efficientnet import EfficientNetB3, randomize

    path = tmp_path_factory.mktemp("weights") / "efficientnet.pth"
    image = torch.from_numpy(images((2, 43, 58, 3))).permute(0, 3, 1, 2)
    through_file(randomize(EfficientNetB3(static=False), image, seed=0), path)
    return path


def port(file, static):
    import torch

    from tests.ports.efficientnet import EfficientNetB3

    with torch.device("meta"):  # nothing to initialise
        net = EfficientNetB3(static)
    net.load_state_dict(torch.load(file), assign=True)
    return net.eval()


def double(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


# XLA on CPU is slow at depthwise convolutions of doubles, minutes at wide levels, so the
# quick round has few of them.
CASES = [
    ("float32", None, TAPS, 1e-4),
    ("float32", 300, TAPS, 1e-4),
    ("float64", None, TAPS[:2], 1e-9),
    pytest.param("float64", 300, TAPS, 1e-9, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("dtype", "static_pad", "taps", "bound"), CASES)
def test_every_tap_is_that_of_the_port(file, dtype, static_pad, taps, bound):
    image = images((2, 43, 58, 3))  # odd sides at several levels
    image = image if dtype == "float32" else np.float64(image[:1, :21, :27])
    net = port(file, static_pad is not None)
    variables = convert(read_torch(file), public_layers(B3))
    every = theirs(net, net, image)
    exact = network(taps, static_pad=static_pad, dtype=dtype)
    found = ours(exact, variables, image)
    expect_same(found, {tap: every[tap] for tap in taps}, bound)


@pytest.mark.parametrize(
    ("dtype", "side", "taps", "bound"),
    [("float32", 64, TAPS, 1e-4), ("float64", 32, TAPS[:2], 1e-9)],
)
def test_training_is_that_of_the_port(file, dtype, side, taps, bound):
    image = images((3, side, side, 3)).astype(dtype)
    net = port(file, static=False)
    layers = public_layers(B3)
    variables = convert(read_torch(file), layers)
    variables = double(variables) if dtype == "float64" else variables
    want = theirs(net, net.train(), image)
    after = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    after = convert(after, layers)["batch_stats"]
    with jax.enable_x64(dtype == "float64"):
        exact = network(taps, drop_connect=0.0, dtype=dtype)
        got, changed = quick(
            lambda v, x: exact.apply(v, x, train=True, mutable=["batch_stats"])
        )(variables, image)
        for tap in taps:
            expect_close(np.asarray(got[tap]), want[tap], bound, tap)

    def check(path):
        name = jax.tree_util.keystr(path)
        old, new, by_torch = (
            functools.reduce(lambda tree, key: tree[key.key], path, tree)
            for tree in (variables["batch_stats"], changed["batch_stats"], after)
        )
        got_step, want_step = np.asarray(new) - old, by_torch - old
        if path[-1].key == "var":
            # Torch adds the unbiased variance, Linen and the specification the biased.
            values = pixels(path, side) * image.shape[0]
            want_step = (want_step + 0.01 * old) * (values - 1) / values - 0.01 * old
        assert np.abs(want_step).max() > 1e-4 * np.abs(old).max(), name
        # A hundredth of a batch's statistic, left of a difference.
        expect_close(got_step, want_step, 100 * bound, name)

    built = shapes(network(taps))["batch_stats"]  # the others are handed through
    for path, _ in jax.tree_util.tree_leaves_with_path(built):
        check(path)


def pixels(path, side):
    """Pixels of an image of this side at a normalisation of B3."""
    if len(path) == 2:
        return (side // (2 if path[0].key == "bn0" else 32)) ** 2
    number = int(path[0].key.removeprefix("blocks_"))
    if path[1].key == "bn0":
        number -= 1  # in front of the block's stride
    strides = [(1, 2), (4, 4), (7, 8), (17, 16), (25, 32)]
    return (side // next(s for last, s in strides if number <= last)) ** 2


def test_conversion_there_and_back_changes_no_bit(file):
    tensors = read_torch(file)
    variables = convert(tensors, public_layers(B3))
    back = foreign(variables, public_layers(B3))
    assert set(back) == {name for name in tensors if "num_batches" not in name}
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor, tensors[name], name)
        assert tensor.dtype == np.float32
    want = shapes(network())
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda x: x.shape, want)


def test_the_encoder_of_a_whole_segmentation_network(file):
    """As segmentation_models.pytorch saves one: no classifier, a decoder behind."""
    tensors = read_torch(file)
    named = {f"encoder.{name}": x for name, x in tensors.items() if "_fc" not in name}
    named["decoder.blocks.0.conv1.0.weight"] = np.zeros((256, 520, 3, 3), np.float32)
    named["segmentation_head.0.bias"] = np.zeros(2, np.float32)
    others = ("decoder", "segmentation_head")
    got = convert(named, encoder_layers(B3, "encoder."), others)
    want = shapes(network(("features",)))
    assert jax.tree.map(np.shape, got) == jax.tree.map(lambda x: x.shape, want)
    whole = convert(tensors, public_layers(B3))
    del whole["params"]["fc"]
    jax.tree.map(np.testing.assert_array_equal, got, whole)


def test_static_padding_differs_in_two_blocks():
    # Sides of the public padding: 300, 150, 150, 75, 38, 19, 19, 10.
    assert same_padding(300, 3, 2) == ((0, 1), (0, 1))  # stem
    assert same_padding(150, 3, 2) == ((0, 1), (0, 1))  # block 2
    assert same_padding(75, 5, 2) == ((2, 2), (2, 2))  # block 5, "SAME" has (1, 2)
    assert same_padding(38, 3, 2) == ((0, 1), (0, 1))  # block 8
    assert same_padding(19, 5, 2) == ((2, 2), (2, 2))  # block 18
    assert same_padding(10, 3, 1) == ((1, 1), (1, 1))
    assert same_padding(None, 5, 2) == "SAME"
    seen = []

    def record(method, args, kwargs, context):
        if isinstance(context.module, MBConv):
            seen.append(context.module.side)
        return method(*args, **kwargs)

    with efficientnet.nn.intercept_methods(record):
        shapes(network(SKIPS, static_pad=300))
    want = [150] * 3 + [75] * 3 + [38] * 3 + [19] * 10 + [10] * 7
    assert seen == want


def test_levels_are_normalised_first():
    image = images((1, 32, 32, 1))
    plain = network(("skip1",), TINY)
    variables = drawn(plain, image)
    levels = (np.repeat(image, 3, axis=-1) + 1) / 2
    levels = (levels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    want = plain.apply(variables, np.float32(levels))["skip1"]
    got = network(("skip1",), TINY, normalization=IMAGENET).apply(variables, image)
    np.testing.assert_allclose(got["skip1"], want, rtol=1e-4, atol=1e-5)


# ---- drop-connect ----


def test_a_dropped_branch_is_dropped_whole_and_the_others_grow():
    x = jnp.asarray(images((4000, 2, 3, 2))) + 2.0
    dropped = np.asarray(drop_branch(x, jax.random.key(1), 0.2))
    kept = dropped[:, 0, 0, 0] != 0
    np.testing.assert_allclose(dropped[kept], np.asarray(x)[kept] / 0.8, rtol=1e-6)
    assert not dropped[~kept].any()
    assert abs(kept.mean() - 0.8) < 4 * math.sqrt(0.8 * 0.2 / 4000)


def test_rates_grow_from_block_to_block(monkeypatch):
    rates = []

    def record(x, key, rate):
        rates.append(rate)
        return x

    monkeypatch.setattr(efficientnet, "drop_branch", record)
    net = network(SKIPS)
    key = jax.random.key(0)

    def forward(train):
        kwargs = {"rngs": {"drop_connect": key}, "mutable": ["batch_stats"]}
        apply = functools.partial(net.apply, train=train, **kwargs)
        jax.eval_shape(apply, shapes(net), spec())

    forward(train=True)
    np.testing.assert_allclose(rates, [0.2 * number / 26 for number in ADDING])
    rates.clear()
    forward(train=False)
    assert not rates


def test_keys_decide_which_samples_are_dropped():
    deep = Scale(width=0.2, depth=1.0)  # some blocks add their input
    net = network(("skip3",), deep, drop_connect=0.9)
    image = np.repeat(images((1, 32, 32, 3)), 8, axis=0)
    variables = drawn(net, image)

    @quick
    def trained(key):
        rngs = {"drop_connect": key}
        found, _ = net.apply(
            variables, image, train=True, rngs=rngs, mutable=["batch_stats"]
        )
        return found["skip3"]

    one, again, other = (np.asarray(trained(jax.random.key(k))) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3
    assert len({sample.tobytes() for sample in one}) > 1  # equal images, other draws


# ---- training over devices, errors ----


def test_two_devices_share_the_statistics_of_the_whole_batch():
    net = network(("skip3",), TINY, drop_connect=0.0)
    image = images((4, 32, 32, 3))
    image[2:] *= 0.1  # the second device's half
    variables = drawn(net, image)
    forward = quick(lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"]))
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.device_put(image, NamedSharding(mesh, PartitionSpec("data")))
    whole = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    for want, got in zip(
        jax.tree.leaves(forward(variables, image)),
        jax.tree.leaves(forward(whole, split)),
        strict=True,
    ):
        expect_close(np.asarray(got), np.asarray(want), 1e-4, want.shape)


@pytest.mark.parametrize("taps", [("skip6",), ("skip1", "pool"), ()])
def test_an_unknown_tap(taps):
    with pytest.raises(ValueError, match="taps must be some of skip1, skip2, "):
        shapes(network(taps))


def test_an_image_that_fixed_padding_leaves_nothing_of():
    # 15, 7, 3, 2, 1, 1: each 3 x 3 rounds down, each 5 x 5 up.
    found = jax.eval_shape(
        network(SKIPS, static_pad=300).apply, shapes(network(SKIPS)), spec(side=15)
    )
    assert [found[tap].shape[1] for tap in SKIPS] == [7, 3, 2, 1, 1]
    with pytest.raises(ValueError, match="8 x 8 with static_pad=300 has no pixel left"):
        shapes(network(SKIPS, static_pad=300), spec(side=8))
    found = jax.eval_shape(network(SKIPS).apply, shapes(network(SKIPS)), spec(side=1))
    assert [found[tap].shape[1] for tap in SKIPS] == [1] * 5


def test_a_wrong_number_of_channels():
    with pytest.raises(ValueError, match="1 or 3 channels"):
        shapes(network(SKIPS), spec(channels=4))
