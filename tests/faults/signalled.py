"""The command line of a rank that gets a signal in place of the rename that would finish its n-th
file, of those in the folder of the product: `signalled.py NUMBER N WORD ... --out PRODUCT`.
"""

import os
import sys
from pathlib import Path

from spreadflow import cli

NUMBER, N = map(int, sys.argv[1:3])
"""Of the signal, and of the file, from 1."""

FOLDER = Path(sys.argv[sys.argv.index("--out") + 1]).parent
"""Of the product. Caches of compiled programs lie elsewhere."""

rename = os.replace
finished = []


def rename_or_signal(temporary, path) -> None:
    if FOLDER in Path(path).parents:
        if len(finished) + 1 == N:
            os.kill(os.getpid(), NUMBER)
        finished.append(path)
    rename(temporary, path)


os.replace = rename_or_signal
sys.exit(cli.main(sys.argv[3:]))
