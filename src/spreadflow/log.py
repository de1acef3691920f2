"""Log and progress, which are two things: the log goes to stderr, progress to stdout.

Progress is a bar on a terminal and a JSON line every few seconds elsewhere; `spreadflow watch`
turns the lines of a whole workflow back into bars.
"""

import json
import logging
import sys
import time
from collections.abc import Iterable

from spreadflow.errors import StageWarning
from spreadflow.parallel import World

EVERY_S = 2.0
"""Seconds between lines of progress: often enough to be watched, too seldom to fill a log."""


def logger(stage: str, world: World) -> logging.Logger:
    """Return the logger of a stage, which writes time, stage, rank and message to stderr. All ranks
    warn; only the first says more.
    """
    log = logging.getLogger(stage)
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        pattern = f"%(asctime)s {stage}[{world.rank}] %(levelname)s %(message)s"
        handler.setFormatter(logging.Formatter(pattern))
        log.addHandler(handler)
        log.setLevel(logging.INFO if world.rank == 0 else logging.WARNING)
        log.propagate = False
    return log


def warn(log: logging.Logger, warnings: Iterable[StageWarning]) -> list[dict]:
    """Log the warnings of a stage, a line each, and return them as its product keeps them. All
    ranks have the same, and the first logs them.
    """
    is_first = log.isEnabledFor(logging.INFO)
    kept = []
    for warning in warnings:
        if is_first:
            log.warning("%s", warning.sentence())
        kept.append(warning._asdict())
    return kept


class Progress:
    """The progress of a stage as its first rank sees it: blocks that are handed out, or steps of a
    loop that are done.

    word: of the stage. total: of the blocks or steps, which are called `units`.
    """

    def __init__(self, word: str, total: int, world: World, units: str = "blocks"):
        self.word = word
        self.total = total
        self.units = units
        self._is_silent = world.rank != 0
        self._last_line = 0.0
        """when the last line was printed, s"""
        self._bar = None
        if not self._is_silent and sys.stdout.isatty():
            from rich.progress import Progress as Bar

            self._bar = Bar()
            self._bar.start()
            self._task = self._bar.add_task(word, total=total)

    def at(self, done: int) -> None:
        """Show that `done` of the total are finished."""
        if self._is_silent:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
            return
        now = time.monotonic()
        if now - self._last_line >= EVERY_S or done >= self.total:
            self._last_line = now
            step = {"stage": self.word, "done": done, "of": self.total, "units": self.units}
            print(json.dumps(step), flush=True)

    def __enter__(self) -> "Progress":
        self.at(0)
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()
