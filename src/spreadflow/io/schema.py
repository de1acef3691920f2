"""Every dataset of every spreadflow file: name, dimensions, dtype, unit, meaning. docs/files.md is
generated from here.

Ragged data are flat columns: a row of a sub-table names the row it belongs to in a column whose
`refers` is that table (`spots/shot` → a row of `shots`). Such columns are shifted when the parts of
a product are read as one.
"""

from typing import NamedTuple

VERSION = 2
KINDS = ("single", "blank", "double", "saturated", "unreadable")
"""Kinds of simulated shots in the order a run holds them; `shots/kind` of the truth is the number
"""


class Dataset(NamedTuple):
    dims: tuple[str | int, ...]
    """names of ragged or shared dimensions, numbers of fixed ones"""
    dtype: str
    unit: str
    meaning: str
    refers: str = ""
    """the table whose row numbers this column holds"""


def _table(dim: str, columns: dict[str, tuple]) -> dict[str, Dataset]:
    """Return columns `name: (dtype, unit, meaning[, trailing shape[, refers]])` of the table
    `dim`.
    """
    out = {}
    for name, (dtype, unit, meaning, *rest) in columns.items():
        shape = rest[0] if rest else ()
        refers = rest[1] if len(rest) > 1 else ""
        out[f"{dim}/{name}"] = Dataset((dim, *shape), dtype, unit, meaning, refers)
    return out


_SHOTS = _table(
    "shots",
    {
        "shot_id": ("uint64", "", "hash of (run, file name, frame): stable when files are added"),
        "file": ("int32", "", "number of the image file in the run's manifest"),
        "frame": ("int32", "", "frame in that file"),
        "outcome": ("uint8", "", "errors.Outcome"),
        "n_spots": ("int32", "", "spots found"),
        "n_lattices": ("int32", "", "lattices indexed"),
        "mean_energy_ev": ("float64", "eV", "photon-weighted mean of the shot's spectrum"),
        "seconds": ("float64", "s", "processor time spent on the shot"),
    },
)

_SPOTS = _table(
    "spots",
    {
        "shot": ("int32", "", "row of shots", (), "shots"),
        "panel": ("int32", "", "panel"),
        "fast": ("float64", "px", "centre of mass"),
        "slow": ("float64", "px", "centre of mass"),
        "variance_fast": ("float32", "px²", "variance of the centroid"),
        "variance_slow": ("float32", "px²", "variance of the centroid"),
        "intensity": ("float32", "photon", "above background"),
        "sigma": ("float32", "photon", "standard deviation of intensity"),
        "n_pixels": ("int32", "px", "strong pixels"),
        "lattice": ("int32", "", "row of lattices this spot belongs to; -1 = none", (), "lattices"),
        "hkl": ("int32", "", "Miller index, conventional axes", (3,)),
        "used": ("bool", "", "in the lattice's geometry refinement"),
    },
)

_LATTICES = _table(
    "lattices",
    {
        "shot": ("int32", "", "row of shots", (), "shots"),
        "shot_id": ("uint64", "", "as in shots"),
        "k": ("int32", "", "0 for the first lattice of the shot; lattice_id = (shot_id, k)"),
        "A": ("float64", "1/angstrom", "columns a*, b*, c* in the lab frame", (3, 3)),
        "cell": ("float64", "angstrom, rad", "a b c α β γ, conventional", (6,)),
        "eta_rad": ("float64", "rad", "mosaic spread: r.m.s. total rotation angle"),
        "domain_ang": ("float64", "angstrom", "edge of a mosaic domain"),
        "n_indexed": ("int32", "", "spots with a Miller index"),
        "rmsd_radial_mm": (
            "float64",
            "mm",
            "observed - predicted along the direction from the beam centre",
        ),
        "rmsd_transverse_mm": ("float64", "mm", "observed - predicted across it"),
        "n_rmsd": ("int32", "", "reflections of the r.m.s.d.: I/σ ≥ 5, fixed before refinement"),
    },
)

