"""What the loop promises about devices, transfers, compilation and its workdir."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.core.checkpoint import Checkpoints, restore_variables
from jaxinpaint.training import loop
from jaxinpaint.training.log import Log, Pace
from jaxinpaint.training.sharding import make_mesh, replicated
from jaxinpaint.training.workdir import open_workdir
from tests.training import toy


class Spy:
    """Notes each update sent, and each fetch of a step's numbers."""

    def __init__(self, monkeypatch):
        self.events = []
        self.compiled = None
        compile_update, device_get = loop.compile_update, jax.device_get

        def compiling(*args):
            self.compiled = compile_update(*args)
            return self.update

        def fetching(tree):
            if isinstance(tree, dict) and "bad_update" in tree:
                self.events.append("fetch")
            return device_get(tree)

        monkeypatch.setattr(loop, "compile_update", compiling)
        monkeypatch.setattr(jax, "device_get", fetching)

    def update(self, state, *rest):
        self.events.append("update")
        out = self.compiled(state, *rest)
        self.events += ["kept"] * (not state.step.is_deleted())
        return out


def test_numbers_are_fetched_while_the_next_step_runs(tmp_path, monkeypatch):
    spy = Spy(monkeypatch)
    toy.run(tmp_path, steps=4, train__save_every=100)
    assert spy.events == [
        "update",
        *("update", "fetch"),
        *("update", "fetch"),
        *("update", "fetch"),
        "fetch",  # the last step is saved, and waited for
    ]


def test_each_step_has_a_key_of_its_own(tmp_path):
    toy.run(tmp_path)
    noise = [value for _, _, value in toy.records(tmp_path, "noise")]
    key = lambda step: jax.random.split(jax.random.fold_in(jax.random.key(0), step))[1]
    shape = toy.SPEC["image"].shape
    expected = [jax.random.normal(key(step), shape).mean() for step in range(6)]
    np.testing.assert_allclose(noise, expected, rtol=1e-4)


def test_the_state_is_donated(tmp_path, monkeypatch):
    spy = Spy(monkeypatch)
    toy.run(tmp_path, steps=2)
    assert "kept" not in spy.events
    state = jax.eval_shape(toy.system().init, jax.random.key(0))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert spy.compiled.memory_analysis().alias_size_in_bytes >= 0.99 * size


def test_each_function_is_traced_once(tmp_path):
    traces = []
    toy.run(tmp_path, of=toy.system(traces=traces), steps=6, train__save_every=2)
    assert sorted(traces) == ["predict", "update"]


def test_an_implicit_transfer_inside_the_loop_is_an_error(tmp_path):
    double = jax.jit(lambda x: 2 * x)

    def transfer(step):
        if step == when:
            double(np.ones(3, np.float32))

    when = 0  # before the loop
    toy.run(tmp_path / "before", transfer, steps=3)
    when = 2
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device"):
        toy.run(tmp_path / "inside", transfer, steps=3)


def test_the_memory_of_a_program_counts_a_donated_argument_once():
    x = jax.ShapeDtypeStruct((256, 1024), jnp.float32)  # 1 MiB
    add = lambda x: x + 1.0
    donating = jax.jit(add, donate_argnums=0).lower(x).compile()
    assert loop.device_bytes(jax.jit(add).lower(x).compile()) == 2 * 2**20
    assert loop.device_bytes(donating) == 2**20


def test_the_memory_of_a_program_counts_its_scratch_space():
    x = jax.ShapeDtypeStruct((512, 512), jnp.float32)  # 1 MiB
    chain = lambda x: jnp.tanh(x @ x) @ x[:, :1]  # [512, 512] must lie somewhere
    compiled = jax.jit(chain).lower(x).compile()
    assert 2 * 2**20 <= loop.device_bytes(compiled) < 4 * 2**20


def test_rows_that_do_not_divide_among_the_devices_are_refused(tmp_path):
    spec = {"image": jax.ShapeDtypeStruct((3, 8, 8, 1), jnp.float32)}
    with pytest.raises(ValueError, match="image has 3 rows .* among 2 devices"):
        toy.run(tmp_path, of=toy.system()._replace(batch_spec=spec))
    assert not list(tmp_path.iterdir())


