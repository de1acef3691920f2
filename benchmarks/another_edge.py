"""SPREAD at another edge and in another crystal: L3 of gadolinium in P 41 21 2, channels of 2 eV, a
detector with a point spread, and a model from a PDB file that is wrong.

The irons of one of the phantom's clusters are made gadolinium and written as PDB; the sites are
selected from that file, and their curves are files, too: the true ones are the metal's, 1 eV up and
1 eV down, those of the start the table of the free atom. Lattices are simulated as shoeboxes. Stage
1 undoes the point spread, and refines each with the wrong model; curves and X are refined in turns
with it, and place and B of the sites with these: f′, f″ of an L edge change by ten electrons, and X
does not take up what a site's place is wrong by.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gemmi
import numpy as np

from spreadflow import config
from spreadflow.analysis.curves import dispersion, planning
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.edges import edges, metals
from spreadflow.analysis.curves.expand import RefinedCurves
from spreadflow.config import SpreadConfig
from spreadflow.io import factor_files
from spreadflow.io.factor_files import FactorFiles
from spreadflow.physics import anomalous, phantom, unit_cell
from spreadflow.physics.mosaic import continuous
from spreadflow.physics.structure_factors import Atoms, StructureFactors
from spreadflow.recipes import curves, factors, gram, lattice, patch
from spreadflow.recipes.factors import MovedSites
from spreadflow.recipes.lattice_sums import LatticeSums, Unknown
from spreadflow.recipes.still import PERTURBATION, Simulator

METAL = "Gd"
"""Element of the sites."""

CELL = [40.0, 40.0, 50.0, 90.0, 90.0, 90.0]

SPACE_GROUP = "P 41 21 2"

CHAINS = ("A", phantom.PROTEIN_CHAIN)
"""Chains of the phantom that are kept: a cluster, and the protein."""

SHIFTS_EV = (1.0, -1.0)
"""Shifts of the true edges of the two sites."""

ENERGIES_EV = (7100.0, 7400.0)
"""First and last energy of the files of curves."""

KINDS = ("f′", "f″")
"""The curves of a site."""


class Case(NamedTuple):
    """How much is simulated."""

    n: int = 48
    """lattices of a set"""
    n_sets: int = 3
    n_cycles: int = 3
    d_min: float = 2.1
    d_max: float = 3.5
    step_ev: float = 4.0
    """distance of the nodes"""
    psf_fwhm_mm: float = 0.3
    """width of the point spread, which a pixel is as wide as"""
    refine_sites: tuple[str, ...] = ("place", "b")
    """what is unknown of sites beside their curves"""
    is_wrong: bool = True
    """the model is"""


# ---------------------------------------------------------------- what is simulated


def write_model(path: Path, seed: int) -> list[str]:
    """Write the phantom with one cluster, its irons made gadolinium, as PDB. Returns the selections
    of the two sites.
    """
    cell = unit_cell.radians(CELL)
    atoms = phantom.build(cell, SPACE_GROUP, seed)
    atoms = Atoms(*(column[np.isin(atoms.chains, CHAINS)] for column in atoms))
    reciprocal = unit_cell.reciprocal(cell)
    b = 4.0 * atoms.beta[:, 0, 0] / (reciprocal.T @ reciprocal)[0, 0]
    structure = gemmi.Structure()
    structure.cell = gemmi.UnitCell(*CELL)
    structure.spacegroup_hm = SPACE_GROUP
    model = gemmi.Model(1)
    for name in np.unique(atoms.chains):
        chain = gemmi.Chain(str(name))
        residue = gemmi.Residue()
        rows = np.flatnonzero(atoms.chains == name)
        residue.name = str(atoms.residue_names[rows[0]])
        residue.seqid = gemmi.SeqId(str(atoms.residues[rows[0]]))
        for row in rows:
            residue.add_atom(_atom(atoms, int(row), float(b[row]), structure.cell))
        chain.add_residue(residue)
        model.add_chain(chain)
    structure.add_model(model)
    structure.write_pdb(str(path))
    return [f"//A/{phantom.CLUSTER_RESIDUE}/{name}" for name in ("GD1", "GD2")]


def _atom(atoms: Atoms, row: int, b: float, cell: gemmi.UnitCell) -> gemmi.Atom:
    """Return an atom of the phantom for a PDB file; iron becomes gadolinium."""
    atom = gemmi.Atom()
    is_site = atoms.elements[row] == "Fe"
    atom.name = str(atoms.names[row]).replace("FE", "GD") if is_site else str(atoms.names[row])
    atom.element = gemmi.Element(METAL if is_site else str(atoms.elements[row]))
    atom.occ = float(atoms.occupancy[row])
    atom.b_iso = b
    atom.pos = cell.orthogonalize(gemmi.Fractional(*atoms.xyz[row]))
    return atom


def write_curves(folder: Path) -> tuple[list[str], str]:
    """Write the true curves of the two sites, and the table. Returns the files' names."""
    energies = np.arange(*ENERGIES_EV, 0.25)
    every = [anomalous.shifted(METAL, shift, energies) for shift in SHIFTS_EV]
    names = []
    for name, curve in zip(
        ("true_1", "true_2", "table"),
        (*every, anomalous.tabulated(METAL, energies)),
        strict=True,
    ):
        path = folder / f"{name}.txt"
        np.savetxt(path, np.column_stack([energies, curve.real, curve.imag]))
        names.append(str(path))
    return names[:2], names[2]


