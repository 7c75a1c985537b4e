import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.features.convert import KINDS, Layer, convert, foreign

DRAW = np.random.default_rng(0)


def normal(*shape):
    return DRAW.normal(size=shape).astype(np.float32)


def batch_norm(name, size):
    return {
        f"{name}.weight": normal(size),
        f"{name}.bias": normal(size),
        f"{name}.running_mean": normal(size),
        f"{name}.running_var": np.exp(normal(size)),
        f"{name}.num_batches_tracked": np.int64(7),
    }


NETWORK = {
    "features.0.weight": normal(4, 3, 5, 7),
    "features.0.bias": normal(4),
    "features.1.weight": normal(4, 1, 3, 3),
    "up.weight": normal(4, 6, 4, 4),
    "up.bias": normal(6),
    "classifier.weight": normal(10, 24),
    "classifier.bias": normal(10),
    "attention.gamma": normal(1),
    **batch_norm("features.2", 4),
}
LAYERS = (
    Layer("features.0", "block1/conv", "conv"),
    Layer("features.1", "block1/spread", "depthwise_conv"),
    Layer("features.2", "block1/norm", "batch_norm"),
    Layer("up", "up", "conv_transpose"),
    Layer("classifier", "head", "linear"),
    Layer("attention.gamma", "attention/gamma", "vector"),
)


def test_every_axis_by_hand():
    got = convert(NETWORK, LAYERS)
    params, stats = got["params"], got["batch_stats"]
    assert set(got) == {"params", "batch_stats"}
    assert set(params) == {"block1", "up", "head", "attention"}
    conv = params["block1"]["conv"]["kernel"]
    assert conv.shape == (5, 7, 3, 4)
    assert conv[2, 6, 1, 3] == NETWORK["features.0.weight"][3, 1, 2, 6]
    spread = params["block1"]["spread"]
    assert spread["kernel"].shape == (3, 3, 1, 4) and set(spread) == {"kernel"}
    assert spread["kernel"][0, 2, 0, 1] == NETWORK["features.1.weight"][1, 0, 0, 2]
    up = params["up"]["kernel"]
    assert up.shape == (4, 4, 6, 4)
    assert up[1, 2, 5, 3] == NETWORK["up.weight"][3, 5, 1, 2]
    head = params["head"]["kernel"]
    assert head.shape == (24, 10)
    assert head[20, 9] == NETWORK["classifier.weight"][9, 20]
    for leaf, ours in (("weight", "scale"), ("bias", "bias")):
        want = NETWORK[f"features.2.{leaf}"]
        np.testing.assert_array_equal(params["block1"]["norm"][ours], want)
    for leaf in ("mean", "var"):
        want = NETWORK[f"features.2.running_{leaf}"]
        np.testing.assert_array_equal(stats["block1"]["norm"][leaf], want)
    np.testing.assert_array_equal(
        params["attention"]["gamma"], NETWORK["attention.gamma"]
    )
    for leaf in jax.tree.leaves(got):
        assert leaf.dtype == np.float32 and leaf.flags.c_contiguous


def test_foreign_is_the_inverse():
    variables = convert(NETWORK, LAYERS)
    back = foreign(variables, LAYERS)
    want = {k: v for k, v in NETWORK.items() if not k.endswith("tracked")}
    assert set(back) == set(want)
    for name, array in want.items():
        np.testing.assert_array_equal(back[name], array)
    again = convert(foreign(jax.tree.map(jnp.asarray, variables), LAYERS), LAYERS)
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def torch_layer(layer, name="layer"):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        for key, tensor in layer.state_dict().items():
            if tensor.dtype == torch.float32:
                drawn = torch.from_numpy(np.asarray(normal(*tensor.shape)))
                tensor.copy_(drawn.exp() if key == "running_var" else drawn)
    return {f"{name}.{k}": v.numpy() for k, v in layer.eval().state_dict().items()}


