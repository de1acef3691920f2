"""`spreadflow watch`: turns the output of a whole workflow into progress bars.

Reads Snakemake's output (`--quiet host`) on stdin. Lines that a stage wrote as progress ({"stage",
"done", "of", "units"}) and Snakemake's words on jobs that start and end become bars on a terminal
and a thin sequence of plain lines elsewhere. The rest of what Snakemake says when all goes well is
left out; everything else, errors above all, passes unchanged.
"""

import argparse
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, NamedTuple

EVERY_S = 10.0
CHATTER = re.compile(
    r"$|\[\w{3} \w{3} [ \d]\d [\d:]+ \d{4}\]$|\d+ of \d+ steps \(|Execute \d+ jobs|Select jobs to "
    r"execute"
    r"|Building DAG of jobs|Using (shell|workflow specific profile|profile)\b|Assuming "
    r"unrestricted shared filesystem"
    r"|Provided cores:|Rules claiming more threads|Conda environments: ignored|Complete log"
)
"""How lines begin that tell a person nothing."""

BEGINS = re.compile(r"(?:local)?rule (\w+):$")
ENDS = re.compile(r"Finished jobid: (\d+) \(Rule: (\w+)\)")


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the word."""
    p = words.add_parser("watch", help="turn a workflow's output on stdin into progress bars")
    p.set_defaults(do=lambda _arguments: watch())


class Step(NamedTuple):
    """A stage has come this far."""

    stage: str
    done: int
    of: int
    units: str


class Job(NamedTuple):
    """A job starts, or is over."""

    name: str
    over: bool


def progress_of(line: str) -> Step | None:
    """Return the step when the line is one of progress."""
    if not line.startswith("{"):
        return None
    try:
        fields = json.loads(line)
        return Step(
            str(fields["stage"]), int(fields["done"]), int(fields["of"]), str(fields["units"])
        )
    except (ValueError, KeyError, TypeError):
        return None


def events(lines: Iterable[str]) -> Iterator[Step | Job | str]:
    """Steps, jobs, and the lines that shall pass.

    A job is announced as `rule NAME:` and indented lines `key: value`, of which `resources` is the
    last.
    """
    names: dict[str, str] = {}
    about: dict[str, str] | None = None
    in_table = False
    for line in lines:
        text = line.rstrip()
        if step := progress_of(line):
            yield step
        elif about is not None and text.startswith("    "):
            key, _, value = text.strip().partition(": ")
            about[key] = value
            if key == "resources" and about["rule"] != "all":
                names[about.get("jobid", "")] = _name(about)
                yield Job(_name(about), over=False)
        elif begins := BEGINS.match(text):
            about = {"rule": begins[1]}
        elif ends := ENDS.match(text):
            about = None
            if ends[1] in names:
                yield Job(names[ends[1]], over=True)
        elif in_table or text == "Job stats:":
            in_table = bool(text)
        else:
            about = None
            if not CHATTER.match(text):
                yield line


def _name(about: dict[str, str]) -> str:
    """Return the rule, and of which stage where it serves them all."""
    stage = re.search(r"\bstage=(\w+)", about.get("wildcards", ""))
    return about["rule"] + (f" {stage[1]}" if stage else "")


def thinned(
    lines: Iterable[str], clock: Callable[[], float] = time.monotonic, every_s: float = EVERY_S
) -> Iterator[str]:
    """Yield plain lines: of a stage's progress its first, its last and one every `every_s` seconds;
    when each job is over.
    """
    last: dict[str, float] = {}
    began: dict[str, float] = {}
    for event in events(lines):
        if isinstance(event, str):
            yield event
        elif isinstance(event, Job):
            now = clock()
            seconds = now - began.setdefault(event.name, now)
            yield (
                f"{event.name}: done in {seconds:.0f} s\n"
                if event.over
                else f"{event.name}: started\n"
            )
        elif (
            event.stage not in last
            or event.done >= event.of
            or clock() - last[event.stage] >= every_s
        ):
            last[event.stage] = clock()
            yield f"{event.stage}: {event.done} of {event.of} {event.units}\n"


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

        def row(name: str) -> TaskID:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=None, units="")
            return tasks[name]

        for event in events(lines):
            if isinstance(event, str):
                progress.console.print(event.rstrip("\n"), markup=False, highlight=False)
            elif isinstance(event, Step):
                progress.update(
                    row(event.stage), completed=event.done, total=event.of, units=event.units
                )
            elif not event.over:
                row(event.name)
            elif progress.tasks[row(event.name)].total is None:
                progress.update(row(event.name), completed=1, total=1)


def watch(lines: IO[str] | None = None, out: IO[str] | None = None) -> None:
    """Follow a workflow until its output ends; an interrupt is the workflow's, which still has
    things to say.
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
