"""The command line, killed in place of the rename that would finish a file: `dying.py NAME WORD
...`.
"""

import os
import signal
import sys
from pathlib import Path

from spreadflow import cli

NAME = sys.argv[1]
"""Name of the file, or the end of its path."""

ARGV = sys.argv[2:]
rename = os.replace


def rename_or_die(temporary, path) -> None:
    if Path(path).match(NAME):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(temporary, path)


os.replace = rename_or_die
sys.exit(cli.main(ARGV))
