"""The protocol between one paper's system and everything that runs it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Tree = Any
Key = jax.Array
Batch = Mapping[str, jax.Array]
Scalars = Mapping[str, jax.Array]
Variables = Mapping[str, Mapping[str, Tree]]  # network name -> Linen collections


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything an update changes, and nothing else: arrays only.

    Attributes:
      step: int32 scalar, updates done so far.
      variables: Linen variables of each trained network, by network name.
      opt_state: optax state of each optimizer, by name.
    """

    step: jax.Array
    variables: Variables
    opt_state: Mapping[str, Tree]


class System(NamedTuple):
    """One trainable stage of one paper: a declaration and four functions.

    Attributes:
      batch_spec: shapes and dtypes of what `update` asks for, by name. An update
        that needs k fresh batches of B declares one of k * B and takes `x[i::k]`.
      init: key -> the state before the first step.
      load_frozen: variables that this stage reads and never changes.
      update: (state, frozen, batch, key) -> the state after one whole step, and
        the scalars to log. Pure; the loop jits it.
      predict: (variables, frozen, batch, key) -> images, `completed` among them.
        Takes any batch size, and any image size that the network allows.
    """

    batch_spec: Mapping[str, jax.ShapeDtypeStruct]
    init: Callable[[Key], TrainState]
    load_frozen: Callable[[], Variables]
    update: Callable[[TrainState, Variables, Batch, Key], tuple[TrainState, Scalars]]
    predict: Callable[[Variables, Variables, Batch, Key], Batch]


class Derived(NamedTuple):
    """Sections that the data compute once, from both neighbours of a target.

    Attributes:
      name: of the cache, for people.
      function: (previous, following, alpha) -> the section between them. Sections are
        whole, uint8 or uint16 [H, W, C] on the host; alpha = (z - z of previous) /
        (z of following - z of previous). The result has their shape and dtype.
      digest: names the function and its options: another digest, another cache.
    """

    name: str
    function: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    digest: str
