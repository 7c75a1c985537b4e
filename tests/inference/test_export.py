"""What is exported: the same function, the arrays it reads, and nothing else."""

import importlib
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax import export

import jaxinpaint
from jaxinpaint import systems
from jaxinpaint.bundle import manifest
from jaxinpaint.bundle.load import load
from jaxinpaint.core.checks import UnalignedSizeError
from jaxinpaint.inference.export import export_system
from jaxinpaint.inference.restore import predictor
from tests.bundle import toy
from tests.compiling import quick

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
NAMES = sorted(p.stem for p in CONFIGS.glob("*.py"))
QUICK = ("ipa_medgan", "unet")  # of a second, blind too
ANY_SIZE = ("ipa_medgan", "rnon_optimize", "rnon_repair", "unet")
FIXED = {  # what stops a symbol, by the operator that raises
    "ccpgan": "jaxinpaint.ops.diagonal.whole_grid",
    "flowinpaint_inpaint": "jaxinpaint.ops.cost_volume._rows",
    "flowinpaint_refine": "jaxinpaint.ops.cost_volume._rows",
}
PLATFORMS = ("cpu", "cuda", "tpu")

pytestmark = pytest.mark.usefixtures("quick_programs")


def moved(tree):
    """No head of zeros hides what comes before it; variances stay positive."""
    rng = np.random.default_rng(3)

    def move(path, x):
        noise = 0.05 * rng.random(x.shape, np.float32).astype(x.dtype)
        return x + noise if "var" in jax.tree_util.keystr(path) else x + noise - 0.025

    return jax.tree_util.tree_map_with_path(move, tree)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in NAMES
    ],
)
def run(request, tmp_path_factory, quick_programs):
    """A system on its smoke preset, and the bundle of it."""
    config = importlib.import_module(f"configs.{request.param}").get_config("smoke")
    system = systems.build(config)
    variables = moved(
        quick(system.init)(jax.random.key(0, impl="unsafe_rbg")).variables
    )
    with jax.default_prng_impl("unsafe_rbg"):
        frozen = moved(system.load_frozen())
    try:
        made = export_system(config, system, variables, frozen, PLATFORMS, None)
    except ValueError as error:
        if "reads no image" in str(error):
            pytest.skip(str(error))
        raise
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    folder.mkdir()
    manifest.write(folder, {"system": config.system, **made.facts}, made.contents)
    return request.param, config, system, variables, frozen, folder


def floats(bundle, count, height, width):
    """A batch in [-1, 1] with holes, of what the bundle asks for."""
    rng = np.random.default_rng(4)
    batch = {
        one["name"]: rng.uniform(-1, 1, (count, height, width, one["channels"]))
        for one in bundle.model["inputs"]
    }
    batch = {name: array.astype(np.float32) for name, array in batch.items()}
    if "mask" in batch:
        batch["mask"] = np.zeros_like(batch["mask"])
        batch["mask"][:, 10:40, 12:30] = 1
    return batch


def test_the_program_equals_the_python_path(run):
    name, config, system, variables, frozen, folder = run
    bundle = load(folder)
    # A batch and a size that training never had, where symbols allow one.
    stride = bundle.model["stride"]
    side = max(config.image_size, stride["least"])
    wide = side if bundle.programs[0].height else side + stride["multiple"]
    sides = side, wide
    batch = floats(bundle, 3, *sides)
    program = bundle.programs[0]
    given = {n: batch[n] for n in program.inputs}
    got = program.call(bundle.variables, given)
    want = jax.jit(system.predict)(variables, frozen, given, jax.random.key(5))
    assert sorted(got) == sorted(want) == sorted(bundle.model["outputs"])
    for output in want:
        assert got[output].dtype == jnp.float32
        np.testing.assert_allclose(got[output], want[output], rtol=1e-6, atol=1e-6)
    assert max(np.ptp(array) for array in got.values()) > 0.01


