import hashlib
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxinpaint.core.checkpoint import Checkpoints, restore_variables
from jaxinpaint.core.manifest import DamagedCheckpointError, copy_to_host
from jaxinpaint.core.system import TrainState

OPTIONS = dict(save_every=1, keep_latest=2, keep_best=0, best=("psnr", "max"))
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))


def mesh_of(devices):
    return jax.make_mesh(
        (devices,),
        ("data",),
        axis_types=(AxisType.Auto,),
        devices=jax.devices()[:devices],
    )


def replicated(devices=2):
    return NamedSharding(mesh_of(devices), PartitionSpec())


def init(seed=0):
    bits = np.random.default_rng(seed)
    params = {
        "conv": {
            "kernel": jnp.asarray(bits.standard_normal((3, 3, 4, 6)), jnp.float32),
            "bias": jnp.asarray(bits.standard_normal(6), jnp.bfloat16),
        },
        "levels": jnp.asarray(bits.integers(0, 256, 7), jnp.uint8),
        "shift": jnp.asarray(bits.integers(-9, 9, (2, 2)), jnp.int32),
        "used": jnp.asarray([True, False, True]),
        # -0.0, the smallest denormal and the largest float survive only bit for bit.
        "edge": jnp.asarray(np.float32([-0.0, 1e-45, 3.4028235e38])),
    }
    trained = {"kernel": params["conv"]["kernel"]}
    return TrainState(
        step=jnp.int32(seed),
        variables={
            "generator": {"params": params, "batch_stats": {"mean": jnp.ones(6)}},
            "critic": {"params": {"w": jnp.full((2, 2), seed + 0.5)}},
        },
        opt_state={"generator": OPTIMIZER.init(trained), "unused": None},
    )


TEMPLATE = jax.eval_shape(init)


def place(state, devices=2):
    return jax.device_put(state, replicated(devices))


def digest(tree):
    """SHA-256 over structure, dtypes, shapes and bytes."""
    total = hashlib.sha256(str(jax.tree.structure(tree)).encode())
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        total.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return total.hexdigest()


def filled(directory, steps=(1, 2), **options):
    with Checkpoints(directory, **{**OPTIONS, **options}) as checkpoints:
        for step in steps:
            assert checkpoints.save(step, place(init(step)), {"seed": step}, {})
    return directory


def test_a_round_trip_keeps_every_bit(tmp_path):
    meta = {"config": {"name": "x", "rates": [0.1, 1e-30]}, "next_index": 2**60}
    with Checkpoints(tmp_path, **OPTIONS) as checkpoints:
        assert checkpoints.save(5, place(init(5)), meta, {"psnr": 30.0})
        restored = checkpoints.restore(TEMPLATE, replicated())
    assert restored.step == 5
    assert restored.meta == meta
    assert digest(restored.state) == digest(init(5))
    kernel = restored.state.variables["generator"]["params"]["conv"]["kernel"]
    assert kernel.sharding == replicated()


def test_what_is_saved_is_the_state_at_the_call(tmp_path):
    """The next step overwrites the donated buffers while the save still writes."""
    step = jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)
    state = place({"w": jnp.zeros(500_000), "v": jnp.zeros((3, 5))})
    template = jax.eval_shape(step, state)
    with Checkpoints(tmp_path, **OPTIONS) as checkpoints:
        for number in range(1, 6):
            state = step(state)
            checkpoints.save(number, state, {}, {})
            state = step(state)
            got = checkpoints.restore(template, replicated())
            assert got.step == number
            np.testing.assert_array_equal(got.state["w"], 2 * number - 1)
            # A restored state is donated as well, and warns if it cannot be.
            again = jax.block_until_ready(step(got.state))
            np.testing.assert_array_equal(again["v"], 2 * number)


def test_the_host_copy_shares_no_memory_with_the_state():
    state = {"w": jnp.arange(5000.0)}
    host = copy_to_host("test", state)["w"]
    np.testing.assert_array_equal(host, np.arange(5000.0))
    assert not np.shares_memory(host, np.asarray(state["w"]))


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_other_device_counts_restore_the_same_bits(tmp_path, before, after):
    with Checkpoints(tmp_path, **OPTIONS) as checkpoints:
        checkpoints.save(1, place(init(1), before), {}, {})
        got = checkpoints.restore(TEMPLATE, replicated(after)).state
        assert digest(got) == digest(init(1))
        assert len(got.step.sharding.device_set) == after


