"""A run is opened by what its workdir says of it, and nothing else."""

import importlib
import json
import pathlib

import jax
import pytest
from ml_collections import ConfigDict

from jaxinpaint import systems
from jaxinpaint.evaluation import runs
from jaxinpaint.training.workdir import to_json

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
NAMES = sorted(p.stem for p in CONFIGS.glob("*.py") if not p.stem.startswith("_"))


@pytest.mark.parametrize("name", NAMES)
def test_every_saved_config_builds_its_model_again(tmp_path, name):
    """JSON knows no tuples: what a system makes of lists has to be the same."""
    config = importlib.import_module(f"configs.{name}").get_config("smoke")
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    saved = runs.saved_config(tmp_path)
    built = [systems.build(one) for one in (config, saved)]
    assert built[0].batch_spec == built[1].batch_spec
    first, second = (jax.eval_shape(s.init, jax.random.key(0)) for s in built)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert jax.tree.leaves(first) == jax.tree.leaves(second)
    assert set(systems.derived(config)) == set(systems.derived(saved))


def test_no_run_and_no_config(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        runs.saved_config(tmp_path)
    for text in ("{", "[1, 2]", "3"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match="config.json: is no config"):
            runs.saved_config(tmp_path)
    (tmp_path / "config.json").write_text('{"system": "nothing"}')
    config = runs.saved_config(tmp_path)
    assert isinstance(config, ConfigDict)
    with pytest.raises(ValueError, match="config.system is 'nothing'"):
        systems.build(config)