def test_fill_equals_the_restorer_of_the_run(run):
    name, config, system, variables, frozen, folder = run
    bundle = load(folder)
    if "completed" not in bundle.model["outputs"]:
        pytest.skip("restores no image")
    least = bundle.model["stride"]["least"]
    height, width = least - 3, least - 7  # padded to the same by both
    channels = bundle.model["image"]["channels"]
    rng = np.random.default_rng(6)
    names = [name for name in system.batch_spec if name != "mask"]
    shape = (2, max(height, 64), max(width, 64), channels)
    batch = {n: rng.integers(0, 65536, shape).astype(np.uint16) for n in names}
    mask = np.zeros((*shape[:3], 1), np.uint8)
    mask[:, 4:14, 6:12] = 1
    if not bundle.programs[0].height:
        batch = {n: array[:, :height, :width] for n, array in batch.items()}
        mask = mask[:, :height, :width]
    read = {one["name"] for one in bundle.model["inputs"]}
    given = {name: array for name, array in batch.items() if name in read}
    filled = jaxinpaint.fill(bundle, mask=mask, **given)
    restore = predictor(config, system, variables, frozen, (), ())
    want = restore({**batch, "mask": mask})["completed"]
    hole = np.broadcast_to(mask > 0, want.shape)
    np.testing.assert_array_equal(filled.image[~hole], batch["image"][~hole])
    apart = filled.image[hole].astype(int) - want[hole].astype(int)
    assert np.abs(apart).max() <= 1  # of 65535, where a half is rounded
    assert (filled.image[hole] != batch["image"][hole]).mean() > 0.9


def test_the_parameters_are_those_that_restoring_reads(run):
    _, _, _, variables, frozen, folder = run
    found = safetensors.numpy.load_file(folder / "params.safetensors")
    prefixes = {"/".join(path.split("/")[:2]) for path in found}
    model = json.loads((folder / "model.json").read_text())
    assert sorted(prefixes) == model["networks"]
    assert not [p for p in prefixes if re.search("discriminator|critic|patch|vgg", p)]
    held = {"variables": variables, "frozen": frozen}
    for path, array in found.items():
        leaf = held
        for key in path.split("/"):
            leaf = leaf[key]
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, leaf)
    for prefix in prefixes:
        kind, network = prefix.split("/")
        count = len(jax.tree.leaves(held[kind][network]))
        assert count == sum(path.startswith(f"{prefix}/") for path in found)


