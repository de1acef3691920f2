"""Shoeboxes cut out of images, as `annulus`, `wide` and `pack` write them: which reflections they
are of is all in which these differ.
"""

from typing import NamedTuple, TypeVar

import numpy as np

from spreadflow.analysis.pixels import shoeboxes
from spreadflow.analysis.still.footprints import Footprints
from spreadflow.errors import FileError
from spreadflow.io.images import Source, read_again
from spreadflow.models import Detector, Spectrum
from spreadflow.physics.geometry import radial_axes
from spreadflow.products import Annulus, index, predict

S = TypeVar("S", bound=Annulus)


class Cutting(NamedTuple):
    """What is cut out of the images of some shots of a run."""

    source: Source
    run: int
    """number of the run"""
    lattices: index.Lattices | predict.Lattices
    """all lattices of the shots; `shot` is the number of the shot in its run"""
    reflections: index.Reflections
    """of all of these lattices, in their order"""
    chosen_lattices: np.ndarray
    """rows of those lattices whose shoeboxes are cut out; the others only light pixels"""
    is_chosen: np.ndarray
    """(reflection,) bool, those of these lattices whose shoeboxes are cut out"""
    border_px: int
    """pixels added around the integration shoebox"""
    n_channels: int
    """channels of all spectra"""


def n_channels(source: Source, number: int, shot_id: int) -> int:
    """Return the largest number of channels of the spectra of a run: from one shot, and of those
    that were supplied. number: of the shot in its run.
    """
    own = len(read_again(source, number, shot_id).spectrum.energies_ev)
    return own if source.spectra is None else max(own, source.spectra.most_channels)


def cut_out(cutting: Cutting, product: type[S]) -> S:
    """Return packed shoeboxes, shot after shot, opening each image once. Raises FileError where an
    image has changed.
    """
    shot = cutting.lattices.shot
    shot_of_reflection = shot[cutting.reflections.lattice]
    of_shots = []
    for number in np.unique(shot[cutting.chosen_lattices]):
        lattices = cutting.chosen_lattices[shot[cutting.chosen_lattices] == number]
        of_shots.append(_of_shot(cutting, product, lattices, shot_of_reflection == number))
    return product.joined(of_shots)


def _of_shot(cutting: Cutting, product: type[S], lattices: np.ndarray, is_of_shot: np.ndarray) -> S:
    """Return the packed shoeboxes of a shot.

    lattices: ascending rows of those whose shoeboxes are cut out; is_of_shot: (reflection,) bool.
    """
    own = cutting.lattices[lattices]
    shot = read_again(cutting.source, int(own.shot[0]), int(own.shot_id[0]))
    spectrum = _padded(shot.spectrum, cutting.n_channels)
    predicted = cutting.reflections[is_of_shot]
    is_chosen = cutting.is_chosen[is_of_shot]
    cut = shoeboxes.pack(
        shot.image,
        shot.mask,
        shoeboxes.Boxes(
            lattice=predicted.lattice,
            panel=predicted.panel,
            fast=predicted.fast,
            slow=predicted.slow,
            bbox=predicted.bbox,
        ),
        _foregrounds(predicted, cutting.source.detector),
        is_chosen,
        border=cutting.border_px,
    )
    chosen = predicted[is_chosen]
    reflections = {name: chosen.as_dict()[name] for name in index.Reflections.described()}
    reflections |= {
        "lattice": np.searchsorted(lattices, chosen.lattice),
        "bbox": cut.bbox,
        "first_pixel": cut.first_pixel,
    }
    return product(
        lattices=product.lattices(
            run=np.full(len(own), cutting.run),
            shot_id=own.shot_id,
            k=own.k,
            A=own.A,
            eta_rad=own.eta_rad,
            domain_ang=own.domain_ang,
            spectrum=np.zeros(len(own), dtype=int),
        ),
        spectra=product.spectra(
            shot_id=own.shot_id[:1],
            energies_ev=[spectrum.energies_ev],
            photons=[spectrum.photons],
        ),
        reflections=product.reflections(**reflections),
        pixels=product.pixels(
            photons=cut.photons,
            valid=cut.valid,
            foreground=cut.foreground,
            overlap=cut.overlap,
        ),
    )


def _foregrounds(reflections: index.Reflections, detector: Detector) -> Footprints:
    """Return the foregrounds that integration had."""
    axes = radial_axes(detector, reflections.panel, reflections.fast, reflections.slow)
    return Footprints(axes, reflections.half_px)


def _padded(spectrum: Spectrum, n_channels: int) -> Spectrum:
    """Return the spectrum with empty channels at its end, so that all runs share one table. Raises
    FileError.
    """
    n_more = n_channels - len(spectrum.energies_ev)
    if n_more < 0:
        expected = "as many channels in all shots of a run"
        raise FileError("spectra", expected, f"{-n_more} more in one", "Split the run.")
    energies = np.pad(np.asarray(spectrum.energies_ev), (0, n_more), mode="edge")
    return Spectrum(energies, np.pad(np.asarray(spectrum.photons), (0, n_more)))
