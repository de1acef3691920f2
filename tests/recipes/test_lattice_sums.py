"""Lattices on ranks: sums over them are all that ranks have in common."""

import numpy as np
import pytest

import drawn
from spreadflow.analysis.curves.controls import Tampered, Trial
from spreadflow.recipes.lattice_sums import LatticeSums, Ranks, Unknown


class Recorded:
    """Ranks that are asked one after the other: the first holds all lattices, and what it heard is
    what a rank without any hears.
    """

    def __init__(self):
        self.sums: list[np.ndarray] = []
        self.gathered: list[list[np.ndarray]] = []

    def of_first(self) -> Ranks:
        """The rank with all lattices."""

        def total(array: np.ndarray) -> np.ndarray:
            self.sums.append(array.copy())
            return array

        def gather(array: np.ndarray) -> list[np.ndarray]:
            self.gathered.append([array, array[:0]])
            return self.gathered[-1]

        return Ranks(total, gather)

    def of_second(self) -> Ranks:
        """The rank without."""

        def total(array: np.ndarray) -> np.ndarray:
            assert not array.any(), "it has nothing to add"
            heard = self.sums.pop(0)
            assert heard.shape == array.shape
            return heard

        return Ranks(total, lambda array: self.gathered.pop(0))


@pytest.mark.parametrize("kind", ["none", "real", "complex"])
def test_a_rank_without_lattices_hears_the_same(kind):
    """And adds nothing, whatever is asked for."""
    crystal = drawn.orthorhombic()
    grams, pulses = drawn.wrong(crystal, 8.0).crystal.lattices(6, 3)
    recorded = Recorded()
    heard = []
    p = crystal.p
    for own, numbers, ranks in (
        (grams, np.arange(6), recorded.of_first()),
        ([], np.arange(0), recorded.of_second()),
    ):
        sums = LatticeSums(
            own,
            crystal.factors,
            pulses,
            crystal.energies_ev,
            numbers=numbers,
            unknowns=["scale"],
            unknown=Unknown(kind, crystal.cell, crystal.space_group, 0.1, is_held=True),
            ranks=ranks,
        )
        zero = np.zeros(len(p.names))
        best = sums.refine(p, Trial(zero, max_steps=3))

        def halved(columns, numbers):
            return Tampered(columns.hkl, np.full(len(columns.hkl), 0.5))

        again = sums.again(p, Trial(zero, halved, lambda n: n % 2 == 0, max_steps=2), best)
        residual = sums.residuals(p, best)
        scores = sums.unbiased_scores(p, best)
        heard.append([best.theta, best.losses, best.hessian, scores, again.theta, *residual])
    assert len(heard[0][1]) == 6
    for ours, theirs in zip(*heard, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not recorded.sums and not recorded.gathered
