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
    public_layers,
    same_padding,
    scaled_features,
    stages,
)
from jaxinpaint.features.normalization import IMAGENET, SIGNED

SKIPS = TAPS[:5]
TINY = Scale(width=0.2, depth=0.2)  # one block a stage, 8 to 64 channels
# Blocks of B3 that add their input, by the table of the specification.
ADDING = [1, 3, 4, 6, 7, *range(9, 13), *range(14, 18), *range(19, 24), 25]

# Compiling dominates here, so the compiler is told not to try hard.
quick = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


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
    return jax.eval_shape(net.init, jax.random.key(0), image or spec())


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def images(shape, seed=0):
    draw = np.random.default_rng(seed)
    return draw.uniform(-1.0, 1.0, shape).astype(np.float32)


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
    variables = quick(net.init)(jax.random.key(0), image)
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


def fill(shape, offset=0):
    """2 u - 1 of the specification, 10.1."""
    x = np.arange(math.prod(shape), dtype=np.uint32) + np.uint32(offset + 1)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return (2 * (x + 0.5) / 2**32 - 1).reshape(shape)


def filled(shape):
    return (fill(shape) * math.sqrt(6 / math.prod(shape[:-1]))).astype(np.float32)


def hashed(path, leaf):
    if path[-1].key in ("scale", "var"):
        return np.ones(leaf.shape, np.float32)
    if path[-1].key == "mean":
        return np.zeros(leaf.shape, np.float32)
    if path[-1].key == "bias":
        return np.float32(0.01 * fill(leaf.shape))
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
            bias = np.float32(0.01 * fill((1, 1, 1, features)))
            x = jax.nn.relu(conv3(x, features) / np.sqrt(np.float32(1 + 1e-5)) + bias)
    return conv3(x, 2) + np.float32(0.01 * fill((1, 1, 1, 2)))


def test_filling_by_hand():
    want = np.float64([0.40834908, 0.81669816, 0.32791006, 0.84958451])
    np.testing.assert_allclose(fill((4,)), 2 * want - 1, atol=2e-8)


def test_check_values_of_the_specification():
    net = network(SKIPS)
    variables = jax.tree_util.tree_map_with_path(hashed, unfreeze(shapes(net)))
    image = np.float32(fill((1, 64, 64, 3)))
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


def port(static, image, seed=0):
    """Our PyTorch port with random weights, and its tensors as a file has them."""
    torch = pytest.importorskip("torch")
    from tests.ports.efficientnet import EfficientNetB3, randomise

    net = randomise(EfficientNetB3(static), torch.from_numpy(nchw(image)), seed)
    return net, {name: tensor.numpy() for name, tensor in net.state_dict().items()}


def nchw(image):
    return np.ascontiguousarray(image.transpose(0, 3, 1, 2))


def nhwc(tensor):
    array = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def expect_close(got, want, bound, name):
    assert got.shape == want.shape, name
    assert np.abs(got - want).max() <= bound * np.abs(want).max(), name


def double(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


@pytest.mark.parametrize("static_pad", [None, 300])
def test_every_tap_is_that_of_the_port(static_pad):
    image = images((2, 75, 90, 3))  # odd sides at several levels
    net, tensors = port(static_pad is not None, image)
    variables = convert(tensors, public_layers(B3, ""))
    want = net(*map(net_input, [image]))
    got = quick(network(static_pad=static_pad).apply)(variables, image)
    for tap in TAPS:
        assert 0.05 < np.abs(nhwc(want[tap])).max() < 100, "no level died or blew up"
        expect_close(got[tap], nhwc(want[tap]), 1e-4, tap)
    want = net.double()(net_input(image.astype(np.float64)))
    with jax.enable_x64(True):
        exact = network(static_pad=static_pad, dtype="float64")
        got = quick(exact.apply)(double(variables), image.astype(np.float64))
        for tap in TAPS:
            expect_close(np.asarray(got[tap]), nhwc(want[tap]), 1e-9, tap)


def net_input(image):
    import torch

    return torch.from_numpy(nchw(image))


def test_training_is_that_of_the_port():
    image = images((3, 64, 64, 3)).astype(np.float64)
    net, tensors = port(False, images((2, 64, 64, 3)))
    layers = public_layers(B3, "")
    before = double(convert(tensors, layers))
    want = net.double().train()(net_input(image))
    after = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    after = convert(after, layers)["batch_stats"]
    with jax.enable_x64(True):
        exact = network(drop_connect=0.0, dtype="float64")
        got, changed = quick(
            lambda v, x: exact.apply(v, x, train=True, mutable=["batch_stats"])
        )(before, image)
        for tap in TAPS:
            expect_close(np.asarray(got[tap]), nhwc(want[tap]), 1e-9, tap)

    def check(path, old, new, by_torch):
        name = jax.tree_util.keystr(path)
        if path[-1].key == "var":
            # Torch adds the unbiased variance, Linen and the specification the biased.
            values = pixels(path) * image.shape[0]
            unbiased = (by_torch - 0.99 * old) / 0.01
            by_torch = 0.99 * old + 0.01 * unbiased * (values - 1) / values
        assert np.abs(by_torch - old).max() > 1e-3 * np.abs(old).max(), name
        np.testing.assert_allclose(np.asarray(new), by_torch, rtol=1e-9, atol=1e-11)

    jax.tree_util.tree_map_with_path(
        check, before["batch_stats"], changed["batch_stats"], after
    )


def pixels(path):
    """Pixels of a 64 x 64 image at a normalisation of B3."""
    if len(path) == 2:
        return 32**2 if path[0].key == "bn0" else 2**2
    number = int(path[0].key.removeprefix("blocks_"))
    if path[1].key == "bn0":
        number -= 1  # in front of the block's stride
    sides = [(1, 32), (4, 16), (7, 8), (17, 4), (25, 2)]
    return next(side for last, side in sides if number <= last) ** 2


def test_conversion_there_and_back_changes_no_bit():
    net, tensors = port(True, images((2, 32, 32, 3)))
    trained = {name for name in tensors if "num_batches_tracked" not in name}
    for prefix in ("", "encoder."):
        layers = public_layers(B3, prefix)
        file = {prefix + name: tensor for name, tensor in tensors.items()}
        variables = convert(file, layers)
        back = foreign(variables, layers)
        assert set(back) == {prefix + name for name in trained}
        for name, tensor in back.items():
            np.testing.assert_array_equal(tensor, file[name], name)
            assert tensor.dtype == np.float32
    want = shapes(network())
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda x: x.shape, want)


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
    variables = quick(plain.init)(jax.random.key(0), image)
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
    variables = quick(net.init)(jax.random.key(0), image)

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
    net = network(("skip5",), TINY, drop_connect=0.0)
    image = images((4, 32, 32, 3)) * np.float32([0.1, 0.2, 0.9, 1.0]).reshape(
        4, 1, 1, 1
    )
    variables = quick(net.init)(jax.random.key(0), image)
    forward = quick(lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"]))
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.device_put(image, NamedSharding(mesh, PartitionSpec("data")))
    whole = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    for want, got in zip(
        jax.tree.leaves(forward(variables, image)),
        jax.tree.leaves(forward(whole, split)),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("taps", [("skip6",), ("skip1", "pool"), ()])
def test_an_unknown_tap(taps):
    with pytest.raises(ValueError, match=r"taps are \[.*give some of \['skip1', 's"):
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