_REFLECTIONS = _table(
    "reflections",
    {
        "lattice": ("int32", "", "row of lattices", (), "lattices"),
        "hkl": ("int32", "", "Miller index as observed, conventional axes", (3,)),
        "d": ("float32", "angstrom", "resolution"),
        "panel": ("int32", "", "panel"),
        "fast": ("float64", "px", "predicted centroid"),
        "slow": ("float64", "px", "predicted centroid"),
        "fast_obs": ("float32", "px", "observed centroid; NaN where I/σ < 5"),
        "slow_obs": ("float32", "px", "observed centroid; NaN where I/σ < 5"),
        "energy_ev": ("float32", "eV", "mean energy of the photons diffracted into the spot"),
        "delta_psi_rad": (
            "float32",
            "rad",
            "rotation onto the Ewald sphere of the shot's mean energy",
        ),
        "partiality": ("float32", "", "recorded fraction, spectrum-weighted, 0-1"),
        "lorentz": (
            "float32",
            "angstrom³/rad",
            "photons = K·|F|²·polarization·capture·lorentz·partiality",
        ),
        "polarization": ("float32", "", "Kahn factor (divide by it)"),
        "capture": ("float32", "", "fraction of the photons the sensor captures (divide by it)"),
        "intensity": ("float32", "photon", "summed above background"),
        "sigma": ("float32", "photon", "standard deviation of intensity"),
        "background": ("float32", "photon/px", "mean under the peak"),
        "n_foreground": ("int32", "px", "summed pixels"),
        "bbox": ("int32", "px", "fast0 fast1 slow0 slow1, half open", (4,)),
        "flags": ("int32", "", "bits of models.ReflectionFlag"),
    },
)

_INDEX = _SHOTS | _SPOTS | _LATTICES | _REFLECTIONS

_ADOPT = _table(
    "lines",
    {
        "line": ("int32", "", "number of the line in the spec file, from 1"),
        "experiment": ("int32", "", "number of the experiment in the .expt; -1 = none"),
        "shot_id": ("uint64", "", "as in reindex; 0 = none"),
        "k": ("int32", "", "as in reindex; -1 = not there"),
        "n_reflections": ("int32", "", "indexed reflections of the experiment in the .refl"),
        "n_agree": ("int32", "", "of these, where A puts their Miller index"),
        "outcome": ("uint8", "", "errors.AdoptOutcome"),
    },
)

_CELLS = _table(
    "lattices",
    {
        "run": ("int32", "", "row of attribute `runs`"),
        "shot_id": ("uint64", "", "as in reindex"),
        "k": ("int32", "", "as in reindex"),
        "cell": ("float64", "angstrom, degree", "a b c α β γ", (6,)),
        "cluster": ("int32", "", "DBSCAN label; -1 = noise"),
        "mahalanobis": ("float64", "", "distance from the chosen cluster"),
        "outcome": ("uint8", "", "errors.LatticeOutcome; ACCEPTED is the accepted list"),
    },
) | _table(
    "clusters",
    {
        "n": ("int32", "", "lattices in the cluster"),
        "mean": ("float64", "angstrom, degree", "robust mean cell", (6,)),
        "location": ("float64", "angstrom, degree", "robust mean of the features", ("features",)),
        "covariance": (
            "float64",
            "",
            "robust covariance of the features",
            ("features", "features"),
        ),
    },
)

