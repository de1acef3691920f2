"""The rungs of the regression series: what each does, and when it passes. `ladder` climbs them."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

Figures = dict[str, dict[str, Any]]
"""The figures of rungs by name, as `ladder.json` has them."""


class Rung(NamedTuple):
    """What a rung does, and when it passes."""

    does: str
    """what the rung does"""
    passes: str
    """when it passes"""
    test: Callable[[Figures], bool]
    """whether it passes, from the figures of all rungs"""
    spectrum: Literal["none", "mean", "pulse"] | None = None
    """no Bragg photons, one channel at the pulse's mean energy, or all; None = no model at all"""
    engine: Literal["sparse", "points", "exact"] = "sparse"
    """averages over pixels, or means over `ladder.POINTS` × `ladder.POINTS` points of them"""
    free: tuple[str, ...] = ()
    """unknowns besides the planes; `spots` = a scale for each shoebox"""
    is_by_spot: bool = False
    """a solve for each shoebox, not one for the lattice"""


def _is_read(figures: Figures) -> bool:
    """Whether exactly the accepted lattices were read, and memory did not grow."""
    rung = figures["00"]
    is_complete = rung["n_read"] == rung["n_accepted"] and rung["n_others"] == 0
    return is_complete and rung["growth_percent"] <= 5.0


def _below(name: str, other: str) -> Callable[[Figures], bool]:
    """Return the test whether the radial r.m.s.d. of a rung is below that of another."""

    def test(figures: Figures) -> bool:
        rmsd = figures[name]["radial_rmsd_mm"]
        return rmsd is not None and rmsd < figures[other]["radial_rmsd_mm"]

    return test


RUNGS: dict[str, Rung] = {
    "00": Rung(
        "read spectrum and pixels of every lattice",
        "these are the accepted list, and memory is flat within 5 %",
        _is_read,
    ),
    "1": Rung(
        "flag shoeboxes; planes alone",
        "as many as a plain count finds",
        lambda figures: figures["1"]["n_flagged"] == figures["1"]["n_counted"],
        "none",
    ),
    "2": Rung(
        "mean energy, spot by spot",
        "σ_Z below the plane's alone in 90 % of the flagged shoeboxes",
        lambda figures: (figures["2"]["share_fell"] or 0.0) >= 0.9,
        "mean",
        "sparse",
        ("spots",),
        is_by_spot=True,
    ),
    "3": Rung(
        "the same in one solve for the lattice",
        "planes are rung 2's to 1e-6",
        lambda figures: figures["3"]["planes_apart"] <= 1e-6,
        "mean",
        "sparse",
        ("spots",),
    ),
    "3A": Rung(
        "pulse and one scale, 2 × 2 points, exact engine",
        "radial r.m.s.d. below rung 2's",
        _below("3A", "2"),
        "pulse",
        "exact",
        ("scale",),
    ),
    "3B": Rung(
        "the same, sparse engine",
        "pixels are rung 3A's to 1e-3",
        lambda figures: figures["3B"]["pixels_apart"] <= 1e-3,
        "pulse",
        "points",
        ("scale",),
    ),
    "4": Rung(
        "scale and rotation, averages over pixels",
        "turned lattices come back: radial r.m.s.d. below rung 3B's",
        _below("4", "3B"),
        "pulse",
        "sparse",
        ("scale", "rotation"),
    ),
}
MODELLED = tuple(name for name, rung in RUNGS.items() if rung.spectrum)
"""Rungs that have a model."""
