"""Shoeboxes cut out of images, as `annulus`, `wide` and `pack` write them: which reflections they
are of is all in which these differ.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.pixels import shoeboxes
from spreadflow.analysis.still import footprints
from spreadflow.errors import FileError
from spreadflow.io.images import Source, read_again
from spreadflow.io.schema import index
from spreadflow.models import Shot, Spectrum

LATTICE_COLUMNS = ("shot_id", "k", "A", "eta_rad", "domain_ang")
"""Columns of `lattices` that shoeboxes carry on."""

PIXEL_COLUMNS = ("photons", "valid", "foreground", "overlap")
"""Columns of `pixels`."""

REFLECTION_COLUMNS = tuple(index.REFLECTIONS)
"""Datasets of reflections that shoeboxes carry on."""


class Cutting(NamedTuple):
    """What is cut out of the images of some shots of a run."""

    source: Source
    run: int
    """number of the run"""
    columns: dict[str, np.ndarray]
    """tables `lattices` and `reflections` of all lattices of the shots; `lattices/shot` is the
    number of the shot in its run
    """
    lattices: np.ndarray
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


def cut_out(cutting: Cutting) -> dict[str, np.ndarray]:
    """Return the columns of packed shoeboxes, opening each image once. Raises FileError where an
    image has changed.
    """
    columns = cutting.columns
    lattices = cutting.lattices
    shots, first_lattices, spectrum_of = np.unique(
        columns.lattices.shot[lattices], return_index=True, return_inverse=True
    )
    shot_of = columns.lattices.shot[columns.reflections.lattice]
    shot_ids = columns.lattices.shot_id[lattices[first_lattices]]
    shoeboxes_of_shots = []
    spectra = []
    rows = []
    for shot, shot_id in zip(shots, shot_ids, strict=True):
        recorded = read_again(cutting.source, int(shot), int(shot_id))
        is_of_shot = shot_of == shot
        shoeboxes_of_shots.append(_shoeboxes(cutting, recorded, is_of_shot))
        spectra.append(_padded(recorded.spectrum, cutting.n_channels))
        rows.append(np.flatnonzero(is_of_shot & cutting.is_chosen))
    lattice_columns = {
        f"lattices/{name}": columns[f"lattices/{name}"][lattices] for name in LATTICE_COLUMNS
    }
    pixel_columns = {
        f"pixels/{name}": np.concatenate([of_shot[name] for of_shot in shoeboxes_of_shots])
        for name in PIXEL_COLUMNS
    }
    spectrum_columns = {
        f"spectra/{name}": np.array([getattr(spectrum, name) for spectrum in spectra])
        for name in Spectrum._fields
    }
    return {
        **lattice_columns,
        "lattices/run": np.full(len(lattices), cutting.run),
        "lattices/spectrum": spectrum_of,
        **_reflection_columns(columns, np.concatenate(rows), lattices, shoeboxes_of_shots),
        **pixel_columns,
        "spectra/shot_id": shot_ids,
        **spectrum_columns,
    }


def _shoeboxes(cutting: Cutting, shot: Shot, is_of_shot: np.ndarray) -> dict[str, np.ndarray]:
    """Return the shoeboxes of a shot's chosen reflections as `shoeboxes.pack` cuts them out.

    is_of_shot: (reflection,) bool.
    """
    boxes = shoeboxes.Boxes(
        *(cutting.columns[f"reflections/{name}"][is_of_shot] for name in shoeboxes.Boxes._fields)
    )
    return shoeboxes.pack(
        shot.image,
        shot.mask,
        boxes,
        cutting.is_chosen[is_of_shot],
        border=cutting.border_px,
        frame=footprints.BORDER_PX,
    )


def _reflection_columns(
    columns: dict[str, np.ndarray],
    rows: np.ndarray,
    lattices: np.ndarray,
    shoeboxes_of_shots: list[dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Return the columns of `reflections`.

    rows: the reflections that are chosen, in the order of their shots; lattices: rows of the
    lattices whose shoeboxes are cut out.
    """
    reflections = {name: columns[name][rows] for name in REFLECTION_COLUMNS}
    lattice_of = reflections.reflections.lattice
    reflections.reflections.lattice = np.searchsorted(lattices, lattice_of)
    reflections.reflections.bbox = np.concatenate(
        [of_shot["bbox"] for of_shot in shoeboxes_of_shots]
    )
    n_pixels = [len(of_shot["photons"]) for of_shot in shoeboxes_of_shots]
    first_of_shots = np.cumsum([0, *n_pixels])
    reflections.reflections.first_pixel = np.concatenate(
        [
            of_shot["first_pixel"] + first
            for of_shot, first in zip(shoeboxes_of_shots, first_of_shots, strict=False)
        ]
    )
    return reflections


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