_MERGE = (
    _table(
        "merged",
        {
            "hkl": ("int32", "", "asymmetric unit (CCP4)", (3,)),
            "friedel": ("int8", "", "+1 = I(+), -1 = I(-), 0 = centric"),
            "intensity": ("float64", "", "weighted mean, arbitrary scale"),
            "sigma": ("float64", "", "standard deviation"),
            "half": (
                "float64",
                "",
                "weighted means of the half sets by hash of (shot_id, k); NaN = none",
                (2,),
            ),
            "n": ("int32", "", "observations"),
        },
    )
    | _table(
        "lattices",
        {
            "run": ("int32", "", "row of attribute `runs`"),
            "shot_id": ("uint64", "", "as in reindex"),
            "k": ("int32", "", "as in reindex"),
            "scale": ("float64", "", "G; NaN where not used"),
            "b": (
                "float64",
                "angstrom²",
                "B: photons = G·exp(-2 B s²)·polarization·capture·lorentz·partiality·I, s = 1/(2d)",
            ),
            "n": ("int32", "", "reflections that count"),
            "used": ("bool", "", "took part in the merge"),
        },
    )
    | _table(
        "bins",
        {
            "d_max": ("float64", "angstrom", "low-resolution edge"),
            "d_min": ("float64", "angstrom", "high-resolution edge"),
            "n_possible": ("int32", "", "unique reflections, Friedel mates separate"),
            "n_measured": ("int32", "", "of these measured"),
            "n_observations": ("int32", "", "observations of these"),
            "mean_intensity": ("float64", "", "⟨I⟩ of the merged reflections"),
            "i_over_sigma": ("float64", "", "⟨I/σ⟩ of the merged reflections"),
            "cc_half": ("float64", "", "CC1/2"),
            "n_pairs": ("int32", "", "pairs of CC1/2"),
            "r_split": ("float64", "", "Rsplit"),
            "cc_ano": ("float64", "", "half-set correlation of anomalous differences"),
            "n_pairs_ano": ("int32", "", "pairs of cc_ano"),
        },
    )
)

_ANNULUS = (
    _table(
        "lattices",
        {
            "run": ("int32", "", "row of attribute `runs`"),
            "shot_id": ("uint64", "", "as in reindex"),
            "k": ("int32", "", "as in reindex"),
            "A": ("float64", "1/angstrom", "refined matrix", (3, 3)),
            "eta_rad": ("float64", "rad", "as in reindex"),
            "domain_ang": ("float64", "angstrom", "as in reindex"),
            "spectrum": ("int32", "", "row of spectra", (), "spectra"),
        },
    )
    | _table(
        "spectra",
        {
            "shot_id": ("uint64", "", "the shot"),
            "energies_ev": ("float64", "eV", "channels", ("channels",)),
            "photons": ("float64", "photon", "per channel", ("channels",)),
        },
    )
    | _REFLECTIONS
    | _table(
        "reflections",
        {
            "bbox": ("int32", "px", "of the shoebox: fast0 fast1 slow0 slow1, half open", (4,)),
            "first_pixel": (
                "int64",
                "",
                "row of pixels where the shoebox begins (slow outer, fast inner)",
                (),
                "pixels",
            ),
        },
    )
    | _table(
        "pixels",
        {
            "photons": ("float32", "photon", "pedestal subtracted"),
            "valid": ("bool", "", "may be used"),
            "foreground": (
                "bool",
                "",
                "in the box around what integration summed of this reflection",
            ),
            "overlap": ("uint8", "", "bits of models.Overlap"),
        },
    )
)

_MOSAIC = (
    _table(
        "lattices",
        {
            "run": ("int32", "", "row of attribute `runs`"),
            "shot_id": ("uint64", "", "as in reindex"),
            "k": ("int32", "", "as in reindex"),
            "outcome": ("uint8", "", "errors.LearnedOutcome"),
            "A": (
                "float64",
                "1/angstrom",
                "the mean of its domains where it taught a set; else NaN",
                (3, 3),
            ),
            "set": (
                "int32",
                "",
                "row of sets: its mosaic domains; -1 = the continuous distribution",
                (),
                "sets",
            ),
            "seconds": ("float64", "s", "processor time spent on the lattice"),
        },
    )
    | _table(
        "sets",
        {
            "lattice": (
                "int32",
                "",
                "row of lattices that it was learned from; -1 = several",
                (),
                "lattices",
            ),
            "eta_rad": (
                "float64",
                "rad",
                "η of the continuous distribution, the unit of the components' widths",
            ),
            "held_out_continuous": (
                "float64",
                "",
                "−ln L of the held-out shoeboxes, continuous distribution",
            ),
            "held_out": ("float64", "", "−ln L of the held-out shoeboxes with what was learned"),
            "is_better": (
                "bool",
                "",
                "held-out shoeboxes are likelier: it is used, and has components",
            ),
        },
    )
    | _table(
        "rounds",
        {
            "set": ("int32", "", "row of sets", (), "sets"),
            "step_rad": ("float64", "rad", "of the grid of rotations"),
            "n_grid": ("int32", "", "nodes"),
            "n_nodes": ("int32", "", "nodes kept"),
            "n_iterations": ("int32", "", "of the weights"),
            "held_out": ("float64", "", "−ln L of the held-out shoeboxes with the nodes kept"),
        },
    )
    | _table(
        "components",
        {
            "set": ("int32", "", "row of sets", (), "sets"),
            "rotation_rad": (
                "float64",
                "rad",
                "rotation vector from the mean, lab frame: R·A",
                (3,),
            ),
            "width": (
                "float64",
                "",
                "standard deviation of its Gaussian about each axis, in units of η",
            ),
            "share": ("float64", "", "fraction of the domains; sums to 1 over a set"),
        },
    )
)

