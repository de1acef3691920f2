"""`spreadflow pbs-status JOB`: whether a job of PBS runs, succeeded or failed, as the profiles for
PBS ask (`cluster-generic-status-cmd`).
"""

import argparse
import re
import subprocess

from spreadflow.errors import FileError

STATE = re.compile(r"^\s*job_state = (\w)", re.MULTILINE)
"""The state of a job in the words of `qstat -f`: F has finished; of others, it goes on."""

EXIT_STATUS = re.compile(r"^\s*Exit_status = (-?\d+)", re.MULTILINE)
"""Its exit status; a job that never started has none."""

UNKNOWN = "Unknown Job"
"""What qstat says of a job that is not in the history."""


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the word."""
    p = words.add_parser("pbs-status", help="say how a job of PBS is doing, to Snakemake")
    p.add_argument("job")
    p.set_defaults(do=run)


def run(arguments: argparse.Namespace) -> None:
    """Print `running`, `success` or `failed`."""
    command = ["qstat", "-x", "-f", arguments.job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        print("running")
        return
    except FileNotFoundError:
        todo = "Run Snakemake where jobs are submitted."
        raise FileError("PATH", "the program qstat of PBS", "none", todo) from None
    print(status(done.stdout, done.stderr))


def status(described: str, complaint: str) -> str:
    """Return what Snakemake is to think of a job. A server that does not answer has not ended it.

    described: what `qstat -x -f` printed; complaint: its errors.
    """
    state = STATE.search(described)
    if state is None:
        return "failed" if UNKNOWN in complaint else "running"
    if state.group(1) != "F":
        return "running"
    exit_status = EXIT_STATUS.search(described)
    return "success" if exit_status and int(exit_status.group(1)) == 0 else "failed"