def test_the_workdir_tells_what_ran(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--workdir=my run"])
    toy.run(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored == json.loads(json.dumps(toy.config().to_dict()))
    machine = json.loads((tmp_path / "environment.json").read_text())
    assert machine["versions"]["jax"] == jax.__version__
    assert machine["devices"] == ["cpu:cpu"] * 2
    assert (tmp_path / "command.txt").read_text() == "train.py '--workdir=my run'\n"
    images = sorted(p.name for p in (tmp_path / "images").iterdir())
    assert images == ["step_0000003.png", "step_0000006.png"]
    assert list((tmp_path / "events").glob("events*"))
    scored = toy.records(tmp_path, "eval/psnr")
    assert [step for step, _, _ in scored] == [3, 6]
    names = {name for _, name, _ in toy.records(tmp_path, "")}
    assert names == {
        "step",
        "loss/generator",
        "noise",
        "skipped_updates",
        "speed/images_per_second",
        "speed/step_ms",
        "speed/data_wait_ms",
        "eval/psnr",
        "checkpoint/step",
    }


def test_numbers_are_logged_at_the_interval_and_at_the_end(tmp_path):
    toy.run(tmp_path, steps=5, train__log_every=2)
    assert [step for step, _, _ in toy.records(tmp_path)] == [2, 4, 5]


def test_another_config_is_refused_with_the_keys_that_differ(tmp_path):
    open_workdir(tmp_path, toy.config())
    (tmp_path / "checkpoints").mkdir()
    other = toy.config(seed=5, data__flips=False, steps=9, train__save_every=1)
    with pytest.raises(ValueError) as caught:
        open_workdir(tmp_path, other)
    assert str(caught.value) == (
        f"{tmp_path} holds a run with another config: data.flips (True, now False), "
        "seed (0, now 5). Give another --workdir, or the config it was begun with."
    )
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 9},
        {"train__log_every": 7},
        {"data__threads": 4},
        {"data__cache_dir": "x"},
        {"eval__seed": 3},
    ],
)
def test_these_may_differ(tmp_path, change):
    open_workdir(tmp_path, toy.config())
    (tmp_path / "checkpoints").mkdir()
    open_workdir(tmp_path, toy.config(**change))


def test_a_key_that_only_begins_like_a_free_one_may_not(tmp_path):
    with_steps = toy.config()
    with with_steps.unlocked():
        with_steps.steps_per_epoch = 3
    open_workdir(tmp_path, with_steps)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="steps_per_epoch"):
        open_workdir(tmp_path, toy.config())


def test_a_workdir_without_checkpoints_may_begin_anew(tmp_path):
    open_workdir(tmp_path, toy.config())
    open_workdir(tmp_path, toy.config(seed=5))
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 5


def test_numbers_that_are_not_finite_are_null_in_the_record(tmp_path):
    with Log(tmp_path, 4) as log:
        log.start_at(0)
        log.scalars(1, {"a": float("nan"), "b": float("inf"), "c": 2.5})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 1, "a": null, "b": null, "c": 2.5}\n'


def test_a_panel_holds_a_sample_a_row(tmp_path):
    from PIL import Image

    (tmp_path / "images").mkdir()
    left = np.full((2, 2, 3, 1), -1.0, np.float32)
    right = np.full((2, 2, 3, 1), 1.0, np.float32)
    right[1] = 0.0
    with Log(tmp_path, 4) as log:
        log.panel(7, {"masked": left, "image": right})
    sheet = np.asarray(Image.open(tmp_path / "images" / "step_0000007.png"))
    row = lambda level: [[0, 0, 0] + [level] * 3] * 2
    np.testing.assert_array_equal(sheet, row(255) + row(128))


def test_the_pace_leaves_pauses_out(monkeypatch):
    now = iter([0.0, 10.0, 11.0, 20.0, 24.0, 27.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    pace = Pace(images=6, step=2)  # at 0 s
    with pace.waiting():  # 10 s to 11 s
        pass
    with pace.paused():  # 20 s to 24 s
        pass
    assert pace.read(4) == {  # at 27 s: 23 s for 2 steps of 6 images
        "speed/images_per_second": pytest.approx(12 / 23),
        "speed/step_ms": 11_500,
        "speed/data_wait_ms": 500,
    }


def test_a_new_run_begins_with_another_run_s_variables(tmp_path):
    toy.run(tmp_path / "first")
    mesh = make_mesh()
    key = jax.device_put(jax.random.key(5), replicated(mesh))
    with (
        Log(tmp_path / "second", 1) as log,
        Checkpoints(
            tmp_path / "second" / "checkpoints",
            save_every=1,
            keep_latest=1,
            keep_best=1,
            best=("eval/psnr", "max"),
        ) as checkpoints,
    ):
        first = str(tmp_path / "first")
        run = (toy.system(), key, checkpoints, mesh, log)
        state, step, _ = loop.start(*run, first, "")
        fresh, _, _ = loop.start(*run, "", "")
        trained = restore_variables(
            tmp_path / "first" / "checkpoints", fresh.variables, replicated(mesh)
        )
    assert (trained.step, step, int(state.step)) == (6, 0, 0)
    jax.tree.map(np.testing.assert_array_equal, state.variables, trained.state)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, fresh.opt_state)
    assert any(
        (np.asarray(a) != np.asarray(b)).any()
        for a, b in zip(
            jax.tree.leaves(state.variables),
            jax.tree.leaves(fresh.variables),
            strict=True,
        )
    )
