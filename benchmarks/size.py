"""What do stages and summaries take when there are many shots, and what grows?

The stages of a finished trial run on 100, 1000 and 10 000 shots, each as a program of its own:
those of the trial again and again, with identities of their own. What takes a shot's pixels is
replaced by what it returned in the trial (`replayed.py`); all else is as it is: `level0`, `cells`,
`merge` and the solves of `spread` and `stage2` whole, of the others start, parts, ends and
products. So memory is what it is beside that of a shot's pixels, but for a lattice of `spread` and
`stage2`, and seconds are those that a shot costs beside them. Prints peak memory, user-CPU seconds,
bytes and files of each product, and those of each summary; the next size is extrapolated from the
last two, along a line. Laws of memory are compared with what stages took, on one rank.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import recorded
from spreadflow.io.sizes import rows_of
from spreadflow.trial import BY_WORD

HERE = Path(__file__).parent

STAGES = {
    "index": ("summary of index",),
    "level0": (),
    "reindex": ("summary of reindex", "summary of reindex simulated"),
    "cells": ("summary of cells",),
    "merge": ("summary of merge",),
    "annulus": ("summary of annulus",),
    "wide": (),
    "stage1": ("summary of stage1",),
    "predict": ("summary of predict",),
    "pack": ("summary of pack",),
    "spread": ("summary of spread",),
    "stage2": ("summary of stage2",),
}
"""Words of stages, in their order → the summaries that are written of each."""

SIZES = (100, 1000, 10_000)
"""Shots."""

EXTRAPOLATED = 100_000
"""Shots to which it is extrapolated where 10 000 were measured."""

MOST_SHOTS = {
    "level0": 1000,
    "spread": 1000,
    "stage2": 1000,
    "summary of reindex simulated": 1000,
}
"""Shots beyond which one would write too much, or take too long, and is extrapolated."""

FILES = {"shoeboxes": "wide"}
"""Arguments of stages → products that the demo's are, where their words differ."""

MB = 1024.0
"""kB in a MB."""

LONGEST_LOG = 3000
"""Characters of the log of a program that failed."""

GROWTH = 0.05
"""Bar: share by which memory may grow from 1000 to 10 000 shots where shots go one by one."""

PER_SHOT = ("index", "reindex", "annulus", "wide", "stage1", "predict", "pack")
"""Stages where they do."""

LEAST_ASKED, MOST_ASKED = 1.0, 2.0
"""Bars: memory that a law asks for over that taken, at the largest size of a stage."""

SUMMARY_MB, SUMMARY_S = 1024.0, 60.0
"""Bars of the summary of `reindex` of 100 000 shots."""


Table = dict[str, dict[str, dict[str, float]]]
"""Stage or summary → shots → what it takes."""


def program(words: list[Any]) -> dict[str, float]:
    """Run a program to its end; return its user-CPU seconds and peak memory, MB.

    This process stays small: a child has the memory of its parent until it starts a program.
    """
    command = [sys.executable, *map(str, words)]
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            text = log.read().decode(errors="replace")
            raise SystemExit(f"{words}: status {process.returncode}\n{text[-LONGEST_LOG:]}")
    return {"seconds": usage.ru_utime, "mb": usage.ru_maxrss / MB}


def stored(folder: Path, word: str) -> dict[str, float]:
    """Return bytes and files of a product."""
    paths = [path for path in folder.glob(f"{word}.*/**/*") if path.is_file()]
    paths += [path for path in folder.glob(f"{word}.*") if path.is_file()]
    paths = [path for path in paths if path.suffix not in (".json", ".png")]
    return {"megabytes": sum(path.stat().st_size for path in paths) / 1e6, "files": len(paths)}


def tables_of(word: str) -> list[str]:
    """Return the input tables that the memory of a stage grows with; none where it does not."""
    stage = BY_WORD[word]
    return [*stage.shared_bytes, *stage.common_bytes]


def rows_read(folder: Path, word: str) -> dict[str, float]:
    """Return how many rows the tables have that the memory of a stage grows with."""
    names = {table.split("/")[0] for table in tables_of(word)}
    n_rows = rows_of({name: str(folder / f"{FILES.get(name, name)}.h5") for name in names})
    return {in_words(table): float(n_rows[table]) for table in tables_of(word)}


def in_words(table: str) -> str:
    """Return the name of figures of an input table: `reindex reflections`."""
    return table.replace("/", " ")


def measure(args: argparse.Namespace, n_shots: int, folder: Path) -> dict[str, dict[str, float]]:
    """Return what each stage and summary takes. folder: for what is made."""
    shared = ["--trial", args.trial, "--manifest", args.manifest, "--overlays", *args.overlays]
    shared += ["--out", folder, "--shots", n_shots]
    start = [HERE / "replayed.py"]
    program([*start, "images", *shared])
    figures = {}
    for word, summaries in STAGES.items():
        if word not in args.stages or n_shots > args.most.get(word, sys.maxsize):
            continue
        for name in (word, *summaries):
            if n_shots <= args.most.get(name, sys.maxsize):
                figures[name] = program([*start, name, *shared])
                if name == word:
                    figures[name] |= stored(folder, word) | rows_read(folder, word)
                show(name, n_shots, figures[name])
    return figures


