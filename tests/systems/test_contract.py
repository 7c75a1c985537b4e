"""What every stage of every paper keeps, on its config's smoke preset."""

import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint import systems
from jaxinpaint.core.checkpoint import Checkpoints
from jaxinpaint.training import sharding
from tests.compiling import quick

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.py"))
# Sharding adds no arithmetic of a system's own, so the default run compares one with
# critics that take rows in strides and one with statistics of a batch and a frozen stage.
SHARDED = ("ccpgan", "flowinpaint_inpaint")
MAY_REST = {"ccpgan": ("['fc']['bias']",), "flowinpaint": ("['head']['bias']",)}


def load(path, preset):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(preset)


def random_batch(spec, seed=1):
    rng = np.random.default_rng(seed)
    out = {}
    for name, s in spec.items():
        u = rng.random(s.shape, np.float32)
        if name == "mask":
            out[name] = np.zeros(s.shape, np.float32)
            out[name][:, 8:40, 12:30] = 1
        elif name == "label":
            out[name] = (u > 0.7).astype(np.float32)
        else:
            out[name] = 2 * u - 1
    return out


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda p: p.stem)
def run(request):
    """A system, its state, a batch and one update of both."""
    config = load(request.param, "smoke")
    system = systems.build(config)
    # These keys compile sooner.
    state = quick(system.init)(jax.random.key(0, impl="unsafe_rbg"))
    with jax.default_prng_impl("unsafe_rbg"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", quick)
        frozen = system.load_frozen()
    batch = random_batch(system.batch_spec)
    update = quick(system.update)
    new, scalars = update(state, frozen, batch, jax.random.key(2))
    return config, system, state, frozen, batch, update, new, scalars


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
@pytest.mark.parametrize("preset", ["paper", "demo", "smoke"])
def test_every_preset_builds_and_is_locked(path, preset):
    config = load(path, preset)
    assert config.is_locked
    system = systems.build(config)
    state = jax.eval_shape(system.init, jax.random.key(0))
    assert state.step.dtype == jnp.int32
    with pytest.raises(AttributeError):
        config.misspelt = 1


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_an_unknown_preset_names_the_choices(path):
    with pytest.raises(ValueError, match="demo.*paper.*smoke"):
        load(path, "nope")


def test_an_update_is_one_finite_step_on_the_same_tree(run):
    _, _, state, _, _, _, new, scalars = run
    assert int(new.step) == int(state.step) + 1
    assert all(np.isfinite(v) for v in scalars.values())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(new))
    same = lambda a, b: a.shape == b.shape and a.dtype == b.dtype
    assert jax.tree.all(jax.tree.map(same, state, new))


def test_a_few_updates_move_every_parameter(run):
    config, _, state, frozen, batch, update, new, _ = run
    # Nothing has a gradient behind a head of zeros before that head has moved, and
    # FlowInpaint's coarsest head waits for the next finer one.
    later = new
    for i in (3, 4):
        later, _ = update(later, frozen, batch, jax.random.key(i))
    same = jax.tree.map(
        lambda a, b: bool((a == b).all()), state.variables, later.variables
    )
    still = [
        jax.tree_util.keystr(path)
        for path, rests in jax.tree_util.tree_leaves_with_path(same)
        if rests
    ]
    rest = MAY_REST.get(config.system, ())
    assert not [name for name in still if not name.endswith(rest)]


def test_an_update_compiles_once(run):
    _, _, _, frozen, batch, update, new, _ = run
    before = update._cache_size()
    update(new, frozen, batch, jax.random.key(3))
    assert update._cache_size() == before


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(
            path, id=path.stem, marks=() if path.stem in SHARDED else pytest.mark.slow
        )
        for path in CONFIGS
    ],
    indirect=True,
)
def test_two_devices_equal_one(run):
    _, system, state, frozen, batch, _, _, want = run
    mesh = sharding.make_mesh()
    assert mesh.size == 2
    whole, rows = sharding.replicated(mesh), sharding.split(mesh)
    step = quick(
        system.update,
        in_shardings=(whole, whole, rows, whole),
        out_shardings=(whole, whole),
    )
    placed = jax.device_put((state, frozen), whole)
    _, got = step(
        *placed,
        sharding.put_batch(batch, rows),
        jax.device_put(jax.random.key(2), whole),
    )
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-5)


def test_restore_then_the_same_next_step(run, tmp_path):
    _, system, state, frozen, batch, update, new, _ = run
    with Checkpoints(
        tmp_path, save_every=1, keep_latest=2, keep_best=1, best=("eval/psnr", "max")
    ) as checkpoints:
        checkpoints.save(1, new, {}, {"eval/psnr": 1.0}, force=True)
        checkpoints.wait()
        template = jax.eval_shape(system.init, jax.random.key(0))
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        back = checkpoints.restore(template, device).state
    back = jax.tree.map(jnp.asarray, jax.device_get(back))  # or it compiles again
    want, _ = update(new, frozen, batch, jax.random.key(3))
    got, _ = update(back, frozen, batch, jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_predict_keeps_known_pixels_and_never_reads_the_hole(run):
    _, system, state, frozen, batch, _, _, _ = run
    if "mask" not in batch:
        pytest.skip("restores nothing: its batch has no mask")

    @quick
    @functools.partial(jax.value_and_grad, has_aux=True)
    def predict(image):
        changed = {**batch, "image": image}
        out = system.predict(state.variables, frozen, changed, jax.random.key(2))
        return out["completed"].sum(), out["completed"]

    known = batch["mask"] == 0
    (_, completed), gradient = predict(batch["image"])
    np.testing.assert_array_equal(
        np.where(known, completed, 0), np.where(known, batch["image"], 0)
    )
    assert np.all(np.where(known, 0, gradient) == 0)
    assert np.any(gradient != 0)


def test_predict_gives_what_the_batch_asks_for(run):
    _, system, state, frozen, batch, _, _, _ = run
    key = jax.random.key(2)
    if "mask" in batch:
        name, like, low = "completed", batch["image"], -1.0
    elif "label" in batch:
        name, like, low = "probabilities", batch["label"], 0.0
    else:
        name, like, low = "sampled", batch["image"], -1.0
    if name == "completed":  # its values are another test's
        made = jax.eval_shape(system.predict, state.variables, frozen, batch, key)
        assert made[name].shape == like.shape
        return
    made = quick(system.predict)(state.variables, frozen, batch, key)[name]
    assert made.shape == like.shape
    assert np.isfinite(made).all() and np.all(made >= low) and np.all(made <= 1.0)
    assert np.ptp(made) > 0


def test_an_unknown_system_names_the_choices():
    config = load(CONFIGS[0], "smoke")
    config.system = "nope"
    with pytest.raises(ValueError, match="the systems here are .*ccpgan"):
        systems.build(config)
