"""Log and progress, which are two things: the log goes to stderr, progress to stdout.

Progress is a bar on a terminal and a JSON line every few seconds elsewhere; `spreadflow watch`
turns the lines of a whole workflow back into bars.
"""

import json
import logging
import sys
import time

from spreadflow.parallel import World

EVERY_S = 2.0


def logger(stage: str, world: World) -> logging.Logger:
    """Return the stage's logger: time, stage, rank, message, on stderr. What is no warning is said
    by the first rank alone.
    """
    log = logging.getLogger(stage)
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(
            logging.Formatter(f"%(asctime)s {stage}[{world.rank}] %(levelname)s %(message)s")
        )
        log.addHandler(handler)
        log.setLevel(logging.INFO if world.rank == 0 else logging.WARNING)
        log.propagate = False
    return log


class Progress:
    """Progress of a stage as seen by its first rank: blocks handed out of all blocks (or steps of a
    loop).
    """

    def __init__(self, word: str, total: int, world: World, units: str = "blocks"):
        self.word, self.total, self.units = word, total, units
        self._silent = world.rank != 0
        self._last = 0.0
        self._bar = None
        if not self._silent and sys.stdout.isatty():
            from rich.progress import Progress as Bar

            self._bar = Bar()
            self._bar.start()
            self._task = self._bar.add_task(word, total=total)

    def at(self, done: int) -> None:
        """Show that `done` of the total are finished."""
        if self._silent:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
        elif time.monotonic() - self._last >= EVERY_S or done >= self.total:
            self._last = time.monotonic()
            print(
                json.dumps(
                    {"stage": self.word, "done": done, "of": self.total, "units": self.units}
                ),
                flush=True,
            )

    def __enter__(self) -> "Progress":
        self.at(0)
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()