_STAGE1 = (
    _table(
        "lattices",
        {
            "run": ("int32", "", "row of attribute `runs`"),
            "shot_id": ("uint64", "", "as in reindex"),
            "k": ("int32", "", "as in reindex"),
            "outcome": (
                "uint8",
                "",
                "errors.RefinedOutcome; numbers of a lattice that could not be fitted are NaN",
            ),
            "A": (
                "float64",
                "1/angstrom",
                "refined matrix, the mean of the mosaic domains",
                (3, 3),
            ),
            "cell": ("float64", "angstrom, rad", "a b c alpha beta gamma", (6,)),
            "cell_sigma": (
                "float64",
                "angstrom, rad",
                "standard deviation, as quoted; NaN = held",
                (6,),
            ),
            "misset_rad": (
                "float64",
                "rad",
                "rotation vector from the orientation in the annulus, lab frame",
                (3,),
            ),
            "misset_sigma_rad": (
                "float64",
                "rad",
                "standard deviation, as quoted; NaN = held",
                (3,),
            ),
            "n_cells": ("float64", "", "unit cells of a mosaic domain along a, b, c", (3,)),
            "eta_rad": (
                "float64",
                "rad",
                "mosaic spread: r.m.s. rotation angle; held where it is no unknown",
            ),
            "scale": ("float64", "", "mosaic domains in a beam of `beam.size_mm`"),
            "values": (
                "float64",
                "",
                "unknowns, named in attribute `unknowns`: ln scale, ln N, ln η; rotation (rad, lab "
                "axes), strains of "
                "the cell, distance (mm), relative wavelength: from those in the annulus; NaN = "
                "held for this lattice",
                ("unknown",),
            ),
            "sigma_fisher": (
                "float64",
                "",
                "of the unknowns: true where the model is",
                ("unknown",),
            ),
            "sigma_sandwich": ("float64", "", "of the unknowns: over shoeboxes", ("unknown",)),
            "correlation": ("float64", "", "of the unknowns, as quoted", ("unknown", "unknown")),
            "loss_before": (
                "float64",
                "",
                "−ln L of the start, with the scale and planes that suit it best, and its "
                "restraints",
            ),
            "loss_after": ("float64", "", "−ln L of the fit, with its restraints"),
            "sigma_z": (
                "float64",
                "",
                "standard deviation of (data − model)/√variance over the pixels",
            ),
            "n_evaluations": ("int32", "", "of the model with its derivatives"),
            "n_boxes": ("int32", "", "shoeboxes with pixels"),
            "n_pixels": ("int32", "px", "pixels fitted"),
            "seconds": ("float64", "s", "processor time spent on the lattice"),
        },
    )
    | _table(
        "reflections",
        {
            "lattice": ("int32", "", "row of lattices; those that were fitted", (), "lattices"),
            "hkl": ("int32", "", "Miller index as observed, conventional axes", (3,)),
            "d": ("float32", "angstrom", "resolution"),
            "panel": ("int32", "", "panel"),
            "fast": (
                "float64",
                "px",
                "centroid of the model's Bragg photons; NaN where there are none",
            ),
            "slow": (
                "float64",
                "px",
                "centroid of the model's Bragg photons; NaN where there are none",
            ),
            "fast_before": ("float64", "px", "centroid predicted by spots, as in the annulus"),
            "slow_before": ("float64", "px", "centroid predicted by spots, as in the annulus"),
            "fast_obs": (
                "float32",
                "px",
                "observed centroid, as in the annulus; NaN where I/σ < 5",
            ),
            "slow_obs": (
                "float32",
                "px",
                "observed centroid, as in the annulus; NaN where I/σ < 5",
            ),
            "fast_floor": (
                "float32",
                "px",
                "observed − model centroid of spots drawn from the model; NaN if weak",
            ),
            "slow_floor": ("float32", "px", "the same along slow"),
            "delta_psi_rad": (
                "float32",
                "rad",
                "rotation onto the Ewald sphere of the shot's mean energy",
            ),
            "delta_psi_before_rad": ("float32", "rad", "the same as in the annulus"),
            "photons": ("float32", "photon", "Bragg photons of the model in the shoebox"),
            "plane": (
                "float32",
                "photon",
                "background: level at the middle, slopes per 10 px along fast, slow",
                (3,),
            ),
            "sigma_z": ("float32", "", "r.m.s. of (data − model)/√variance over the shoebox"),
        },
    )
    | _table(
        "samples",
        {
            "reflection": ("int32", "", "row of reflections", (), "reflections"),
            "bbox": ("int32", "px", "of the shoebox: fast0 fast1 slow0 slow1, half open", (4,)),
            "first_pixel": (
                "int64",
                "",
                "row of sample_pixels where the shoebox begins",
                (),
                "sample_pixels",
            ),
        },
    )
    | _table(
        "sample_pixels",
        {
            "data": ("float32", "photon", "NaN = does not count"),
            "model": ("float32", "photon", "Bragg photons and background"),
            "background": ("float32", "photon", "of the model"),
            "z": ("float32", "", "(data − model)/√variance"),
        },
    )
)