class Laid(NamedTuple):
    """What is simulated, and what it is refined with."""

    simulator: Simulator
    sections: SpreadConfig
    files: FactorFiles
    """of the model"""


def laid(case: Case, folder: Path, seed: int) -> Laid:
    """Return the simulator, and the sections that SPREAD reads. folder: of the files that are
    written.
    """
    model = folder / "model.pdb"
    selections = write_model(model, seed)
    true, table = write_curves(folder)
    keys = {
        "seed": seed,
        "runs": {"gd": {"simulate": {"n_single": 1}}},
        "crystal": {
            "cell": CELL,
            "space_group": SPACE_GROUP,
            "domain_ang": 1200.0,
            "domains_per_crystal": 5000.0,
            "mosaicity": "continuous",
        },
        "structure_factors": {
            "model": str(model),
            "sites": _sites(selections, true),
            "d_min": 2.0,
        },
        "beam": {
            "energy_ev": 7248.0,
            "n_channels": 40,
            "first_channel_ev": 7209.0,
            "channel_ev": 2.0,
            "photons": 4e13,
        },
        "detector": {
            "shape": [400, 400],
            "pixel_mm": 0.3,
            "distance_mm": 60.0,
            "water_mm": 0.002,
            "psf_radius_px": 4,
        },
        "recording": {"psf": "gauss", "psf_fwhm_mm": case.psf_fwhm_mm},
        "simulate": {"oversample": 2, "precision": "float64"},
        "stage1": {
            "structure_factors": {
                "sites": _sites(selections, [table] * 2),
                "perturb": case.is_wrong,
            },
        },
        "spread": {
            "step_ev": case.step_ev,
            "max_cycles": case.n_cycles,
            "refine_sites": list(case.refine_sites),
        },
    }
    parsed = config.parse(keys)
    of_run = config.for_stage(config.section(parsed, "simulate", "gd"), "simulate")
    sections = config.for_stage(config.section(parsed, "spread"), "spread")
    simulator = Simulator(of_run, factor_files.read(of_run.structure_factors))
    return Laid(simulator, sections, factor_files.read(sections.structure_factors))


