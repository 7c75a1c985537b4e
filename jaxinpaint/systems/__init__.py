"""Finds a system by its file name.

Every `systems/<name>.py` offers `build(config)` and `validate_inputs(where, batch)`,
and `derived(config)` if its data hold sections that are computed once.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType

import numpy as np
from ml_collections import ConfigDict

from jaxinpaint.core.system import Derived, System


def build(config: ConfigDict) -> System:
    """Builds the system that `config.system` names.

    Raises:
      ValueError: there is no `systems/<name>.py`.
    """
    return find(config.system).build(config)


def validate_inputs(name: str, where: str, batch: Mapping[str, np.ndarray]) -> None:
    """Checks the values of a host batch for a system's `predict`.

    Raises:
      InpaintInputError: a tensor is not what the system can restore from.
    """
    find(name).validate_inputs(where, batch)


def derived(config: ConfigDict) -> Mapping[str, Derived]:
    """What the data are to compute once for each section, by its name in the batch.

    Raises:
      ValueError: there is no `systems/<name>.py`.
    """
    module = find(config.system)
    return module.derived(config) if hasattr(module, "derived") else {}


def find(name: str) -> ModuleType:
    """The module of a system.

    Raises:
      ValueError: there is none.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in names:
        raise ValueError(f"config.system is {name!r}; the systems here are {names}.")
    return importlib.import_module(f"{__name__}.{name}")
