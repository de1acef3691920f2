"""Snakemake that asks Slurm for the states of its jobs every two seconds. The plugin itself waits
ten seconds longer each time that none has ended, which no option changes.
"""

import sys

from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor

Executor.next_seconds_between_status_checks = property(lambda _: 2.0, lambda _, seconds: None)

sys.exit(main())
