"""Merged intensities and amplitudes with the labels, types and layouts of other programs."""

import gzip

import gemmi
import numpy as np
import pytest

from spreadflow.analysis.merging.merging import Unique
from spreadflow.errors import FileError
from spreadflow.io import merged_intensities, mtz
from spreadflow.physics import symmetry

CELL = np.array([67.2, 59.8, 47.2, 90.0, 110.3, 90.0])
GROUP = "C 1 2 1"
UNIQUE = Unique(CELL, GROUP, 5.0)
HKL = UNIQUE.hkl[UNIQUE.friedel >= 0]
IS_CENTRIC = symmetry.is_centric(HKL, GROUP)
INTENSITY = 1000.0 + 100.0 * np.sin(HKL @ [0.3, 0.5, 0.7])
SIGMA = np.sqrt(INTENSITY)
PLUS = np.where(IS_CENTRIC, 1.0, 1.02) * INTENSITY
MINUS = np.where(IS_CENTRIC, 1.0, 0.98) * INTENSITY
AMPLITUDE = np.sqrt(INTENSITY)
OF_AMPLITUDE = SIGMA / (2 * AMPLITUDE)
NONE = np.full(len(HKL), np.nan)

MEAN_I = [("IMEAN", "J", INTENSITY), ("SIGIMEAN", "Q", SIGMA)]
MATES_I = [
    ("I(+)", "K", PLUS),
    ("SIGI(+)", "M", SIGMA),
    ("I(-)", "K", MINUS),
    ("SIGI(-)", "M", SIGMA),
]
MATES_F = [
    ("F(+)", "G", np.sqrt(PLUS)),
    ("SIGF(+)", "L", SIGMA / (2 * np.sqrt(PLUS))),
    ("F(-)", "G", np.sqrt(MINUS)),
    ("SIGF(-)", "L", SIGMA / (2 * np.sqrt(MINUS))),
]


def table(columns, hkl=HKL, group=GROUP, cell=CELL) -> gemmi.Mtz:
    """An MTZ table of columns (label, type, values) after the indices."""
    file = gemmi.Mtz(with_base=True)
    file.spacegroup = gemmi.find_spacegroup_by_name(group)
    file.set_cell_for_all(gemmi.UnitCell(*cell))
    file.add_dataset("data")
    for label, kind, _ in columns:
        file.add_column(label, kind)
    values = [values for *_, values in columns]
    file.set_data(np.column_stack([hkl, *values]).astype(np.float32))
    return file


def written(path, columns, **crystal):
    """The path of an MTZ file of columns."""
    table(columns, **crystal).write_to_file(str(path))
    return path


def renamed(columns, labels):
    """Columns with other labels."""
    return [(label, *column[1:]) for label, column in zip(labels, columns, strict=True)]


def read(path, cell=CELL, group=GROUP) -> merged_intensities.Measured:
    return merged_intensities.read(path, cell, group)


def by_unique(measured) -> np.ndarray:
    """Intensities of all unique reflections, mates apart, each there exactly once."""
    row = UNIQUE.rows(measured.hkl)
    assert len(np.unique(row)) == len(row) == len(UNIQUE)
    values = np.empty(len(UNIQUE))
    values[row] = measured.intensity
    return values


def expected_of_mates(plus=PLUS, minus=MINUS) -> np.ndarray:
    """The same of what was written."""
    values = np.concatenate([plus, minus])
    hkl = np.concatenate([HKL, -HKL])
    out = np.empty(len(UNIQUE))
    out[UNIQUE.rows(hkl)] = values
    return out


