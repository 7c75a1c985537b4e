"""Keeps every import pointing down the house."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "jaxinpaint"
TOP = "pyproject.toml README.md jaxinpaint configs train.py eval.py tests benchmarks"
PAPER_ROOMS = {"models", "systems"}
MAY_IMPORT = {
    "core": set(),
    "ops": {"core"},
    "layers": {"core", "ops"},
    "losses": {"core", "ops"},
    "features": {"core", "ops", "layers"},
    "metrics": {"core", "ops", "features"},
    "models": {"core", "ops", "layers", "features"},
    "systems": {"core", "ops", "losses", "features", "models"},
    "data": set(),
    "training": {"core", "metrics"},
    "bundle": {"core"},  # opens exported systems without their code: no flax, no orbax
    "inference": {"bundle", "core", "ops", "systems"},
    "report": set(),
}
ROOF = {"evaluation": set(MAY_IMPORT) | {"evaluation"}}
ROOF["commands"] = set(ROOF["evaluation"])  # they call evaluations, never back
MAY_IMPORT |= ROOF
NO_JAX = {"data", "report"}
TRAINING = {"flax", "optax", "orbax", "ml_collections", "absl", "grain", "rich", "PIL"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def files():
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room = path.relative_to(PACKAGE).parts[0]
    if room.endswith(".py"):
        return  # the roof
    assert room in MAY_IMPORT, f"{room}/ is not a room of the house"
    for name in imports(path):
        head, *rest = name.split(".")
        if room in NO_JAX:
            assert head not in {"jax", "flax", "optax", "orbax"}, f"{path.name}: {name}"
        if room == "bundle":
            assert head not in TRAINING, f"{path.name}: {name}"
        if head != "jaxinpaint" or not rest:
            continue
        other = rest[0]
        assert other == room or other in MAY_IMPORT[room], (
            f"{path.name} in {room}/ imports from {other}/"
        )
        if room in PAPER_ROOMS and other == room and path.stem != "__init__":
            raise AssertionError(f"{path.name} imports its neighbour {name}")


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_other_framework(path):
    for name in imports(path):
        assert name.split(".")[0] not in {"tensorflow", "torch", "clu"}, name


def test_the_top_level_stands():
    for name in TOP.split():
        assert (ROOT / name).exists(), name


def test_there_is_no_utils():
    assert not [p for p in PACKAGE.rglob("*") if p.stem in {"utils", "helpers"}]
