"""RNON's networks against our PyTorch port, with converted random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.models.rnon import (
    Discriminator,
    OptimizationGenerator,
    RepairGenerator,
)
from tests.models.rnon_nets import FLOAT, RATES, flat, quick

torch = pytest.importorskip("torch")
from tests.ports import rnon as ports  # noqa: E402
from tests.ports.layout import randomize  # noqa: E402
from tests.ports.norms import randomize_norms  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small cost more in waiting threads than in arithmetic."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def nchw(array):
    array = array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
    return torch.from_numpy(np.float64(array))


def nhwc(tensor):
    array = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def random(port, seed, *arrays):
    """Random weights; statistics of these arrays, jittered.

    Drawn freely, signals grow from layer to layer and every output saturates.
    """
    torch.manual_seed(seed)
    port = randomize_norms(randomize(port, seed), seed + 1).double()
    norms = [m for m in port.modules() if isinstance(m, ports.Norm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        port.train()(*map(nchw, arrays))
        for norm in norms:
            norm.momentum = 0.1
            norm.running_mean += 0.1 * norm.running_var.sqrt()
            norm.running_var *= 0.8 + 0.4 * torch.rand_like(norm.running_var)
    return port.eval()


def compare(net, port, *arrays, gradients=True):
    """Prediction, training pass, statistics and gradients, ours against the port's.

    Returns:
      Our prediction, and what the port returns beside its own.
    """
    variables = ports.convert(port.state_dict())
    port.load_state_dict({k: v.float() for k, v in port.state_dict().items()})
    template = jax.eval_shape(
        functools.partial(net.init, train=False), jax.random.key(0), *arrays
    )
    assert jax.tree.structure(template) == jax.tree.structure(variables)
    statistics = variables.get("batch_stats", {})
    inputs = [nchw(a) for a in arrays]

    def output():
        out = port(*inputs)
        return out if isinstance(out, tuple) else (out, None)

    with torch.no_grad():
        predicted, beside = output()
    got = quick(functools.partial(net.apply, train=False))(variables, *arrays)
    assert got.dtype == jnp.float32
    # Logits, and sums that are clipped at zero, pass through zero.
    np.testing.assert_allclose(got, nhwc(predicted), rtol=1e-4, atol=1e-5)

    shape = nhwc(predicted).shape
    weight = np.random.default_rng(5).normal(size=shape).astype(np.float32)

    # Arrays are arguments: XLA would fold the masks' box sums of constants, slowly.
    def loss(params, statistics, *arrays):
        full = {"params": params, "batch_stats": statistics}
        out, new = net.apply(full, *arrays, train=True, mutable=["batch_stats"])
        return (out * weight).sum(), (out, new.get("batch_stats", {}))

    run = jax.value_and_grad(loss, has_aux=True) if gradients else loss
    run = quick(run)(variables["params"], statistics, *arrays)
    (_, (trained, new)), grads = run if gradients else (run, None)
    port.train()
    want, _ = output()
    np.testing.assert_allclose(trained, nhwc(want), rtol=1e-4, atol=1e-5)
    state = ports.convert(port.state_dict())
    for name, leaf in flat(state.get("batch_stats", {})).items():
        np.testing.assert_allclose(flat(new)[name], leaf, rtol=1e-4, atol=1e-6)
    assert jax.tree.structure(new) == jax.tree.structure(statistics)

    if not gradients:
        return got, beside
    (want * nchw(weight)).sum().backward()
    tensors = {name: p.grad for name, p in port.named_parameters()}
    for name, leaf in flat(ports.convert(tensors)["params"]).items():
        gap = np.abs(flat(grads)[name] - leaf).max()
        assert gap <= 1e-3 * np.abs(leaf).max(), name
    return got, beside


def holes(size, count):
    """The last image has almost nothing valid."""
    rng = np.random.default_rng(0)
    image = rng.random((count, size, size, 3)).astype(np.float32)
    valid = np.ones((count, size, size, 1), np.float32)
    valid[:, size // 4 : size // 2, size // 8 : size // 2] = 0
    valid[1:, :, size // 3 : size // 2] = 0
    valid[-1] = 0
    valid[-1, :3, :2] = 1
    return image, valid


@pytest.mark.parametrize(
    "size, widths", [(48, (4, 6, 8, 10)), (256, (3, 4, 4, 5, 6, 5, 6, 5))]
)
def test_repair_generator(size, widths):
    kernels = (7, 5, 5, 3, 3, 3, 3, 3)[: len(widths)]
    shallow = len(widths) == 4
    image, valid = holes(size, 3 if shallow else 2)
    net = RepairGenerator(widths, kernels, "nearest", FLOAT)
    port = random(ports.RepairGenerator(widths, kernels), 1, image, valid)
    got, mask = compare(net, port, image, valid, gradients=shallow)
    assert np.std(got) > 0.01
    unfilled = nhwc(mask)[..., :1] == 0
    # Eight layers close every hole, four do not: there the head sees zeros.
    assert unfilled.any() == shallow
    colour = 1 / (1 + np.exp(-port.head.bias.detach().numpy()))
    np.testing.assert_allclose(
        np.where(unfilled, got, colour), np.broadcast_to(colour, got.shape), rtol=1e-6
    )


@pytest.mark.parametrize(
    "widths, fc_input, cells",
    [
        ((4, 4, 5, 5, 6, 6, 7, 7), "gap", None),
        ((4, 4, 5, 5, 6, 6, 7, 7, 6, 5), "flatten", 4),
    ],
    ids=["repair", "optimization"],
)
def test_discriminator(widths, fc_input, cells):
    image = np.random.default_rng(1).random((2, 64, 64, 3)).astype(np.float32)
    net = Discriminator(widths, 9, fc_input, FLOAT)
    port = random(ports.Discriminator(widths, 9, cells), 2, image)
    compare(net, port, image, gradients=fc_input == "flatten")


@pytest.mark.parametrize(
    "fusion_kernel, norm, residual, remat",
    [(3, "none", False, True), (1, "batch", True, False)],
    ids=["paper", "variant"],
)
def test_optimization_generator(fusion_kernel, norm, residual, remat):
    image = np.random.default_rng(2).random((2, 20, 24, 3)).astype(np.float32)
    net = OptimizationGenerator(
        4, 2, RATES, fusion_kernel, norm, residual, remat, FLOAT
    )
    port = ports.OptimizationGenerator(
        4, 2, RATES, fusion_kernel, norm == "batch", residual
    )
    got, _ = compare(net, random(port, 3, image), image)
    assert np.std(got) > 0.01
    if residual:  # the clip is seen, and not by most
        assert 0 < np.mean((got == 0) | (got == 1)) < 0.9
