"""Nothing knows of iron: L3 of gadolinium in P 41 21 2, sites and curves from files, with a point
spread. A small set of the benchmark, with a model that is right.
"""

import numpy as np
import pytest

from lab import benchmark
from spreadflow.analysis.curves import planning


@pytest.fixture(scope="module")
def another_edge():
    """The benchmark's module."""
    return benchmark("another_edge")


@pytest.fixture(scope="module")
def here(another_edge, tmp_path_factory):
    """What is simulated, and what it is refined with."""
    case = another_edge.Case(n=6, n_cycles=1, d_min=2.7, step_ev=8.0, is_wrong=False)
    return case, another_edge.laid(case, tmp_path_factory.mktemp("gd"), 1)


@pytest.mark.stage
def test_sites_are_those_of_the_file_with_the_edge_of_their_metal(here):
    _, laid = here
    simulator = laid.simulator
    atoms = laid.files.atoms
    assert np.count_nonzero(atoms.elements == "Gd") == 2 and "Fe" not in atoms.elements
    assert simulator.factors.n_sites == 2
    for shift, curve in zip((1.0, -1.0), simulator.curves.values(), strict=True):
        steepest = simulator.energies[:-1][np.diff(curve.imag).argmax()] + 1.0
        assert steepest == pytest.approx(7243.0 + shift, abs=1.5)
        assert np.ptp(curve.imag) > 4.0, "electrons, at L3"
    assert planning.compared_ev("Gd", simulator.energies) == pytest.approx([7231.0, 7271.0])


@pytest.mark.stage
def test_curves_of_another_metal_are_true_within_their_sigma(another_edge, here):
    """Shapes and means of both sites, by Fisher and by the scatter of reflections, and the
    difference of their edges.
    """
    case, laid = here
    end = another_edge.refined(case, laid, range(case.n))[-1]
    assert end.n == case.n
    assert np.abs(end.sites[:, :3]).max() < 0.1, "Å; the model is right"
    found = another_edge.errors(laid, end)
    for sigma in (found.shape_fisher, found.shape_sandwich):
        pulls = found.shape / sigma
        assert 0.3 < np.sqrt(np.mean(pulls**2)) < 1.5
        assert np.abs(pulls).max() < 4.0
    assert np.abs(found.mean / found.mean_sandwich).max() < 3.5
    off, sigma, _ = found.edge
    assert abs(off) < 3.0 * sigma
