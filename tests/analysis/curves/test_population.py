"""Few lattices that meet the reflections of a crystal as often as many would."""

from itertools import pairwise

import numpy as np
import pytest

from spreadflow.analysis.curves import columns as of_grams
from spreadflow.analysis.curves import population
from spreadflow.analysis.curves import rest as rests
from spreadflow.analysis.curves.columns import Columns
from spreadflow.analysis.curves.gram import Gram
from spreadflow.analysis.curves.planning import Information
from spreadflow.analysis.curves.population import FewLattices
from spreadflow.physics import symmetry, unit_cell
from spreadflow.physics.structure_factors import StructureFactors

CELL = np.array([21.0, 27.0, 24.0, np.pi / 2, 1.8, np.pi / 2])
GROUP = "P 1 2 1"
ENERGIES = 7100.0 + 2.0 * np.arange(6)
N_SITES = 2
N_UNKNOWNS = 3
PER_BOX = len(ENERGIES)
N_BOXES = 30
D_MAX = 3.0


def factors() -> StructureFactors:
    """All nodes to 2 Å; mates are conjugate, equivalents are equal, centric ones are real."""
    rng = np.random.default_rng(1)
    hkl = unit_cell.all_indices(unit_cell.reciprocal(CELL), 2.0)
    asu, friedel = symmetry.to_asu(hkl, GROUP)
    _, row = np.unique(asu, axis=0, return_inverse=True)
    row = row.ravel()
    n = row.max() + 1

    def drawn(scale: float, *shape: int) -> np.ndarray:
        unique = scale * (rng.standard_normal((*shape, n)) + 1j * rng.standard_normal((*shape, n)))
        values = unique[..., row]
        values = np.where(friedel == 0, values.real, values)
        return np.where(friedel < 0, np.conj(values), values)

    fp = -6.0 + np.arange(N_SITES)[:, None] + np.linspace(0.0, 2.0, PER_BOX)
    fdp = np.linspace(0.5, 4.0, PER_BOX)
    return StructureFactors(hkl, drawn(40.0), drawn(1.0, N_SITES), fp + 1j * fdp, N_SITES)


F = factors()
CURVES = np.stack([F.anomalous.real, F.anomalous.imag], axis=1)


def lattice(number: int) -> Gram:
    """Some reflections, each in a shoebox of its own, in all channels."""
    rng = np.random.default_rng([2, number])
    d = unit_cell.spacing(unit_cell.reciprocal(CELL), F.hkl)
    row = rng.choice(np.flatnonzero(d < D_MAX), N_BOXES, replace=False)
    hkl = np.repeat(F.hkl[row], PER_BOX, axis=0).astype(np.int32)
    templates = rng.uniform(0.0, 0.01, (N_BOXES, 40, PER_BOX))
    intensity = F.squared(row).ravel()
    light = (templates * intensity.reshape(N_BOXES, 1, PER_BOX)).sum(axis=2)
    nuisances = rng.standard_normal((N_BOXES, 40, N_UNKNOWNS)) * light[:, :, None]
    cross = np.einsum("bpc,bpu->bcu", templates, nuisances).reshape(-1, N_UNKNOWNS)
    triangle = np.tril_indices(PER_BOX)
    normal = np.einsum("bpc,bpd->bcd", templates, templates)[:, triangle[0], triangle[1]]
    return Gram(
        start=PER_BOX * np.arange(N_BOXES + 1),
        hkl=hkl,
        channel=np.tile(np.arange(PER_BOX), N_BOXES).astype(np.int32),
        intensity=intensity,
        slope=np.zeros(len(hkl)),
        cross=cross,
        nuisance=np.einsum("bpu,bpv->uv", nuisances, nuisances) + np.eye(N_UNKNOWNS),
        score=np.zeros(N_UNKNOWNS),
        normal=normal.ravel().astype(np.float32),
        loss=0.0,
        n_pixels=40 * N_BOXES,
    )


def lattices(n: int) -> Columns:
    return of_grams.of_lattices([lattice(number) for number in range(n)], F)


def crystal() -> population.Population:
    return population.population(F, CELL, GROUP, 2.0, D_MAX)


def sample(columns: Columns, n_lattices: float) -> FewLattices:
    size = population.size(columns, crystal(), n_lattices)
    return population.few_lattices(columns, F, crystal(), np.ones(PER_BOX), size, "complex")


def information(few: FewLattices, n_lattices: float, errors: list[float]) -> Information:
    """What one of so many lattices says, which few stand for."""
    matrix = population.expansion(few, CURVES, ENERGIES)
    return population.lattice_information(few, matrix, [n_lattices], errors)[0]


def scattered(columns: Columns) -> np.ndarray:
    """|F|² of columns."""
    curves = F.anomalous[:, columns.channel]
    return np.abs(columns.fixed + np.einsum("cs,sc->c", columns.groups, curves)) ** 2


