"""Asked to stop: SIGTERM of a scheduler, SIGINT of a person."""

import os
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils

EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}

T = TypeVar("T")


class _Interrupted(BaseException):
    """Ends a wait from within the signal handler."""


class StopRequest:
    """Remembers a signal instead of dying of it; a context manager.

    With several processes jax itself handles SIGTERM, and all of them agree on the
    step to stop at; a SIGINT is handed to jax as a SIGTERM.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.waits = False
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        self.several = jax.process_count() > 1
        for number in (signal.SIGINT,) if self.several else EXIT_CODES:
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
        if self.several:
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.waits:
            raise _Interrupted

    def next_of(self, stream: Iterator[T]) -> T | None:
        """The next value; None where a signal ends the wait, since data may hang.

        Several processes wait on, for they stop at one step.
        """
        try:
            self.waits = not self.several
            try:
                return None if self.waits and self.signal else next(stream)
            finally:
                self.waits = False
        except _Interrupted:
            return None

    def asked(self, step: int) -> bool:
        """Whether to stop after `step`; the same answer in every process."""
        if not self.several:
            return self.signal is not None
        if multihost_utils.reached_preemption_sync_point(step):
            self.signal = self.signal or signal.SIGTERM
            return True
        return False

    @property
    def exit_code(self) -> int:
        """0, or 128 plus the signal."""
        return 0 if self.signal is None else EXIT_CODES[self.signal]
