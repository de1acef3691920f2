"""Space-group symmetry through gemmi, on arrays."""

from functools import lru_cache

import gemmi
import numpy as np

from spreadflow.physics import rotation, unit_cell


def group(name: str) -> gemmi.SpaceGroup:
    """Return gemmi's space group of a Hermann-Mauguin name. Raises ValueError if there is none."""
    space_group = gemmi.find_spacegroup_by_name(name)
    if space_group is None:
        raise ValueError(f"unknown space group '{name}'")
    return space_group


def is_absent(hkl: np.ndarray, name: str) -> np.ndarray:
    """Return which indices (n, 3) are systematically absent, by centring, screw axes or glide
    planes, (n,) bool.
    """
    operations = group(name).operations()
    absences = operations.systematic_absences(np.asarray(hkl, dtype=np.int32))
    return np.asarray(absences, dtype=bool)


def is_centring_absent(hkl: np.ndarray, name: str) -> np.ndarray:
    """Return which indices (n, 3) are absent by the lattice centring alone, (n,) bool: there is no
    node.
    """
    ops = group(name).operations()
    shifts = np.array(list(ops.cen_ops), dtype=np.float64) / gemmi.Op.DEN
    turns = np.asarray(hkl) @ shifts.T
    is_whole = np.abs(turns - np.round(turns)) < 1e-6
    return ~np.all(is_whole, axis=1)


@lru_cache(maxsize=32)
def point_group(name: str) -> np.ndarray:
    """Return the proper rotations (n, 3, 3) of the Laue class acting on direct fractional
    coordinates (columns); read-only, as it is remembered.
    """
    rotations = laue_rotations(group(name).operations())
    rotations.flags.writeable = False
    return rotations


def laue_rotations(operations: gemmi.GroupOps) -> np.ndarray:
    """Return the proper rotations (n, 3, 3), in the order of their elements, of the Laue class of
    operations, acting on direct fractional coordinates (columns).
    """
    matrices = np.array([op.rot for op in operations.sym_ops]) // gemmi.Op.DEN
    sign = np.linalg.det(matrices).round().astype(int)
    return np.unique(matrices * sign[:, None, None], axis=0)


def centring(operations: gemmi.GroupOps) -> np.ndarray:
    """Return the translations (n, 3) of the centring among operations, in cell edges, from 0 to
    1.
    """
    shifts = np.unique(np.array(list(operations.cen_ops)), axis=0)
    return shifts / gemmi.Op.DEN


