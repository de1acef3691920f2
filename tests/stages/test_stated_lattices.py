"""Runs without images: what we write as a CrystFEL stream comes back bit by bit, and cells and
merge with it; what others write is recorded as much as images say; each lattice has one end.
"""

import logging
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lab import TRICLINIC
from spreadflow import cli
from spreadflow.config import for_stage, parse, section
from spreadflow.errors import AdoptOutcome, FileError, Outcome
from spreadflow.io import store
from spreadflow.io.images import Source
from spreadflow.io.lattices import dials_writer
from spreadflow.log import logger
from spreadflow.models import ReflectionFlag
from spreadflow.parallel import World
from spreadflow.products import Adopt, Cells, Merge, Reindex
from spreadflow.stages import adopt, cells, index, merge, simulate

pytestmark = pytest.mark.stage

CELL = [60.0, 52.0, 44.0, 90.0, 104.0, 90.0]
TREE = {
    "seed": 5,
    "runs": {"r": {"simulate": {"n_single": 8, "n_double": 1, "n_blank": 1, "n_unreadable": 1}}},
    "crystal": {
        "cell": CELL,
        "space_group": "C 1 2 1",
        "domain_ang": 1200.0,
        "mosaicity": "continuous",
        "mosaic_spread_deg": 0.1,
        "domains_per_crystal": 5000.0,
    },
    "structure_factors": {"d_min": 2.0},
    "beam": {
        "n_channels": 20,
        "first_channel_ev": 7100.5,
        "channel_ev": 2.0,
        "envelope_ev": 6.0,
        "photons": 2e12,
    },
    "detector": TRICLINIC["detector"] | {"bad_pixels": []},
    "recording": {"calibration_error": 0.0},
    "index": {
        "cell": CELL,
        "space_group": "C 1 2 1",
        "d_min": 2.0,
        "domain_ang": 1200.0,
        "block_shots": 4,
    },
    "cells": {"eps_ang": 2.0},
    "merge": {"d_min": 2.2, "n_bins": 3, "n_cycles": 10},
}
FAILED = ReflectionFlag.FAILED


def staged(stage: str, lattices: object = None, **keys):
    runs = TREE["runs"] if lattices is None else {"r": {"lattices": lattices}}
    tree = TREE | {"runs": runs, "index": TREE["index"] | keys}
    return for_stage(section(parse(tree), stage, "r"), stage)


def stated(
    folder: Path, *files: Path, settings: dict | None = None, run: str = "r", **keys
) -> SimpleNamespace:
    """Run `adopt` on files, and return its products."""
    lattices = {"files": [str(path) for path in files]} | (settings or {})
    out = folder / run / "reindex.h5"
    adopt.run(staged("adopt", lattices, **keys), lattices=[*files], run=run, out=out, world=World())
    return SimpleNamespace(
        path=out,
        reindex=store.read(out, Reindex),
        lines=store.read(out.with_name("adopt.h5"), Adopt).lines,
        warnings=store.attributes(out, Reindex)["warnings"],
    )


def merged(folder: Path, *reindex: Path) -> Merge:
    """Run cells and merge on the products of runs."""
    cells.run(staged("cells"), reindex=[*reindex], out=folder / "cells.h5", world=World())
    inputs = {"reindex": [*reindex], "cells": folder / "cells.h5"}
    merge.run(staged("merge"), **inputs, out=folder / "merge.h5", world=World())
    return store.read(folder / "merge.h5", Merge)


def exported(product: Path, out: Path, form: str = "crystfel", *more: str) -> Path:
    """Export a product with the command, and return the stream or the list."""
    assert cli.main(["export", str(product), "--to", form, "--out", str(out), *more]) == 0
    return out.with_name(out.name + (".stream" if form == "crystfel" else ".expt"))