def test_the_file_alone_is_enough_for_jax(run):
    """No word of jaxinpaint: what the documentation tells other programs to do."""
    _, _, _, _, _, folder = run
    bundle = load(folder)
    stride = bundle.model["stride"]
    side = stride["multiple"] * -(-max(stride["least"], 64) // stride["multiple"])
    batch = floats(bundle, 1, *(bundle.programs[0].height or side,) * 2)
    told = json.loads((folder / "model.json").read_text())["programs"][0]
    exported = export.deserialize(bytearray((folder / told["file"]).read_bytes()))
    assert exported.platforms == PLATFORMS and exported.nr_devices == 1
    arrays = safetensors.numpy.load_file(folder / "params.safetensors")
    got = exported.call(arrays, {n: batch[n] for n in told["inputs"]})
    want = bundle.programs[0].call(
        bundle.variables, {n: batch[n] for n in told["inputs"]}
    )
    jax.tree.map(np.testing.assert_array_equal, dict(got), dict(want))


def test_which_sizes_are_symbols_is_recorded(run):
    name, _, _, _, _, folder = run
    model = json.loads((folder / "model.json").read_text())
    told = model["symbolic_sizes"]
    if name in ANY_SIZE:
        assert told == {"lowered": True, "why_not": ""}
        assert {one["height"] for one in model["programs"]} == {None}
    elif name in FIXED:
        assert not told["lowered"] and FIXED[name] in told["why_not"]
        sizes = [(one["height"], one["width"]) for one in model["programs"]]
        assert sizes == [(64, 64), (128, 128)]
    assert {one["batch"] for one in model["programs"]} == {None}


def test_no_program_names_a_folder_of_this_machine(run):
    _, config, system, variables, frozen, folder = run
    # Nor one that was compiled before.
    batch = {n: jnp.zeros(x.shape) for n, x in system.batch_spec.items()}
    jax.jit(system.predict).lower(variables, frozen, batch, jax.random.key(5))
    again = export_system(config, system, variables, frozen, PLATFORMS, None)
    for content in again.contents.values():
        assert not re.search(rb"\.py\b|/jaxinpaint|site-packages", content)
    for path in folder.iterdir():
        assert not re.search(rb"\.py\b|/jaxinpaint|site-packages", path.read_bytes()), (
            path
        )


def test_only_what_predict_reads_is_kept(monkeypatch):
    toy.accept(monkeypatch, mask=True, whole=False)
    made = toy.exported()
    found = safetensors.numpy.load(made.contents["params.safetensors"])
    # The whole network, also what no layer reads; no critic, no network of a loss.
    assert {name: array.tolist() for name, array in found.items()} == {
        "variables/generator/params/gain": [toy.GAIN],
        "variables/generator/kept/0": [1.0, 1.0],
        "frozen/earlier/params/shift": [toy.SHIFT],
    }
    assert made.facts["networks"] == ["frozen/earlier", "variables/generator"]
    assert made.facts["parameters"] == 4
    names = [one["name"] for one in made.facts["inputs"]]
    assert names == ["image", "previous", "mask"]


def test_a_config_that_never_pads_is_exported_for_its_training_size(monkeypatch):
    toy.accept(monkeypatch, mask=True, whole=False)
    config = toy.toy_config()
    with config.unlocked():
        del config.eval["size_multiple"], config.eval["least_size"]
    made = toy.exported(config=config)
    assert made.facts["stride"] == {"multiple": 32, "least": 32}


def test_the_same_run_gives_the_same_bytes(monkeypatch):
    toy.accept(monkeypatch, mask=True, whole=False)
    first, second = toy.exported(), toy.exported()
    assert first.contents == second.contents and first.facts == second.facts


def test_settings_of_tracing_are_put_back(monkeypatch):
    toy.accept(monkeypatch, mask=True, whole=False)
    names = ("jax_hlo_source_file_canonicalization_regex",)
    names += ("jax_include_full_tracebacks_in_locations",)
    before = [getattr(jax.config, name) for name in names]
    toy.exported()
    assert [getattr(jax.config, name) for name in names] == before


def test_a_reason_names_the_operator(monkeypatch):
    toy.accept(monkeypatch, mask=True, whole=False)
    made = toy.exported(toy.square_alone)
    assert not made.facts["symbolic_sizes"]["lowered"]
    assert made.facts["symbolic_sizes"]["why_not"]
    sizes = [(one["height"], one["width"]) for one in made.facts["programs"]]
    assert sizes == [(32, 32), (64, 64)]  # of training, and twice that


def test_what_no_size_can_lower_is_told_as_it_is(monkeypatch):
    toy.accept(monkeypatch, mask=True, whole=False)

    def broken(variables, frozen, batch, key):
        if batch["image"].shape[0] != 2:  # that of batch_spec
            raise NotImplementedError("no such operator")
        return toy.paint(variables, frozen, batch, key)

    with pytest.raises(NotImplementedError, match="no such operator"):
        toy.exported(broken)


@pytest.mark.parametrize("size", [(33, 32), (32, 40), (16, 32), (0, 32)])
def test_sizes_off_the_stride_are_refused(monkeypatch, size):
    toy.accept(monkeypatch, mask=True, whole=False)
    with pytest.raises(UnalignedSizeError, match="multiples of 16, at least 32"):
        toy.exported(sizes=[size])


@pytest.mark.parametrize("platforms", [(), ("gpu",), ("cpu", "cpu")])
def test_platforms_that_are_none_are_refused(platforms):
    with pytest.raises(ValueError, match="--platforms is .* cpu, cuda, tpu, rocm"):
        toy.exported(platforms=platforms)


def test_a_stage_that_reads_no_image_is_refused():
    noise = lambda v, f, batch, key: {
        "sampled": jax.random.normal(key, batch["image"].shape)
    }
    with pytest.raises(ValueError, match="reads no image"):
        toy.exported(noise)