def shape_variance(information: np.ndarray) -> float:
    """Mean variance of curves less their means, with a weak prior."""
    n = len(information)
    covariance = np.linalg.inv(information + 0.04 * np.eye(n))
    no_mean = np.kron(np.eye(n // PER_BOX), np.eye(PER_BOX) - 1.0 / PER_BOX)
    return float(np.diag(no_mean @ covariance @ no_mean).mean())


def test_population():
    """Each unique reflection of the range once; those with fewer equivalents are of other kinds."""
    whole = crystal()
    d = unit_cell.spacing(unit_cell.reciprocal(CELL), F.hkl)
    within = F.hkl[(d >= 2.0) & (d < D_MAX)]
    asu, friedel = symmetry.to_asu(within, GROUP)
    unique, n_equivalents = np.unique(asu, axis=0, return_counts=True)
    np.testing.assert_array_equal(whole.hkl, unique)
    for kind in np.unique(whole.kind):
        assert len(np.unique(n_equivalents[whole.kind == kind])) == 1
    assert 0 < (friedel == 0).sum() < len(within) / 5


@pytest.mark.parametrize("n_lattices", [100.0, 400.0])
def test_meetings(n_lattices):
    """A reflection is met as often as by so many lattices of all reflections, by Poisson's law;
    what is met has the |F|² that it had.
    """
    simulated = lattices(24)
    in_range = crystal()
    few = sample(simulated, n_lattices)
    n_runs = len(few.columns.reflection) // PER_BOX
    mean = n_lattices * N_BOXES / in_range.n
    is_general = few.rest.freedom == 2
    met = np.bincount(few.columns.reflection, minlength=few.rest.n)[is_general] / PER_BOX

    assert n_runs == 96 * N_BOXES
    assert few.rest.n == pytest.approx(in_range.n * 96 / n_lattices, rel=0.02)
    assert n_lattices * few.weakening == pytest.approx(1.0, rel=0.02)
    assert met.mean() == pytest.approx(mean, rel=0.1)
    assert 0.7 * mean < met.var() < 1.5 * mean
    ratio = scattered(few.columns) / np.tile(simulated.intensity, 4)
    assert np.median(np.abs(ratio - 1.0)) < 1e-12
    assert len(few.columns.normal) == len(simulated.normal), "matrices are there once"


def test_few_reflections():
    """Their number falls no further than to eight for each that a lattice meets; the prior then
    weakens.
    """
    few = sample(lattices(24), 1e5)
    assert few.rest.n == pytest.approx(8 * N_BOXES, rel=0.05)
    in_range = crystal().n
    assert few.weakening == pytest.approx(few.rest.n / 96 / in_range)
    simulated = lattices(24)
    sizes = [population.size(simulated, crystal(), n) for n in (100.0, 1e4, 1e5)]
    assert sizes[0] != sizes[1] == sizes[2], "such lattices stand for any that are so many"


def test_weakening():
    """k times the same lattices, with the prior of X as it is, say as much each as one of them with
    the prior weakened k times.
    """
    few = sample(lattices(6), 96.0)
    many = few._replace(columns=population._copies(few.columns, 3))
    errors = [0.1, 0.3]
    of_many = information(many, 96.0, errors)
    of_few = information(few, 3.0 * 96.0, errors)
    scale = np.abs(of_few.known).max()
    np.testing.assert_allclose(of_many.known, of_few.known, atol=1e-12 * scale)
    for error in errors:
        expected = of_few.unknown[error]
        np.testing.assert_allclose(of_many.unknown[error], expected, atol=1e-7 * scale)


def test_order():
    """The less is known of X, the less is known of curves; without error, they are as with X
    known.
    """
    few = sample(lattices(24), 100.0)
    errors = [1e-6, 0.1, 0.3, 1.0]
    said = information(few, 100.0, errors)
    scale = np.abs(said.known).max()
    np.testing.assert_allclose(said.unknown[1e-6], said.known, atol=1e-5 * scale)
    for more, less in pairwise([said.known, *said.unknown.values()]):
        assert np.linalg.eigvalsh(more - less).min() > -1e-6 * scale
    assert shape_variance(said.unknown[1.0]) > 1.01 * shape_variance(said.known)


def test_x_is_eliminated_as_by_gradients(monkeypatch):
    """Priors one after the other, or each by itself."""
    few = sample(lattices(24), 400.0)
    matrix = population.expansion(few, CURVES, ENERGIES)
    numbers = [400.0, 4e3, 4e4]
    eliminated = population.lattice_information(few, matrix, numbers, [0.1, 0.3])
    monkeypatch.setattr(population, "MAX_ELIMINATED", 0)
    by_gradients = population.lattice_information(few, matrix, numbers, [0.1, 0.3])
    for one, other in zip(eliminated, by_gradients, strict=True):
        assert list(one.unknown) == list(other.unknown) == [0.1, 0.3]
        scale = np.abs(one.known).max()
        for error in one.unknown:
            off = one.unknown[error] - other.unknown[error]
            np.testing.assert_allclose(off, 0.0, atol=1e-6 * scale)
    traces = [np.trace(one.unknown[0.3]) for one in eliminated]
    assert traces[0] > 1.001 * traces[1] > 1.001 * traces[2]


def really(columns: Columns) -> FewLattices:
    """The lattices themselves, with the reflections that they have."""
    asu, friedel = symmetry.to_asu(columns.hkl, GROUP)
    hkl, reflection = np.unique(asu, axis=0, return_inverse=True)
    rest = rests.rest(F, hkl, CELL, GROUP, np.ones(PER_BOX), "complex")
    e = of_grams.scattering(F, F.rows(columns.hkl), columns.channel).direction
    columns = columns.with_rest(e, reflection.ravel(), friedel < 0, rest.freedom)
    return FewLattices(columns, rest, 1.0 / len(columns.loss))


@pytest.mark.stage
def test_many_lattices():
    """What X unknown costs the shape of curves falls with the number of lattices, as they share
    reflections: 24 foretell it to 4 % of σ.
    """
    error = 0.3
    costs = []
    for n in (96, 300):
        for of_n in (really(lattices(n)), sample(lattices(24), float(n))):
            said = information(of_n, float(n), [error])
            costs.append(shape_variance(said.unknown[error]) / shape_variance(said.known))
    few, few_foretold, many, many_foretold = np.sqrt(costs)
    assert few_foretold == pytest.approx(few, rel=0.04)
    assert many_foretold == pytest.approx(many, rel=0.04)
    assert few - 1.0 > 1.5 * (many - 1.0)
