"""The words --config and --set of subcommands: a config, read as `train.py` does."""

import importlib.util
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags


def read_config(name: str, changes: Sequence[str]) -> ConfigDict:
    """Reads a config as `train.py` does.

    Args:
      name: FILE or FILE:PRESET.
      changes: KEY=VALUE of each key that is changed.

    Raises:
      ValueError: it is no config, or there is no such key, preset or value.
      OSError: the file is not there.
    """
    path, _, preset = name.partition(":")
    spec = importlib.util.spec_from_file_location("config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--config: {path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(preset) if preset else module.get_config()
    words = ["config", *(f"--config.{change}" for change in changes)]
    values = flags.FlagValues()
    try:
        holder = config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=words
        )
        values(words)
    except (AttributeError, KeyError) as error:
        raise ValueError(f"--set: the config has no such key: {error}") from error
    except (flags.Error, TypeError) as error:
        raise ValueError(f"--set: {error}") from error
    return holder.value