def test_shardings_may_be_a_tree_and_split_a_leaf(tmp_path):
    split = NamedSharding(mesh_of(2), PartitionSpec("data"))
    one = SingleDeviceSharding(jax.devices()[1])
    tree = {"a": jnp.arange(8.0).reshape(4, 2), "b": jnp.arange(3)}
    where = {"a": split, "b": one}
    with Checkpoints(tmp_path, **OPTIONS) as checkpoints:
        checkpoints.save(1, jax.device_put(tree, where), {}, {})
        got = checkpoints.restore(jax.eval_shape(lambda: tree), where).state
        assert got["a"].sharding == split and got["b"].sharding == one
        assert digest(got) == digest(tree)
        odd = {"a": one, "b": split}
        with pytest.raises(ValueError, match="evenly divide"):
            checkpoints.restore(jax.eval_shape(lambda: tree), odd)
        assert checkpoints.steps() == [1]  # the caller's fault, so nothing moved


def test_the_newest_and_the_best_are_kept(tmp_path):
    """Worked by hand: latest 2 and best 1, scores forgotten by orbax at a restart."""
    options = {**OPTIONS, "keep_best": 1}
    scores = {1: 10.0, 2: 30.0, 3: float("nan"), 4: 20.0, 5: None, 6: 25.0}
    expected = {1: [1], 2: [1, 2], 3: [2, 3], 4: [2, 3, 4], 5: [2, 4, 5], 6: [2, 5, 6]}
    for step, score in scores.items():
        with Checkpoints(tmp_path, **options) as checkpoints:
            metrics = {"loss": 0.0} if score is None else {"psnr": score}
            checkpoints.save(step, {"w": jnp.ones(2)}, {}, metrics)
            checkpoints.wait()
            assert checkpoints.steps() == expected[step]
    assert not (tmp_path / "removed").exists()


def test_the_lowest_is_best_where_the_mode_is_min(tmp_path):
    options = {**OPTIONS, "keep_latest": 1, "keep_best": 2, "best": ("fid", "min")}
    with Checkpoints(tmp_path, **options) as checkpoints:
        for step, fid in enumerate([7.0, 5.0, 9.0, 6.0, 8.0], 1):
            checkpoints.save(step, {"w": jnp.ones(2)}, {}, {"fid": np.float32(fid)})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 5]


def test_the_interval_holds_unless_forced(tmp_path):
    state = {"w": jnp.ones(2)}
    with Checkpoints(tmp_path, **{**OPTIONS, "save_every": 10}) as checkpoints:
        assert not checkpoints.save(1, state, {}, {})
        assert checkpoints.save(10, state, {}, {})
        assert not checkpoints.save(13, state, {}, {})
        assert checkpoints.save(13, state, {}, {}, force=True)
        assert checkpoints.save(13, state, {"again": 1}, {}, force=True)
        checkpoints.wait()
        assert checkpoints.steps() == [10, 13]
        with pytest.raises(ValueError, match="already holds another step 13"):
            checkpoints.save(13, {"w": jnp.zeros(2)}, {}, {}, force=True)
        with pytest.raises(ValueError, match="already holds step 13"):
            checkpoints.save(12, state, {}, {}, force=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.complex64])
def test_a_value_that_is_not_finite_is_never_saved(tmp_path, bad, dtype):
    state = {"good": jnp.ones(4), "net": {"w": jnp.ones(4, dtype).at[2].set(bad)}}
    with Checkpoints(tmp_path, **OPTIONS) as checkpoints:
        with pytest.raises(ValueError, match="infinity in net/w; nothing was saved"):
            checkpoints.save(1, state, {}, {})
        checkpoints.wait()
        assert checkpoints.steps() == []


@pytest.mark.parametrize(
    ("leaf", "kind"),
    [(np.ones(2), "float64"), (3, "int"), (jax.random.key(0), "key<fry>")],
)
def test_leaves_other_than_device_arrays_are_refused(tmp_path, leaf, kind):
    with Checkpoints(tmp_path, **OPTIONS) as checkpoints:
        with pytest.raises(ValueError, match=f"a/0 is {kind}, not a jax.Array"):
            checkpoints.save(1, {"a": [leaf]}, {}, {})


@pytest.mark.parametrize(
    "meta", [{"x": np.ones(2)}, {"x": float("nan")}, {1: 0, "a": 0}]
)
def test_meta_that_json_cannot_hold_is_refused(tmp_path, meta):
    with Checkpoints(tmp_path, **OPTIONS) as checkpoints:
        with pytest.raises(ValueError, match="step 1: meta must hold finite JSON"):
            checkpoints.save(1, {"w": jnp.ones(2)}, meta, {})


