"""The example of the documentation runs, and its curves are the true ones within their σ."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from spreadflow.physics import anomalous

EXAMPLE = Path(__file__).parents[2] / "docs" / "spread_in_memory.py"

TRUE = ("oxidized", "reduced")
"""Curves of the two sites of a simulation, where its configuration names no others."""

N_LATTICES = 12


@pytest.fixture(scope="module")
def curves() -> dict[str, np.ndarray]:
    """The table of the example, and beside it the true values `fp_true`, `fdp_true`."""
    spec = importlib.util.spec_from_file_location("spread_in_memory", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    table = example.refined_curves(N_LATTICES).as_dict()
    true = np.array(
        [
            anomalous.site("Fe", TRUE[site], np.array([energy]))[0]
            for site, energy in zip(table["site"], table["energy_ev"], strict=True)
        ]
    )
    return table | {"fp_true": true.real, "fdp_true": true.imag}


@pytest.mark.stage
def test_curves_of_two_sites_at_every_node(curves):
    assert curves["site"].tolist() == sorted([0, 1] * 5)
    nodes = curves["energy_ev"][:5]
    np.testing.assert_allclose(np.diff(nodes), 8.0)
    np.testing.assert_array_equal(curves["energy_ev"][5:], nodes)


@pytest.mark.stage
def test_the_curves_are_true_within_their_sigma(curves):
    """And nearer to the truth than the metal's, which they start with."""
    pairs = ((kind, curves[f"{kind}_true"]) for kind in ("fp", "fdp"))
    pulls = []
    errors = []
    errors_of_start = []
    for kind, true in pairs:
        pulls.append((curves[kind] - true) / curves[f"{kind}_sigma"])
        errors.append(curves[kind] - true)
        errors_of_start.append(curves[f"{kind}_start"] - true)

    assert 0.6 < np.std(pulls) < 1.6
    assert np.abs(pulls).max() < 4.0
    assert np.std(errors) < 0.8 * np.std(errors_of_start)
