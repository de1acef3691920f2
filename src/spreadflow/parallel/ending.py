"""How the ranks of a stage end together where one of them fails or is interrupted."""

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from spreadflow.errors import SpreadflowError
from spreadflow.parallel.world import World, comm_world

INTERRUPTING = (signal.SIGINT, signal.SIGTERM)
"""Signals that end a stage: of a terminal's Ctrl-C, and of batch systems."""

BY_SIGNAL = 128
"""What shells add to the number of a signal that ended a program, for its status."""

RESUME = "Finished parts are kept: run the same command again."
"""What to do after an interruption of a stage."""

PATIENCE_S = 3.0
"""Seconds that a rank has to close its files and end after a signal. Batch systems leave 30."""

TELLING_S = 0.5
"""Seconds that a launcher has to pass a message on: it drops the rest when it ends the ranks."""

TURN_S = 1.0
"""Seconds by which other ranks let the first one be the first to tell what is wrong: what is wrong
on all of them is told once.
"""


@contextmanager
def ending_together(word: str, ranks: int | None, todo: str = RESUME) -> Iterator[World]:
    """Yield the world of a stage, and end all its ranks where this block does not come to its end
    on one of them: with one message and the status of the error, or 1 where nobody expected it, or
    128 + the number of the signal.

    word: of the stage; ranks: as of `World`; todo: what to do after an interruption.
    """
    communicator = None
    with _interrupted_by_signals(
        lambda number: _end(communicator, *_interruption(word, communicator, number, todo))
    ):
        try:
            communicator = comm_world(ranks)
            yield World(ranks)
            return
        except SpreadflowError as error:
            ending = f"spreadflow {word}: {error}", error.exit_code
        except KeyboardInterrupt as error:
            ending = _interruption(word, communicator, error.args[0], todo)
        except BaseException as error:
            ending = _failure(communicator, error)
        if _rank_and_size(communicator)[0]:
            time.sleep(TURN_S)
    _end(communicator, *ending)


def _end(communicator: Any, message: str, code: int) -> None:
    """Print a message and end all ranks at once. communicator: None for a world of one."""
    print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    if _rank_and_size(communicator)[1] > 1:
        time.sleep(TELLING_S)
        communicator.Abort(code)
    if threading.current_thread() is not threading.main_thread():
        os._exit(code)
    sys.exit(code)


def _rank_and_size(communicator: Any) -> tuple[int, int]:
    """Return the number of this rank and that of all. communicator: as of `_end`."""
    return (0, 1) if communicator is None else (communicator.rank, communicator.size)


def _failure(communicator: Any, error: BaseException) -> tuple[str, int]:
    """Return message and status of an unexpected exception. communicator: as of `_end`."""
    rank, size = _rank_and_size(communicator)
    lines = traceback.format_exception(error)
    return f"rank {rank} of {size} failed:\n{''.join(lines)}".rstrip(), 1


def _interruption(word: str, communicator: Any, number: int, todo: str) -> tuple[str, int]:
    """Return message and status of a signal. communicator: as of `_end`."""
    rank, size = _rank_and_size(communicator)
    name = signal.Signals(number).name
    message = f"spreadflow {word}: rank {rank} of {size} was interrupted by {name}. {todo}"
    return message, BY_SIGNAL + number


@contextmanager
def _interrupted_by_signals(end: Callable[[int], None]) -> Iterator[None]:
    """Raise KeyboardInterrupt, with the number of the signal, in the main thread where a signal of
    `INTERRUPTING` comes; and call `end` with the number where that did not end the block in time.

    Python raises it between two steps of its own. A rank that waits for others within MPI, or
    computes within a library, may never come to one.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)

    def watch() -> None:
        for number in reader.recv(1):  # none where the block is over
            if not is_over.wait(PATIENCE_S):
                end(number)

    is_over = threading.Event()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, interrupt) for number in INTERRUPTING}
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_fd)
        writer.close()
        watcher.join()
        reader.close()
