"""Snakemake imported once and forked for each call: the import is most of the time of a dry run.

Reads one JSON line {"cwd", "argv"} per call on stdin, writes one line {"status", "output"} on
stdout.
"""

import json
import os
import sys
import tempfile

from snakemake.cli import main

import spreadflow.config  # noqa: F401  (imported before the fork, as the Snakefile will)


def call(cwd: str, argv: list[str]) -> dict:
    """Make one call of `snakemake` in a child process."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            os.chdir(cwd)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            try:
                main(argv)
                status = 0
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else int(end.code is not None)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        return {"status": status, "output": output.read().decode()}


for line in sys.stdin:
    print(json.dumps(call(**json.loads(line))), flush=True)