CCTBX = ["Iobs(+)", "SIGIobs(+)", "Iobs(-)", "SIGIobs(-)"]
PHENIX = ["I-obs(+)", "SIGI-obs(+)", "I-obs(-)", "SIGI-obs(-)"]
OF_MEANS = {
    "CCP4": MEAN_I,
    "XDS": renamed(MEAN_I, ["I", "SIGI"]),
    "cctbx": renamed(MEAN_I, ["Iobs", "SIGIobs"]),
    "phenix": renamed(MEAN_I, ["I-obs", "SIGI-obs"]),
    "shouted": renamed(MEAN_I, ["IOBS", "SIGIOBS"]),
    "of a data set": renamed(MEAN_I, ["IMEAN_peak", "SIGIMEAN_peak"]),
    "careless": [
        ("F", "F", 7 * AMPLITUDE),
        ("SigF", "Q", SIGMA),
        *renamed(MEAN_I, ["I", "SigI"]),
        ("N", "I", 3 + 0 * INTENSITY),
    ],
    "amplitudes": [("FP", "F", AMPLITUDE), ("SIGFP", "Q", OF_AMPLITUDE)],
    "amplitudes after those of maps": [
        ("FWT", "F", 3 * AMPLITUDE),
        ("PHWT", "P", 0 * AMPLITUDE),
        ("2FOFCWT", "F", 3 * AMPLITUDE),
        ("PH2FOFCWT", "P", 0 * AMPLITUDE),
        ("F-obs", "F", AMPLITUDE),
        ("SIGF-obs", "Q", OF_AMPLITUDE),
    ],
    "observed beside calculated": [
        ("Fcalculated", "F", 3 * AMPLITUDE),
        ("PHIcalculated", "P", 0 * AMPLITUDE),
        ("Fnative", "F", AMPLITUDE),
        ("SIGFnative", "Q", OF_AMPLITUDE),
    ],
}
OF_MATES = {
    "CCP4": MATES_I,
    "beside the mean": [("IMEAN", "J", 3 * INTENSITY), ("SIGIMEAN", "Q", SIGMA), *MATES_I],
    "cctbx": renamed(MATES_I, CCTBX),
    "phenix": renamed(MATES_I, PHENIX),
    "signs in words": renamed(MATES_I, ["Iplus", "SIGIplus", "Iminus", "SIGIminus"]),
    "values before sigmas": [MATES_I[0], MATES_I[2], MATES_I[1], MATES_I[3]],
    "typed as means": [
        (label, {"K": "J", "M": "Q"}[kind], values) for label, kind, values in MATES_I
    ],
    "amplitudes": MATES_F,
    "amplitudes beside intensities": [*MATES_F, *renamed(MATES_I, CCTBX)],
}


@pytest.mark.parametrize("columns", OF_MEANS.values(), ids=list(OF_MEANS))
def test_means_are_taken_for_both_mates_and_for_their_mean(columns, tmp_path):
    path = written(tmp_path / "x.mtz", columns)
    measured = read(path)
    means = merged_intensities.read_means(path, CELL, GROUP)

    np.testing.assert_allclose(by_unique(measured), expected_of_mates(INTENSITY, INTENSITY), 1e-6)
    assert np.sort(measured.sigma)[0] == pytest.approx(SIGMA.min(), rel=1e-5)
    assert len(means.hkl) == len(HKL)
    value = UNIQUE.values(means.hkl, means.intensity)
    np.testing.assert_allclose(value, expected_of_mates(INTENSITY, INTENSITY), rtol=1e-6)


@pytest.mark.parametrize("columns", OF_MATES.values(), ids=list(OF_MATES))
def test_mates_stay_apart_and_are_averaged_for_a_reference(columns, tmp_path):
    path = written(tmp_path / "x.mtz", columns)

    np.testing.assert_allclose(by_unique(read(path)), expected_of_mates(), rtol=1e-6)

    means = merged_intensities.read_means(path, CELL, GROUP)
    factor = 3.0 if columns[0][0] == "IMEAN" else 1.0
    expected = factor * expected_of_mates(INTENSITY, INTENSITY)
    value = UNIQUE.values(means.hkl, means.intensity)
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_mates_in_rows_of_their_own_stay_apart(tmp_path):
    """As reciprocalspaceship stacks them: −h, −k, −l has I of the mate."""
    acentric = ~IS_CENTRIC
    hkl = np.concatenate([HKL, -HKL[acentric]])
    columns = [
        ("I", "J", np.concatenate([PLUS, MINUS[acentric]])),
        ("SIGI", "Q", np.concatenate([SIGMA, SIGMA[acentric]])),
    ]
    path = written(tmp_path / "x.mtz", columns, hkl=hkl)

    np.testing.assert_allclose(by_unique(read(path)), expected_of_mates(), rtol=1e-6)
    means = merged_intensities.read_means(path, CELL, GROUP)
    assert len(means.hkl) == len(HKL)


def test_indices_outside_the_asymmetric_unit_keep_their_sign(tmp_path):
    turned = HKL * [-1, 1, -1]
    path = written(tmp_path / "x.mtz", MATES_I, hkl=turned)
    np.testing.assert_allclose(by_unique(read(path)), expected_of_mates(), rtol=1e-6)
    inverted = written(tmp_path / "y.mtz", MATES_I, hkl=-HKL)
    np.testing.assert_allclose(by_unique(read(inverted)), expected_of_mates(MINUS, PLUS), 1e-6)


def test_a_centric_reflection_counts_once(tmp_path):
    """Some programs write it as I(−), too; others not."""
    once = [*MATES_I]
    for number in (2, 3):
        label, kind, values = MATES_I[number]
        once[number] = (label, kind, np.where(IS_CENTRIC, np.nan, values))
    twice = read(written(tmp_path / "twice.mtz", MATES_I))
    same = read(written(tmp_path / "once.mtz", once))
    np.testing.assert_array_equal(by_unique(twice), by_unique(same))


