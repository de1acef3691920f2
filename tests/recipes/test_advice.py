"""What is advised where shots are not indexed: by outcome and by spots."""

import pytest

from spreadflow.config import IndexSection
from spreadflow.errors import Outcome
from spreadflow.recipes import advice
from spreadflow.recipes.advice import SpotCounts


@pytest.mark.parametrize(
    ("counts", "prevailing"),
    [
        ({"indexed": 50, "no_lattice": 50}, []),
        ({"indexed": 40, "no_lattice": 60}, [Outcome.NO_LATTICE]),
        ({"indexed": 5, "blank": 95}, []),
        ({"blank": 100}, [Outcome.BLANK]),
        ({"overflow": 4}, [Outcome.OVERFLOW]),
        (
            {"no_lattice": 30, "overflow": 60, "saturated": 10},
            [Outcome.OVERFLOW, Outcome.NO_LATTICE],
        ),
        ({"indexed": 1, "not_supplied": 9}, []),
        ({}, []),
    ],
)
def test_outcomes_that_prevail(counts, prevailing):
    """Those that ended more shots than were indexed, and a fifth; blanks only where nothing hit."""
    assert advice.prevailing(counts) == prevailing


@pytest.mark.parametrize(
    ("outcome", "keys"),
    [
        (Outcome.OVERFLOW, ["adu_per_photon", "recording.gain", "pedestal"]),
        (Outcome.NO_LATTICE, ["reindex.cell", "reindex.min_fraction_indexed", "sigma_strong"]),
        (Outcome.BLANK, ["reindex.spots.sigma_strong", "adu_per_photon"]),
        (Outcome.SATURATED, ["reindex.saturation_photons"]),
        (Outcome.MASKED, ["mask"]),
        (Outcome.BAD_SPECTRUM, ["wavelength"]),
    ],
)
def test_what_helps_by_outcome(outcome, keys):
    todo = advice.todo(outcome, IndexSection(), "reindex")
    assert all(key in todo for key in keys)


def test_what_spots_tell():
    """The weak still of a Rayonix: 386 spots, of which 145 have two pixels and most lie outside."""
    spots = SpotCounts(386, n_smallest=145, n_outer=270, n_at_edges=110, d_outer=1.62)
    small, edges, outer = advice.of_spots(spots, IndexSection(), "index")
    assert "145 of 386" in small and "index.spots.min_pixels 3" in small
    assert "110 of 386" in edges and "index.mask" in edges
    assert "270 of 386" in outer and "index.spots.d_min 1.62" in outer
    assert advice.of_spots(spots._replace(n=3000), IndexSection(), "index") == []
    assert advice.of_spots(SpotCounts(0, 0, 0, 0, 2.0), IndexSection(), "index") == []
