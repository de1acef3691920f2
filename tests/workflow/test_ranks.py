"""Every stage on 1, 2, 3, 4 and 8 ranks, whatever threads the environment would grant them: the
same outcomes and the same products, under the same keys.

The inputs of a stage are the products of one chain, so that each costs itself alone. Numbers of
ranks that are odd, or more than there are blocks or cores, are what is asked for here: that a
killed stage goes on, on one rank and on three, is in tests/mpi.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

import same
from every_stage import EVERY_STAGE
from spreadflow.config import overlay, parse
from spreadflow.trial import BY_WORD, STAGES, commands, files, wanted
from spreadflow.trial.threads import THREAD_CAPS

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).parents[2]
LAUNCHER = Path(sys.prefix) / "bin" / "mpiexec"
RUN = "tiny"

RANKS_AND_THREADS = ((1, 1), (1, 2), (2, 1), (3, 2), (4, 1), (8, 2))
"""Ranks, and threads that the environment would grant each; the first is what the others are
compared with.
"""

YIELDING = {"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"}
"""Variable of MPICH: ranks that wait leave a core that they share to the others."""

OVERLAYS: dict[str, dict[str, Any]] = {
    "adopt": {
        "runs": {RUN: {"images": "data/tiny/manifest.json", "spec": "adopted.txt"}},
        "index": {"space_group": "C 1 2 1"},
    },
    "mosaic": {"stage1": {"mosaicity": "learned"}, "mosaic": {"max_lattices": 4, "oversample": 1}},
    "stage2": {"stage2": {"max_cycles": 2}},
}
"""What a stage has in its configuration beside the keys of the chain: the chain adopts no lattices
and learns no mosaicity, and two cycles show what three would.
"""

ROUNDED = {"stage2": 1e-6, "spread": 1e-9}
"""Stage → difference that its numbers may have, relative to the largest of their column: lattices
stay on their rank over all iterations, and sums over ranks are added in another order. What is
counted is equal.
"""

COUNTS_OF_STEPS = {"cycles/n_iterations": 3, ":n_reductions": 30, ":reduced_bytes": np.inf}
"""Datasets and attributes that count the steps of a solve → how far they may be apart: rounding may
end one a step sooner.
"""

WITH_ROLES = "correlate"
"""The stage whose ranks have roles: tests/mpi/test_correlate_ranks.py compares their numbers.
"""

PARALLEL = [stage.word for stage in STAGES if stage.is_parallel and stage.word != WITH_ROLES]


@pytest.fixture(scope="module")
def inputs(tiny_chain) -> Path:
    """The folder of the chain, with a spec file of its lattices beside `data` and `results`."""
    if not LAUNCHER.exists():
        pytest.skip(f"no MPI launcher at {LAUNCHER}")
    spec = tiny_chain / "adopted.txt"
    if not spec.exists():
        product = f"results/tiny/{RUN}/reindex.h5"
        export = ["spreadflow", "export", product, "--to", "dials", "--out", "adopted"]
        subprocess.run(export, cwd=tiny_chain, env=environment(), check=True)
        with h5py.File(tiny_chain / product) as file:
            n_lattices = int(file["n_rows/lattices"][:].sum())
        lines = [f"adopted.expt adopted.refl {number}" for number in range(n_lattices)]
        spec.write_text("\n".join(lines) + "\n")
    return tiny_chain


def environment(n_threads: int = 1) -> dict[str, str]:
    """Return the environment of a command that would grant it so many threads."""
    path = f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"
    caps = dict.fromkeys(THREAD_CAPS, str(n_threads))
    return os.environ | caps | YIELDING | {"PATH": path}


def command(word: str, out: Path, n_ranks: int) -> list[str]:
    """Return the command line of a stage of the chain, or of what it lacks, as a rule has it."""
    tree = yaml.safe_load((REPOSITORY / "config" / "tiny.yaml").read_text())
    keys = OVERLAYS.get(word, {})
    if "runs" in keys:
        tree.pop("runs")
    config = parse(overlay(tree, keys))
    run = RUN if BY_WORD[word].runs is not None else None
    resources = SimpleNamespace(mpi=str(LAUNCHER), tasks=n_ranks, get=lambda name, default: default)
    line = commands.command(
        config,
        word,
        {} if run is None else {"run": run},
        files.inputs(config, word, run),
        str(out),
        resources,
    )
    return shlex.split(line)


def run(inputs: Path, word: str, folder: Path, n_ranks: int, n_threads: int) -> None:
    """Run a stage from the products of the chain; it writes into a folder."""
    out = folder / Path(BY_WORD[word].outputs[0]).name
    done = subprocess.run(
        command(word, out, n_ranks),
        cwd=inputs,
        env=environment(n_threads),
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr


def keys_of(folder: Path) -> dict[str, str]:
    """Return the keys of all products and parts below a folder, by relative path."""
    keys = {}
    for path in sorted(folder.rglob("*.h5")):
        with h5py.File(path) as file:
            keys[str(path.relative_to(folder))] = file.attrs["key"]
    return keys


def is_close(one: Any, other: Any, relative: float) -> bool:
    """Whether numbers are as close as that to the largest of them; all else has to be equal."""
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape or one.dtype != other.dtype or one.dtype.kind not in "fc":
        return same.is_equal(one, other)
    scale = np.abs(one[np.isfinite(one)]).max(initial=0.0)
    return np.allclose(one, other, rtol=0.0, atol=relative * scale, equal_nan=True)


def apart(reference: Path, folder: Path, relative: float) -> list[str]:
    """Return the names of what is not the same in two folders of products, but for rounding."""
    names = same.products_of(reference)
    assert names.keys() == same.products_of(folder).keys()
    differing = []
    for name in names:
        if Path(name).suffix != ".h5":  # tables of the same numbers
            continue
        before, after = (same.values_of(where / name) for where in (reference, folder))
        assert before.keys() == after.keys()
        for key in before:
            if same.is_left_out(key):
                continue
            if key in COUNTS_OF_STEPS:
                steps = np.abs(np.subtract(before[key], after[key], dtype=float))
                is_same = bool((steps <= COUNTS_OF_STEPS[key]).all())
            else:
                is_same = is_close(before[key], after[key], relative)
            if not is_same:
                differing.append(f"{name} {key}")
    return differing


def test_no_stage_is_left_out():
    words = set(wanted(parse(EVERY_STAGE)))
    assert words - {"cells", WITH_ROLES} == set(PARALLEL), "cells has one rank"


@pytest.mark.parametrize("word", PARALLEL)
def test_ranks_and_threads_change_nothing(inputs, tmp_path, word):
    (n_ranks, n_threads), *others = RANKS_AND_THREADS
    reference = tmp_path / f"{n_ranks}-{n_threads}"
    run(inputs, word, reference, n_ranks, n_threads)
    keys = keys_of(reference)
    for n_ranks, n_threads in others:
        folder = tmp_path / f"{n_ranks}-{n_threads}"
        run(inputs, word, folder, n_ranks, n_threads)
        assert keys_of(folder) == keys
        if word in ROUNDED:
            assert apart(reference, folder, ROUNDED[word]) == []
        else:
            differences, n_compared = same.compare(reference, folder, same.Renamed({}))
            assert differences == []
            assert n_compared > 0