def test_what_is_negative_stays_and_what_is_missing_or_without_sigma_is_left_out(tmp_path):
    number = np.arange(len(HKL))
    intensity = np.where(number % 7 == 0, -5.0, np.where(number % 7 == 1, np.nan, INTENSITY))
    sigma = np.where(number % 7 == 2, 0.0, SIGMA)
    path = written(tmp_path / "x.mtz", [("IMEAN", "J", intensity), ("SIGIMEAN", "Q", sigma)])
    measured = read(path)
    is_known = ~np.isin(number % 7, [1, 2])
    assert len(measured.hkl) == is_known.sum() + (is_known & ~IS_CENTRIC).sum()
    assert (measured.intensity == -5.0).sum() >= (number % 7 == 0).sum()

    means = merged_intensities.read_means(path, CELL, GROUP)
    assert len(means.hkl) == (number % 7 != 1).sum(), "no σ is needed"


def test_what_write_merged_writes_comes_back(tmp_path):
    columns = mtz.MergedTable(
        hkl=UNIQUE.hkl,
        friedel=UNIQUE.friedel,
        intensity=np.arange(len(UNIQUE)) + 1.0,
        sigma=np.ones(len(UNIQUE)),
        n=np.ones(len(UNIQUE)),
    )
    path = tmp_path / "x.mtz"
    mtz.write_merged(path, columns, cell=CELL, space_group=GROUP, wavelength=1.74)
    np.testing.assert_array_equal(by_unique(read(path)), columns.intensity)


def sphere(path):
    """Each reflection as all its equivalents."""
    hkl = np.concatenate([HKL, -HKL, HKL * [-1, 1, -1], HKL * [1, -1, 1]])
    return written(path, [(name, kind, np.tile(v, 4)) for name, kind, v in MEAN_I], hkl=hkl)


def with_batches(path):
    """Observations, each of another reflection."""
    columns = [("M/ISYM", "Y", 1 + 0 * SIGMA), ("BATCH", "B", 1 + 0 * SIGMA), *MEAN_I]
    return written(path, columns)


def several_rows(path):
    """Two rows of each index."""
    columns = [(label, kind, np.tile(values, 2)) for label, kind, values in MEAN_I]
    return written(path, columns, hkl=np.tile(HKL, (2, 1)))


def headers_alone(path):
    """A table whose batches are known by their headers alone."""
    file = table(MEAN_I)
    file.batches.append(gemmi.Mtz.Batch())
    file.write_to_file(str(path))
    return path


def unmerged_cif(path):
    """Structure factors in mmCIF with observations alone."""
    tags = ["index_h", "index_k", "index_l", "intensity_net", "intensity_sigma"]
    head = crystal_in_cif() + "loop_\n" + "".join(f"_diffrn_refln.{tag}\n" for tag in tags)
    path.write_text(head + "2 0 1 10.0 1.0\n2 0 1 11.0 1.0\n")
    return path


def crystal_in_cif() -> str:
    """The block of an mmCIF file up to its reflections."""
    names = ["length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma"]
    cell = "".join(f"_cell.{name} {value}\n" for name, value in zip(names, CELL, strict=True))
    return f"data_rtestsf\n{cell}_symmetry.space_group_name_H-M '{GROUP}'\n"


@pytest.mark.parametrize("make", [sphere, with_batches, several_rows, headers_alone, unmerged_cif])
@pytest.mark.parametrize("reader", [merged_intensities.read, merged_intensities.read_means])
def test_unmerged_data_are_refused_with_what_to_do(make, reader, tmp_path):
    with pytest.raises(FileError) as caught:
        reader(make(tmp_path / "x"), CELL, GROUP)
    assert caught.value.expected == "merged intensities"
    assert "unmerged" in str(caught.value.found)
    assert "merge it first" in caught.value.todo


SF_TAGS = {
    "intensities": (["intensity_meas", "intensity_sigma"], [INTENSITY, SIGMA]),
    "mates": (
        ["pdbx_I_plus", "pdbx_I_plus_sigma", "pdbx_I_minus", "pdbx_I_minus_sigma"],
        [INTENSITY, SIGMA, INTENSITY, SIGMA],
    ),
    "amplitudes": (["F_meas_au", "F_meas_sigma_au"], [AMPLITUDE, OF_AMPLITUDE]),
}


