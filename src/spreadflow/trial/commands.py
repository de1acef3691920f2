"""The command of a rule: launcher and ranks, container prefix, `spreadflow WORD` and its arguments.

Launcher and container come from the profile (resources `mpi`, `tasks`, `container`) and may be
empty. Snakemake does not track a parameter that is made from resources, so that another launcher or
number of ranks reruns nothing.
"""

import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from spreadflow.config import Config, section
from spreadflow.trial.files import TRIGGERS, Files, manifests, product, reported
from spreadflow.trial.stages import BY_WORD

MAX_RANKS = 8
"""Cores that a rule on many ranks asks for, a rank each: `--cores` and the profile's `tasks` have
the last word.
"""


class Resources(Protocol):
    """What Snakemake grants a job."""

    mpi: str
    tasks: int

    def get(self, name: str, default: str) -> str:
        """Return a resource that a profile may leave out."""


class InputFiles(Protocol):
    """What Snakemake says of the files that a job reads."""

    def items(self) -> Iterable[tuple[str, str | list[str]]]:
        """Yield argument of the command and file, or files."""


def most_ranks(launcher: str) -> int:
    """Return how many ranks, and cores, a rule asks for: without a launcher a stage is one process
    on one core.
    """
    return MAX_RANKS if launcher else 1


def ranks_with_roles(config: Config, run: str, threads: int) -> int:
    """Return how many ranks correlate a run on so many cores: one does all where they are too few
    for readers, a master, a viewer and a worker.
    """
    return threads if threads >= config.correlate_of(run).readers + 3 else 1


def memory(
    word: str, rows_of: Callable[[Files], Mapping[str, int]]
) -> Callable[[object, InputFiles, int], int]:
    """Return the function of a rule that says how many MB it takes on the cores it is granted.

    rows_of: says how many rows the tables of files have, by argument and table.
    """

    def megabytes(wildcards: object, input: InputFiles, threads: int) -> int:
        return rank_memory(word, rows_of, threads)(wildcards, input) * threads

    return megabytes


def rank_memory(
    word: str, rows_of: Callable[[Files], Mapping[str, int]], n_ranks: int
) -> Callable[[object, InputFiles], int]:
    """Return the function of a rule that says how many MB one of its ranks takes. rows_of: as in
    `memory`.
    """
    stage = BY_WORD[word]

    def megabytes(wildcards: object, input: InputFiles) -> int:
        n_rows = rows_of(dict(input.items())) if stage.grows else {}
        return stage.rank_mb(n_rows, n_ranks)

    return megabytes


def command(
    config: Config,
    word: str,
    wildcards: Mapping[str, str],
    inputs: Files,
    out: str,
    resources: Resources,
) -> str:
    """Return the command line of a job.

    wildcards: the run or stage of the job; inputs: by argument; out: the first of its outputs.
    """
    n_ranks = resources.tasks
    launcher = f"{resources.mpi} -n {n_ranks}" if resources.mpi and n_ranks > 1 else ""
    arguments = ["spreadflow", word]
    if word in BY_WORD:
        arguments += ["--config", section(config, word, wildcards.get("run"))]
        arguments += ["--ranks", str(n_ranks)]
        if word in ("simulate", "adopt"):
            arguments += ["--run", wildcards["run"]]
    elif word == "summary":
        arguments.append(wildcards["stage"])
    program = _program(arguments, inputs, out)
    container = resources.get("container", "")
    return " ".join(filter(None, [launcher, container, program]))


def report_of_finished(config: Config) -> str:
    """Return the command that reports what is finished of a trial; empty where nothing is."""
    finished, images = (
        [path for path in paths if Path(path).exists()]
        for paths in (reported(config), manifests(config))
    )
    if not finished:
        return ""
    inputs: Files = {"products": finished, "images": images}
    return _program(["spreadflow", "report"], inputs, product(config, "report.html"))


def _program(words: list[str], inputs: Files, out: str) -> str:
    """Return the command line of a program: its first words, inputs by argument, and output."""
    arguments = list(words)
    for name, files in inputs.items():
        if name != TRIGGERS:
            arguments += [f"--{name}", *([files] if isinstance(files, str) else files)]
    return shlex.join([*arguments, "--out", out])
