"""Structure factors against gemmi's and NumPy's direct summation, and against what symmetry
demands.
"""

import gemmi
import jax
import numpy as np
import pytest

from spreadflow.physics import phantom, unit_cell
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


def by_gemmi(
    atoms: sf.Atoms, cell: np.ndarray, name: str, hkl: list, scattering: complex
) -> np.ndarray:
    """F of the given atoms alone, each scattering f0 + `scattering`, by gemmi's summation over
    atoms and images.
    """
    structure = gemmi.Structure()
    model = gemmi.Model(1)
    chain = gemmi.Chain("A")
    residue = gemmi.Residue()
    structure.cell = gemmi.UnitCell(*unit_cell.degrees(cell))
    structure.spacegroup_hm = group(name).xhm()
    basis = np.array(structure.cell.orth.mat.tolist())
    for i in range(len(atoms.names)):
        atom = gemmi.Atom()
        atom.element = gemmi.Element(str(atoms.elements[i]))
        atom.occ = atoms.occupancy[i]
        atom.pos = structure.cell.orthogonalize(gemmi.Fractional(*atoms.xyz[i]))
        u = basis @ atoms.beta[i] @ basis.T / (2 * np.pi**2)
        atom.aniso = gemmi.SMat33f(u[0, 0], u[1, 1], u[2, 2], u[0, 1], u[0, 2], u[1, 2])
        residue.add_atom(atom)
    chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    structure.setup_cell_images()
    calculator = gemmi.StructureFactorCalculatorX(structure.cell)

    def factors() -> np.ndarray:
        return np.array([calculator.calculate_sf_from_model(structure[0], h) for h in hkl])

    plain = factors()
    for element in set(atoms.elements):
        calculator.addends.set(gemmi.Element(str(element)), 1.0)
    per_electron = factors() - plain
    return plain + scattering * per_electron


def anisotropic(atoms: sf.Atoms) -> sf.Atoms:
    """Every third atom made anisotropic, some with partial occupancy."""
    stretch = np.diag([1.6, 0.7, 1.1])
    beta = atoms.beta.copy()
    beta[::3] = stretch @ beta[::3] @ stretch
    occupancy = atoms.occupancy.copy()
    occupancy[1::5] = 0.6
    return atoms._replace(beta=beta, occupancy=occupancy)


@pytest.mark.stage
@pytest.mark.parametrize(("cell", "name", "d_min"), CRYSTALS)
def test_equal_to_gemmi_direct_summation_with_anomalous_scattering(cell, name, d_min):
    cell = unit_cell.radians(cell)
    atoms = anisotropic(phantom.build(cell, name, 2))
    f = sf.structure_factors(atoms, cell, name, d_min=d_min, sites=CURVES, others=ANOMALOUS)
    chosen = np.random.default_rng(0).choice(len(f.hkl), 60, replace=False)
    for channel in range(2):
        truth = np.zeros(len(chosen), dtype=complex)
        curves = {site: curve[channel] for site, curve in CURVES.items()}
        for key, scattering in (ANOMALOUS | curves).items():
            if key in CURVES:
                which = atoms.names == key
            else:
                which = (atoms.elements == key) & ~np.isin(atoms.names, [*CURVES])
            members = sf.Atoms(*(column[which] for column in atoms))
            truth += by_gemmi(members, cell, name, f.hkl[chosen].tolist(), scattering)
        np.testing.assert_allclose(
            f.at(chosen)[:, channel], truth, atol=1e-4 * np.abs(truth).mean()
        )


def over_the_cell(
    atoms: sf.Atoms, cell: np.ndarray, name: str, hkl: np.ndarray, scattering: np.ndarray
) -> np.ndarray:
    """(hkl, channel) F summed atom by atom of the whole cell, each once: rotations and U in
    Cartesian axes, Å.

    scattering: (atom, channel) f' + i f''. Mates that fall onto an atom are that atom, at its full
    occupancy.
    """
    basis = unit_cell.orthogonalization(cell)
    q = hkl @ np.linalg.inv(basis)
    total = 0.0
    ops = list(group(name).operations())
    for i in range(len(atoms.names)):
        u = basis @ atoms.beta[i] @ basis.T / (2 * np.pi**2)
        table = gemmi.Element(str(atoms.elements[i])).it92
        f0 = np.array([table.calculate_sf(stol2) for stol2 in 0.25 * (q**2).sum(axis=1)])
        mates = [np.mod(op.apply_to_xyz(atoms.xyz[i].tolist()), 1.0) for op in ops]
        n_here = sum(is_same_place(mate, mates[0]) for mate in mates)
        weight = n_here * atoms.occupancy[i]
        places: list[np.ndarray] = []
        for op, place in zip(ops, mates, strict=True):
            if any(is_same_place(place, other) for other in places):
                continue
            places.append(place)
            turn = basis @ (np.array(op.rot) / gemmi.Op.DEN) @ np.linalg.inv(basis)
            variance = np.einsum("ni,ij,nj->n", q, turn @ u @ turn.T, q)
            damping = np.exp(-2 * np.pi**2 * variance)
            wave = damping * np.exp(2j * np.pi * (q @ (basis @ place)))
            total = total + weight * wave[:, None] * (f0[:, None] + scattering[i])
    return total