def write_cif(path, kind, status="o") -> None:
    """Write structure factors as the PDB has them, some of other status, one without a value."""
    tags, columns = SF_TAGS[kind]
    names = ["index_h", "index_k", "index_l", "status", *tags]
    lines = [crystal_in_cif(), "loop_\n", *(f"_refln.{name}\n" for name in names)]
    for row, hkl in enumerate(HKL.tolist()):
        values = [f"{column[row]:.6f}" for column in columns]
        mark = status if row == 5 else "of"[row % 2]
        lines.append(" ".join([*map(str, hkl), mark, *values]) + "\n")
    path.write_text("".join(lines))


@pytest.mark.parametrize("kind", SF_TAGS)
@pytest.mark.parametrize("packed", [False, True])
def test_structure_factors_of_the_pdb_are_read_whatever_the_name(kind, packed, tmp_path):
    path = tmp_path / "r1abcsf.ent"
    write_cif(path, kind)
    if packed:
        packed_path = tmp_path / "r1abcsf.ent.gz"
        packed_path.write_bytes(gzip.compress(path.read_bytes()))
        path = packed_path
    values = by_unique(read(path))
    np.testing.assert_allclose(values, expected_of_mates(INTENSITY, INTENSITY), rtol=1e-5)


@pytest.mark.parametrize("status", ["x", "<", "-"])
def test_what_the_pdb_marks_as_not_observed_is_left_out(status, tmp_path):
    path = tmp_path / "sf.cif"
    write_cif(path, "intensities", status)
    means = merged_intensities.read_means(path, CELL, GROUP)
    assert len(means.hkl) == len(HKL) - 1
    assert tuple(HKL[5]) not in set(map(tuple, means.hkl.tolist()))


UNFIT = {
    "another cell": (MEAN_I, {"cell": CELL * [1.03, 1, 1, 1, 1, 1]}, "cell"),
    "another angle": (MEAN_I, {"cell": CELL * [1, 1, 1, 1, 1.02, 1]}, "cell"),
    "P 1 of C 2": (MEAN_I, {"group": "P 1"}, "Laue group"),
    "another setting": (
        MEAN_I,
        {"group": "I 1 2 1", "cell": [47.2, 59.8, 64.1, 90, 100.6, 90]},
        "Laue group",
    ),
    "no columns": ([("FREE", "I", SIGMA)], {}, "column of intensities"),
    "maps alone": ([("FWT", "F", SIGMA), ("PHWT", "P", SIGMA)], {}, "column of intensities"),
    "no values": ([("IMEAN", "J", NONE), ("SIGIMEAN", "Q", SIGMA)], {}, "values of IMEAN"),
}


@pytest.mark.parametrize("columns, crystal, expected", UNFIT.values(), ids=list(UNFIT))
@pytest.mark.parametrize("reader", [merged_intensities.read, merged_intensities.read_means])
def test_what_does_not_fit_is_refused(columns, crystal, expected, reader, tmp_path):
    path = written(tmp_path / "x.mtz", columns, **crystal)
    with pytest.raises(FileError) as caught:
        reader(path, CELL, GROUP)
    assert expected in caught.value.expected


@pytest.mark.parametrize(
    "columns",
    [
        [("FMODEL", "F", AMPLITUDE), ("PHIFMODEL", "P", SIGMA)],
        [("I", "J", INTENSITY), ("SIGI", "Q", 0 * SIGMA)],
    ],
)
def test_calculated_amplitudes_serve_as_a_reference_alone(columns, tmp_path):
    path = written(tmp_path / "x.mtz", columns)
    means = merged_intensities.read_means(path, CELL, GROUP)
    value = UNIQUE.values(means.hkl, means.intensity)
    np.testing.assert_allclose(value, expected_of_mates(INTENSITY, INTENSITY), rtol=1e-6)
    with pytest.raises(FileError, match="standard deviations"):
        read(path)


@pytest.mark.parametrize(
    "content", [b"", b"no MTZ", b"MTZ ", b"MTZ \0\0\0\0", b"\x1f\x8b no gzip", b"_refln.index_h"]
)
def test_broken_files_are_refused(content, tmp_path):
    path = tmp_path / "x.mtz"
    path.write_bytes(content)
    with pytest.raises(FileError, match="merged intensities"):
        read(path)
    with pytest.raises(FileError, match="merged intensities"):
        read(tmp_path / "nothing.mtz")


def test_groups_that_share_rotations_but_not_axes_are_told_apart(tmp_path):
    """Both of P 3 1 2 and P 3 2 1 are of the Laue class −3m."""
    hexagonal = [40.0, 40.0, 50.0, 90.0, 90.0, 120.0]
    path = written(tmp_path / "x.mtz", MEAN_I, group="P 3 1 2", cell=hexagonal)
    with pytest.raises(FileError, match="on the same axes"):
        merged_intensities.read(path, np.array(hexagonal), "P 32 2 1")
