import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import flops
from jaxinpaint.models.ipa_medgan import (
    Form,
    Generator,
    GlobalDiscriminator,
    MultiResUNet,
    PatchDiscriminator,
    pool,
)

F32, HALF = jnp.dtype("float32"), jnp.dtype("bfloat16")
WIDTHS = (32, 64, 128, 256, 512)
PATCH, GLOBAL = (64, 128, 256, 512), (64, 128, 256, 512, 512, 512)
THIN = (8, 12, 20, 12, 9)
# Compiling dominates here, so the compiler is told not to try hard.
quick = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)
# name, kernel, channels in and out, parameters, its norms among them (2.3).
LAYERS = """
    enc1.shortcut 1 1 51 102
    enc1.conv_a 3 1 8 80
    enc1.conv_b 3 8 17 1241
    enc1.conv_c 3 17 26 4208
    respath1.step0.shortcut 1 51 32 1664
    respath1.step0.conv 3 51 32 14784
    respath1.step1.shortcut 1 32 32 1056
    respath1.step1.conv 3 32 32 9312
    respath1.step2.shortcut 1 32 32 1056
    respath1.step2.conv 3 32 32 9312
    respath1.step3.shortcut 1 32 32 1056
    respath1.step3.conv 3 32 32 9312
    enc2.shortcut 1 51 105 5460
    enc2.conv_a 3 51 17 7820
    enc2.conv_b 3 17 35 5390
    enc2.conv_c 3 35 53 17168
    respath2.step0.shortcut 1 105 64 6784
    respath2.step0.conv 3 105 64 60672
    respath2.step1.shortcut 1 64 64 4160
    respath2.step1.conv 3 64 64 37056
    respath2.step2.shortcut 1 64 64 4160
    respath2.step2.conv 3 64 64 37056
    enc3.shortcut 1 105 212 22472
    enc3.conv_a 3 105 35 33110
    enc3.conv_b 3 35 71 22436
    enc3.conv_c 3 71 106 68688
    respath3.step0.shortcut 1 212 128 27264
    respath3.step0.conv 3 212 128 244608
    respath3.step1.shortcut 1 128 128 16512
    respath3.step1.conv 3 128 128 147840
    enc4.shortcut 1 212 426 90738
    enc4.conv_a 3 212 71 135539
    enc4.conv_b 3 71 142 90880
    enc4.conv_c 3 142 213 274131
    respath4.step0.shortcut 1 426 256 109312
    respath4.step0.conv 3 426 256 982272
    bottleneck.shortcut 1 426 853 364231
    bottleneck.conv_a 3 426 142 544570
    bottleneck.conv_b 3 142 284 363236
    bottleneck.conv_c 3 284 427 1095251
    up4 2 853 256 873728
    dec4.shortcut 1 512 426 218538
    dec4.conv_a 3 512 71 327239
    dec4.conv_b 3 71 142 90880
    dec4.conv_c 3 142 213 274131
    up3 2 426 128 218240
    dec3.shortcut 1 256 212 54484
    dec3.conv_a 3 256 35 80675
    dec3.conv_b 3 35 71 22436
    dec3.conv_c 3 71 106 68688
    up2 2 212 64 54336
    dec2.shortcut 1 128 105 13545
    dec2.conv_a 3 128 17 19601
    dec2.conv_b 3 17 35 5390
    dec2.conv_c 3 35 53 17168
    up1 2 105 32 13472
    dec1.shortcut 1 64 51 3315
    dec1.conv_a 3 64 8 4616
    dec1.conv_b 3 8 17 1241
    dec1.conv_c 3 17 26 4208
    head 1 51 1 52
"""
# name, products, parameters, GFLOP at 256 x 256 (2.3).
STAGES = """
    enc1 4 5631 0.698
    respath1 8 47552 6.166
    enc2 4 35838 1.154
    respath2 6 149888 4.886
    enc3 4 146706 1.191
    respath3 4 436224 3.565
    enc4 4 591288 1.206
    respath4 2 1091584 2.233
    bottleneck 4 2367288 1.209
    up4 1 873728 0.447
    dec4 4 910788 1.860
    up3 1 218240 0.447
    dec3 4 226283 1.843
    up2 1 54336 0.445
    dec2 4 55704 1.805
    up1 1 13472 0.440
    dec1 4 13380 1.714
    head 1 52 0.007
"""
# widths, in and out, stride, parameters, GFLOP at 256 x 256, the norm (2.5).
PATCH_TABLE = """
    c1 2 64 2 2112 0.067 no
    c2 64 128 2 131328 1.074 bn
    c3 128 256 2 524800 1.074 bn
    c4 256 512 1 2098176 4.031 bn
    out 512 1 1 8193 0.015 no
"""
GLOBAL_TABLE = """
    c1 2 64 2 2112 0.067 no
    c2 64 128 2 131328 1.074 bn
    c3 128 256 2 524800 1.074 bn
    c4 256 512 2 2098176 1.074 bn
    c5 512 512 2 4195328 0.537 bn
    c6 512 512 1 4195328 0.411 bn
    out 512 1 1 8193 0.001 no
"""


