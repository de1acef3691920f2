"""What does a job of the workflow cost before it works, and what do figures and pictures cost?

For each stage a process imports what the command of that stage imports, MPI among it; for each
stage of a finished trial another one writes figures and picture, as the rule `summary` does, and
one the page. User CPU seconds, on one thread, medians of several turns, with Python's bytecode and
all compiled programs at hand: the first turn is not counted.
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

BAR_SUMMARIES_S = 15.0
"""Most seconds of all summaries and the page of the demo."""

COMMAND = """
import contextlib
import mpi4py.MPI
from spreadflow.cli import main
with contextlib.suppress(SystemExit):
    main(["--version"])
"""
"""The command line before it does anything."""

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


def products_of(stage: Stage, trial: Path, images: list[Path]) -> list[Path]:
    """Return the products that the summary of a stage reads: none where the trial lacks it."""
    if stage.word == "simulate":
        return images
    name = stage.product or stage.outputs[0]
    return sorted(trial.glob(name.format(run="*")))


def summaries(trial: Path, images: list[Path], out: Path) -> dict[str, Words]:
    """Return what writes each summary of a finished trial into a folder, and then the page."""
    command = ["-m", "spreadflow.cli"]
    words = {}
    for stage in STAGES:
        products = products_of(stage, trial, images)
        if products:
            files = ["--products", *map(str, products), "--images", *map(str, images)]
            figures = str(out / f"{stage.word}.json")
            words[stage.word] = [*command, "summary", stage.word, *files, "--out", figures]
    of_stages = [str(out / f"{word}.json") for word in words]
    page = str(out / "report.html")
    words["page"] = [*command, "report", "--summaries", *of_stages, "--out", page]
    return words


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
    """Print the seconds of all starts, and of the summaries of a trial where there is one."""
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
        drawn = {}
        if arguments.trial:
            print(f"figures, pictures and page: at most {BAR_SUMMARIES_S} s together")
            jobs = summaries(arguments.trial, arguments.images, folder)
            drawn = measure(jobs, sources, arguments.turns, folder)
            sums = [sum(column) for column in zip(*drawn.values(), strict=True)]
            print("all       ", *(f"{seconds:6.2f}" for seconds in sums))
    if arguments.json:
        figures = {"starts": starts, "summaries": drawn}
        recorded.save(arguments.json, "starts", figures)


if __name__ == "__main__":
    main()
