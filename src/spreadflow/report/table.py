"""`spreadflow table TRIAL`: how a trial went, for the terminal."""

import csv
from pathlib import Path

from rich.console import Console
from rich.table import Table

from spreadflow.errors import FileError
from spreadflow.report.conserved import checks
from spreadflow.report.headlines import STAGES, headline
from spreadflow.report.page import read


def run(trial: Path) -> None:
    """Print the table of a trial's folder: each stage with its figures and seconds, and where the
    report lies.
    """
    figures = {stage: read(path) for stage in STAGES if (path := trial / f"{stage}.json").exists()}
    if not figures:
        raise FileError(
            trial, "summaries (<stage>.json)", "none", "Run the workflow, or `spreadflow summary`."
        )
    seconds = _seconds(trial / "benchmarks")
    table = Table(
        title=f"trial {trial.name}",
        title_justify="left",
        title_style="bold",
        show_lines=True,
        pad_edge=False,
    )
    table.add_column("stage", style="bold", no_wrap=True)
    table.add_column("what came out")
    table.add_column("seconds", justify="right", no_wrap=True)
    for stage in STAGES:
        if stage in figures or stage in seconds:
            facts = headline(stage, figures[stage]) if stage in figures else ["–"]
            table.add_row(
                stage, "\n".join(facts), f"{seconds[stage]:.0f}" if stage in seconds else "–"
            )
    rest = sum(value for name, value in seconds.items() if name not in STAGES)
    if rest:
        table.add_row("report", "summaries, pictures and the report", f"{rest:.0f}")
    console = Console()
    console.print(table)
    for check in checks(figures):
        if not check.holds:
            console.print(f"[bold red]counts differ:[/] {check.says}: {check.left} ≠ {check.right}")
    if (trial / "report.html").exists():
        console.print(f"report: {trial / 'report.html'}")


def _seconds(benchmarks: Path) -> dict[str, float]:
    """Return wall seconds of each rule, over its runs, from Snakemake's benchmark files."""
    out: dict[str, float] = {}
    for path in sorted(benchmarks.glob("*.tsv")):
        with path.open() as f:
            rows = list(csv.DictReader(f, delimiter="\t"))
        rule = path.name.split(".")[0]
        out[rule] = out.get(rule, 0.0) + sum(float(row["s"]) for row in rows)
    return out
