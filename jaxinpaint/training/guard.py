"""Updates that are not finite are never applied, and counted."""

import functools
from collections.abc import Callable, Iterable

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
      recent: the steps of those among the last 1000.
    """

    def __init__(self, total: int, recent: Iterable[int]) -> None:
        self.total = total
        self.recent = list(recent)

    def record(self, bad: bool, step: int) -> None:
        """Notes one update.

        Raises:
          NonFiniteError: the last 10, or 50 of the last 1000, were not applied.
        """
        if not bad:
            return
        self.total += 1
        self.recent = [s for s in self.recent if s > step - LAST] + [step]
        row = sum(s > step - BAD_IN_A_ROW for s in self.recent)
        if row == BAD_IN_A_ROW or len(self.recent) >= BAD_OF_LAST:
            raise NonFiniteError(
                f"train: {len(self.recent)} of the last {min(step, LAST)} updates "
                f"were not finite, the last at step {step}; none was applied and the "
                "last checkpoint is good. Lower config.optimizer.learning_rate, or "
                "look at the data."
            )
