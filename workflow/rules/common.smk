"""What the rules share. Which stages there are and what they read is asked of `spreadflow.trial`."""

import os
import shlex
import sys
from functools import partial
from pathlib import Path

from snakemake.exceptions import WorkflowError

from spreadflow import config as schema
from spreadflow.doctor import jobs
from spreadflow.doctor.host import here
from spreadflow.errors import SpreadflowError
from spreadflow.io.sizes import rows_of
from spreadflow.stages import readiness
from spreadflow.trial import BY_WORD, commands, files, launchers, wanted

if not workflow.overwrite_configfiles:  # no --configfile; a module is handed its configuration

    configfile: str(Path(workflow.snakefile).parents[2] / "config" / "config.yaml")


CONFIG_FILES = ", ".join(map(str, workflow.configfiles)) or "config of the module"
try:
    for path in workflow.configfiles:  # Snakemake took the last of a key that is there twice
        schema.read(path)
    CONFIG = schema.parse(config, CONFIG_FILES)
    schema.check_ready(CONFIG, CONFIG_FILES)
    readiness.check(CONFIG, CONFIG_FILES)
except SpreadflowError as error:
    raise WorkflowError(str(error)) from None

STAGES = wanted(CONFIG)
HOST = here(CONFIG.results)
MPI = HOST.launcher
MAX_RANKS = commands.most_ranks(MPI)
RUN = "{params.command} 2> {log:q} || {{ code=$?; tail -n 30 {log:q} >&2; exit $code; }}"


wildcard_constraints:
    run="|".join(CONFIG.runs),
    stage="|".join(STAGES),


product = partial(files.product, CONFIG)
outputs = partial(files.outputs, CONFIG, run="{run}")
runs_of = partial(files.pattern_of_runs, CONFIG)
memory = partial(commands.memory, rows_of=rows_of)


def inputs(word):
    return lambda wildcards: files.inputs(CONFIG, word, wildcards.get("run"))


def section(word):
    return lambda wildcards: schema.section(CONFIG, word, wildcards.get("run"))


def launch(word):
    return lambda wildcards, input, output, resources: commands.command(
        CONFIG, word, dict(wildcards), dict(input.items()), output[0], resources
    )


def ranks(wildcards, threads):
    return threads


def rank_memory(word):
    placed = workflow.resource_settings.overwrite_resources.get(word, {})
    n_ranks = int(placed["tasks"].raw) if "tasks" in placed else MAX_RANKS
    return commands.rank_memory(word, rows_of, n_ranks)


LEFT = " ".join(launchers.left_behind(os.environ))  # our launchers begin without another's traces
shell.prefix(f"set -euo pipefail; unset {LEFT}; export PATH={shlex.quote(sys.prefix)}/bin:$PATH; ")


onstart:
    try:
        jobs.refuse(HOST, jobs.asked(workflow.dag.needrun_jobs(), workflow.local_exec))
    except SpreadflowError as error:
        raise WorkflowError(str(error)) from None
