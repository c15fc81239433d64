"""SIGTERM, as sent by schedulers before they take a machine away: save, then stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from idbert import processes


class StopOnSigterm(TrainerCallback):
    """Ask for a checkpoint and for the end of training once the current step is done.

    Transformers' own answer to SIGTERM (`enable_jit_checkpoint`) saves between a backward pass and
    the step that it is for, when dropout has already drawn its numbers: a run resumed from there
    goes another way. It also writes into `checkpoint-N` in place.

    Attributes:
        received: Whether a SIGTERM has come.
    """

    def __init__(self) -> None:
        self.received = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch SIGTERM inside the block; outside the main thread Python cannot, so nothing is."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        earlier = signal.signal(signal.SIGTERM, self._receive)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, earlier or signal.SIG_DFL)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Log, save and stop, all processes at the same step."""
        if self._received_by_any():
            control.should_log = control.should_save = control.should_training_stop = True

    def _received_by_any(self) -> bool:
        self.received = processes.any_of(self.received)
        return self.received
