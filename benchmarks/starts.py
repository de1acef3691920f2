"""What does a job of the workflow cost before it works, and what do figures and pictures cost?

For each stage a process imports what the command of that stage imports, MPI among it; another one
writes figures and pictures of all stages of a finished trial and the page, as the rule `report`
does. User CPU seconds, on one thread, medians of several turns, with Python's bytecode and all
compiled programs at hand: the first turn is not counted.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import recorded
from spreadflow.config import OVERLAYS
from spreadflow.trial import STAGES, Stage
from spreadflow.trial.threads import THREAD_CAPS

BAR_START_S = 1.2
"""Most seconds of a start."""

BAR_REPORT_S = 15.0
"""Most seconds of all figures and pictures and the page of the demo."""

COMMAND = """
import contextlib
import mpi4py.MPI
from spreadflow.cli import main
with contextlib.suppress(SystemExit):
    main(["--version"])
"""
"""The command line before it does anything."""

REPORT = """
import sys
import tempfile
from spreadflow.cli import main
with tempfile.TemporaryDirectory() as folder:
    sys.exit(main(["report", *sys.argv[1:], "--out", f"{folder}/report.html"]))
"""
"""Figures, pictures and the page in a folder where there are none yet."""

Words = list[str]
"""Arguments of Python."""


def user_seconds(words: Words, source: Path, bytecode: Path) -> float:
    """Return the user CPU seconds of a process of Python. source: where spreadflow is imported
    from; bytecode: folder that Python keeps it in.
    """
    settings = {"PYTHONPATH": str(source), "PYTHONPYCACHEPREFIX": str(bytecode)}
    settings |= dict.fromkeys(THREAD_CAPS, "1")
    environment = os.environ | settings
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen([sys.executable, *words], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(words)}")
    return usage.ru_utime


def start_of(stage: Stage) -> Words:
    """Return what imports a stage as its command does."""
    module = OVERLAYS.get(stage.word, stage.word)
    return ["-c", f"{COMMAND}import spreadflow.stages.{module}"]


def report_of(trial: Path, images: list[Path]) -> Words:
    """Return what reports a finished trial. images: manifests of its runs, all simulated."""
    products = list(images)
    for stage in STAGES:
        products += sorted(trial.glob(stage.summarized.format(run="*")))
    return ["-c", REPORT, "--products", *map(str, products), "--images", *map(str, images)]


def measure(
    jobs: dict[str, Words], sources: Sequence[Path], turns: int, folder: Path
) -> dict[str, list[float]]:
    """Return the median seconds of each job, with each source in turn."""
    seconds = {}
    for name, words in jobs.items():
        rows = [
            [user_seconds(words, source, folder / source.parent.name) for source in sources]
            for _ in range(turns + 1)
        ]
        by_source = [statistics.median(column) for column in zip(*rows[1:], strict=True)]
        seconds[name] = by_source
        print(f"{name:10}", *(f"{value:6.2f}" for value in by_source), flush=True)
    return seconds


def main() -> None:
    """Print the seconds of all starts, and of the report of a trial where there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trial", type=Path, help="folder of a finished trial")
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="manifests of its runs")
    parser.add_argument("--before", type=Path, help="`src` of another revision, measured as well")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    own = Path(__file__).parents[1] / "src"
    sources = [own, arguments.before] if arguments.before else [own]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"starts: at most {BAR_START_S} s each")
        jobs = {stage.word: start_of(stage) for stage in STAGES}
        jobs = {"command": ["-c", COMMAND]} | jobs
        starts = measure(jobs, sources, arguments.turns, folder)
        report = {}
        if arguments.trial:
            print(f"figures, pictures and page: at most {BAR_REPORT_S} s together")
            jobs = {"report": report_of(arguments.trial, arguments.images)}
            report = measure(jobs, sources, arguments.turns, folder)
    if arguments.json:
        figures = {"starts": starts, "report": report}
        recorded.save(arguments.json, "starts", figures)


if __name__ == "__main__":
    main()
