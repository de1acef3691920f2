"""Structure factors against gemmi's own direct summation, and against what symmetry demands."""

import gemmi
import numpy as np
import pytest

from spreadflow.physics import lattice, phantom
from spreadflow.physics import structure_factors as sf
from spreadflow.physics.symmetry import group, is_absent

CRYSTALS = [
    ([30.0, 26.0, 22.0, 90.0, 108.0, 90.0], "C 1 2 1", 2.2),
    ([33.0, 33.0, 40.0, 90.0, 90.0, 90.0], "P 41 21 2", 2.6),
    ([36.0, 36.0, 41.0, 90.0, 90.0, 120.0], "R 3 :H", 2.6),
    ([18.0, 21.0, 24.0, 81.0, 95.0, 102.0], "P 1", 2.2),
]
ANOMALOUS = {"C": 0.02 + 0.01j, "N": 0.04 + 0.02j, "O": 0.06 + 0.04j, "S": 0.35 + 0.7j}
CURVES = {"FE1": np.array([-6.0 + 0.5j, -8.0 + 2.0j]), "FE2": np.array([-7.0 + 0.6j, -6.0 + 3.8j])}


def by_gemmi(atoms: sf.Atoms, cell: np.ndarray, name: str, hkl: list, scattering: complex) -> np.ndarray:
    """F of the given atoms alone, each scattering f0 + `scattering`, by gemmi's summation over atoms and images."""
    structure, model, chain, residue = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A"), gemmi.Residue()
    structure.cell, structure.spacegroup_hm = gemmi.UnitCell(*lattice.degrees(cell)), group(name).xhm()
    basis = np.array(structure.cell.orth.mat.tolist())
    for i in range(len(atoms.names)):
        atom = gemmi.Atom()
        atom.element, atom.occ = gemmi.Element(str(atoms.elements[i])), atoms.occupancy[i]
        atom.pos = structure.cell.orthogonalize(gemmi.Fractional(*atoms.xyz[i]))
        u = basis @ atoms.beta[i] @ basis.T / (2 * np.pi**2)
        atom.aniso = gemmi.SMat33f(u[0, 0], u[1, 1], u[2, 2], u[0, 1], u[0, 2], u[1, 2])
        residue.add_atom(atom)
    chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    structure.setup_cell_images()
    calculator = gemmi.StructureFactorCalculatorX(structure.cell)
    plain = np.array([calculator.calculate_sf_from_model(structure[0], h) for h in hkl])
    for element in set(atoms.elements):
        calculator.addends.set(gemmi.Element(str(element)), 1.0)
    return plain + scattering * (np.array([calculator.calculate_sf_from_model(structure[0], h) for h in hkl]) - plain)


def anisotropic(atoms: sf.Atoms) -> sf.Atoms:
    """Every third atom made anisotropic, some with partial occupancy."""
    stretch = np.diag([1.6, 0.7, 1.1])
    beta = atoms.beta.copy()
    beta[::3] = stretch @ beta[::3] @ stretch
    occupancy = atoms.occupancy.copy()
    occupancy[1::5] = 0.6
    return atoms._replace(beta=beta, occupancy=occupancy)


@pytest.mark.parametrize(("cell", "name", "d_min"), CRYSTALS)
def test_equal_to_gemmi_direct_summation_with_anomalous_scattering(cell, name, d_min):
    cell = lattice.radians(cell)
    atoms = anisotropic(phantom.build(cell, name, 2))
    f = sf.structure_factors(atoms, cell, name, d_min=d_min, sites=CURVES, others=ANOMALOUS)
    chosen = np.random.default_rng(0).choice(len(f.hkl), 60, replace=False)
    for channel in range(2):
        truth = np.zeros(len(chosen), dtype=complex)
        for key, scattering in [*ANOMALOUS.items(), *((site, curve[channel]) for site, curve in CURVES.items())]:
            which = (
                (atoms.names == key) if key in CURVES else (atoms.elements == key) & ~np.isin(atoms.names, [*CURVES])
            )
            some = sf.Atoms(*(column[which] for column in atoms))
            truth += by_gemmi(some, cell, name, f.hkl[chosen].tolist(), scattering)
        np.testing.assert_allclose(f.at(chosen)[:, channel], truth, atol=1e-4 * np.abs(truth).mean())


