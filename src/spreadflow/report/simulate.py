"""Figures and picture of `simulate`: the kinds of shots, and the pulses that made them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from spreadflow.errors import Outcome
from spreadflow.io import images
from spreadflow.io.truth import true_detector
from spreadflow.models import Spectrum
from spreadflow.physics import geometry
from spreadflow.products import KINDS, Truth
from spreadflow.report import laboratory, style
from spreadflow.report.runs import truth_in, whole_truth
from spreadflow.report.style import say
from spreadflow.report.truth import BLANK, DOUBLE, SINGLE

RING_PHOTONS = 50
"""Reflections are ringed in the picture if they are expected to have more photons than this."""


N_SPECTRA = 4
"""Pulses whose spectra the picture shows."""


class SimulatedRun(NamedTuple):
    """One simulated run."""

    name: str
    manifest: Path
    truth: Truth
    photons: np.ndarray
    """(pulse,) of the single, blank and double shots"""
    energies_ev: np.ndarray
    """(pulse,) mean energies of these"""
    spectra: list[Spectrum]
    """of the first of them"""


def make(_stage: str, products: list[Path], _manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all runs that were simulated, and the picture.

    products: manifests.
    """
    runs = [run for run in map(_read, products) if run is not None]
    figures = _figures(runs) | {"runs": {run.name: _figures([run]) for run in runs}}
    return figures, _picture(runs, figures)


def headline(figures: dict[str, Any]) -> list[str]:
    """Return what to know of the figures, one fact a line."""
    kinds = ", ".join(f"{n} {kind}" for kind, n in figures["kinds"].items() if n)
    return [
        f"{say(figures['n_shots'])} shots: {kinds}",
        f"{figures['photons_mean']:.3g} photons a pulse",
    ]


def _read(manifest: Path) -> SimulatedRun | None:
    """Return a run, or None where it was not simulated."""
    truth = truth_in(manifest)
    if truth is None:
        return None
    first: list[Spectrum] = []
    photons = []
    energies_ev = []
    for spectrum in _spectra(manifest, truth):
        photons.append(spectrum.photons.sum())
        energies_ev.append(spectrum.mean_energy_ev)
        if len(first) < N_SPECTRA:
            first.append(spectrum)
    return SimulatedRun(
        name=images.read_manifest(manifest).run,
        manifest=manifest,
        truth=truth,
        photons=np.array(photons),
        energies_ev=np.array(energies_ev),
        spectra=first,
    )


def _spectra(manifest: Path, truth: Truth) -> Iterator[Spectrum]:
    """Yield the spectra of the shots that are meant to be analysed: single, blank and double."""
    source = images.Source(manifest)
    is_meant = np.isin(truth.shots.kind, (SINGLE, BLANK, DOUBLE))
    shot_ids = truth.shots.shot_id[is_meant]
    rows = np.flatnonzero(np.isin(source.shots["shot_id"], shot_ids))
    for spectrum in map(source.spectrum, rows.tolist()):
        if spectrum is not None:
            yield spectrum


def _figures(runs: list[SimulatedRun]) -> dict[str, Any]:
    """Return figures over some runs."""
    kind = np.concatenate([run.truth.shots.kind for run in runs]) if runs else np.empty(0, int)
    photons, energy = _pulses(runs)
    return {
        "n_shots": len(kind),
        "kinds": {name: int((kind == number).sum()) for number, name in enumerate(KINDS)},
        "n_lattices": sum(len(run.truth.lattices) for run in runs),
        "photons_mean": photons.mean() if len(photons) else None,
        "photons_sd": photons.std() if len(photons) else None,
        "energy_mean_ev": energy.mean() if len(energy) else None,
        "energy_sd_ev": energy.std() if len(energy) else None,
    }


def _pulses(runs: list[SimulatedRun]) -> tuple[np.ndarray, np.ndarray]:
    """Return (pulse,) photons, and mean energies in eV."""
    photons = np.concatenate([np.empty(0), *(run.photons for run in runs)])
    energies_ev = np.concatenate([np.empty(0), *(run.energies_ev for run in runs)])
    return photons, energies_ev


# ---------------------------------------------------------------- the picture


def _picture(runs: list[SimulatedRun], figures: dict) -> Figure:
    """Draw one still, the kinds of shots, and spectra, photons and energies of pulses."""
    page = style.page(
        "simulate: the shots, and the pulses that made them",
        f"{say(figures['n_shots'])} shots · {say(figures['n_lattices'])} lattices · "
        f"{say(figures['photons_mean'])} photons a pulse at "
        f"{say(figures['energy_mean_ev'], 5)} eV",
        14.5,
    )
    axes = page.subplot_mosaic(
        [["still", "still", "kinds", "spectra"], ["still", "still", "photons", "energy"]],
        width_ratios=[1, 1, 0.9, 0.9],
    )
    _still(axes["still"], runs)

    kinds = {name: n for name, n in figures["kinds"].items() if n}
    style.bars(axes["kinds"], list(kinds), list(kinds.values()), [style.BLUE] * len(kinds))
    axes["kinds"].set_title(f"{say(figures['n_shots'])} shots")

    spectra = [spectrum for run in runs for spectrum in run.spectra]
    for spectrum in spectra[:N_SPECTRA]:
        axes["spectra"].plot(spectrum.energies_ev, spectrum.photons, lw=1, drawstyle="steps-mid")
    axes["spectra"].set(title="spectra of four pulses", xlabel="eV", ylabel="photons per channel")

    photons, energies = _pulses(runs)
    style.histogram(axes["photons"], photons, "", style.GREEN)
    axes["photons"].set(title="photons of a pulse", ylabel="shots")
    axes["energy"].hist(
        energies,
        bins=style.n_bins(len(energies)),
        histtype="stepfilled",
        color=style.ORANGE,
        alpha=0.65,
    )
    style.few_ticks(axes["energy"])
    axes["energy"].set(title="mean energy of a pulse", xlabel="eV", ylabel="shots")
    return page


def _still(axes: Any, runs: list[SimulatedRun]) -> None:
    """Draw the first shot with one crystal, and where its strongest reflections are expected."""
    run = next((run for run in runs if (run.truth.shots.kind == SINGLE).any()), None)
    if run is None:
        style.empty(axes, "no shot with one crystal")
        return
    shot_id = run.truth.shots.shot_id[int(np.argmax(run.truth.shots.kind == SINGLE))]
    source = images.Source(run.manifest)
    number = int(np.flatnonzero(source.shots["shot_id"] == shot_id)[0])
    shot = source.read(number)
    if isinstance(shot, Outcome):
        style.empty(axes, f"shot {number}: {shot.name.lower()}")
        return
    detector = true_detector(run.manifest) or source.detector
    laboratory.still(axes, shot, detector)
    truth = whole_truth(run.manifest, (int(source.shots["file"][number]),))
    id_of_reflection = truth.shots.shot_id[truth.lattices.shot[truth.reflections.lattice]]
    is_bright = truth.reflections.photons > RING_PHOTONS
    ringed = truth.reflections[(id_of_reflection == shot_id) & is_bright]
    position = geometry.position(detector, ringed.panel, ringed.fast, ringed.slow)
    x, y, _ = position.T
    axes.scatter(x, y, s=22, facecolors="none", edgecolors=style.RED, linewidths=0.7)
    axes.set_title(
        f"run {run.name}, shot {number}: photons; circles: more than {RING_PHOTONS} expected"
    )