_LADDER = (
    _table(
        "lattices",
        {
            "run": ("int32", "", "row of attribute `runs`"),
            "shot_id": ("uint64", "", "as in reindex"),
            "k": ("int32", "", "as in reindex"),
            "n_flagged": ("int32", "", "reflections flagged: I/σ ≥ 2, integrated without failure"),
            "n_counted": ("int32", "", "the same by a plain count"),
        },
    )
    | _table(
        "rungs",
        {
            "lattice": ("int32", "", "row of lattices", (), "lattices"),
            "rung": ("int32", "", "row of attribute `rungs`"),
            "n": ("int32", "", "reflections of the list: I/σ ≥ 5"),
            "radial": (
                "float64",
                "mm²",
                "sum of squares of observed - model along the direction from the beam centre",
            ),
            "transverse": ("float64", "mm²", "the same across it"),
            "n_pixels": ("int32", "px", "pixels that count; none on a rung without model"),
            "z": (
                "float64",
                "",
                "sums of (model - data)/√variance of the model, and of its square",
                (2,),
            ),
            "z_published": (
                "float64",
                "",
                "sums of (model - data)/√max(|data|, 1), and of its square",
                (2,),
            ),
            "seconds": ("float64", "s", "processor time"),
        },
    )
    | _table(
        "compared",
        {
            "lattice": ("int32", "", "row of lattices", (), "lattices"),
            "n_spots": ("int32", "", "flagged shoeboxes of rung 2"),
            "n_fell": ("int32", "", "of these with a smaller σ_Z than of the plane alone"),
            "planes": (
                "float64",
                "",
                "largest difference of planes of rungs 2 and 3, relative to the background",
            ),
            "pixels": ("float64", "", "largest relative difference of pixels of rungs 3A and 3B"),
        },
    )
    | _table(
        "samples",
        {
            "lattice": ("int32", "", "row of lattices", (), "lattices"),
            "hkl": ("int32", "", "Miller index", (3,)),
            "bbox": ("int32", "px", "fast0 fast1 slow0 slow1, half open", (4,)),
            "first_pixel": ("int64", "", "row of pixels where the shoebox begins", (), "pixels"),
        },
    )
    | _table(
        "pixels",
        {
            "photons": ("float32", "photon", "pedestal subtracted; NaN = does not count"),
            "model": ("float32", "photon", "of the rungs in attribute `pictured`", (3,)),
        },
    )
)

