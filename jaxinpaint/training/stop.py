"""Asked to stop: SIGTERM of a scheduler, SIGINT of a person."""

import signal
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


class StopRequest:
    """Remembers a signal instead of dying of it; a context manager.

    With several processes jax itself handles SIGTERM, and all of them agree on the
    step to stop at; a SIGINT then counts as one process's own wish and is passed on
    through the same agreement.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        several = jax.process_count() > 1
        for number in (signal.SIGINT,) if several else EXIT_CODES:
            self.before[number] = signal.signal(number, self.remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def remember(self, number: int, frame: FrameType | None) -> None:
        """The signal handler; a second signal changes nothing."""
        if self.signal is None:
            self.signal = signal.Signals(number)

    def asked(self, step: int) -> bool:
        """Whether to stop after `step`; the same answer in every process."""
        if jax.process_count() == 1:
            return self.signal is not None
        if multihost_utils.reached_preemption_sync_point(step):
            self.signal = self.signal or signal.SIGTERM
            return True
        return False

    @property
    def exit_code(self) -> int:
        """0, or 128 plus the signal."""
        return 0 if self.signal is None else EXIT_CODES[self.signal]
