"""One thread for what may wait: what was asked for last is done first, at idle priority where the system has that."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress


class Background:
    """Runs ``work()``s in a thread of its own, which ends with the last of them; ``settle()`` runs in it first, still
    at ordinary priority. It is no daemon: what runs when the process ends is C++, which must not lose its ground."""

    def __init__(self, settle: Callable[[], None]):
        self._settle, self._lock = settle, threading.Lock()
        self._waiting: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None

    def add(self, work: Callable[[], None]) -> None:
        """Puts it before all that waits. A thread that has died is replaced."""
        with self._lock:
            self._waiting.append(work)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="graphs")
                self._thread.start()

    def wait(self) -> None:
        """Until nothing is left to do."""
        while (thread := self._thread) is not None and thread.is_alive():
            thread.join()

    def _run(self) -> None:
        self._settle()
        if sys.platform == "linux":  # elsewhere it would be the whole process's
            with suppress(OSError):
                os.nice(19)
        while True:
            with self._lock:
                if not self._waiting or not threading.main_thread().is_alive():
                    self._waiting.clear()
                    self._thread = None
                    return
                work = self._waiting.pop()
            work()