_TRUTH = (
    _table(
        "shots",
        {
            "shot_id": ("uint64", "", "as in index"),
            "kind": (
                "uint8",
                "",
                ", ".join(f"{number} {kind}" for number, kind in enumerate(KINDS)),
            ),
        },
    )
    | _table(
        "lattices",
        {
            "shot": ("int32", "", "row of shots", (), "shots"),
            "A": ("float64", "1/angstrom", "mean over the mosaic domains", (3, 3)),
            "n_cells": ("float64", "", "unit cells of a domain along a, b, c", (3,)),
            "eta_rad": (
                "float64",
                "rad",
                "of the distribution the domains are drawn from: r.m.s. rotation angle",
            ),
            "scale": (
                "float64",
                "",
                "mosaic domains in the beam, times the pulses of a saturated shot",
            ),
        },
    )
    | _table(
        "domains",
        {
            "lattice": (
                "int32",
                "",
                "row of lattices; none of a continuous distribution",
                (),
                "lattices",
            ),
            "rotation": (
                "float64",
                "",
                "from the mean, lab frame: the domain's matrix is rotation · A",
                (3, 3),
            ),
        },
    )
    | _table(
        "reflections",
        {
            "lattice": ("int32", "", "row of lattices", (), "lattices"),
            "hkl": ("int32", "", "conventional axes", (3,)),
            "panel": ("int32", "", "panel"),
            "fast": ("float64", "px", "centroid of the expected photons"),
            "slow": ("float64", "px", "centroid of the expected photons"),
            "photons": ("float64", "photon", "expected Bragg photons, before noise and gain"),
            "energy_ev": ("float64", "eV", "mean energy of the diffracted photons"),
        },
    )
)

_TRUE_CURVES = _table(
    "curves",
    {
        "site": ("int32", "", "of attribute `sites` of the truth: names of atoms"),
        "energy_ev": ("float64", "eV", "channel"),
        "fp": ("float64", "electron", "f′"),
        "fdp": ("float64", "electron", "f″"),
    },
)

_GRAM = (
    _table(
        "lattices",
        {
            "run": ("int32", "", "row of attribute `runs`"),
            "shot_id": ("uint64", "", "as in wide"),
            "k": ("int32", "", "as in wide"),
            "outcome": (
                "uint8",
                "",
                "errors.SpreadOutcome; numbers of a lattice that is not used are NaN",
            ),
            "A": (
                "float64",
                "1/angstrom",
                "refined matrix, the mean of the mosaic domains",
                (3, 3),
            ),
            "n_cells": ("float64", "", "unit cells of a mosaic domain along a, b, c", (3,)),
            "eta_rad": ("float64", "rad", "mosaic spread"),
            "scale": ("float64", "", "mosaic domains in a beam of `beam.size_mm`"),
            "photons": ("float64", "photon", "of the pulse, by channel", ("channel",)),
            "loss": (
                "float64",
                "",
                "½ Σ (data − model)²/variance where it was expanded, planes eliminated",
            ),
            "score": ("float64", "", "its fall by what stage 1 refines", ("unknown",)),
            "nuisance": (
                "float64",
                "",
                "information about what stage 1 refines",
                ("unknown", "unknown"),
            ),
            "model_error": (
                "float64",
                "",
                "standard deviation of the model of a pixel relative to its Bragg photons",
            ),
            "sigma_z": (
                "float64",
                "",
                "standard deviation of (data − model)/√variance over the pixels",
            ),
            "n_pixels": ("int32", "px", "pixels fitted"),
            "seconds": ("float64", "s", "processor time spent on the lattice"),
        },
    )
    | _table(
        "boxes",
        {
            "lattice": ("int32", "", "row of lattices", (), "lattices"),
            "n_columns": ("int32", "", "columns that are its"),
        },
    )
    | _table(
        "columns",
        {
            "lattice": ("int32", "", "row of lattices", (), "lattices"),
            "hkl": ("int16", "", "Miller index, conventional axes", (3,)),
            "channel": ("int32", "", "of attribute `energies_ev`"),
            "intensity": ("float64", "electron²", "|F|² the model had"),
            "slope": ("float64", "1/electron²", "fall of −ln L by |F|², planes eliminated"),
            "cross": (
                "float64",
                "1/electron²",
                "information shared with what stage 1 refines",
                ("unknown",),
            ),
        },
    )
    | _table(
        "triangles",
        {
            "value": (
                "float32",
                "1/electron⁴",
                "information about |F|²: lower triangle of each box, row by row",
            )
        },
    )
)