def test_every_mismatch_is_listed_before_anything_is_loaded(tmp_path, monkeypatch):
    filled(tmp_path)
    spec = jax.ShapeDtypeStruct
    wrong = jax.eval_shape(init)
    params = wrong.variables["generator"]["params"]
    params["conv"]["kernel"] = spec((3, 3, 4, 6), jnp.bfloat16)  # orbax would cast it
    params["shift"] = spec((4,), jnp.int32)
    params["extra"] = params.pop("used")
    monkeypatch.setattr(ocp, "PyTreeCheckpointHandler", None)  # a load would fail
    with Checkpoints(tmp_path, **OPTIONS) as checkpoints:
        with pytest.raises(ValueError) as caught:
            checkpoints.restore(wrong, replicated())
        assert checkpoints.steps() == [1, 2]  # a wrong config sets nothing aside
    root = "variables/generator/params"
    for words in (
        f"{root}/conv/kernel (saved float32[3, 3, 4, 6], asked for bfloat16[3, 3, 4, 6])",
        f"{root}/shift (saved int32[2, 2], asked for int32[4])",
        f"{root}/extra (not in the checkpoint)",
        f"{root}/used (in the checkpoint alone)",
    ):
        assert words in str(caught.value)
    assert str(caught.value).count("(") == 4
    assert not isinstance(caught.value, DamagedCheckpointError)


@pytest.mark.parametrize("devices", [1, 2])
def test_variables_are_restored_without_the_optimizer(tmp_path, devices):
    filled(tmp_path, (1, 2))
    got = restore_variables(tmp_path, TEMPLATE.variables, replicated(devices))
    assert (got.step, got.meta) == (2, {"seed": 2})
    assert digest(got.state) == digest(init(2).variables)
    assert len(jax.tree.leaves(got.state)[0].sharding.device_set) == devices
    older = restore_variables(tmp_path, TEMPLATE.variables, replicated(), step=1)
    assert digest(older.state) == digest(init(1).variables)


def test_one_network_is_restored_whole_or_not_at_all(tmp_path):
    filled(tmp_path)
    one = {"generator": dict(TEMPLATE.variables["generator"])}
    got = restore_variables(tmp_path, one, replicated())
    assert digest(got.state) == digest({"generator": init(2).variables["generator"]})
    del one["generator"]["batch_stats"]
    with pytest.raises(ValueError, match="batch_stats/mean .in the checkpoint alone"):
        restore_variables(tmp_path, one, replicated())
    with pytest.raises(ValueError, match="variables/student/w .not in the checkpoint"):
        student = {"student": {"w": jax.ShapeDtypeStruct((2,), jnp.float32)}}
        restore_variables(tmp_path, student, replicated())


def test_variables_are_read_beside_a_live_writer(tmp_path):
    with Checkpoints(tmp_path, **OPTIONS) as checkpoints:
        checkpoints.save(1, place(init(1)), {}, {})
        checkpoints.wait()
        (tmp_path / "2.orbax-checkpoint-tmp").mkdir()  # as while the writer saves
        got = restore_variables(tmp_path, TEMPLATE.variables, replicated())
        assert got.step == 1
        assert (tmp_path / "2.orbax-checkpoint-tmp").exists()


def test_no_checkpoint_is_an_error_that_names_the_directory(tmp_path):
    absent = tmp_path / "none"
    with pytest.raises(FileNotFoundError, match="none holds no checkpoint; train"):
        restore_variables(absent, TEMPLATE.variables, replicated())
    assert not absent.exists()
    with Checkpoints(absent, **OPTIONS) as checkpoints:
        assert checkpoints.steps() == []
        with pytest.raises(FileNotFoundError, match="none holds no checkpoint"):
            checkpoints.restore(TEMPLATE, replicated())
    filled(absent)
    with pytest.raises(FileNotFoundError, match=r"holds no step 7, but \[1, 2\]"):
        restore_variables(absent, TEMPLATE.variables, replicated(), step=7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"save_every": 0}, "save_every is 0"),
        ({"keep_latest": 0}, "keep_latest 0"),
        ({"keep_best": -1}, "keep_best -1"),
        ({"best": ("psnr", "highest")}, "'highest'"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        Checkpoints(tmp_path, **{**OPTIONS, **options})


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path):
    with Checkpoints(tmp_path, **OPTIONS):
        with pytest.raises(ValueError, match="another run writes") as caught:
            Checkpoints(tmp_path, **OPTIONS)
        record = json.loads((tmp_path / "writer.lock").read_text())
        assert set(record) == {"host", "pid", "started"}
        assert f'"pid": {record["pid"]}' in str(caught.value)
    Checkpoints(tmp_path, **OPTIONS).close()  # free again


def test_the_lock_of_a_killed_writer_is_taken_over(tmp_path):
    hold = (
        "import fcntl, os, signal, sys\n"
        "held = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(held, fcntl.LOCK_EX)\n"
        "os.write(held, b'{\"pid\": 77}')\n"
        "print('held', flush=True)\n"
        "signal.pause()\n"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / "writer.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match='"pid": 77'):
            Checkpoints(tmp_path, **OPTIONS)
        other.kill()
    with Checkpoints(tmp_path, **OPTIONS) as checkpoints:
        assert checkpoints.steps() == []
