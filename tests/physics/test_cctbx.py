"""Structure factors against cctbx, in a process and an environment of its own (`make cctbx`)."""

import json
import os
import subprocess
from pathlib import Path

import gemmi
import numpy as np
import pytest

from spreadflow.io import structure
from spreadflow.physics import phantom, unit_cell
from spreadflow.physics import structure_factors as sf
from spreadflow.physics.symmetry import group

PYTHON = Path(__file__).parents[2] / ".venv-cctbx" / "bin" / "python"
pytestmark = [
    pytest.mark.stage,
    pytest.mark.skipif(not PYTHON.exists(), reason=f"no cctbx at {PYTHON}: make cctbx"),
]
CRYSTALS = [
    ([67.2, 59.8, 47.2, 90.0, 110.3, 90.0], "C 1 2 1", 2.5, [0.0, 0.31, 0.5]),
    ([45.0, 45.0, 60.0, 90.0, 90.0, 90.0], "P 41 21 2", 2.5, [0.2, 0.2, 0.0]),
    ([36.0, 36.0, 41.0, 90.0, 90.0, 120.0], "R 3 :H", 2.2, [1 / 3, 2 / 3, 0.1]),
    ([28.0, 31.0, 34.0, 81.0, 95.0, 102.0], "P 1", 2.2, None),
]
ANOMALOUS = {
    "C": 0.02 + 0.01j,
    "N": 0.04 + 0.02j,
    "O": 0.06 + 0.04j,
    "S": 0.35 + 0.7j,
    "FE1": -8.0 + 2.0j,
    "FE2": -6.0 + 3.8j,
}
SOLVENT = {"k_sol": 0.435, "b_sol": 46.0}


def write_model(path: Path, cell: np.ndarray, name: str, special: list[float] | None) -> None:
    """The phantom with a third of its atoms anisotropic, some of partial occupancy, and one on a
    special position.
    """
    atoms = phantom.build(cell, name, 2)
    basis = unit_cell.orthogonalization(cell)
    model = gemmi.Model(1)
    chain = gemmi.Chain("A")
    for i, (label, element) in enumerate(zip(atoms.names, atoms.elements, strict=True)):
        atom = gemmi.Atom()
        residue = gemmi.Residue()
        atom.name = str(label)
        atom.element = gemmi.Element(str(element))
        atom.occ = 0.6 if i % 5 == 1 else 1.0
        place = atoms.xyz[i]
        if i == 8 and special is not None:
            place = np.array(special)
            atom.occ = 0.5 if name != "R 3 :H" else 0.33333
        atom.pos = gemmi.Position(*(basis @ place))
        u = basis @ atoms.beta[i] @ basis.T / (2 * np.pi**2)
        atom.b_iso = 8 * np.pi**2 * np.trace(u) / 3
        if i % 3 == 0:
            atom.aniso = gemmi.SMat33f(
                1.5 * u[0, 0], 0.7 * u[1, 1], u[2, 2], 0.2 * u[0, 0], 0.0, -0.1 * u[0, 0]
            )
        residue.name = "UNL"
        residue.seqid = gemmi.SeqId(i + 1, " ")
        residue.het_flag = "H"
        residue.add_atom(atom)
        chain.add_residue(residue)
    model.add_chain(chain)
    out = gemmi.Structure()
    out.cell = gemmi.UnitCell(*unit_cell.degrees(cell))
    out.spacegroup_hm = group(name).hm
    out.add_model(model)
    out.setup_entities()
    out.make_mmcif_document().write_file(str(path))


@pytest.mark.parametrize(
    ("cell", "name", "d_min", "special"), CRYSTALS, ids=[c[1] for c in CRYSTALS]
)
def test_equal_to_cctbx(tmp_path, cell, name, d_min, special):
    """Direct summation to 1e-4 of the r.m.s. |F|; with solvent masks on equal grids,
    r.m.s.(ΔF)/r.m.s.(F) ≤ 1 %.
    """
    cell = unit_cell.radians(cell)
    model = tmp_path / "model.cif"
    write_model(model, cell, name, special)
    atoms = structure.read(model, cell, name).atoms
    atoms = atoms._replace(sites=np.where(np.isin(atoms.names, ["FE1", "FE2"]), atoms.names, ""))
    sites = {site: np.array([ANOMALOUS[site]]) for site in ("FE1", "FE2")}
    dry, wet = (
        sf.structure_factors(
            atoms, cell, name, d_min=d_min, sites=sites, others=ANOMALOUS, **solvent
        )
        for solvent in ({}, SOLVENT)
    )
    rows = np.random.default_rng(0).permutation(len(dry.hkl))[:3000]
    anomalous = {key: [value.real, value.imag] for key, value in ANOMALOUS.items()}
    grid = gemmi.FloatGrid()
    grid.set_unit_cell(gemmi.UnitCell(*unit_cell.degrees(cell)))
    grid.spacegroup = group(name)
    grid.set_size_from_spacing(0.25 * d_min, gemmi.GridSizeRounding.Up)
    hkl = dry.hkl[rows].tolist()
    job = {"model": str(model), "anomalous": anomalous, "hkl": hkl, "grid": grid.shape, **SOLVENT}
    (tmp_path / "job.json").write_text(json.dumps(job))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    peer = [
        PYTHON,
        Path(__file__).with_name("cctbx_peer.py"),
        tmp_path / "job.json",
        tmp_path / "peer.npz",
    ]
    subprocess.run(peer, check=True, env=environment, timeout=120)
    theirs = np.load(tmp_path / "peer.npz")

    def rms(f):
        return np.sqrt(np.mean(np.abs(f) ** 2))

    ours = dry.at(rows)[:, 0]
    assert rms(theirs["solvent"]) > 0.1 * rms(ours)
    np.testing.assert_allclose(ours, theirs["direct"], atol=1e-4 * rms(ours))
    total = wet.at(rows)[:, 0]
    assert rms(total - theirs["direct"] - theirs["solvent"]) <= 0.01 * rms(total)