_SPREAD = (
    _table(
        "curves",
        {
            "fit": ("int32", "", "of attribute `fits`"),
            "site": ("int32", "", "of attribute `sites`"),
            "energy_ev": ("float64", "eV", "node"),
            "fp": ("float64", "electron", "f′"),
            "fdp": ("float64", "electron", "f″"),
            "fp_sigma": (
                "float64",
                "electron",
                "standard deviation, as quoted: attribute `sigma_kinds`, by fit",
            ),
            "fdp_sigma": ("float64", "electron", "the same of f″"),
            "fp_fisher": ("float64", "electron", "standard deviation if the model is right"),
            "fdp_fisher": ("float64", "electron", "the same of f″"),
            "fp_start": ("float64", "electron", "where the refinement began"),
            "fdp_start": ("float64", "electron", "the same of f″"),
        },
    )
    | _table(
        "values",
        {
            "fit": (
                "int32",
                "",
                "of attribute `fits`; values are f′, f″ at the nodes, site by site",
            ),
            "fisher": (
                "float64",
                "electron²",
                "row of their covariance if the model is right",
                ("value",),
            ),
            "sandwich": (
                "float64",
                "electron²",
                "the same from the scatter of the lattices",
                ("value",),
            ),
        },
    )
    | _table(
        "edges",
        {
            "fit": ("int32", "", "of attribute `fits`"),
            "site": ("int32", "", "of attribute `sites`"),
            "energy_ev": (
                "float64",
                "eV",
                "E0, the steepest point of f″; NaN = none within reach of the metal's",
            ),
            "sigma_ev": (
                "float64",
                "eV",
                "its standard deviation, that of the shape's own E0 left out",
            ),
            "difference_ev": (
                "float64",
                "eV",
                "E0 less that of each site; NaN = unlike elements",
                ("site",),
            ),
            "difference_sigma_ev": ("float64", "eV", "its standard deviation", ("site",)),
        },
    )
    | _table(
        "channels",
        {
            "energy_ev": ("float64", "eV", "channel"),
            "photons": ("float64", "photon", "mean over the pulses"),
            "residual": (
                "float64",
                "",
                "(data − model)/model of the Bragg photons with the quoted curves",
            ),
            "residual_sigma": ("float64", "", "its standard deviation"),
        },
    )
    | _table(
        "lattices",
        {
            "run": ("int32", "", "row of attribute `runs`"),
            "shot_id": ("uint64", "", "as in wide"),
            "k": ("int32", "", "as in wide"),
            "outcome": ("uint8", "", "errors.SpreadOutcome"),
            "loss_start": ("float64", "", "−ln L with the curves of the start; NaN = not used"),
            "loss": (
                "float64",
                "",
                "−ln L with the quoted curves, without terms no curve changes; NaN = not used",
            ),
            "model_error": (
                "float64",
                "",
                "standard deviation of the model of a pixel relative to its Bragg photons",
            ),
            "sigma_z": (
                "float64",
                "",
                "standard deviation of (data − model)/√variance over the pixels",
            ),
            "seconds": ("float64", "s", "processor time spent on the lattice in the last cycle"),
        },
    )
)

FILES: dict[str, dict[str, Dataset]] = {
    "index": _INDEX,
    "adopt": _ADOPT,
    "reindex": _INDEX,
    "cells": _CELLS,
    "merge": _MERGE,
    "annulus": _ANNULUS,
    "wide": _ANNULUS,
    "ladder": _LADDER,
    "mosaic": _MOSAIC,
    "stage1": _STAGE1,
    "gram": _GRAM,
    "spread": _SPREAD,
    "truth": _TRUTH,
    "true_curves": _TRUE_CURVES,
}
"""File kind → dataset path → description."""
