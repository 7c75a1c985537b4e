"""Learning-rate schedules by name, the same for every system."""

from collections.abc import Sequence

import optax


def schedule(
    kind: str,
    learning_rate: float,
    steps: int,
    warmup_steps: int,
    final: float,
    *,
    boundaries: Sequence[int] = (),
    factor: float = 1.0,
) -> optax.Schedule:
    """Builds a schedule over optimizer updates.

    Args:
      kind: "constant"; "cosine" or "linear", which fall to `final`; "linear_tail", which
        does so over the second half, as pix2pix; "piecewise", which is multiplied by
        `factor` at each of the `boundaries`.
      learning_rate: after the warm-up.
      steps: updates in all, warm-up included.
      warmup_steps: updates of a linear rise from 0; 0 for none.
      final: the last rate as a fraction of `learning_rate`.
      boundaries: numbers of updates done, behind the warm-up, for "piecewise" alone.
      factor: of each boundary, for "piecewise" alone.

    Raises:
      ValueError: the kind is unknown.
    """
    rest = max(steps - warmup_steps, 1)
    half = max(steps // 2 - warmup_steps, 0)
    kinds = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, rest, final),
        "linear": lambda: optax.linear_schedule(
            learning_rate, final * learning_rate, rest
        ),
        "linear_tail": lambda: optax.linear_schedule(
            learning_rate, final * learning_rate, max(rest - half, 1), half
        ),
        "piecewise": lambda: optax.piecewise_constant_schedule(
            learning_rate, {at - warmup_steps: factor for at in boundaries}
        ),
    }
    if kind not in kinds:
        raise ValueError(
            f"config.optimizer.schedule is {kind!r}; the choices are {sorted(kinds)}."
        )
    if warmup_steps == 0:
        return kinds[kind]()
    rise = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([rise, kinds[kind]()], [warmup_steps])
