"""`spreadflow <word>`: one word per stage. A stage is imported only when it is called."""

import argparse
import gc
import os
import sys

from spreadflow import __version__
from spreadflow.cli import (
    config,
    correlate,
    doctor,
    export,
    manifest,
    mask,
    pbs_status,
    plan,
    profiles,
    report,
    site,
    stage,
    start,
    stream,
    validate,
    watch,
)
from spreadflow.errors import SpreadflowError
from spreadflow.trial.threads import THREAD_CAPS

NEW_OBJECTS = 50_000
"""Objects made since the last collection of garbage that start the next one. Importing makes some
hundred thousand, all of which stay: Python's own 700 cost a tenth of a start.
"""


DOORS = (
    stage,
    config,
    watch,
    profiles,
    site,
    pbs_status,
    manifest,
    report,
    plan,
    start,
    validate,
    mask,
    export,
    correlate,
    stream,
    doctor,
)
"""The modules of all words, in the order of the help."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of all words. Each word sets `do`, a function of the parsed arguments."""
    top = argparse.ArgumentParser(prog="spreadflow", description=__doc__)
    top.add_argument("--version", action="version", version=f"spreadflow {__version__}")
    words = top.add_subparsers(dest="word", required=True, metavar="WORD")
    for door in DOORS:
        door.add_to(words)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one word, on one thread, and return the exit status.

    Sums of several threads depend on their number in the last bits: ranks share the work instead.
    """
    os.environ |= dict.fromkeys(THREAD_CAPS, "1")  # before NumPy and XLA start
    gc.set_threshold(NEW_OBJECTS)
    arguments = parser().parse_args(argv)
    try:
        arguments.do(arguments)
    except SpreadflowError as error:
        print(f"spreadflow {arguments.word}: {error}", file=sys.stderr)
        return error.exit_code
    return 0
