"""Figures and picture of `simulate`: which shots there are, and what was shone on them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from spreadflow.errors import Outcome
from spreadflow.io import images as io_images
from spreadflow.io.schema import KINDS
from spreadflow.models import Spectrum
from spreadflow.physics import geometry
from spreadflow.report import style
from spreadflow.report.truth import BLANK, DOUBLE, SINGLE, true_detector


class Run(NamedTuple):
    """One simulated run."""

    name: str
    manifest: Path
    truth: dict[str, np.ndarray]
    spectra: list[Spectrum]


def make(_stage: str, products: list[Path], _manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all simulated runs among the manifests, and the page."""
    runs = []
    for manifest in products:
        truth = io_images.truth(manifest)
        if truth is not None:
            runs.append(
                Run(
                    io_images.read_manifest(manifest).run,
                    manifest,
                    truth,
                    _spectra(manifest, truth),
                )
            )
    figures = _figures(runs) | {"runs": {run.name: _figures([run]) for run in runs}}
    return figures, _picture(runs, figures)


def _spectra(manifest: Path, truth: dict) -> list[Spectrum]:
    """Return the spectra of the shots that are meant to be analysed: single, blank and double."""
    source = io_images.Source(manifest)
    meant = truth["shots/shot_id"][np.isin(truth["shots/kind"], (SINGLE, BLANK, DOUBLE))]
    rows = np.flatnonzero(np.isin(source.shots["shot_id"], meant))
    return [s for s in map(source.spectrum, rows.tolist()) if s is not None]


def _figures(runs: list[Run]) -> dict[str, Any]:
    kind = np.concatenate([run.truth["shots/kind"] for run in runs]) if runs else np.empty(0, int)
    photons = np.array([s.photons.sum() for run in runs for s in run.spectra])
    energy = np.array([s.mean_energy_ev for run in runs for s in run.spectra])
    return {
        "n_shots": len(kind),
        "kinds": {name: int((kind == number).sum()) for number, name in enumerate(KINDS)},
        "n_lattices": sum(len(run.truth["lattices/shot"]) for run in runs),
        "photons_mean": photons.mean() if len(photons) else None,
        "photons_sd": photons.std() if len(photons) else None,
        "energy_mean_ev": energy.mean() if len(energy) else None,
        "energy_sd_ev": energy.std() if len(energy) else None,
    }


def _picture(runs: list[Run], figures: dict) -> Figure:
    page = style.page(
        "simulate: the shots, and the pulses that made them",
        f"{style.say(figures['n_shots'])} shots · {style.say(figures['n_lattices'])} lattices · "
        f"{style.say(figures['photons_mean'])} photons a pulse at "
        f"{style.say(figures['energy_mean_ev'], 5)} eV",
        14.5,
    )
    axes = page.subplot_mosaic(
        [["still", "still", "kinds", "spectra"], ["still", "still", "photons", "energy"]],
        width_ratios=[1, 1, 0.9, 0.9],
    )
    _still(axes["still"], runs)
    kinds = {name: n for name, n in figures["kinds"].items() if n}
    style.bars(axes["kinds"], list(kinds), list(kinds.values()), [style.BLUE] * len(kinds))
    axes["kinds"].set_title(f"{style.say(figures['n_shots'])} shots")
    spectra = [s for run in runs for s in run.spectra]
    for spectrum in spectra[:4]:
        axes["spectra"].plot(spectrum.energies_ev, spectrum.photons, lw=1, drawstyle="steps-mid")
    axes["spectra"].set(title="spectra of four pulses", xlabel="eV", ylabel="photons per channel")
    style.histogram(axes["photons"], np.array([s.photons.sum() for s in spectra]), "", style.GREEN)
    axes["photons"].set(title="photons of a pulse", ylabel="shots")
    energies = np.array([s.mean_energy_ev for s in spectra])
    axes["energy"].hist(energies, bins=style.n_bins(len(energies)), color=style.ORANGE, alpha=0.65)
    style.few_ticks(axes["energy"])
    axes["energy"].set(title="mean energy of a pulse", xlabel="eV", ylabel="shots")
    return page


def _still(axes: Any, runs: list[Run]) -> None:
    """Draw the first shot with one crystal and where its strongest reflections are expected."""
    singles = [
        (run, row) for run in runs for row in np.flatnonzero(run.truth["shots/kind"] == SINGLE)
    ]
    if not singles:
        style.empty(axes, "no shot with one crystal")
        return
    run, row = singles[0]
    source = io_images.Source(run.manifest)
    number = int(np.flatnonzero(source.shots["shot_id"] == run.truth["shots/shot_id"][row])[0])
    shot = source.read(number)
    if isinstance(shot, Outcome):
        style.empty(axes, f"shot {number}: {shot.name.lower()}")
        return
    detector = true_detector(run.manifest) or source.detector
    style.still(axes, shot, detector)
    t = run.truth
    mine = t["lattices/shot"][t["reflections/lattice"]] == row
    mine &= t["reflections/photons"] > 50
    x, y, _ = geometry.position(
        detector, *(t[f"reflections/{n}"][mine] for n in ("panel", "fast", "slow"))
    ).T
    axes.scatter(x, y, s=22, facecolors="none", edgecolors=style.RED, linewidths=0.7)
    axes.set_title(f"run {run.name}, shot {number}: photons; circles: more than 50 expected")