def show(name: str, n_shots: int, taken: dict[str, float]) -> None:
    """Print a line."""
    words = f"{taken['mb']:7.0f} MB, {taken['seconds']:7.1f} s"
    if "files" in taken:
        words += f"; {taken['megabytes']:9.1f} MB in {taken['files']:.0f} files"
    print(f"{n_shots:7d} {name:32s} {words}", flush=True)


def extrapolated(small: dict[str, float], large: dict[str, float], ratio: float) -> dict:
    """Return what a larger size takes, along the line through two others; what has fallen from the
    one to the other, as seconds of a start may by chance, stays.

    ratio: of its distance from the large one over that of the two.
    """
    return {key: large[key] + ratio * max(0.0, large[key] - small[key]) for key in large}


def beyond(measured: Table) -> Table:
    """Return what is extrapolated, to the next of all sizes, and print it."""
    sizes = sorted({*SIZES, EXTRAPOLATED, *(int(n) for one in measured.values() for n in one)})
    table: Table = {}
    for name, of_name in measured.items():
        known = sorted(map(int, of_name))
        larger = [size for size in sizes if size > known[-1]]
        if len(known) < 2 or not larger:
            continue
        small, large = known[-2:]
        ratio = (larger[0] - large) / (large - small)
        of_size = extrapolated(of_name[str(small)], of_name[str(large)], ratio)
        table[name] = {str(larger[0]): of_size}
        show(f"{name} (x)", larger[0], of_size)
    return table


def laws(measured: Table) -> Table:
    """Return what laws of memory ask for beside what was measured, stage by stage and size by
    size, MB, and their ratio; with what more shots take more over what is asked for them.
    """
    table: Table = {}
    for word, of_word in measured.items():
        tables = tables_of(word) if word in BY_WORD else []
        before = None
        for n_shots in sorted(map(int, of_word)) if tables else ():
            taken = of_word[str(n_shots)]
            n_rows = {name: int(taken[in_words(name)]) for name in tables}
            asked_mb = float(BY_WORD[word].rank_mb(n_rows, 1))
            here = {"asked_mb": asked_mb, "mb": taken["mb"], "ratio": asked_mb / taken["mb"]}
            if before:
                asked_more = asked_mb - before["asked_mb"]
                here["taken_of_asked_more"] = (taken["mb"] - before["mb"]) / asked_more
            before = table.setdefault(word, {})[str(n_shots)] = here
    return table


def judge_laws(table: Table) -> None:
    """Say which laws of memory hold at the largest size. table: as `laws` returns it."""
    for word, of_word in table.items():
        n_shots = max(of_word, key=int)
        here = of_word[n_shots]
        words = f"{word}, {n_shots} shots: {here['asked_mb']:.0f} MB are asked for, and"
        words += f" {here['mb']:.0f} taken: x {here['ratio']:.2f}"
        is_met = LEAST_ASKED <= here["ratio"] <= MOST_ASKED
        if "taken_of_asked_more" in here:
            words += f"; {here['taken_of_asked_more']:.2f} of what is asked for the last shots"
            is_met &= here["taken_of_asked_more"] <= 1.0
        print(words + ("" if is_met else f": not x {LEAST_ASKED:g} to {MOST_ASKED:g}, or more"))


def judge(measured: Table, along_lines: Table) -> None:
    """Say which other bars are met. along_lines: what is extrapolated."""
    for word in PER_SHOT:
        of_word = measured.get(word, {})
        if {"1000", "10000"} <= of_word.keys():
            growth = of_word["10000"]["mb"] / of_word["1000"]["mb"] - 1.0
            verdict = "" if growth <= GROWTH else f": more than {GROWTH:.0%}"
            print(f"{word}: memory grows by {growth:.1%} from 1000 to 10 000 shots{verdict}")
    name = "summary of reindex"
    of_summary = along_lines.get(name, {}) | measured.get(name, {})
    largest = of_summary.get(str(EXTRAPOLATED))
    if largest is not None:
        is_met = largest["mb"] <= SUMMARY_MB and largest["seconds"] <= SUMMARY_S
        verdict = "" if is_met else f": more than {SUMMARY_MB:g} MB or {SUMMARY_S:g} s"
        words = f"{largest['mb']:.0f} MB, {largest['seconds']:.1f} s"
        print(f"{name}, {EXTRAPOLATED} shots: {words}{verdict}")


def main() -> None:
    """Measure, print, and say whether the bars are met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trial", type=Path, required=True, help="results/NAME, finished")
    parser.add_argument("--manifest", type=Path, required=True, help="of its images")
    parser.add_argument("--overlays", type=Path, nargs="*", default=[], help="its configuration")
    parser.add_argument("--shots", type=int, nargs="+", default=SIZES)
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--all", action="store_true", help="nothing is left out of a large size")
    parser.add_argument("--folder", type=Path, help="where products are kept")
    parser.add_argument("--json", type=Path, help="sizes are added to those that it has")
    args = parser.parse_args()
    args.most = {} if args.all else MOST_SHOTS
    measured: Table = recorded.rows(args.json).get("measured", {})
    for n_shots in args.shots:
        with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
            for name, taken in measure(args, n_shots, Path(temporary)).items():
                measured.setdefault(name, {})[str(n_shots)] = taken
    along_lines = beyond(measured)
    judge(measured, along_lines)
    asked = laws(measured)
    judge_laws(asked)
    if args.json:
        figures = {"measured": measured, "extrapolated": along_lines, "laws": asked}
        recorded.save(args.json, "size", figures)


if __name__ == "__main__":
    main()