def foreign(text: str) -> str:
    """Return a stream without our columns, in the digits that CrystFEL writes."""
    form = None
    lines = []
    for line in text.splitlines():
        words = line.split()
        if line.startswith(("Peaks from", "Reflections measured")):
            form = (
                "%7.2f %7.2f %10.2f %10.2f"
                if line[0] == "P"
                else 3 * "%4d " + ("%10.2f %10.2f %10.2f %10.2f %6.1f %6.1f")
            )
        elif line.startswith("End of"):
            form = None
        elif form is not None:
            n = form.count("%")
            numbers = words[:n]
            if words[0] not in ("h", "fs/px"):
                numbers = [form % tuple(map(float, numbers))]
            line = " ".join([*numbers, words[n]])
        elif words[1:2] == ["="] and words[0].endswith("star"):
            axis = " ".join(f"{float(word):+9.7f}" for word in words[2:5])
            line = f"{words[0]} = {axis} nm^-1"
        elif line.startswith("spreadflow/"):
            continue
        lines.append(line)
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def usual(tmp_path_factory) -> SimpleNamespace:
    """A simulated run, indexed the usual way, with its merge and its stream."""
    logger("adopt", World())  # pytest captures what loggers log that are there before the test
    folder = tmp_path_factory.mktemp("usual")
    manifest = folder / "data" / "manifest.json"
    simulate.run(staged("simulate"), run="r", out=manifest, world=World(), shots=None)
    dials_writer.write_expt(folder / "a.expt", Source(manifest).detector, wavelength=1.74)
    path = folder / "r" / "reindex.h5"
    inputs = {"images": manifest, "geometry": folder / "a.expt"}
    index.run(staged("reindex"), **inputs, out=path, world=World(), word="reindex")
    stream = exported(path, folder / "ours")
    (folder / "theirs.stream").write_text(foreign(stream.read_text()))
    return SimpleNamespace(
        folder=folder,
        path=path,
        reindex=store.read(path, Reindex),
        merge=merged(folder, path),
        stream=stream,
        foreign=folder / "theirs.stream",
    )


def sound(reindex: Reindex) -> np.ndarray:
    """Return which reflections did not fail."""
    return reindex.reflections.flags & FAILED == 0


def test_our_stream_is_our_product(usual, tmp_path):
    """All columns of shots that were read, spots, lattices and reflections that did not fail; a
    stream of this comes to the same again.
    """
    ours = stated(tmp_path, usual.stream)
    assert len(usual.reindex.lattices) >= 9
    again = stated(tmp_path / "again", exported(ours.path, tmp_path / "second"))
    is_read = np.isfinite(usual.reindex.shots.mean_energy_ev)
    assert (~is_read).sum() == 1
    rows_of = {"shots": is_read, "reflections": sound(usual.reindex)}
    for found in (ours.reindex, again.reindex):
        for table in ("shots", "spots", "lattices", "reflections"):
            expected = usual.reindex.tables[table].as_dict()
            for name, column in found.tables[table].as_dict().items():
                if name in ("seconds", "reason"):
                    continue
                wanted = expected[name][rows_of.get(table, slice(None))]
                if name == "A":
                    np.testing.assert_allclose(column, wanted, rtol=1e-15, atol=1e-18)
                else:
                    np.testing.assert_array_equal(column, wanted, err_msg=f"{table}/{name}")
    assert ours.warnings == []


def test_cells_and_merge_of_our_stream_are_those_of_the_product(usual, tmp_path):
    ours = stated(tmp_path, usual.stream)
    found = merged(tmp_path, ours.path)
    lattices, expected = (
        store.read(folder / "cells.h5", Cells, [Cells.lattices]).lattices
        for folder in (tmp_path, usual.folder)
    )
    np.testing.assert_array_equal(lattices.outcome, expected.outcome)
    np.testing.assert_array_equal(lattices.cell, expected.cell)
    assert len(found.merged) > 300
    for table in ("merged", "lattices"):
        for name, column in found.tables[table].as_dict().items():
            other = usual.merge.tables[table].as_dict()[name]
            np.testing.assert_array_equal(column, other, err_msg=f"{table}/{name}")


