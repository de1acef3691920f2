"""F of the columns of Gram matrices, and which of them share an unknown X."""

import numpy as np
import pytest

import drawn
from spreadflow.analysis.curves import loops
from spreadflow.analysis.curves.expand import NO_SITES, complex_curves
from spreadflow.analysis.curves.gram import Gram
from spreadflow.physics import miller, symmetry

SPACE_GROUP = "P 21 21 21"


def of_nodes(hkl: np.ndarray) -> Gram:
    """A lattice with a column of the first channel for each node."""
    n = len(hkl)
    return Gram(
        start=np.arange(n + 1),
        hkl=hkl.astype(np.int32),
        channel=np.zeros(n, dtype=np.int32),
        intensity=np.ones(n),
        slope=np.zeros(n),
        cross=np.zeros((n, 1)),
        nuisance=np.eye(1),
        score=np.zeros(1),
        normal=np.ones(n, dtype=np.float32),
        loss=0.0,
        n_pixels=1,
    )


@pytest.fixture(scope="module")
def everywhere(wrong):
    """All nodes that there are, a lattice of them with X unknown, and one drawn X."""
    crystal = wrong.crystal
    hkl = crystal.factors.hkl[np.abs(crystal.factors.rest) > 1e-6]
    pulses = np.ones((1, len(crystal.energies_ev)))
    sums = drawn.sums(crystal, [of_nodes(hkl)], pulses, "complex")
    x = 9.0 * np.random.default_rng(0).standard_normal((sums.rest.n, 2))
    return hkl, sums, x


def f_of(crystal, sums, x, curves):
    """F (column,) of a lattice."""
    return loops.structure_factors(sums.columns, complex_curves(curves), x, NO_SITES)


def test_f_of_columns_is_that_of_nature_with_its_own_x(wrong, everywhere):
    crystal = wrong.crystal
    hkl, sums, _ = everywhere
    row = miller.rows(wrong.hkl, sums.rest.hkl)
    assert (row >= 0).all()
    F = f_of(crystal, sums, wrong.x[row], crystal.p.curves(crystal.theta))
    nodes = crystal.factors.rows(hkl)
    np.testing.assert_allclose(F, crystal.nature.at(nodes)[:, 0], rtol=1e-12)


def test_equivalents_have_the_same_modulus_whatever_x_is(wrong, everywhere):
    """And their phases differ by the translations of symmetry: h' = hR, F(h') = F(h) e^(−2πi h·t);
    Friedel mates among them, with f″.
    """
    hkl, sums, x = everywhere
    F = f_of(wrong.crystal, sums, x, wrong.crystal.p.curves(wrong.crystal.theta))
    for op in symmetry.group(SPACE_GROUP).operations():
        rotation = np.array(op.rot) // op.DEN
        shift = np.array(op.tran) / op.DEN
        moved = miller.rows(hkl, hkl @ rotation)
        expected = F * np.exp(-2j * np.pi * hkl @ shift)
        np.testing.assert_allclose(F[moved], expected, atol=1e-9 * np.abs(F).max())


def test_friedel_mates_are_conjugate_without_f2(wrong, everywhere):
    """With real curves F of −h is the conjugate of that of h: a is shared, b of opposite sign. With
    f″ their moduli differ.
    """
    crystal = wrong.crystal
    hkl, sums, x = everywhere
    mate = miller.rows(hkl, -hkl)
    curves = crystal.p.curves(crystal.theta)
    flat = curves * np.array([1.0, 0.0])[:, None]
    F = f_of(crystal, sums, x, flat)
    np.testing.assert_allclose(F[mate], np.conj(F), atol=1e-9 * np.abs(F).max())

    F = f_of(crystal, sums, x, curves)
    freedom = sums.rest.freedom[sums.columns.reflection]
    bijvoet = np.abs(F[mate]) - np.abs(F)
    np.testing.assert_allclose(bijvoet[freedom == 1], 0.0, atol=1e-9)
    assert np.std(bijvoet[freedom == 2]) > 1.0

    own = sums.columns
    np.testing.assert_array_equal(own.reflection[mate], own.reflection)
    np.testing.assert_allclose(own.along[mate], np.conj(own.along), rtol=1e-12)
    np.testing.assert_allclose(own.across[mate], np.conj(own.across), atol=1e-12)


def test_centric_reflections_have_no_b(everywhere):
    """Their X has the phase of the model or the opposite one; of real X only a is unknown."""
    _, sums, _ = everywhere
    operations = symmetry.group(SPACE_GROUP).operations()
    is_centric = np.asarray(operations.centric_flag_array(sums.rest.hkl), dtype=bool)
    assert 0 < is_centric.sum() < sums.rest.n
    np.testing.assert_array_equal(sums.rest.freedom, np.where(is_centric, 1, 2))
    np.testing.assert_array_equal(sums.rest.is_unknown[:, 1], ~is_centric)
    own = sums.columns
    np.testing.assert_array_equal(own.across == 0.0, is_centric[own.reflection])
    np.testing.assert_allclose(np.abs(own.along), 1.0)


def test_real_x_keeps_the_phase_of_the_model(wrong, few):
    crystal = wrong.crystal
    sums = drawn.sums(crystal, *few, "real")
    own = sums.columns
    assert (sums.rest.freedom == 1).all() and (own.across == 0.0).all()
    np.testing.assert_allclose(np.abs(own.along), 1.0)
    phase = np.angle(own.along * np.conj(own.fixed))
    np.testing.assert_allclose(phase, 0.0, atol=1e-9)


def test_rows_of_no_table_and_of_no_nodes():
    table = np.array([[1, 0, 0], [0, -3, 2]])
    none = np.empty((0, 3), dtype=int)
    assert miller.rows(none, table).tolist() == [-1, -1]
    assert miller.rows(table, none).tolist() == []
    assert miller.rows(table, table[::-1]).tolist() == [1, 0]