@pytest.mark.parametrize(("cell", "name", "d_min"), CRYSTALS[:3])
def test_the_same_crystal_described_in_p1_scatters_the_same(cell, name, d_min):
    """Atoms multiplied by the operations and called P 1: exactly, and with the solvent mask to the step of its grid."""
    cell = lattice.radians(cell)
    atoms = phantom.build(cell, name, 2)
    ops = list(group(name).operations())
    everywhere = sf.Atoms(
        *(np.tile(column, len(ops)) for column in atoms[:2]),
        np.concatenate([[op.apply_to_xyz(x) for x in atoms.xyz.tolist()] for op in ops]),
        np.tile(atoms.occupancy, len(ops)),
        np.tile(atoms.beta, (len(ops), 1, 1)),
    )
    for k_sol, tolerance in ((0.0, 1e-5), (0.435, 0.03)):
        how = {"d_min": d_min, "sites": CURVES, "others": ANOMALOUS, "k_sol": k_sol, "b_sol": 46.0}
        f, p1 = sf.structure_factors(atoms, cell, name, **how), sf.structure_factors(everywhere, cell, "P 1", **how)
        rows = {tuple(h): i for i, h in enumerate(p1.hkl.tolist())}
        same = p1.at(np.array([rows[tuple(h)] for h in f.hkl.tolist()]))
        ours = f.at(np.arange(len(f.hkl)))
        assert np.abs(same - ours).mean() < tolerance * np.abs(ours).mean()
        assert len(rows) > len(f.hkl) or not name.startswith(("C", "R")), "centring absences are no nodes"


def test_systematic_absences_and_friedel_pairs():
    cell, name = lattice.radians(CRYSTALS[1][0]), CRYSTALS[1][1]
    atoms = phantom.build(cell, name, 2)
    f = sf.structure_factors(atoms, cell, name, d_min=2.6, sites=CURVES, others={})
    size = np.abs(f.at(np.arange(len(f.hkl)))[:, 1])
    absent = is_absent(f.hkl, name)
    assert absent.any() and size[absent].max() < 1e-4 * size.mean()
    rows = {tuple(h): i for i, h in enumerate(f.hkl.tolist())}
    mates = np.array([rows[tuple(-np.array(h))] for h in f.hkl.tolist()])
    np.testing.assert_allclose(f.rest[mates], np.conj(f.rest), atol=1e-3)  # real scatterers obey Friedel's law
    assert np.abs(size[mates] - size).mean() > 0.003 * size.mean()  # the iron breaks it


def test_solvent_fills_what_the_molecule_leaves():
    """F_mask of the lowest orders is opposite to the molecule's: an atom-free cell would be flat."""
    cell, name = lattice.radians([40.0, 45.0, 50.0, 90.0, 90.0, 90.0]), "P 21 21 21"
    atoms = phantom.build(cell, name, 1)
    how = {"sites": {}, "others": {}, "d_min": 8.0}
    bare, wet = (sf.structure_factors(atoms, cell, name, **how, **more) for more in ({}, {"k_sol": 0.4, "b_sol": 40.0}))
    low = lattice.spacing(lattice.reciprocal(cell), bare.hkl) > 12.0
    mask = wet.rest - bare.rest
    cosine = (mask[low] * np.conj(bare.rest[low])).real.sum() / np.sqrt(
        (np.abs(mask[low]) ** 2).sum() * (np.abs(bare.rest[low]) ** 2).sum()
    )
    assert cosine < -0.9


def test_a_site_the_model_lacks_is_refused():
    cell = lattice.radians(CRYSTALS[3][0])
    atoms = phantom.build(cell, "P 1", 1)
    with pytest.raises(ValueError, match="FE9"):
        sf.structure_factors(atoms, cell, "P 1", d_min=4.0, sites={"FE9": np.zeros(1)}, others={})