def test_others_streams_are_recorded_as_images_are(usual, tmp_path):
    """Intensities are as stated to two decimals; what is recorded, worked out from A with seven
    decimals, the Gaussian for the spectrum and the mosaicity of the peaks, is that of the images.
    The geometry of a stream has no sensor: it captures everything.
    """
    theirs = stated(tmp_path, usual.foreign)
    assert set(theirs.lines.outcome) == {AdoptOutcome.ADOPTED}
    np.testing.assert_array_equal(theirs.lines.n_agree, theirs.lines.n_reflections)
    rows, expected = theirs.reindex.reflections, usual.reindex.reflections[sound(usual.reindex)]
    np.testing.assert_array_equal(rows.hkl, expected.hkl)
    np.testing.assert_allclose(rows.intensity, expected.intensity, rtol=1e-6, atol=0.006)
    np.testing.assert_allclose(rows.fast, expected.fast, rtol=0, atol=0.051)
    assert set(rows.capture) == {1.0}

    eta, expected_eta = theirs.reindex.lattices.eta_rad, usual.reindex.lattices.eta_rad
    away = np.abs(np.log(eta / expected_eta))
    assert np.median(away) < 0.1
    assert np.ptp(np.log(expected_eta)) > 0.3, "the lattices differ by more than that"

    is_well = expected.partiality > 0.3
    recorded = np.log((rows.partiality * rows.lorentz)[is_well])
    away = recorded - np.log((expected.partiality * expected.lorentz)[is_well])
    assert np.median(np.abs(away)) < 0.05
    np.testing.assert_allclose(rows.polarization, expected.polarization, rtol=1e-3)
    strong = expected.intensity > 200
    background = np.log(rows.sigma_background / expected.sigma_background)[strong]
    assert np.median(np.abs(background)) < 0.03

    found = merged(tmp_path, theirs.path)
    assert len(found.merged) > 0.95 * len(usual.merge.merged)
    one = {
        tuple(hkl): i
        for hkl, i in zip(found.merged.hkl.tolist(), found.merged.intensity, strict=True)
    }
    both = [
        (one[tuple(hkl)], i)
        for hkl, i in zip(
            usual.merge.merged.hkl.tolist(), usual.merge.merged.intensity, strict=True
        )
        if tuple(hkl) in one
    ]
    assert np.corrcoef(np.array(both).T)[0, 1] > 0.99


def test_runs_with_images_and_without_are_merged_together(usual, tmp_path):
    """Photons of pulses are known of one run, and not of the other: scales of the same lattice in
    both are alike, as each pulse is compared with its own run's.
    """
    theirs = stated(tmp_path, usual.foreign, run="old")
    found = merged(tmp_path, usual.path, theirs.path)
    lattices = found.lattices[found.lattices.used]
    scales = [np.log(lattices.scale[lattices.run == run]) for run in (0, 1)]
    assert min(map(len, scales)) >= 8
    assert abs(np.median(scales[0]) - np.median(scales[1])) < 0.5
    assert np.nanmedian(lattices.chi2) < 4


@pytest.mark.parametrize("signs", [(-1, 1, 1), (1, -1, 1), (1, 1, -1)])
def test_another_frame_is_noticed(usual, tmp_path, signs):
    """With one axis the other way round, and the cell right-handed by a second, no reflection lies
    where A puts it.
    """

    def turned(line: re.Match) -> str:
        values = np.array([float(word) for word in line[2].split()]) * signs * np.array([1, 1, 1])
        own = -1.0 if line[1] == "b" else 1.0
        return f"{line[1]}star = " + " ".join(f"{own * value:+.9f}" for value in values)

    text = re.sub(r"([abc])star = (\S+ \S+ \S+)", turned, usual.foreign.read_text())
    (tmp_path / "x.stream").write_text(text)
    with pytest.raises(FileError, match=r"lattices that can be adopted; found \d+ other_indices"):
        stated(tmp_path, tmp_path / "x.stream")