def is_same_place(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether two fractional coordinates are equal but for whole cells."""
    distance = np.linalg.norm((x - y + 0.5) % 1.0 - 0.5)
    return bool(distance < 1e-6)


def moved(atoms: sf.Atoms, cell: np.ndarray, unknown: int, step: float) -> sf.Atoms:
    """The atoms after a step of one unknown of `geometric_slopes`: x, y, z, B, ln occupancy."""
    shift = np.zeros(3)
    change = np.zeros(1)
    if unknown < 3:
        shift[unknown] = step
    if unknown == 3:
        change[0] = step
    return atoms._replace(
        xyz=atoms.xyz + np.linalg.inv(unit_cell.orthogonalization(cell)) @ shift,
        beta=atoms.beta + sf.isotropic(change, cell),
        occupancy=atoms.occupancy * np.exp(step if unknown == 4 else 0.0),
    )


@pytest.mark.parametrize(("cell", "name", "d_min"), CRYSTALS)
def test_slopes_of_g_are_differences_of_g(cell, name, d_min):
    """Screw axes, centring and oblique axes; anisotropic atoms with partial occupancy."""
    rng = np.random.default_rng(4)
    cell = unit_cell.radians(cell)
    beta = sf.isotropic(np.array([9.0, 22.0]), cell)
    stretch = np.diag([1.6, 0.7, 1.1])
    beta[1] = stretch @ beta[1] @ stretch
    atoms = sf.Atoms(
        *[np.array(["", ""])] * 7,
        xyz=rng.random((2, 3)),
        occupancy=np.array([0.5, 1.0]),
        beta=beta,
    )
    hkl = rng.integers(-7, 8, (60, 3))
    hkl = hkl[unit_cell.spacing(unit_cell.reciprocal(cell), hkl) > d_min]
    slopes = sf.geometric_slopes(atoms, cell, hkl, name)
    for unknown, step in enumerate([0.02, 0.02, 0.02, 0.5, 0.05]):
        near, far = (
            (
                sf.geometric(moved(atoms, cell, unknown, half), hkl, name)
                - sf.geometric(moved(atoms, cell, unknown, -half), hkl, name)
            )
            / (2 * half)
            for half in (step, 2 * step)
        )
        differences = (4 * near - far) / 3
        size = np.abs(differences).max()
        np.testing.assert_allclose(slopes[unknown], differences, rtol=1e-4, atol=1e-4 * size)


SPECIAL = {
    "C 1 2 1": [0.0, 0.31, 0.5],
    "P 41 21 2": [0.2, 0.2, 0.0],
    "R 3 :H": [1 / 3, 2 / 3, 0.1],
    "P 1": [0.0] * 3,
}


@pytest.mark.stage
@pytest.mark.parametrize(("cell", "name", "d_min"), CRYSTALS)
def test_equal_to_a_sum_over_all_atoms_of_the_cell(cell, name, d_min):
    """Anisotropic U, partial occupancy, a site on a special position, f' and f'' of all atoms by
    channel.
    """
    cell = unit_cell.radians(cell)
    atoms = anisotropic(phantom.build(cell, name, 2))
    atoms = sf.Atoms(*(column[:60] for column in atoms))
    mates = [np.mod(op.apply_to_xyz(SPECIAL[name]), 1.0) for op in group(name).operations()]
    n_here = sum(is_same_place(mate, mates[0]) for mate in mates)
    assert n_here > 1 or name == "P 1"
    atoms.xyz[0] = SPECIAL[name]
    atoms.occupancy[0] = 0.9 / n_here
    atoms.beta[0] = sf.isotropic(np.array([14.0]), cell)[0]
    curves = {}
    for i, element in enumerate("CNOS"):
        curves[element] = np.array([1.0, 1.7, -0.4]) * (i - 2.0) + 1j * np.arange(3)
    sites = {name: np.append(curve, 1.5j) for name, curve in CURVES.items()}
    f = sf.structure_factors(atoms, cell, name, d_min=d_min, sites=sites, others=curves)
    chosen = np.random.default_rng(1).choice(len(f.hkl), 80, replace=False)
    scattering = []
    for label, element in zip(atoms.names, atoms.elements, strict=True):
        scattering.append(sites[label] if label in sites else curves[element])
    truth = over_the_cell(atoms, cell, name, f.hkl[chosen], np.array(scattering))
    np.testing.assert_allclose(f.at(chosen), truth, atol=1e-4 * np.abs(truth).mean())
    of_sites = f.groups[: f.n_sites, chosen].T @ f.anomalous[: f.n_sites]
    np.testing.assert_allclose(f.without_sites(chosen) + of_sites, f.at(chosen))


@pytest.mark.stage
def test_squares_of_f_and_their_derivatives_by_every_f1_and_f2():
    """Against |at|² and central differences of it, which are exact to rounding for a quadratic."""
    cell = unit_cell.radians(CRYSTALS[0][0])
    name = CRYSTALS[0][1]
    f = sf.structure_factors(
        phantom.build(cell, name, 2), cell, name, d_min=4.0, sites=CURVES, others=ANOMALOUS
    )
    rows = np.arange(3, len(f.hkl), 7)
    fixed = f.without_sites(rows)
    groups = f.groups[: f.n_sites, rows]
    curves = np.stack([f.anomalous[: f.n_sites].real, f.anomalous[: f.n_sites].imag])

    def plainly(curves):
        anomalous = np.concatenate([curves[0] + 1j * curves[1], f.anomalous[f.n_sites :]])
        return np.abs(f._replace(anomalous=anomalous).at(rows)) ** 2

    value = jax.jit(lambda c: sf.f_squared(fixed, groups, *c))(curves)
    np.testing.assert_allclose(value, plainly(curves), rtol=1e-11)
    np.testing.assert_allclose(sf.f_squared(fixed, groups, *curves), plainly(curves), rtol=1e-11)
    slopes = np.asarray(jax.jacfwd(lambda c: sf.f_squared(fixed, groups, *c))(curves))
    for index in np.ndindex(curves.shape):
        step = np.zeros(curves.shape)
        step[index] = 1.0
        difference = 0.5 * (plainly(curves + step) - plainly(curves - step))
        atol = 1e-9 * np.abs(value).max()
        np.testing.assert_allclose(slopes[(..., *index)], difference, atol=atol)


@pytest.mark.stage
@pytest.mark.parametrize("amounts", [{}, {"xyz_ang": 0.2, "missing": 0.2}])
def test_a_perturbed_model_is_wrong_by_the_published_amounts_or_others(amounts):
    xyz_ang = amounts.get("xyz_ang", 0.1)
    missing = amounts.get("missing", 0.05)
    cell = unit_cell.radians([67.2, 59.8, 47.2, 90.0, 110.3, 90.0])
    atoms = phantom.build(cell, "C 1 2 1", 1)
    wrong, k_sol = sf.perturbed(np.random.default_rng(5), atoms, cell, **amounts)
    again, _ = sf.perturbed(np.random.default_rng(5), atoms, cell, **amounts)
    np.testing.assert_array_equal(wrong.xyz, again.xyz)
    assert k_sol == 0.35
    sites = atoms.sites != ""
    np.testing.assert_array_equal(sites, np.isin(atoms.names, list(CURVES)))
    assert np.isin(wrong.names, list(CURVES)).sum() == sites.sum()
    assert len(atoms.names) - len(wrong.names) == round(missing * (~sites).sum())
    nearest = np.array([np.abs(atoms.xyz - x).sum(axis=1).argmin() for x in wrong.xyz])
    assert np.isin(np.arange(len(atoms.names))[sites], nearest).all()
    np.testing.assert_allclose(wrong.beta, 1.1 * atoms.beta[nearest], rtol=1e-12)
    np.testing.assert_array_equal(wrong.elements, atoms.elements[nearest])
    moves = (wrong.xyz - atoms.xyz[nearest]) @ unit_cell.orthogonalization(cell).T
    n = len(moves)
    assert moves.size > 2000
    length = np.mean((moves**2).sum(axis=1)) ** 0.5
    assert length == pytest.approx(xyz_ang, rel=5 / np.sqrt(2 * moves.size))
    np.testing.assert_allclose(np.mean(moves**2, axis=0), xyz_ang**2 / 3, rtol=5 * np.sqrt(2 / n))
    atol = 5 * xyz_ang / np.sqrt(3 * n)
    np.testing.assert_allclose(np.mean(moves, axis=0), 0.0, atol=atol)
    correlation = np.corrcoef(moves.T)[np.triu_indices(3, 1)]
    np.testing.assert_allclose(correlation, 0.0, atol=5 / np.sqrt(n))


@pytest.mark.stage
@pytest.mark.parametrize(("cell", "name", "d_min"), CRYSTALS[:3])
def test_the_same_crystal_described_in_p1_scatters_the_same(cell, name, d_min):
    """Atoms multiplied by the operations and called P 1: exactly, and with the solvent mask to the
    step of its grid.
    """
    cell = unit_cell.radians(cell)
    atoms = phantom.build(cell, name, 2)
    ops = list(group(name).operations())
    everywhere = sf.Atoms(*(np.concatenate([column] * len(ops)) for column in atoms))
    places = [[op.apply_to_xyz(x) for x in atoms.xyz.tolist()] for op in ops]
    everywhere = everywhere._replace(xyz=np.concatenate(places))
    for k_sol, tolerance in ((0.0, 1e-5), (0.435, 0.03)):
        how = {"d_min": d_min, "sites": CURVES, "others": ANOMALOUS, "k_sol": k_sol, "b_sol": 46.0}
        f = sf.structure_factors(atoms, cell, name, **how)
        p1 = sf.structure_factors(everywhere, cell, "P 1", **how)
        rows = {tuple(h): i for i, h in enumerate(p1.hkl.tolist())}
        same = p1.at(np.array([rows[tuple(h)] for h in f.hkl.tolist()]))
        ours = f.at(np.arange(len(f.hkl)))
        assert np.abs(same - ours).mean() < tolerance * np.abs(ours).mean()
        assert len(rows) > len(f.hkl) or not name.startswith(("C", "R")), (
            "centring absences are no nodes"
        )


def test_systematic_absences_and_friedel_pairs():
    cell = unit_cell.radians(CRYSTALS[1][0])
    name = CRYSTALS[1][1]
    atoms = phantom.build(cell, name, 2)
    f = sf.structure_factors(atoms, cell, name, d_min=2.6, sites=CURVES, others={})
    size = np.abs(f.at(np.arange(len(f.hkl)))[:, 1])
    absent = is_absent(f.hkl, name)
    assert absent.any() and size[absent].max() < 1e-4 * size.mean()
    rows = {tuple(h): i for i, h in enumerate(f.hkl.tolist())}
    mates = np.array([rows[tuple(-np.array(h))] for h in f.hkl.tolist()])
    # real scatterers obey Friedel's law, the iron breaks it
    np.testing.assert_allclose(f.rest[mates], np.conj(f.rest), atol=1e-3)
    assert np.abs(size[mates] - size).mean() > 0.003 * size.mean()


def test_solvent_fills_what_the_molecule_leaves():
    """F_mask of the lowest orders is opposite to the molecule's: an atom-free cell would be
    flat.
    """
    cell = unit_cell.radians([40.0, 45.0, 50.0, 90.0, 90.0, 90.0])
    name = "P 21 21 21"
    atoms = phantom.build(cell, name, 1)
    how = {"sites": {}, "others": {}, "d_min": 8.0}
    bare, wet = (
        sf.structure_factors(atoms, cell, name, **how, **more)
        for more in ({}, {"k_sol": 0.4, "b_sol": 40.0})
    )
    low = unit_cell.spacing(unit_cell.reciprocal(cell), bare.hkl) > 12.0
    molecule = bare.rest[low]
    mask = wet.rest[low] - molecule
    product = (mask * np.conj(molecule)).real.sum()
    squares = (np.abs(mask) ** 2).sum() * (np.abs(molecule) ** 2).sum()
    assert product / np.sqrt(squares) < -0.9


def test_a_site_the_model_lacks_is_refused():
    cell = unit_cell.radians(CRYSTALS[3][0])
    atoms = phantom.build(cell, "P 1", 1)
    with pytest.raises(ValueError, match="FE9"):
        sf.structure_factors(atoms, cell, "P 1", d_min=4.0, sites={"FE9": np.zeros(1)}, others={})