def _sites(selections: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the sites with their curves."""
    pairs = zip(selections, names, strict=True)
    return [{"atom": selection, "curve": curve} for selection, curve in pairs]


# ---------------------------------------------------------------- a set of lattices


class Refined(NamedTuple):
    """A set of lattices after a cycle."""

    p: Parametrisation
    fit: RefinedCurves
    n: int
    """lattices that were used"""
    n_curves: int
    """unknowns of the curves; the last of θ are those of sites"""

    @property
    def sites(self) -> np.ndarray:
        """(site, unknown) x, y, z, Å, and B, Å², off the model"""
        return self.fit.theta[self.n_curves :].reshape(2, -1)


def refined(case: Case, here: Laid, numbers: Sequence[int]) -> list[Refined]:
    """Return curves of lattices, by their numbers, after each cycle."""
    simulator, sections, files = here
    energies_ev = simulator.energies
    rng = np.random.default_rng([sections.seed, 0, PERTURBATION])
    section = sections.structure_factors
    start = factors.factors(section, energies_ev, simulator.beam.energy_ev, rng, files)
    model = patch.run_model(simulator, start)
    mosaic = continuous()
    made = [
        patch.packed_lattice(patch.patch(simulator, number, d_min=case.d_min, d_max=case.d_max))
        for number in numbers
    ]
    starts: list[lattice.Start | None] = [None] * len(made)
    sites = _moved(here, start, None)
    p = curves.parametrisations(sections, start, energies_ev, files, sites.unknowns)["free"]
    n_curves = len(p.names) - len(sites.unknowns.names)
    about = start
    out: list[Refined] = []
    before: RefinedCurves | None = None
    for _ in range(case.n_cycles):
        model = model._replace(factors=about)
        expanded = []
        for number, one in enumerate(made):
            fit = lattice.refine_lattice(one, mosaic, model, sections.stage1, starts[number])
            of_one = gram.expand_fit(fit, one, model, sections.stage1, None)
            if of_one.gram is not None:
                starts[number] = of_one.start
                expanded.append(of_one)
        sums = _sums(here, expanded, _with_sites(start, sites), sites)
        before, _ = curves.refine(sums, p, before, sections.spread.band_sigma_e)
        out.append(Refined(p, before, sums.n, n_curves))
        sites = _moved(here, start, before.theta[n_curves:])
        about = gram.with_curves(_with_sites(start, sites), p.curves(before.theta))
        about = gram.with_rest(about, before.rest, model.space_group)
    return out


def _moved(here: Laid, start: StructureFactors, values: np.ndarray | None) -> MovedSites:
    """Return the sites at values of what is unknown of them, (site unknown,), None = the model's.
    start: F of the start.
    """
    sections = here.sections
    spread = sections.spread
    sigmas = {
        "place": spread.place_sigma_ang,
        "b": spread.b_sigma_ang2,
        "occupancy": spread.occupancy_sigma,
    }
    return factors.moved_sites(
        sections.structure_factors,
        start,
        {kind: sigmas[kind] for kind in spread.refine_sites},
        np.random.default_rng([sections.seed, 0, PERTURBATION]),
        here.files,
        values,
    )


def _with_sites(start: StructureFactors, sites: MovedSites) -> StructureFactors:
    """Return structure factors with the sites where they are."""
    return start._replace(groups=np.concatenate([sites.groups, start.groups[start.n_sites :]]))


def _sums(
    here: Laid,
    expanded: Sequence[gram.ExpandedLattice],
    start: StructureFactors,
    sites: MovedSites,
) -> LatticeSums:
    """Return what curves, X and sites are refined from. start: F of the start."""
    simulator = here.simulator
    unknown = Unknown(
        kind=here.sections.spread.unknown_f,
        cell=simulator.cell,
        space_group=simulator.crystal.space_group,
        sites=sites.unknowns,
    )
    return LatticeSums(
        [one.gram for one in expanded if one.gram is not None],
        start,
        np.array([one.photons for one in expanded]),
        simulator.energies,
        unknowns=expanded[0].unknowns,
        unknown=unknown,
    )


# ---------------------------------------------------------------- beside the truth


class Errors(NamedTuple):
    """Errors over the nodes of the band, and their σ; (site, 2, node), e."""

    shape: np.ndarray
    shape_fisher: np.ndarray
    shape_sandwich: np.ndarray
    mean: np.ndarray
    """(site, 2)"""
    mean_fisher: np.ndarray
    mean_sandwich: np.ndarray
    start: np.ndarray
    """of the shape of the start"""
    edge: np.ndarray
    """(3,) error of the difference of E0, its σ, and that from the scatter of reflections, eV"""


def errors(here: Laid, of_set: Refined) -> Errors:
    """Compare curves with the truth."""
    p = of_set.p
    fit = of_set.fit
    true = np.array([[curve.real, curve.imag] for curve in here.simulator.curves.values()])
    low, high = planning.compared_ev(METAL, p.energies_ev)
    is_compared = (p.nodes_ev >= low) & (p.nodes_ev <= high)
    at_nodes = p._replace(reference=true).reference_at_nodes
    off_start = (p.reference_at_nodes - at_nodes)[..., is_compared]
    rows = p.at_nodes.reshape(*at_nodes.shape, -1)[:, :, is_compared]
    error = off_start + rows @ fit.theta
    mean_rows = rows.mean(axis=2)
    shape_rows = rows - mean_rows[:, :, None]
    both = fit.fisher, fit.sandwich
    shape_fisher, shape_sandwich = (_sigma(shape_rows, covariance) for covariance in both)
    mean_fisher, mean_sandwich = (_sigma(mean_rows, covariance) for covariance in both)
    return Errors(
        shape=error - error.mean(axis=-1, keepdims=True),
        shape_fisher=shape_fisher,
        shape_sandwich=shape_sandwich,
        mean=error.mean(axis=-1),
        mean_fisher=mean_fisher,
        mean_sandwich=mean_sandwich,
        start=off_start - off_start.mean(axis=-1, keepdims=True),
        edge=_edge(true, of_set),
    )


def _sigma(rows: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return σ (…) of what rows (…, theta) read from θ."""
    return np.sqrt(np.einsum("...t,...t->...", rows @ covariance, rows))


def _edge(true: np.ndarray, of_set: Refined) -> np.ndarray:
    """Return the error of the difference of E0, less that of the same estimate from the true curves
    (site, 2, channel), and its σ, eV.
    """
    p = of_set.p
    fit = of_set.fit
    shapes = metals([METAL] * 2, p.energies_ev)
    plain = edges(p, fit.theta, fit.of_pixels, shapes)
    honest = edges(p, fit.theta, fit.of_pixels, shapes, noise=fit.scatter)
    of_true = dispersion.free(true, p.energies_ev, p.nodes_ev)
    n = len(of_true.names)
    expected = edges(of_true, np.zeros(n), fit.of_pixels[:n, :n], shapes)
    return np.array(
        [
            plain.difference_ev[0, 1] - expected.difference_ev[0, 1],
            plain.difference_sigma_ev[0, 1],
            honest.difference_sigma_ev[0, 1],
        ]
    )


def report(of_sets: Sequence[Errors]) -> str:
    """Return figures over all sets in a few lines."""
    every = Errors(*(np.array(values) for values in zip(*of_sets, strict=True)))
    lines = []
    for kind, name in enumerate(KINDS):
        shape = every.shape[:, :, kind]
        mean = every.mean[:, :, kind]
        lines.append(
            f"  {name}: shape {_rms(shape):.3f} e (start {_rms(every.start[:, :, kind]):.3f}), "
            f"σ {_rms(every.shape_fisher[:, :, kind]):.3f}, "
            f"pulls {_rms(shape / every.shape_fisher[:, :, kind]):.2f}, "
            f"sandwich {_rms(shape / every.shape_sandwich[:, :, kind]):.2f}; "
            f"mean {_rms(mean):.3f} e, σ {_rms(every.mean_fisher[:, :, kind]):.3f}, "
            f"pulls {_rms(mean / every.mean_fisher[:, :, kind]):.2f}, "
            f"sandwich {_rms(mean / every.mean_sandwich[:, :, kind]):.2f}"
        )
    off, sigma, sandwich = every.edge.T
    of_each = ", ".join(f"{one:+.2f}" for one in off)
    lines.append(
        f"  E0 difference off by {of_each} eV; σ {sigma.mean():.2f}, sandwich "
        f"{sandwich.mean():.2f}; pulls {_rms(off / sigma):.2f}, {_rms(off / sandwich):.2f}"
    )
    return "\n".join(lines)


def _rms(values: np.ndarray) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def measured(case: Case, n_sets: int, folder: Path, seed: int = 1) -> list[list[Errors]]:
    """Return the errors after each cycle, of each set."""
    here = laid(case, folder, seed)
    of_cycles: list[list[Errors]] = [[] for _ in range(case.n_cycles)]
    for number in range(n_sets):
        numbers = range(number * case.n, (number + 1) * case.n)
        for cycle, of_set in enumerate(refined(case, here, numbers)):
            of_cycles[cycle].append(errors(here, of_set))
            rest = of_set.fit.rest
            assert rest is not None, "X is unknown"
            print(report([of_cycles[cycle][-1]]))
            print(
                f"set {number + 1}, cycle {cycle + 1}: {of_set.n} of {case.n} lattices, "
                f"{len(rest.hkl)} reflections, ln scale {rest.log_scale:+.3f}, √S "
                f"{np.sqrt(rest.variance).round(1).tolist()} e, at rest {rest.has_converged}, "
                f"sites {of_set.sites.round(3).tolist()}",
                flush=True,
            )
    return of_cycles


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--lattices", type=int, default=Case().n, help="of a set")
    parser.add_argument("--sets", type=int, default=Case().n_sets)
    parser.add_argument("--cycles", type=int, default=Case().n_cycles)
    parser.add_argument("--sites", nargs="*", default=Case().refine_sites, help="place, b")
    asked = parser.parse_args()
    case = Case(n=asked.lattices, n_cycles=asked.cycles)
    case = case._replace(refine_sites=tuple(asked.sites))
    with tempfile.TemporaryDirectory() as folder:
        for cycle, of_sets in enumerate(measured(case, asked.sets, Path(folder)), 1):
            print(f"cycle {cycle}, {asked.sets} x {case.n} lattices")
            print(report(of_sets))


if __name__ == "__main__":
    main()