def _first_crystal(text: str) -> tuple[int, int]:
    """Return where the first crystal begins and ends."""
    end = "--- End crystal\n"
    return text.index("--- Begin crystal"), text.index(end) + len(end)


def _twice(text: str) -> str:
    first, last = _first_crystal(text)
    return text[:last] + text[first:last] + text[last:]


def _few_rows(text: str) -> str:
    first, last = _first_crystal(text)
    lines = text[first:last].splitlines(keepends=True)
    table = next(n for n, line in enumerate(lines) if line.startswith("Reflections")) + 2
    return text[:first] + "".join(lines[: table + 3] + lines[-2:]) + text[last:]


def _swapped(text: str) -> str:
    """All indices of the first crystal are of another lattice."""
    first, last = _first_crystal(text)
    lines = [
        re.sub(r"^\s*(-?\d+) +(-?\d+) +(-?\d+) ", r"\3 \1 \2 ", line)
        for line in text[first:last].splitlines(keepends=True)
    ]
    return text[:first] + "".join(lines) + text[last:]


def _longer(text: str) -> str:
    """The first a* is longer by a fifth."""

    def longer(line: re.Match) -> str:
        return "astar = " + " ".join(f"{1.2 * float(word):+.7f}" for word in line[1].split())

    return re.sub(r"astar = (\S+ \S+ \S+)", longer, text, count=1)


def _no_peaks(text: str) -> str:
    return re.sub("Peaks from.*?End of peak list\n", "", text, count=1, flags=re.S)


ENDS = {
    "other_group": lambda text: text.replace("centering = C", "centering = P", 2),
    "other_cell": _longer,
    "unreadable": lambda text: re.sub("astar = .*", "astar = 0 0 0 nm^-1", text, count=1),
    "not_paired": _few_rows,
    "other_indices": _swapped,
    "duplicate": _twice,
    "lost_shot": lambda text: re.sub(
        "photon_energy_eV = .*", "photon_energy_eV = 0", text, count=1
    ),
    "unknown_mosaicity": _no_peaks,
}


@pytest.mark.parametrize("end", ENDS)
def test_each_lattice_has_one_end(usual, tmp_path, end, caplog):
    """The first crystal of the stream is changed, the others are adopted."""
    caplog.set_level(logging.WARNING)
    whole = usual.foreign.read_text()
    changed = ENDS[end](whole)
    assert changed != whole
    (tmp_path / "x.stream").write_text(changed)
    found = stated(tmp_path, tmp_path / "x.stream")
    n_all = changed.count("--- Begin crystal")
    outcomes = np.bincount(found.lines.outcome, minlength=len(AdoptOutcome))
    number = AdoptOutcome[end.upper()]
    expected = {AdoptOutcome.ADOPTED: n_all - 1, number: 1}
    assert {AdoptOutcome(n): int(k) for n, k in enumerate(outcomes) if k} == expected
    row = int(np.flatnonzero(found.lines.outcome == number)[0])
    assert found.lines.k[row] == -1
    assert f"line {found.lines.line[row]}: {end}" in caplog.text
    lattices = found.reindex.lattices
    assert len(lattices) == n_all - 1
    shot = found.reindex.shots[found.reindex.shots.shot_id == found.lines.shot_id[row]]
    expected_outcome = {"duplicate": Outcome.INDEXED, "lost_shot": Outcome.BAD_SPECTRUM}
    assert shot.outcome == expected_outcome.get(end, Outcome.NO_LATTICE)
    assert len(found.reindex.shots) == changed.count("----- Begin chunk")


def test_a_mosaicity_of_the_configuration_needs_no_peaks(usual, tmp_path):
    (tmp_path / "x.stream").write_text(
        re.sub("Peaks from.*?End of peak list\n", "", usual.foreign.read_text(), flags=re.S)
    )
    with pytest.raises(FileError, match=r"found \d+ unknown_mosaicity"):
        stated(tmp_path, tmp_path / "x.stream")
    found = stated(tmp_path, tmp_path / "x.stream", mosaic_spread_deg=0.1)
    assert set(found.lines.outcome) == {AdoptOutcome.ADOPTED}
    np.testing.assert_allclose(found.reindex.lattices.eta_rad, np.deg2rad(0.1))