def same(ours, theirs, kind, shape, channels_last=True):
    """Both layers, on one input; [B, H, W, C] here and [B, C, H, W] there."""
    torch = pytest.importorskip("torch")
    variables = convert(torch_layer(theirs), [Layer("layer", "layer", kind)])
    variables = {k: v["layer"] for k, v in variables.items()}
    x = normal(*shape)
    with torch.no_grad():
        y = np.moveaxis(x, -1, 1) if channels_last else x
        want = theirs(torch.from_numpy(np.ascontiguousarray(y))).numpy()
    got = ours.apply(variables, x)
    asked = jax.eval_shape(ours.init, jax.random.key(0), x)
    assert jax.tree.map(lambda a: a.shape, asked) == jax.tree.map(
        lambda a: a.shape, variables
    )
    want = np.moveaxis(want, 1, -1) if channels_last else want
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_conv_is_torch(groups, bias):
    torch = pytest.importorskip("torch")
    same(
        nn.Conv(
            6, (3, 5), (2, 1), [(1, 1), (2, 2)], feature_group_count=groups,
            use_bias=bias,
        ),
        torch.nn.Conv2d(4, 6, (3, 5), (2, 1), (1, 2), groups=groups, bias=bias),
        "conv",
        (2, 9, 8, 4),
    )  # fmt: skip


def test_depthwise_conv_is_torch():
    torch = pytest.importorskip("torch")
    same(
        nn.Conv(5, (3, 3), padding=1, feature_group_count=5),
        torch.nn.Conv2d(5, 5, 3, padding=1, groups=5),
        "depthwise_conv",
        (2, 7, 6, 5),
    )


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "extra"),
    [(4, 2, 1, 0), (3, 2, 1, 1), (3, 1, 1, 0), (5, 3, 0, 2), (2, 2, 0, 0)],
)
def test_conv_transpose_is_torch(kernel, stride, padding, extra):
    torch = pytest.importorskip("torch")
    pad = kernel - 1 - padding
    ours = nn.ConvTranspose(
        6,
        (kernel, kernel),
        (stride, stride),
        [(pad, pad + extra)] * 2,
        transpose_kernel=True,
    )
    theirs = torch.nn.ConvTranspose2d(4, 6, kernel, stride, padding, extra)
    same(ours, theirs, "conv_transpose", (2, 5, 7, 4))


def test_conv_transpose_of_4_2_1_is_same_padding():
    torch = pytest.importorskip("torch")
    ours = nn.ConvTranspose(3, (4, 4), (2, 2), "SAME", transpose_kernel=True)
    theirs = torch.nn.ConvTranspose2d(2, 3, 4, 2, 1)
    same(ours, theirs, "conv_transpose", (1, 5, 6, 2))


def test_linear_is_torch():
    torch = pytest.importorskip("torch")
    same(nn.Dense(7), torch.nn.Linear(5, 7), "linear", (3, 5), channels_last=False)


def test_batch_norm_is_torch():
    torch = pytest.importorskip("torch")
    ours = nn.BatchNorm(use_running_average=True, epsilon=1e-5)
    same(ours, torch.nn.BatchNorm2d(4), "batch_norm", (2, 5, 6, 4))


def test_dtypes():
    layer = [Layer("a", "a", "linear")]

    def kernel(dtype):
        values = np.float32([[1.5, -2.25], [0.1, 3]]).astype(dtype)
        return convert({"a.weight": values}, layer)["params"]["a"]["kernel"], values.T

    for narrow in (np.float16, jnp.bfloat16):
        got, want = kernel(narrow)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, want.astype(np.float32))
    for kept in (np.float32, np.float64):
        got, want = kernel(kept)
        assert got.dtype == kept
        np.testing.assert_array_equal(got, want)
    with pytest.raises(ValueError, match=r"a\.weight must be one of .*, got int32"):
        kernel(np.int32)


def without(*names, **extra):
    return {k: v for k, v in NETWORK.items() if k not in names} | extra


def test_names_that_do_not_fit_are_listed_at_once():
    tensors = without("features.0.weight", "features.2.running_var", old=normal(1))
    tensors["aux.fc.weight"] = normal(2, 2)
    with pytest.raises(ValueError) as caught:
        convert(tensors, LAYERS)
    assert str(caught.value) == (
        "convert: the names do not fit: missing features.0.weight, "
        "features.2.running_var; unused old, aux.fc.weight; give the file of this very "
        "network, or name what is to be left out in `ignored`."
    )


