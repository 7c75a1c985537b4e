"""Updates that are not finite are never applied, and counted."""

import collections
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinpaint.core.system import Batch, Key, Scalars, TrainState, Variables

BAD_IN_A_ROW, BAD_OF_LAST, LAST = 10, 50, 1000

Update = Callable[[TrainState, Variables, Batch, Key], tuple[TrainState, Scalars]]


class NonFiniteError(RuntimeError):
    """Losses or gradients stayed NaN or infinite; the last checkpoint is good."""


def guarded(update: Update) -> Update:
    """An update that leaves the state as it was when anything new is not finite.

    The step counts on, so that the next batch is another one. The scalar
    `bad_update` is 1 where nothing was applied.
    """

    @functools.wraps(update)
    def safe(
        state: TrainState, frozen: Variables, batch: Batch, key: Key
    ) -> tuple[TrainState, Scalars]:
        new, scalars = update(state, frozen, batch, key)
        leaves = [*jax.tree.leaves(new), *scalars.values()]
        floats = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
        good = jnp.stack([jnp.isfinite(x).all() for x in floats]).all()
        # A conditional, since one select a leaf takes XLA minutes to compile on CPU.
        kept = jax.lax.cond(good, lambda a, b: a, lambda a, b: b, new, state)
        kept = TrainState(new.step, kept.variables, kept.opt_state)
        return kept, {**scalars, "bad_update": 1.0 - good.astype(jnp.float32)}

    return safe


class BadUpdates:
    """Counts the updates that were not applied.

    Attributes:
      total: in the whole run, restarts included.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.recent: collections.deque[bool] = collections.deque(maxlen=LAST)

    def record(self, bad: bool, step: int) -> None:
        """Notes one update.

        Raises:
          NonFiniteError: the last 10, or 50 of the last 1000, were not applied.
        """
        self.total += bad
        self.recent.append(bad)
        if not bad:
            return
        row = list(self.recent)[-BAD_IN_A_ROW:]
        if (len(row) == BAD_IN_A_ROW and all(row)) or sum(self.recent) >= BAD_OF_LAST:
            raise NonFiniteError(
                f"train: {sum(self.recent)} of the last {len(self.recent)} updates "
                f"were not finite, the last at step {step}; none was applied and the "
                "last checkpoint is good. Lower config.optimizer.learning_rate, or "
                "look at the data."
            )
