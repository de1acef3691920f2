"""`spreadflow watch`: turns the output of a whole workflow into progress bars.

Reads Snakemake's output (`--quiet host`) on stdin. Lines that a stage wrote as progress ({"stage",
"done", "of", "units"}) and Snakemake's words on jobs that start and end become bars on a terminal
and a thin sequence of plain lines elsewhere. The rest of what Snakemake says when all goes well is
left out; everything else, errors above all, passes unchanged.
"""

import argparse
import json
import math
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, NamedTuple

EVERY_S = 10.0
"""Seconds between plain lines of a stage's progress: thin enough for the log of a whole workflow.
"""

CHATTER = re.compile(
    r"$|\[\w{3} \w{3} [ \d]\d [\d:]+ \d{4}\]$|\d+ of \d+ steps \(|Execute \d+ jobs|Select jobs to "
    r"execute"
    r"|Building DAG of jobs|Using (shell|workflow specific profile|profile)\b|Assuming "
    r"unrestricted shared filesystem"
    r"|Provided cores:|Rules claiming more threads|Conda environments: ignored|Complete log"
)
"""How lines begin that tell a person nothing."""

JOB_STARTS = re.compile(r"(?:local)?rule (\w+):$")
"""The line that announces a job: its rule."""

JOB_ENDS = re.compile(r"Finished jobid: (\d+) \(Rule: (\w+)\)")
"""The line about a finished job: its number and its rule."""


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the word."""
    p = words.add_parser("watch", help="turn a workflow's output on stdin into progress bars")
    p.set_defaults(do=lambda _arguments: watch())


class Step(NamedTuple):
    """A step of a stage's progress: `done` of `total` units are finished."""

    stage: str
    done: int
    total: int
    units: str


class Job(NamedTuple):
    """A job that starts, or that is over."""

    name: str
    is_over: bool


def parse_step(line: str) -> Step | None:
    """Return the step of progress that a line tells, or None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        fields = json.loads(line)
        return Step(
            stage=str(fields["stage"]),
            done=int(fields["done"]),
            total=int(fields["of"]),
            units=str(fields["units"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def events(lines: Iterable[str]) -> Iterator[Step | Job | str]:
    """Yield steps of progress, jobs that start and end, and the lines that shall pass.

    Snakemake announces a job as `rule NAME:` and indented lines `key: value`, of which `resources`
    is the last.
    """
    names: dict[str, str] = {}
    announced: dict[str, str] | None = None
    is_in_table = False
    for line in lines:
        text = line.rstrip()
        if step := parse_step(line):
            yield step
        elif announced is not None and text.startswith("    "):
            key, _, value = text.strip().partition(": ")
            announced[key] = value
            if key == "resources" and announced["rule"] != "all":
                name = announced["rule"]
                names[announced.get("jobid", "")] = name
                yield Job(name, is_over=False)
        elif start := JOB_STARTS.match(text):
            announced = {"rule": start[1]}
        elif end := JOB_ENDS.match(text):
            announced = None
            if end[1] in names:
                yield Job(names[end[1]], is_over=True)
        elif is_in_table or text == "Job stats:":
            is_in_table = bool(text)
        else:
            announced = None
            if not CHATTER.match(text):
                yield line


def thinned(
    lines: Iterable[str], clock: Callable[[], float] = time.monotonic, every_s: float = EVERY_S
) -> Iterator[str]:
    """Yield plain lines: the first and the last of a stage's progress and one every `every_s`
    seconds between them, and one when a job starts and when it is over.

    clock: the time in seconds.
    """
    last_lines: dict[str, float] = {}
    starts: dict[str, float] = {}
    for event in events(lines):
        if isinstance(event, str):
            yield event
            continue

        now = clock()
        if isinstance(event, Job):
            seconds = now - starts.setdefault(event.name, now)
            state = f"done in {seconds:.0f} s" if event.is_over else "started"
            yield f"{event.name}: {state}\n"
            continue

        is_last = event.done >= event.total
        last_line = last_lines.get(event.stage, -math.inf)
        if is_last or now - last_line >= every_s:
            last_lines[event.stage] = now
            yield f"{event.stage}: {event.done} of {event.total} {event.units}\n"


def bars(lines: Iterable[str], out: IO[str]) -> None:
    """Draw one bar per job on a terminal; other lines scroll above the bars."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[units]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(file=out)) as progress:
        tasks: dict[str, TaskID] = {}

        def task(name: str) -> TaskID:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=None, units="")
            return tasks[name]

        for event in events(lines):
            if isinstance(event, str):
                progress.console.print(event.rstrip("\n"), markup=False, highlight=False)
            elif isinstance(event, Step):
                number = task(event.stage)
                progress.update(number, completed=event.done, total=event.total, units=event.units)
            else:
                number = task(event.name)
                is_without_steps = progress.tasks[number].total is None
                if event.is_over and is_without_steps:
                    progress.update(number, completed=1, total=1)


def watch(lines: IO[str] | None = None, out: IO[str] | None = None) -> None:
    """Follow a workflow until its output ends. An interrupt is left to the workflow, which still
    has things to say.

    lines, out: None = stdin and stdout.
    """
    lines = lines or sys.stdin
    out = out or sys.stdout
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if out.isatty():
        bars(lines, out)
        return
    for line in thinned(lines):
        out.write(line)
        out.flush()
