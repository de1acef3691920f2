"""`spreadflow watch`: turns the output of a whole workflow into progress bars.

Reads Snakemake's output on stdin. Lines that a stage wrote as progress ({"stage", "done", "of", "unit"}) become bars
on a terminal and a thin sequence of plain lines elsewhere; everything else passes through unchanged.
"""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO

EVERY_S = 10.0


def progress_of(line: str) -> tuple[str, int, int, str] | None:
    """(stage, done, of, unit) when the line is one of progress."""
    if not line.startswith("{"):
        return None
    try:
        fields = json.loads(line)
        return str(fields["stage"]), int(fields["done"]), int(fields["of"]), str(fields["unit"])
    except (ValueError, KeyError, TypeError):
        return None


def plural(unit: str) -> str:
    return unit + ("es" if unit.endswith("s") else "s")


def thinned(
    lines: Iterable[str], clock: Callable[[], float] = time.monotonic, every_s: float = EVERY_S
) -> Iterator[str]:
    """Pass lines through; of a stage's progress, its first and last line and one every `every_s` seconds."""
    last: dict[str, float] = {}
    for line in lines:
        step = progress_of(line)
        if step is None:
            yield line
            continue
        stage, done, of, unit = step
        if stage not in last or done >= of or clock() - last[stage] >= every_s:
            last[stage] = clock()
            yield f"{stage}: {done} of {of} {plural(unit)}\n"


def bars(lines: Iterable[str], out: IO[str]) -> None:
    """Draw one bar per stage on a terminal; other lines scroll above the bars."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[units]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(file=out)) as progress:
        tasks: dict[str, TaskID] = {}
        for line in lines:
            step = progress_of(line)
            if step is None:
                progress.console.print(line.rstrip("\n"), markup=False, highlight=False)
                continue
            stage, done, of, unit = step
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=of, units=plural(unit))
            progress.update(tasks[stage], completed=done, total=of)


def watch(lines: IO[str] | None = None, out: IO[str] | None = None) -> None:
    """Follow a workflow until its output ends; an interrupt is the workflow's, which still has things to say."""
    lines, out = lines or sys.stdin, out or sys.stdout
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if out.isatty():
        bars(lines, out)
        return
    for line in thinned(lines):
        out.write(line)
        out.flush()
