"""Scattering curves: the dispersion integral against an exact pair, against measured curves, and
the named sites.
"""

import numpy as np
import pytest

from spreadflow.config.simulation import NAMED_CURVES
from spreadflow.physics import anomalous


def test_dispersion_integral_of_a_lorentz_oscillator():
    """f = E²·s/(E² − E0² + iΓE), with the sign convention f'' > 0, fulfils the relation exactly."""
    centre = 7000.0
    gamma = 40.0
    strength = 1.0

    def exact(e):
        return -strength * e**2 / (centre**2 - e**2 - 1j * gamma * e)

    far = np.geomspace(1.0, 3e6, 6000)
    nodes = np.unique(np.concatenate([far, np.linspace(6000.0, 8000.0, 8001)]))
    energies = np.array([6500.0, 6950.0, 7000.0, 7013.7, 7100.0, 7500.0])
    absorption = -exact(nodes).imag
    dispersive = anomalous.kramers_kronig(energies, nodes, absorption)
    free = exact(np.array([1e9])).real[0]  # the high-energy limit is no part of the integral
    np.testing.assert_allclose(
        dispersive, exact(energies).real - free, atol=2e-3 * np.abs(exact(energies)).max()
    )


def test_a_node_and_its_neighbourhood_agree():
    """The principal value is continuous where E meets a node."""
    nodes = np.linspace(7000.0, 7200.0, 81)
    absorption = np.exp(-0.5 * ((nodes - 7100.0) / 15.0) ** 2)
    around_node = np.array([7110.0 - 1e-6, 7110.0, 7110.0 + 1e-6])
    dispersive = anomalous.kramers_kronig(around_node, nodes, absorption)
    np.testing.assert_allclose(dispersive, dispersive[1], atol=1e-6)


@pytest.mark.parametrize("name", ["ox", "red"])
def test_dispersion_integral_of_measured_curves(shared_data, name):
    """f' of a measured and transformed iron curve, up to a smooth part, over the beam's
    energies.
    """
    energy, real, imaginary = np.loadtxt(shared_data / f"pf-rd-{name}_fftkk.out").T
    in_beam = (energy >= 7070) & (energy <= 7170)
    beam_ev = energy[in_beam]
    theirs = real[in_beam]
    ours = anomalous.kramers_kronig(beam_ev, energy, imaginary)
    smooth = np.polynomial.Polynomial.fit(beam_ev, theirs - ours, 1)(beam_ev)
    assert np.ptp(theirs) > 3.0
    assert np.sqrt(np.mean((ours + smooth - theirs) ** 2)) < 0.2


def test_named_sites_differ_by_their_valence():
    energies = np.arange(7080.0, 7160.0, 0.25)
    oxidized, reduced = (anomalous.site("Fe", name, energies) for name in ("oxidized", "reduced"))
    half = [energies[np.argmax(curve.imag > 2.2)] for curve in (oxidized, reduced)]
    assert half[0] - half[1] == pytest.approx(2.0, abs=0.3)
    assert [energies[c.real.argmin()] for c in (oxidized, reduced)] == pytest.approx(half, abs=3.0)
    assert oxidized.imag.max() > 1.02 * oxidized.imag[-1], "a white line"


def test_the_metallic_site_has_the_tables_edge():
    energies = np.arange(7080.0, 7160.0, 0.1)
    steepest = energies[np.gradient(anomalous.site("Fe", "metallic", energies).imag).argmax()]
    assert steepest == pytest.approx(anomalous.nearest_edge("Fe", 7112.0), abs=1.0)
    np.testing.assert_array_equal(
        anomalous.shifted("Fe", 6.0, energies), anomalous.site("Fe", "oxidized", energies)
    )


def test_the_configuration_knows_all_named_curves():
    assert set(NAMED_CURVES) == set(anomalous.VALENCE)


@pytest.mark.parametrize(("element", "edge"), [("Fe", 7112.0), ("Zn", 9659.0), ("Gd", 7243.0)])
def test_far_from_the_edge_a_site_is_the_free_atom(element, edge):
    energies = edge + np.array([-250.0, -150.0, 150.0, 250.0])
    curve = np.concatenate([anomalous.site(element, "reduced", np.array([e])) for e in energies])
    np.testing.assert_allclose(curve.real, anomalous.tabulated(element, energies).real, atol=0.15)
    np.testing.assert_allclose(curve.imag, anomalous.tabulated(element, energies).imag, rtol=0.02)


@pytest.mark.parametrize("element", ["S", "Mn", "Fe", "Zn", "Se", "Yb", "U"])
def test_limits_hold_the_table_and_the_named_curves(element):
    """About each edge between 2 and 20 keV, as far as a beam reaches."""
    for about in (2500.0, 7000.0, 12_000.0, 18_000.0):
        edge = anomalous.nearest_edge(element, about)
        energies = np.arange(edge - 60.0, edge + 100.0, 4.0)
        low, high = anomalous.limits(element, energies)
        curves = [anomalous.site(element, name, energies) for name in NAMED_CURVES]
        for curve in (anomalous.tabulated(element, energies), *curves):
            assert np.all((curve.real > low.real) & (curve.real < high.real))
            assert np.all((curve.imag > low.imag) & (curve.imag < high.imag))


def test_limits_are_narrow_far_from_edges_and_leave_out_other_conventions():
    energies = np.array([6900.0, 7400.0])
    low, high = anomalous.limits("Fe", energies)
    table = anomalous.tabulated("Fe", energies)
    assert np.all(high.imag < 5.0 * table.imag)
    assert np.all(low.imag > 0.4 * table.imag)
    assert np.all(table.real + 26.0 > high.real + 10.0), "f1 = Z + f'"


@pytest.mark.parametrize("name", ["ox", "red"])
def test_limits_hold_measured_curves(shared_data, name):
    energy, real, imaginary = np.loadtxt(shared_data / f"pf-rd-{name}_fftkk.out").T
    in_beam = (energy >= 7000) & (energy <= 7250)
    energy, real, imaginary = energy[in_beam], real[in_beam], imaginary[in_beam]
    low, high = anomalous.limits("Fe", energy)
    assert np.all((real > low.real) & (real < high.real))
    assert np.all((imaginary > low.imag) & (imaginary < high.imag))
