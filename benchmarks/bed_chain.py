"""The sets of stills of the test bed, and the stages from images to merged intensities on each, all
in this process: programs are compiled once.

What is finished is kept: a stage runs where its product is not there. Import this module first: it
sets the number of threads, which NumPy and XLA read when they start.
"""

import os

from spreadflow.trial.threads import THREAD_CAPS

os.environ |= dict.fromkeys(THREAD_CAPS, "1")

import resource
import shutil
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow import cli, config
from spreadflow.config import Config
from spreadflow.physics import anomalous
from spreadflow.trial.files import TRIGGERS, inputs, manifest, outputs

NANOBRAGG = Path(__file__).parents[1] / "config" / "nanobragg.yaml"
"""How stills of another simulator are analysed."""

BED = Path(__file__).with_name("bed.yaml")
"""What the simulated sets have in common."""

CHAIN = ("simulate", "index", "level0", "reindex", "cells", "merge")
"""The stages, in their order."""

POINT_SPREADS_MM = {"none": 0.0, "fibre": 0.15}
"""Name of a point spread → its full width at half maximum, mm."""

N_DOUBLE = 2
"""Shots of a set with two lattices."""

N_BLANK = 3
"""Shots of a set without a lattice."""

EDGE_MOVE_EV = 131.0
"""From the K edge of iron (7112 eV) to the L3 edge of gadolinium (7243 eV): the phantom's irons
scatter with their own curves, moved by so much, so that |F| changes within a pulse.
"""


MOST_BYTES = 6 * 2**30
"""Address space of the process: a stage that asks for more has failed. A set takes 3 GiB."""


class Trial(NamedTuple):
    """One set of stills, and where its products lie."""

    config: Config
    run: str

    def product(self, word: str) -> Path:
        """Return the path of the product of a stage."""
        return Path(outputs(self.config, word, self.run)[0])

    @property
    def manifest(self) -> Path:
        """Return the path of the manifest of the images."""
        return Path(manifest(self.config, self.run))

    @property
    def words(self) -> tuple[str, ...]:
        """Return the stages of this trial: none simulates images that are there already."""
        is_simulated = self.config.runs[self.run].simulate is not None
        return CHAIN if is_simulated else CHAIN[1:]


class Course(NamedTuple):
    """How the stages of a trial went."""

    failed: str | None
    """the stage that ended with an error; None = none did"""
    seconds: dict[str, float]
    """processor time of each stage that ran"""


def simulated(
    images: Path, results: Path, seed: int, point_spread: str, n_lattices: int = 13
) -> Trial:
    """Return a set of the test bed.

    images, results: folders; point_spread: a key of `POINT_SPREADS_MM`.
    """
    place = Path(point_spread) / f"{seed:02d}"
    n_single = n_lattices - 2 * N_DOUBLE
    shots = {"n_single": n_single, "n_blank": N_BLANK, "n_double": N_DOUBLE}
    changes = {
        "seed": seed,
        "data": str(images / place / "data"),
        "results": str(results / place / "results"),
        "runs": {"bed": {"simulate": shots}},
        "structure_factors": {"phantom_seed": seed, "sites": _sites(images)},
        "recording": {"psf_fwhm_mm": POINT_SPREADS_MM[point_spread]},
    }
    return Trial(config.load(BED, changes=changes), "bed")


def nanobragg(stills: Path, results: Path) -> Trial:
    """Return a trial on the stills of another simulator, the .nxs files of a folder."""
    run, *_ = config.load(NANOBRAGG).runs
    place = results / "nanobragg"
    images = place / "data" / "manifest.json"
    if not images.exists():
        images.parent.mkdir(parents=True)
        files = map(str, sorted(stills.glob("*.nxs")))
        cli.main(["manifest", "--run", run, "--offset-adu", "10", "--out", str(images), *files])
    changes = {"results": str(place / "results"), "runs": {run: {"images": str(images)}}}
    return Trial(config.load(NANOBRAGG, changes=changes), run)


@cache
def _sites(folder: Path) -> tuple[dict[str, str], ...]:
    """Return the sites of the phantom's irons, whose curves are written into a folder."""
    energies_ev = np.arange(7180.0, 7310.0, 0.5)
    sites = []
    for atom, name in (("FE1", "oxidized"), ("FE2", "reduced")):
        curve = anomalous.site("Fe", name, energies_ev - EDGE_MOVE_EV)
        path = folder / f"{atom}.dat"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            np.savetxt(path, np.stack([energies_ev, curve.real, curve.imag], axis=1), fmt="%.6f")
        sites.append({"atom": atom, "curve": str(path)})
    return tuple(sites)


def forget(trial: Trial, first: str) -> None:
    """Remove the products of a stage and of all that follow."""
    words = trial.words
    for word in words[words.index(first) :]:
        if word == "simulate":
            shutil.rmtree(trial.manifest.parent, ignore_errors=True)
            continue
        for name in outputs(trial.config, word, trial.run):
            Path(name).unlink(missing_ok=True)
        shutil.rmtree(trial.product(word).with_suffix(".parts"), ignore_errors=True)


def finish(trial: Trial, words: Sequence[str] | None = None) -> Course:
    """Run each stage whose product is not there, up to one that fails, or runs out of memory.
    words: the stages; None = all of the trial.
    """
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, most))
    seconds: dict[str, float] = {}
    for word in trial.words if words is None else words:
        if trial.product(word).exists():
            continue
        start = time.process_time()
        try:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                cli.main(_arguments(trial, word))
        except SystemExit:
            return Course(word, seconds)
        seconds[word] = time.process_time() - start
    resource.setrlimit(resource.RLIMIT_AS, (before, most))
    return Course(None, seconds)


def _arguments(trial: Trial, word: str) -> list[str]:
    """Return the words of the command of a stage."""
    settings, run = trial
    words = [word, "--config", config.section(settings, word, run)]
    if word == "simulate":
        words += ["--run", run]
    for name, files in inputs(settings, word, run).items():
        if name != TRIGGERS:
            words += [f"--{name}", *([files] if isinstance(files, str) else files)]
    return [*words, "--out", str(trial.product(word))]
