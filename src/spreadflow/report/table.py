"""`spreadflow table TRIAL`: how a trial went, for the terminal."""

import csv
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spreadflow.errors import FileError, warning_sentence
from spreadflow.report import WORDS, checks, merge, module_of
from spreadflow.report.page import read


def run(trial: Path) -> None:
    """Print each stage of a trial's folder with its figures and seconds, the counts that differ,
    and where the report lies.
    """
    paths = {stage: trial / f"{stage}.json" for stage in WORDS}
    figures = {stage: read(path) for stage, path in paths.items() if path.exists()}
    if not figures:
        raise FileError(
            trial, "summaries (<stage>.json)", "none", "Run the workflow, or `spreadflow summary`."
        )
    console = Console()
    console.print(_table(trial.name, figures, _seconds(trial / "benchmarks")))
    if figures.get("merge", {}).get("bins"):
        console.print(_shells(figures["merge"]))
    for check in checks.collect(figures):
        if not check.holds:
            counts = f"{check.left} ≠ {check.right}"
            console.print(f"[bold red]counts differ:[/] {check.statement}: {counts}")
    report = trial / "report.html"
    if report.exists():
        console.print(f"report: {report}")


def _table(trial: str, figures: dict[str, dict[str, Any]], seconds: dict[str, float]) -> Table:
    """Return a row for each stage that has figures or took time.

    figures: of each stage. seconds: of each rule.
    """
    table = Table(
        title=f"trial {trial}",
        title_justify="left",
        title_style="bold",
        show_lines=True,
        pad_edge=False,
    )
    table.add_column("stage", style="bold", no_wrap=True)
    table.add_column("what came out")
    table.add_column("seconds", justify="right", no_wrap=True)
    for stage in WORDS:
        if stage not in figures and stage not in seconds:
            continue
        facts = _facts(stage, figures[stage]) if stage in figures else ["–"]
        time = f"{seconds[stage]:.0f}" if stage in seconds else "–"
        table.add_row(stage, "\n".join(facts), time)
    seconds_of_reports = sum(value for name, value in seconds.items() if name not in WORDS)
    if seconds_of_reports:
        table.add_row("report", "summaries, pictures and the report", f"{seconds_of_reports:.0f}")
    return table


def _shells(figures: dict[str, Any]) -> Table:
    """Return the table of `merge` by resolution."""
    head, *rows, overall = merge.shell_table(figures)
    table = Table(
        title="merge by resolution",
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 1, 0, 0),
    )
    for column in head:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    table.add_section()
    table.add_row(*overall, style="bold")
    return table


def _facts(stage: str, figures: dict[str, Any]) -> list[str]:
    """Return what to know of a stage, a line each: its warnings first, in red."""
    sentences = [warning_sentence(warning) for warning in figures.get("warnings", [])]
    warnings = [f"[bold red]warning:[/] [red]{escape(sentence)}[/]" for sentence in sentences]
    return [*warnings, *map(escape, module_of(stage).headline(figures))]


def _seconds(benchmarks: Path) -> dict[str, float]:
    """Return the wall seconds of each rule, summed over its runs, from Snakemake's benchmark
    files.
    """
    seconds: dict[str, float] = {}
    for path in sorted(benchmarks.glob("*.tsv")):
        with path.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        rule = path.name.split(".")[0]
        seconds[rule] = seconds.get(rule, 0.0) + sum(float(row["s"]) for row in rows)
    return seconds