def test_pulses_without_a_bandwidth(usual, tmp_path):
    """One energy is taken; what the spots say of a bandwidth is in the product, for the key that
    sets it. With it, partialities are near those of the images, and without it they are not.
    """
    text = re.sub("beam_bandwidth = .*", "beam_bandwidth = 1.00e-08", usual.foreign.read_text())
    (tmp_path / "x.stream").write_text(text)
    single = stated(tmp_path / "a", tmp_path / "x.stream")
    width = store.attributes(single.path, Reindex)["bandwidth"]
    assert abs(width["fwhm"] - 0.002) < max(3 * width["sigma"], 0.001)

    known = stated(tmp_path / "b", tmp_path / "x.stream", settings={"bandwidth": 0.002})
    assert store.attributes(known.path, Reindex)["bandwidth"] is None
    expected = usual.reindex.reflections[sound(usual.reindex)].partiality
    away = [
        np.median(np.abs(np.log(found.reindex.reflections.partiality / expected)))
        for found in (known, single)
    ]
    assert away[0] < 0.5 * away[1]


def test_shots_without_an_end_and_sigmas_that_cannot_be_are_told(usual, tmp_path):
    """A gain that is too large makes σ smaller than counting allows."""
    text = usual.foreign.read_text()
    cut = text[: text.rindex("--- End crystal")]
    (tmp_path / "x.stream").write_text(cut)
    found = stated(tmp_path / "a", tmp_path / "x.stream")
    assert len(found.reindex.shots) == text.count("----- Begin chunk") - 1
    (warning,) = found.warnings
    line = cut[: cut.rindex("----- Begin chunk")].count("\n") + 1
    assert warning["value"] == f"1, from line {line}"

    more = {"adu_per_photon": 20.0}
    found = stated(tmp_path / "b", usual.foreign, settings=more)
    assert any("smaller than the number of their photons" in w["what"] for w in found.warnings)
    np.testing.assert_allclose(
        found.reindex.reflections.intensity,
        usual.reindex.reflections[sound(usual.reindex)].intensity / 20,
        rtol=1e-5,
        atol=0.001,
    )


def test_parts_that_are_there_are_kept_and_lattices_told_again(usual, tmp_path):
    first = stated(tmp_path, usual.foreign)
    part = store.part_path(first.path, 0)
    before = part.stat().st_mtime_ns
    table = {name: column.tolist() for name, column in first.lines.as_dict().items()}
    again = stated(tmp_path, usual.foreign)
    assert part.stat().st_mtime_ns == before
    assert {name: column.tolist() for name, column in again.lines.as_dict().items()} == table