def test_a_file_of_another_network_gives_a_short_message():
    tensors = {f"layer{i}.weight": normal(1) for i in range(500)}
    tensors["\x1b[2J\n"] = tensors["x" * 5000] = normal(1)
    with pytest.raises(ValueError) as caught:
        convert(dict(reversed(tensors.items())), LAYERS)
    message = str(caught.value)
    assert "unused " + "x" * 100 + r", '\x1b[2J\n', layer499.weight, " in message
    assert message.count(".weight, ") < 30 and "and 482 more; give the" in message
    assert len(message) < 1200 and message.isprintable()


def test_ignored_names_and_modules():
    extra = {"old": normal(1), "aux.fc.weight": normal(2, 2), "auxiliary": normal(1)}
    with pytest.raises(ValueError, match="missing none; unused auxiliary;"):
        convert(NETWORK | extra, LAYERS, ignored=("old", "aux", "absent"))
    del extra["auxiliary"]
    got = convert(NETWORK | extra, LAYERS, ignored=("old", "aux", "absent"))
    jax.tree.map(np.testing.assert_array_equal, got, convert(NETWORK, LAYERS))


def test_a_bias_may_be_absent_and_counts_are_dropped_of_norms_alone():
    got = convert(without("features.0.bias"), LAYERS)
    assert set(got["params"]["block1"]["conv"]) == {"kernel"}
    stray = without(**{"up.num_batches_tracked": np.int64(1)})
    with pytest.raises(ValueError, match=r"unused up\.num_batches_tracked;"):
        convert(stray, LAYERS)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("features.0.weight", (4, 3, 5), "4 axes for kind conv, got [4, 3, 5]"),
        ("features.0.bias", (5,), "[4] like its weight [4, 3, 5, 7], got [5]"),
        ("features.1.weight", (4, 2, 3, 3), "[C, 1, H, W] for a depthwise"),
        ("features.2.running_mean", (3,), "[4] like its weight [4], got [3]"),
        ("up.bias", (4,), "[6] like its weight [4, 6, 4, 4], got [4]"),
        ("classifier.weight", (10, 6, 2, 2), "2 axes for kind linear"),
        ("classifier.bias", (24,), "[10] like its weight [10, 24], got [24]"),
        ("attention.gamma", (), "1 axes for kind vector, got []"),
    ],
)
def test_shapes_that_do_not_fit(name, shape, said):
    with pytest.raises(ValueError) as caught:
        convert(NETWORK | {name: normal(*shape)}, LAYERS)
    assert f"{name} must" in str(caught.value) and said in str(caught.value)


def test_layers_that_contradict_each_other():
    one = Layer("features.0", "a", "conv")
    for layers, said in [
        ([one, one], "two layers hold 'features.0.weight'"),
        ([one, Layer("other", "a", "conv")], "or 'params/a/kernel'"),
        ([Layer("features.0", "a", "convolution")], "the kinds here are "),
    ]:
        for call in (lambda x: convert(NETWORK, x), lambda x: foreign({}, x)):
            with pytest.raises(ValueError, match=said):
                call(layers)
    under = [Layer("g", "a", "vector"), Layer("c", "a/b", "linear")]
    tensors = {"g": normal(2), "c.weight": normal(2, 2)}
    with pytest.raises(ValueError, match="params/a/b/kernel lies under a tensor"):
        convert(tensors, under)
    with pytest.raises(ValueError, match="params/a holds other tensors"):
        convert(tensors, under[::-1])
    assert sorted(KINDS) == sorted({layer.kind for layer in LAYERS})


def test_variables_that_do_not_fit():
    variables = convert(NETWORK, LAYERS)
    variables["params"]["more"] = {"kernel": normal(2)}
    del variables["params"]["head"]["kernel"]
    with pytest.raises(ValueError, match="missing params/head/kernel; unused params/m"):
        foreign(variables, LAYERS)
    variables = convert(NETWORK, LAYERS)
    variables["params"]["up"]["bias"] = normal(3, 2)
    with pytest.raises(ValueError, match=r"params/up/bias must have 1 axes, got \[3,"):
        foreign(variables, LAYERS)
