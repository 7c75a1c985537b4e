"""Finds a system by its file name."""

import importlib
import pkgutil

from ml_collections import ConfigDict

from jaxinpaint.core.system import System


def build(config: ConfigDict) -> System:
    """Builds the system that `config.system` names.

    Raises:
      ValueError: there is no `systems/<name>.py`.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if config.system not in names:
        raise ValueError(
            f"config.system is {config.system!r}; the systems here are {names}."
        )
    return importlib.import_module(f"{__name__}.{config.system}").build(config)