def in_asu(hkl: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Map Miller indices (n, 3) to the CCP4 asymmetric unit.

    Returns the asu indices (n, 3) int32 and the operation that brought each there as MTZ files
    number it, isym (n,) int32: 2m − 1 for the m-th one of the group, 2m for its Friedel mate.
    """
    sg = group(name)
    ops = sg.operations()
    asu = gemmi.ReciprocalAsu(sg)
    unique, row = np.unique(np.asarray(hkl, dtype=np.int32), axis=0, return_inverse=True)
    mapped = [asu.to_asu(h, ops) for h in unique.tolist()]
    indices = np.array([index for index, _ in mapped], dtype=np.int32).reshape(-1, 3)
    isym = np.array([number for _, number in mapped], dtype=np.int32)
    row = row.ravel()
    return indices[row], isym[row]


def to_asu(hkl: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Map Miller indices to the CCP4 asymmetric unit, Friedel mates kept apart.

    hkl: (n, 3). Returns the asu indices (n, 3) int32 and friedel (n,) int8: +1 the reflection is
    equivalent to the asu index itself (I(+)), −1 to its Friedel mate (I(−)), 0 centric.
    """
    indices, isym = in_asu(hkl, name)
    friedel = np.where(isym % 2, 1, -1).astype(np.int8)
    friedel[is_centric(indices, name)] = 0
    return indices, friedel


def is_centric(hkl: np.ndarray, name: str) -> np.ndarray:
    """Return which indices (n, 3) are equivalent to their Friedel mates, (n,) bool."""
    indices = np.asarray(hkl, dtype=np.int32).reshape(-1, 3)
    return np.asarray(group(name).operations().centric_flag_array(indices), dtype=bool)


def misorientation(A: np.ndarray, A_true: np.ndarray, name: str) -> float:
    """Return the smallest rotation, rad, between two reciprocal matrices (3, 3) over the point
    group.

    The cells may differ a little: the rotation part of A·(A_true·W⁻ᵀ)⁻¹ counts (polar
    decomposition).
    """
    equivalents = A_true @ np.swapaxes(np.linalg.inv(point_group(name)), -1, -2)
    turns = rotation.nearest(A @ np.linalg.inv(equivalents))
    return float(rotation.angle(turns).min())


def same_indices(A: np.ndarray, A_true: np.ndarray, name: str) -> np.ndarray:
    """Return the integer matrix M (3, 3) of the point group with hkl of A_true ≈ M · hkl of A."""
    best = np.eye(3)
    smallest = np.inf
    for operation in np.swapaxes(np.linalg.inv(point_group(name)), -1, -2):
        turn = rotation.nearest(A @ np.linalg.inv(A_true @ operation))
        angle = float(rotation.angle(turn))
        if angle < smallest:
            best = operation
            smallest = angle
    return best.round().astype(int)


def ambiguities(cell: np.ndarray, name: str, obliquity_deg: float = 0.1) -> list[str]:
    """Return the reindexing operators, such as `k,h,-l`, that the lattice of cell (6,) has beyond
    the Laue group.

    Positions of spots can't tell such settings apart (merohedry; with a chance metric,
    pseudo-merohedry).
    """
    gemmi_cell = gemmi.UnitCell(*unit_cell.degrees(cell))
    laws = gemmi.find_twin_laws(gemmi_cell, group(name), obliquity_deg, False)
    return [law.as_hkl().triplet() for law in laws]


def constrain_metric(metric: np.ndarray, name: str) -> np.ndarray:
    """Return a direct metric tensor (3, 3) averaged over the point group: that of a cell which the
    lattice symmetry allows.
    """
    return _averaged(metric, point_group(name))


def _averaged(metric: np.ndarray, operations: np.ndarray) -> np.ndarray:
    """Return a metric tensor (3, 3) averaged over operations (n, 3, 3)."""
    equivalents = np.swapaxes(operations, -1, -2) @ metric @ operations
    return np.mean(equivalents, axis=0)


def constrain_cell(cell: np.ndarray, name: str) -> np.ndarray:
    """Return the cell (6,), rad, nearest in metric to `cell` that obeys the lattice symmetry."""
    metric = constrain_metric(unit_cell.metric_of(cell), name)
    return unit_cell.cell_of_metric(metric)


def metric_basis(name: str) -> np.ndarray:
    """Return orthonormal symmetric matrices (n_free, 3, 3) that span the metric tensors which the
    point group leaves invariant.

    There are one to six of them (cubic … triclinic): the symmetry-reduced cell parameters. They are
    of direct metrics; those of reciprocal ones are invariant under the transposed inverse group
    (`reciprocal_metric_basis`).
    """
    return _invariant(point_group(name))


@lru_cache(maxsize=32)
def reciprocal_metric_basis(name: str) -> np.ndarray:
    """Return what `metric_basis` returns, for G* = AᵀA; read-only, as it is remembered."""
    basis = _invariant(np.swapaxes(np.linalg.inv(point_group(name)), -1, -2))
    basis.flags.writeable = False
    return basis


def _invariant(operations: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis (n_free, 3, 3) of the symmetric matrices that operations (n, 3,
    3) leave invariant.
    """
    averages = []
    for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        unit = np.zeros((3, 3))
        unit[i, j] = unit[j, i] = 1.0
        averages.append(_averaged(unit, operations).ravel())
    _, singular_values, rows = np.linalg.svd(np.array(averages))
    n_free = int((singular_values > 1e-9).sum())
    return rows[:n_free].reshape(-1, 3, 3)


def primitive(name: str) -> np.ndarray:
    """Return the matrix P (3, 3) with primitive basis = conventional basis · P (columns are
    primitive axes).
    """
    op = group(name).centred_to_primitive()
    return np.array(op.rot) / gemmi.Op.DEN


def metric_symbol(name: str) -> str:
    """Return the symbol, without blanks, of the lattice's own symmetry in the same setting: C12/m1
    for C 1 2 1, P4/mmm for P 41.
    """
    sg = group(name)
    system = sg.crystal_system_str()
    letter = sg.hm[0]
    rhombohedral = sg.ext in ("H", "R")
    if system == "monoclinic":
        settings = {"a": "2/m11", "b": "12/m1", "c": "112/m"}
        return letter + settings[sg.monoclinic_unique_axis()]
    if system == "trigonal":
        return f"{letter}-3m:{sg.ext}" if rhombohedral else f"{letter}6/mmm"
    holohedry = {
        "triclinic": "-1",
        "orthorhombic": "mmm",
        "tetragonal": "4/mmm",
        "hexagonal": "6/mmm",
        "cubic": "m-3m",
    }
    return letter + holohedry[system]