def test_several_files_are_one_run_and_a_shot_is_in_one(usual, tmp_path):
    header, *chunks = usual.foreign.read_text().split("----- Begin chunk -----")
    halves = [chunks[: len(chunks) // 2], chunks[len(chunks) // 2 :]]
    for name, half in zip("ab", halves, strict=True):
        text = "----- Begin chunk -----".join([header, *half])
        (tmp_path / f"{name}.stream").write_text(text)
    found = stated(tmp_path / "both", tmp_path / "a.stream", tmp_path / "b.stream")
    expected = stated(tmp_path / "whole", usual.foreign)
    for name in ("intensity", "partiality", "hkl"):
        np.testing.assert_array_equal(
            found.reindex.reflections.as_dict()[name],
            expected.reindex.reflections.as_dict()[name],
        )
    with pytest.raises(FileError, match="each shot once"):
        stated(tmp_path / "twice", tmp_path / "a.stream", usual.foreign)

    moved = re.sub("clen = .*", "clen = 0.0601", (tmp_path / "b.stream").read_text())
    moved = re.sub("average_camera_length = .*", "average_camera_length = 0.0601 m", moved)
    (tmp_path / "c.stream").write_text(moved)
    with pytest.raises(FileError, match=r"c.stream: expected the detector of .*a.stream"):
        stated(tmp_path / "moved", tmp_path / "a.stream", tmp_path / "c.stream")


def test_integrated_pairs_of_dials(usual, tmp_path):
    """Intensities are as stated, and what is captured is known from the sensor of the list."""
    expt = exported(usual.path, tmp_path / "pair", "dials")
    found = stated(tmp_path, expt, settings={"bandwidth": 0.002})
    assert set(found.lines.outcome) == {AdoptOutcome.ADOPTED}
    rows, expected = found.reindex.reflections, usual.reindex.reflections[sound(usual.reindex)]
    np.testing.assert_array_equal(rows.hkl, expected.hkl)
    np.testing.assert_array_equal(rows.intensity, expected.intensity)
    np.testing.assert_allclose(rows.sigma, expected.sigma, rtol=1e-6)
    np.testing.assert_allclose(rows.capture, expected.capture, rtol=1e-3)
    assert found.reindex.lattices.n_indexed.min() >= 8


BODY = {"space_group": "I 1 2 1", "cell": [44.0, 52.0, 65.26, 90.0, 116.85, 90.0]}
"""The axes c, b, -a - c of the crystal."""


@pytest.mark.parametrize("kind", ["ours", "theirs", "pair"])
def test_lattices_on_other_axes_are_brought_to_the_configured_ones(usual, tmp_path, kind, caplog):
    """The configuration has I 1 2 1 where the files have C 1 2 1. Intensities are of the same
    nodes, and as much of them is recorded; columns of ours, of other axes, do not count.
    """
    pair = exported(usual.path, tmp_path / "pair", "dials")
    file = {"ours": usual.stream, "theirs": usual.foreign, "pair": pair}[kind]
    settings = {"bandwidth": 0.002}
    as_it_is = stated(tmp_path / "c", file, settings=settings)
    with caplog.at_level(logging.INFO):
        found = stated(tmp_path / "i", file, settings=settings, **BODY)
    assert set(found.lines.outcome) == {AdoptOutcome.ADOPTED}
    n = len(found.lines)
    pattern = r"(\d+) lattices are brought to I 1 2 1: indices \S+$"
    brought = [re.fullmatch(pattern, text) for text in caplog.messages]
    assert sum(int(match[1]) for match in brought if match) == n

    old, new = as_it_is.reindex, found.reindex
    assert len(new.lattices) == len(old.lattices) == n
    np.testing.assert_allclose(new.lattices.cell[:, :3], [BODY["cell"][:3]] * n, rtol=0.03)
    rows, expected = new.reflections, old.reflections
    q, expected_q = (
        np.einsum("nij,nj->ni", product.lattices.A[table.lattice], table.hkl)
        for product, table in ((new, rows), (old, expected))
    )
    np.testing.assert_allclose(q, expected_q, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(rows.intensity, expected.intensity)
    if kind != "ours":
        np.testing.assert_allclose(new.lattices.eta_rad, old.lattices.eta_rad, rtol=1e-3)
        np.testing.assert_allclose(rows.partiality, expected.partiality, rtol=1e-3, atol=1e-6)


def test_files_that_have_no_intensities_or_are_none_are_refused(usual, tmp_path):
    with pytest.raises(FileError, match="--images and --spec, or --lattices"):
        adopt.run(staged("adopt"), images=tmp_path, out=tmp_path / "x.h5", world=World())
    (tmp_path / "x.stream").write_text("no stream")
    with pytest.raises(FileError, match="a CrystFEL stream of format"):
        stated(tmp_path, tmp_path / "x.stream")


def test_lists_of_dials_need_images(usual, tmp_path, capsys):
    """An experiment has an image, which a run without images has not."""
    ours = stated(tmp_path, usual.stream)
    assert cli.main(["export", str(ours.path), "--to", "dials"]) == 4
    assert "a product that was made from images" in capsys.readouterr().err