def rows(table):
    """Names, and numbers where they are such."""
    number = lambda word: float(word) if "." in word else int(word)
    for line in table.split("\n")[1:-1]:
        name, *words = line.split()
        yield name, *(number(w) if w[0].isdigit() else w for w in words)


def generator(widths=THIN, **changed):
    fields = {
        "cascade_depth": 2,
        "share_weights": False,
        "channel_multiple": 1,
        "norm_decay": 0.99,
    }
    return Generator(widths, **(fields | {"dtype": F32} | changed))


def spec(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


SLICE = spec(1, 256, 256, 1)


def abstract(net, *arrays):
    init = functools.partial(net.init, train=False)
    return dict(jax.eval_shape(init, jax.random.key(0), *arrays))


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def flat(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    keystr = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return {keystr(path): leaf for path, leaf in leaves}


def shapes(tree):
    return {name: leaf.shape for name, leaf in flat(tree).items()}


@pytest.fixture(scope="module")
def published():
    """Variables of the generator as published."""
    return abstract(generator(WIDTHS), SLICE)


def test_every_layer_is_the_table_s(published):
    want, statistics = {}, {}

    def norm(name, channels, values):
        want.update({f"{name}/{value}": (channels,) for value in values})
        statistics.update({f"{name}/{k}": (channels,) for k in ("mean", "var")})

    for name, k, before, after, _ in rows(LAYERS):
        path = name.replace(".", "/")
        if "." not in name:
            want[f"{path}/kernel"] = (k, k, before, after)
            want[f"{path}/bias"] = (after,)
            continue
        want[f"{path}/conv/kernel"] = (k, k, before, after)
        norm(f"{path}/bn", after, ["bias"])
        if path.endswith("/shortcut"):
            module = path.removesuffix("/shortcut")
            blocks = ["bn_out"] if "step" in module else ["bn_cat", "bn_out"]
            for block in blocks:
                norm(f"{module}/{block}", after, ["scale", "bias"])
    assert set(published["params"]) == {"unet_a", "unet_b"}
    for unet in ("unet_a", "unet_b"):
        assert shapes(published["params"][unet]) == want
        assert shapes(published["batch_stats"][unet]) == statistics


def test_parameter_counts(published):
    params = published["params"]["unet_a"]
    for name, *_, parameters in rows(LAYERS):
        module, path = params, name.split(".")
        for part in path:
            module = module[part]
        # The rows of conv_c, and of a step's convolution, hold the block's norms.
        block = functools.reduce(dict.get, path[:-1], params)
        norms = [block[k] for k in ("bn_cat", "bn_out") if k in block]
        held = norms if path[-1] in ("conv_c", "conv") else []
        assert count(module) + count(held) == parameters, name
    assert {k: count(v) for k, v in params.items()} == {
        name: parameters for name, _, parameters, _ in rows(STAGES)
    }
    assert count(params) == 7_237_982
    assert count(published["batch_stats"]["unet_a"]) == 24_520
    assert count(published["params"]) == 14_475_964
    assert count(published["batch_stats"]) == 49_040
    shared = abstract(generator(WIDTHS, share_weights=True), SLICE)
    assert set(shared["params"]) == {"unet_a"}
    assert count(shared["params"]) == 7_237_982


def test_published_count_of_the_reference():
    """With three channels in; there a norm with offset stands for the head's bias."""
    net = MultiResUNet(WIDTHS, Form(1, 0.99, F32))
    variables = abstract(net, spec(1, 256, 256, 3))
    head = variables["params"].pop("head")
    assert count(variables) + head["kernel"].size + 1 + 2 == 7_262_750


def test_padding_leaves_the_variables_alone(published):
    net = MultiResUNet(WIDTHS, Form(8, 0.99, F32))
    unet = {k: v["unet_a"] for k, v in published.items()}
    assert shapes(abstract(net, SLICE)) == shapes(unet)


def traced(net, variables, *arrays):
    """A prediction's program, and the shapes of what it returns."""
    apply = functools.partial(net.apply, train=False)
    program, found = jax.make_jaxpr(apply, return_shape=True)(variables, *arrays)
    return program.jaxpr, found


def products(program):
    """GFLOP of each product, in program order."""
    return np.array([c.flops for c in flops.walk(program).contractions]) / 1e9


def test_images_and_arithmetic(published):
    program, images = traced(generator(WIDTHS), published, SLICE)
    assert [(x.shape, str(x.dtype)) for x in images] == [(SLICE.shape, "float32")] * 2
    found = products(program)
    assert found.sum() == pytest.approx(62.63, abs=5e-3)
    left = iter(found)
    for unet in ("unet_a", "unet_b"):
        for name, number, _, gflop in rows(STAGES):
            total = sum(itertools.islice(left, number))
            assert total == pytest.approx(gflop, abs=5.1e-4), (unet, name)
    assert not list(left)


@pytest.mark.parametrize(
    "make, widths, table, totals, maps",
    [
        (
            PatchDiscriminator,
            PATCH,
            PATCH_TABLE,
            (2_764_609, 1_792, 6.26),
            [(128, 64), (64, 128), (32, 256), (31, 512), (30, 1)],
        ),
        (
            GlobalDiscriminator,
            GLOBAL,
            GLOBAL_TABLE,
            (11_155_265, 3_840, 4.24),
            [(128, 64), (64, 128), (32, 256), (16, 512), (8, 512), (7, 512), (6, 1)],
        ),
    ],
    ids=["patch", "global"],
)
def test_discriminator_table(make, widths, table, totals, maps):
    net = make(widths, F32)
    variables = abstract(net, SLICE, SLICE)
    want, counts, work = {}, {}, []
    for name, before, after, _, parameters, gflop, norm in rows(table):
        path = f"params/{name}" if name == "out" else f"params/{name}/conv"
        want[f"{path}/kernel"] = (4, 4, before, after)
        if norm == "bn":
            want |= {f"params/{name}/bn/{k}": (after,) for k in ("scale", "bias")}
            want |= {f"batch_stats/{name}/bn/{k}": (after,) for k in ("mean", "var")}
        else:
            want[f"{path}/bias"] = (after,)
        counts[name] = parameters
        work.append(gflop)
    assert shapes(variables) == want
    assert {k: count(v) for k, v in variables["params"].items()} == counts
    assert (count(variables["params"]), count(variables["batch_stats"])) == totals[:2]
    program, (logits, features) = traced(net, variables, SLICE, SLICE)
    found = products(program)
    np.testing.assert_allclose(found, work, atol=5.1e-4)
    assert found.sum() == pytest.approx(totals[2], abs=5.1e-3)
    got = [(*x.shape, str(x.dtype)) for x in (*features, logits)]
    assert got == [(1, n, n, c, "float32") for n, c in maps]


# The networks against our port to PyTorch, with its weights.


@pytest.fixture(scope="module")
def port():
    pytest.importorskip("torch")
    from tests.ports import ipa_medgan

    return ipa_medgan


def slices(height, width, number, seed=0):
    """Smooth, with noise and a hole."""
    y, x = np.mgrid[:height, :width]
    draw = np.random.default_rng(seed)
    phase = draw.uniform(0, 6, (number, 1, 1))
    image = 0.8 * np.sin(x / 7 + y / 5 + phase)
    image = np.clip(image + 0.2 * draw.normal(size=image.shape), -1, 1)
    image[0, 10:20, 12:30] = -1
    return image[..., None].astype(np.float32)


def theirs(network, *arrays):
    """Runs a port on arrays [B, H, W, C]; returns what it gives, and its state."""
    import torch

    nchw = [torch.from_numpy(x.transpose(0, 3, 1, 2).copy()) for x in arrays]
    with torch.no_grad():
        found = network(*nchw)
    return jax.tree.map(lambda x: x.numpy().transpose(0, 2, 3, 1), found)


def expect_parity(net, network, port, *arrays, modes=(False, True)):
    """Outputs to 1e-4, in eval and in train mode, and the statistics after each."""
    variables = port.convert(network)
    assert shapes(variables) == shapes(abstract(net, *arrays))
    for train in modes:
        network.train(train)
        want = theirs(network, *arrays)
        apply = functools.partial(net.apply, train=train, mutable=["batch_stats"])
        got, state = quick(apply)(variables, *arrays)
        assert jax.tree.structure(got) == jax.tree.structure(want)
        for ours, there in zip(*map(jax.tree.leaves, (got, want)), strict=True):
            assert 0.05 < there.std() < 10
            np.testing.assert_allclose(
                ours, there, rtol=1e-4, atol=1e-4 * np.abs(there).max()
            )
        after = flat(port.convert(network)["batch_stats"])
        for name, leaf in flat(state["batch_stats"]).items():
            np.testing.assert_allclose(
                leaf, after[name], rtol=1e-4, atol=1e-5, err_msg=name
            )
            before = flat(variables["batch_stats"])[name]
            assert train == np.any(np.abs(leaf - before) > 1e-4), name


# Training with three levels, since it compiles twice as long.
@pytest.mark.parametrize("widths, train", [(THIN, False), ((8, 12, 9), True)])
def test_generator_agrees_with_pytorch(port, widths, train):
    network = port.randomize(port.Generator(widths), 0)
    images = slices(48, 64, 2)
    expect_parity(generator(widths), network, port, images, modes=(train,))


@pytest.mark.parametrize(
    "make, widths, side",
    [
        (PatchDiscriminator, (5, 6, 7, 9), (48, 64)),
        (GlobalDiscriminator, (5, 6, 7, 6, 5, 4), (128, 144)),
    ],
)
def test_discriminators_agree_with_pytorch(port, make, widths, side):
    network = port.randomize(port.Discriminator(widths), 1)
    pair = slices(*side, 2), slices(*side, 2, seed=1)
    expect_parity(make(widths, F32), network, port, *pair)


def test_pooling_takes_the_largest_and_the_first_of_equals():
    x = np.float32([[1, 7, 3, 2, 5, 5], [2, 5, 0, 3, 4, 5]]).reshape(1, 2, 6, 1)
    largest, back = quick(lambda x: jax.vjp(pool, x))(x)
    np.testing.assert_array_equal(largest[0, :, :, 0], [[7, 3, 5]])
    (gradient,) = quick(back)(jnp.ones_like(largest))
    want = [[0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(gradient[0, :, :, 0], want)


# Channels padded to multiples of 8, in a network of two levels.

SHORT = (12, 20)


@pytest.fixture(scope="module")
def short():
    """A network's random variables, three slices and a weight for their pixels."""
    image = slices(16, 24, 3)
    draw = np.random.default_rng(5)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        x = draw.normal(size=leaf.shape)
        if "kernel" in name:
            gain = 0.5 if "head" in name else 1.0  # or tanh would saturate
            x *= gain * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        else:
            x = 0.8 + 0.2 * x if "scale" in name or "var" in name else 0.4 + 0.2 * x
        return x.astype(np.float32)

    empty = abstract(MultiResUNet(SHORT, Form(1, 0.99, F32)), image)
    variables = jax.tree_util.tree_map_with_path(fill, empty)
    weight = draw.normal(size=image.shape).astype(np.float32)
    return variables, image, weight


def update(short, multiple):
    """The image, statistics and gradients of a training pass in float64."""
    net = MultiResUNet(SHORT, Form(multiple, 0.99, jnp.dtype("float64")))

    def loss(params, image):
        state = variables | {"params": params}
        made, new = net.apply(state, image, train=True, mutable=["batch_stats"])
        return (made * weight).mean(), (made, new["batch_stats"])

    with jax.enable_x64(True):
        variables, image, weight = jax.tree.map(np.float64, short)
        run = quick(jax.value_and_grad(loss, (0, 1), has_aux=True))
        (_, (made, statistics)), grads = run(variables["params"], image)
        return jax.device_get({"image": made, "new": statistics, "gradient": grads})


def test_padding_changes_no_value_in_training(short):
    """Not one ten-thousandth of what float32 rounds off."""
    plain, padded = (flat(update(short, multiple)) for multiple in (1, 8))
    assert 0.1 < plain["image"].std() and np.abs(plain["image"]).max() < 1
    assert shapes(padded) == shapes(plain)
    for name, leaf in plain.items():
        assert leaf.dtype == np.float64 and np.any(leaf), name
        np.testing.assert_allclose(
            padded[name], leaf, rtol=1e-9, atol=1e-12, err_msg=name
        )


def predict(net, variables, image):
    return quick(functools.partial(net.apply, train=False))(variables, image)


@pytest.fixture(scope="module")
def whole(short):
    """The plain network's prediction, to be called with images."""
    net = MultiResUNet(SHORT, Form(1, 0.99, F32))
    return functools.partial(quick(functools.partial(net.apply, train=False)), short[0])


def test_padding_changes_no_value_in_prediction(short, whole):
    variables, image, _ = short
    got, want = (
        predict(MultiResUNet(SHORT, Form(8, 0.99, F32)), variables, image),
        whole(image),
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert 0.1 < want.std() and np.abs(want).max() < 1


def operands(jaxpr):
    """Channels in and out of every convolution and product of a traced program."""
    for eqn in jaxpr.eqns:
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from operands(inner)
        name = eqn.primitive.name
        if name == "conv_general_dilated":
            assert eqn.params["dimension_numbers"].rhs_spec == (3, 2, 0, 1)
            yield name, eqn.invars[1].aval.shape[2:]
        elif name == "dot_general":
            yield name, (eqn.invars[1].aval.shape[0], eqn.outvars[0].aval.shape[-1])


def test_padded_convolutions_have_multiples_of_8(published):
    variables = {k: v["unet_a"] for k, v in published.items()}
    found = list(
        operands(traced(MultiResUNet(WIDTHS, Form(8, 0.99, F32)), variables, SLICE)[0])
    )
    names = [name for name, _ in found]
    assert names.count("conv_general_dilated") == 56
    assert names.count("dot_general") == 5  # four enlargements and the head
    for name, (before, after) in found:
        assert before % 8 == 0
        # The head is a product with one column.
        assert after % 8 == 0 or (name, after) == ("dot_general", 1)
    widths = [pair for name, pair in found if name == "conv_general_dilated"][:8]
    # 51 = 8 + 17 + 26 channels leave the first block as 8 + 24 + 32.
    assert widths[:5] == [(8, 64), (8, 8), (8, 24), (24, 32), (64, 32)]


def test_an_image_sees_its_own_alone(short, whole):
    image = short[1]
    other = np.stack([image[0], -image[1], image[2]])
    want, got = whole(image), whole(other)
    np.testing.assert_array_equal(got[::2], want[::2])
    assert np.abs(got[1] - want[1]).max() > 1e-2


def test_shared_weights_are_the_same_network_again(short, whole):
    variables = {k: {"unet_a": v} for k, v in short[0].items()}
    images = predict(generator(SHORT, share_weights=True), variables, short[1])
    np.testing.assert_allclose(images[0], whole(short[1]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(images[1], whole(images[0]), rtol=1e-5, atol=1e-5)


def test_bfloat16_stays_near_float32(short, whole):
    variables, image, _ = short
    net = MultiResUNet(SHORT, Form(8, 0.99, HALF))
    assert {x.dtype for x in jax.tree.leaves(abstract(net, image))} == {F32}
    got, want = predict(net, variables, image), whole(image)
    assert got.dtype == F32
    assert 0 < np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)) <= 2e-2
    # The sums of the head are not rounded to bfloat16.
    assert np.any(got != np.asarray(jnp.asarray(got, HALF), np.float32))
    apply = functools.partial(net.apply, train=True, mutable=["batch_stats"])
    loss = lambda params: apply(variables | {"params": params}, image)[0].sum()
    grads = jax.eval_shape(jax.grad(loss), variables["params"])
    assert shapes(grads) == shapes(variables["params"])


def test_generator_begins_as_keras_would():
    """Glorot uniform, times its bound; offsets at zero, scales at one."""
    net = MultiResUNet((24, 24), Form(8, 0.99, F32))
    init = quick(functools.partial(net.init, train=True))
    made = init(jax.random.key(0, impl="rbg"), np.zeros((1, 16, 16, 1), np.float32))
    spread = []
    for name, leaf in flat(made["params"]).items():
        if name.endswith("kernel"):
            fan = np.prod(leaf.shape[:-2]) * sum(leaf.shape[-2:])
            spread.append(np.ravel(leaf) / np.sqrt(6 / fan))
            assert 0.7 < np.abs(spread[-1]).max() <= 1 + 1e-6 or leaf.size < 20, name
        else:
            assert np.all(leaf == ("scale" in name)), name
    for name, leaf in flat(made["batch_stats"]).items():
        assert np.all(leaf == name.endswith("var")), name
    spread = np.concatenate(spread)
    # Uniform in [-1, 1]: variance 1/3, fourth moment 1/5.
    np.testing.assert_allclose(np.mean(spread**2), 1 / 3, rtol=0.03)
    np.testing.assert_allclose(np.mean(spread**4), 1 / 5, rtol=0.03)


def test_discriminators_begin_as_those_of_pix2pix():
    net = PatchDiscriminator((16, 64, 64, 64), F32)
    image = np.zeros((1, 32, 32, 1), np.float32)
    init = quick(functools.partial(net.init, train=True))
    params = flat(init(jax.random.key(0, impl="rbg"), image, image)["params"])
    kernels = np.concatenate([np.ravel(v) for k, v in params.items() if "kernel" in k])
    scales = np.concatenate([v for k, v in params.items() if "scale" in k])
    for values, mean in ((kernels, 0), (scales, 1)):
        size = np.sqrt(values.size)
        assert abs(values.mean() - mean) < 4 * 0.02 / size
        assert values.std() == pytest.approx(0.02, rel=3 / size)
        assert np.abs(values - mean).max() > 0.04  # no uniform of that deviation
    assert not any(np.any(v) for k, v in params.items() if k.endswith("bias"))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"widths": (8,)}, r"widths is \(8,\); give two or more, each at least 4"),
        ({"widths": (8, 3)}, r"widths is \(8, 3\); give two or more, each at least 4"),
        ({"cascade_depth": 0}, "cascade_depth is 0; it is 1 to 8"),
        ({"cascade_depth": 9}, "cascade_depth is 9; it is 1 to 8"),
        ({"channel_multiple": 0}, "channel_multiple is 0; give 1 for no padding"),
    ],
)
def test_wrong_fields_say_so(changed, message):
    with pytest.raises(ValueError, match=f"ipa_medgan.Generator: {message}"):
        abstract(generator(**({"widths": THIN} | changed)), SLICE)


NOT_GREY = r"damaged must be \[B, H, W, 1\], got "
FIT = "height and width must be multiples of 16 and at least"


@pytest.mark.parametrize(
    "array, message",
    [
        (spec(1, 64, 64, 3), NOT_GREY + r"\[1, 64, 64, 3\]"),
        (spec(64, 64, 1), NOT_GREY + r"\[64, 64, 1\]"),
        (spec(1, 64, 72, 1), f"{FIT} 16, got 64 x 72; pad to 64 x 80"),
        (spec(1, 64, 64, 1, dtype=jnp.uint8), "damaged must be float32, got uint8"),
    ],
)
def test_generator_s_wrong_arrays_say_so(array, message):
    with pytest.raises(ValueError, match=f"ipa_medgan.Generator: {message}"):
        abstract(generator(), array)


def square(side, channels=1, dtype=jnp.float32):
    return spec(1, side, side, channels, dtype=dtype)


@pytest.mark.parametrize(
    "net, arrays, message",
    [
        ("Patch", (square(16),) * 2, f"{FIT} 32, got 16 x 16; pad to 32 x 32"),
        ("Patch", (square(40),) * 2, f"{FIT} 32, got 40 x 40; pad to 48 x 48"),
        ("Global", (square(80),) * 2, f"{FIT} 96, got 80 x 80; pad to 96 x 96"),
        ("Global", (square(96, 3), square(96)), r"image must be \[B, H, W, 1\]"),
        ("Global", (square(96), square(112)), r"damaged must be \[1, 96, 96, 1\]"),
        (
            "Patch",
            (square(96), square(96, dtype=jnp.float16)),
            "damaged must be float32, got float16",
        ),
    ],
)
def test_discriminators_wrong_arrays_say_so(net, arrays, message):
    make, widths = {
        "Patch": (PatchDiscriminator, (2,) * 4),
        "Global": (GlobalDiscriminator, (2,) * 6),
    }[net]
    where = f"ipa_medgan.{net}Discriminator"
    with pytest.raises(ValueError, match=f"{where}: {message}"):
        abstract(make(widths, F32), *arrays)


def test_least_sizes_leave_one_logit():
    for make, number, side in (
        (PatchDiscriminator, 4, 32),
        (GlobalDiscriminator, 6, 96),
    ):
        net = make((2,) * number, F32)
        variables = abstract(net, square(side), square(side))
        _, (logits, _) = traced(net, variables, square(side), square(side))
        assert logits.size >= 1
    with pytest.raises(ValueError, match=r"widths is \(2,\); give two or more"):
        abstract(PatchDiscriminator((2,), F32), square(32), square(32))
