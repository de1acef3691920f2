"""Lattices that somebody else indexed: told by a spec file, they are those of the usual way; each
line has one end.

what is wrong with a line                        | what comes of it
.expt or .refl missing, broken, a column missing | AdoptOutcome.UNREADABLE
no such experiment, or one of several unnamed    | NO_EXPERIMENT
an image that is none of the run's               | NO_SHOT
another space group, another cell                | OTHER_GROUP, OTHER_CELL
a .refl of another experiment, or of another A   | NOT_PAIRED, OTHER_INDICES
told twice                                       | DUPLICATE
a shot that can't be read                        | LOST_SHOT
another detector, nothing to adopt, no line      | FileError
"""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgpack
import numpy as np
import pytest

from lab import TRICLINIC
from spreadflow import cli
from spreadflow.analysis.still import refinement
from spreadflow.config import for_stage, parse, section
from spreadflow.errors import AdoptOutcome, FileError, LatticeOutcome, Outcome, RefinedOutcome
from spreadflow.io import store
from spreadflow.io.images import Source, open_indexed
from spreadflow.io.lattices import dials_writer
from spreadflow.io.lattices.shot_finder import Rule
from spreadflow.io.lattices.spec import SpecLine
from spreadflow.models import Detector
from spreadflow.parallel import World
from spreadflow.physics import geometry, symmetry
from spreadflow.products import Adopt, Annulus, Cells, Reindex, Stage1
from spreadflow.products.adopt import Lines
from spreadflow.recipes.pair import Line
from spreadflow.stages import adopt, annulus, cells, index, simulate, stage1
from spreadflow.units import wavelength

pytestmark = pytest.mark.stage

CELL = [60.0, 52.0, 44.0, 90.0, 104.0, 90.0]
GROUP = "P 1 21 1"
HALL = " P 2yb"
TREE = {
    "seed": 5,
    "runs": {"r": {"simulate": {"n_single": 4, "n_double": 1, "n_blank": 1}}},
    "crystal": {
        "cell": CELL,
        "space_group": GROUP,
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
        "space_group": GROUP,
        "d_min": 2.0,
        "domain_ang": 1200.0,
        "block_shots": 2,
        "mosaic_spread_deg": 0.1,
    },
    "cells": {"eps_ang": 2.0},
    "annulus": {"d_min": 2.3, "d_max": 4.0},
    "stage1": {"oversample": 1, "refine": ["scale", "rotation", "eta"]},
}
TYPES = {
    "id": ("int", "<i4"),
    "panel": ("std::size_t", "<u8"),
    "miller_index": ("cctbx::miller::index<>", "<i4"),
    "xyzobs.px.value": ("vec3<double>", "<f8"),
    "flags": ("std::size_t", "<u8"),
}


def staged(stage: str, **index_keys):
    tree = TREE | {"index": TREE["index"] | index_keys}
    return for_stage(section(parse(tree), stage, "r"), stage)


def write_expt(path: Path, detector: Detector, lattices: list[dict]) -> None:
    """Write an experiment list as DIALS does: every lattice has its beam, crystal and imageset, and
    all share the detector.
    """
    dials_writer.write_expt(path, detector, wavelength=lattices[0]["wavelength"])
    tree = json.loads(path.read_text())
    beam = tree["beam"][0]
    tree["experiment"] = []
    tree["beam"] = [dict(beam, wavelength=lattice["wavelength"]) for lattice in lattices]
    for n, lattice in enumerate(lattices):
        crystal = {"__id__": "crystal"}
        for axis, row in zip("abc", np.linalg.inv(lattice["A"]).tolist(), strict=True):
            crystal[f"real_space_{axis}"] = row
        crystal["space_group_hall_symbol"] = lattice.get("hall", HALL)
        tree["crystal"].append(crystal)

        images = [str(lattice["image"])]
        frames = [int(lattice["frame"])]
        tree["imageset"].append(
            {"__id__": "ImageSet", "images": images, "single_file_indices": frames}
        )

        numbers = {"beam": n, "crystal": n, "imageset": n, "detector": 0}
        experiment = {"__id__": "Experiment", "identifier": lattice["identifier"]}
        tree["experiment"].append(experiment | numbers)
    path.write_text(json.dumps(tree))


def write_refl(path: Path, lattices: list[dict], first: int = 0, **other) -> None:
    """Write a reflection table, with a spot without indices after those of each lattice.

    first: number of the first lattice; other: columns that replace the right ones, None = absent.
    """
    rows = [
        (n + first, *row)
        for n, lattice in enumerate(lattices)
        for row in [*lattice["rows"], (0, (0, 0, 0), (5.0, 5.0))]
    ]
    columns = {
        "id": [row[0] for row in rows],
        "panel": [row[1] for row in rows],
        "miller_index": [row[2] for row in rows],
        "xyzobs.px.value": [(*row[3], 0.5) for row in rows],
        "flags": [36 for _ in rows],
    }
    data = {
        name: [TYPES[name][0], [len(rows), np.array(column, TYPES[name][1]).tobytes()]]
        for name, column in columns.items()
    }
    data = {name: column for name, column in (data | other).items() if column is not None}
    identifiers = {n + first: lattice["identifier"] for n, lattice in enumerate(lattices)}
    table = {"identifiers": identifiers, "nrows": len(rows), "data": data}
    path.write_bytes(msgpack.packb(["dials::af::reflection_table", 1, table]))


def write_lam(path: Path, energies_ev: np.ndarray, weights: np.ndarray) -> None:
    """Write a spectrum as diffBragg does."""
    columns = np.stack([wavelength(energies_ev), weights], axis=1)
    np.savetxt(path, columns, delimiter=",", header="wavelengths, weights")


def dials_lattices(reindex: Path, manifest: Path) -> list[dict]:
    """Return what DIALS would write of each lattice of a product."""
    indexed = store.read(reindex, Reindex)
    shots = indexed.shots
    source = Source(manifest)
    out = []
    for n, shot in enumerate(indexed.lattices.shot):
        spots = indexed.spots[indexed.spots.lattice == n]
        columns = (spots.panel, spots.hkl, spots.fast, spots.slow)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        out.append(
            {
                "A": indexed.lattices.A[n],
                "wavelength": 12398.4198 / shots.mean_energy_ev[shot],
                "spectrum": source.spectrum(shot),
                "image": manifest.parent / source.manifest.files[shots.file[shot]].path,
                "frame": shots.frame[shot],
                "identifier": f"lattice-{n}",
                "rows": [(panel, tuple(hkl), (fast, slow)) for panel, hkl, fast, slow in rows],
            }
        )
    return out


def onwards(folder: Path, manifest: Path) -> None:
    """Run cells, annulus and stage1 on a folder's reindex.h5."""
    cells.run(
        staged("cells"), reindex=[folder / "reindex.h5"], out=folder / "cells.h5", world=World()
    )
    inputs = {
        "images": [manifest],
        "reindex": [folder / "reindex.h5"],
        "cells": folder / "cells.h5",
    }
    annulus.run(staged("annulus"), **inputs, out=folder / "annulus.h5", world=World())
    stage1.run(
        staged("stage1"), shoeboxes=folder / "annulus.h5", out=folder / "stage1.h5", world=World()
    )


def adopted(spec: Path, manifest: Path, out: Path, **keys) -> tuple[Reindex, Lines]:
    """Run `adopt`, and return the tables of reindex.h5 and adopt.h5."""
    adopt.run(staged("adopt", **keys), images=manifest, spec=spec, out=out, world=World())
    reindex = store.read(out, Reindex)
    lines = store.read(out.with_name("adopt.h5"), Adopt).lines
    return reindex, lines


@pytest.fixture(scope="module")
def usual(tmp_path_factory) -> SimpleNamespace:
    """A simulated run, indexed the usual way, and pairs written of its six lattices in all forms a
    spec file has.
    """
    folder = tmp_path_factory.mktemp("usual")
    manifest = folder / "data" / "manifest.json"
    simulate.run(staged("simulate"), run="r", out=manifest, world=World(), shots=None)
    detector = Source(manifest).detector
    inputs = {"images": manifest, "geometry": folder / "level0.expt"}
    dials_writer.write_expt(folder / "level0.expt", detector, wavelength=1.74)
    index.run(staged("reindex"), **inputs, out=folder / "reindex.h5", world=World(), word="reindex")
    onwards(folder, manifest)
    lattices = dials_lattices(folder / "reindex.h5", manifest)
    lines = []
    for n, lattice in enumerate(lattices[:4]):
        write_expt(folder / f"{n}.expt", detector, [lattice])
        write_refl(folder / f"{n}.refl", [lattice])
        write_lam(folder / f"{n}.lam", *lattice["spectrum"])
        lines.append(f"{n}.expt {folder}/{n}.refl" + ("", " 0", f" {n}.lam", f" {n}.lam 0")[n])
    write_expt(folder / "double.expt", detector, lattices[4:])
    write_refl(
        folder / "double.refl", lattices[4:], first=7
    )  # numbers that only the identifiers explain
    lines += ["", "double.expt double.refl 0", "double.expt double.refl 1"]
    (folder / "spec.txt").write_text("\n".join(lines) + "\n")
    return SimpleNamespace(
        folder=folder, manifest=manifest, detector=detector, lattices=lattices, lines=lines
    )


@pytest.fixture(scope="module")
def adopted_run(usual, tmp_path_factory) -> SimpleNamespace:
    """The same run with its lattices adopted, as far as stage 1."""
    folder = tmp_path_factory.mktemp("told")
    found, lines = adopted(usual.folder / "spec.txt", usual.manifest, folder / "reindex.h5")
    onwards(folder, usual.manifest)
    return SimpleNamespace(folder=folder, reindex=found, lines=lines)


def test_each_line_has_one_end(usual, adopted_run):
    assert len(usual.lattices) == 6

    lines = adopted_run.lines
    assert list(lines.outcome) == [AdoptOutcome.ADOPTED] * 6
    assert list(lines.line) == [1, 2, 3, 4, 6, 7]
    assert list(lines.k) == [0, 0, 0, 0, 0, 1]
    assert list(lines.experiment) == [0, 0, 0, 0, 0, 1]
    assert list(lines.n_reflections) == [len(one["rows"]) for one in usual.lattices]
    assert np.all(lines.n_agree >= 0.9 * lines.n_reflections)

    lattices = adopted_run.reindex.lattices
    identities = set(zip(lattices.shot_id, lattices.k, strict=True))
    assert identities == set(zip(lines.shot_id, lines.k, strict=True))
    shots = adopted_run.reindex.shots
    ends = zip(shots.outcome, shots.reason, strict=True)
    lost = [(outcome, reason) for outcome, reason in ends if outcome]
    assert lost == [(Outcome.NOT_SUPPLIED, b"no lattice is supplied for it")]


def test_the_product_is_that_of_the_usual_way(usual, adopted_run):
    """The product has the same lattices, spots, predictions and integrated reflections; a shot
    without a line has no spots.
    """
    ours = adopted_run.reindex
    theirs = store.read(usual.folder / "reindex.h5", Reindex)
    np.testing.assert_allclose(ours.lattices.A, theirs.lattices.A, rtol=0, atol=1e-14)

    reflections = ours.reflections.as_dict()
    expected = theirs.reflections.as_dict()
    for name in ("hkl", "panel", "bbox", "n_foreground", "flags", "lattice"):
        np.testing.assert_array_equal(reflections[name], expected[name], err_msg=name)
    for name in ("intensity", "sigma", "fast", "slow", "partiality"):
        np.testing.assert_allclose(
            reflections[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name
        )

    lattices = ours.lattices.as_dict()
    for name in ("shot_id", "k", "n_indexed", "n_rmsd"):
        np.testing.assert_array_equal(lattices[name], theirs.lattices.as_dict()[name], err_msg=name)


def test_stage_1_has_the_lattices_of_the_usual_way(usual, adopted_run):
    pixels, their_pixels = (
        store.read(each.folder / "annulus.h5", Annulus, [Annulus.pixels]).pixels
        for each in (adopted_run, usual)
    )

    assert len(pixels) > 5000
    for name, column in pixels.as_dict().items():
        np.testing.assert_array_equal(column, their_pixels.as_dict()[name], err_msg=name)

    ours, theirs = (store.read(each.folder / "stage1.h5", Stage1) for each in (adopted_run, usual))
    np.testing.assert_array_equal(ours.lattices.outcome, theirs.lattices.outcome)
    assert (ours.lattices.outcome == RefinedOutcome.REFINED).sum() >= 4

    product = adopted_run.folder / "cells.h5"
    outcome = store.read(product, Cells, [Cells.lattices.outcome]).lattices.outcome
    assert len(ours.lattices) == (outcome == LatticeOutcome.ACCEPTED).sum()
    for A, other in zip(ours.lattices.A, theirs.lattices.A, strict=True):
        assert symmetry.misorientation(A, other, GROUP) < 1e-8


def test_the_mosaic_spread_is_that_of_the_data(usual, tmp_path):
    """The estimate with A held is near that of the usual way, which refines A too, from the same
    spots.
    """
    free = {"mosaic_spread_deg": None}
    inputs = {"images": usual.manifest, "geometry": usual.folder / "level0.expt"}
    index.run(
        staged("reindex", **free),
        **inputs,
        out=tmp_path / "a" / "reindex.h5",
        world=World(),
        word="reindex",
    )
    theirs = store.read(tmp_path / "a" / "reindex.h5", Reindex, [Reindex.lattices])
    (tmp_path / "lines").mkdir()
    for n, one in enumerate(dials_lattices(tmp_path / "a" / "reindex.h5", usual.manifest)):
        write_expt(tmp_path / "lines" / f"{n}.expt", usual.detector, [one])
        write_refl(tmp_path / "lines" / f"{n}.refl", [one])
    lines = "".join(f"{n}.expt {n}.refl\n" for n in range(len(theirs.lattices)))
    (tmp_path / "lines" / "spec.txt").write_text(lines)
    ours, _ = adopted(
        tmp_path / "lines" / "spec.txt", usual.manifest, tmp_path / "b" / "reindex.h5", **free
    )

    np.testing.assert_allclose(ours.lattices.A, theirs.lattices.A, rtol=0, atol=1e-14)

    away = np.abs(np.log(ours.lattices.eta_rad / theirs.lattices.eta_rad))
    assert np.median(away) < 0.02
    assert away.max() < 0.35
    assert np.ptp(np.log(theirs.lattices.eta_rad)) > 0.7, "the lattices differ by more than that"


def test_a_spectrum_of_the_spec_file_is_that_of_all_stages(usual, tmp_path):
    """Another spectrum than the image's, on other channels: its shot is indexed with it, and its
    shoeboxes carry it; the photons of the pulse stay those of the image.
    """
    energies_ev = np.arange(7100.0, 7140.0, 1.6)
    weights = np.exp(-0.5 * ((energies_ev - 7126.0) / 4.0) ** 2)
    weights[0] = -0.2
    shown = weights.clip(0) / weights.clip(0).sum()
    spec = tmp_path / "spec.txt"
    for n, lattice in enumerate(usual.lattices):
        write_expt(tmp_path / f"{n}.expt", usual.detector, [lattice])
        write_refl(tmp_path / f"{n}.refl", [lattice])
    write_lam(tmp_path / "pulse.lam", energies_ev[::-1], 3e5 * weights[::-1])
    pairs = [f"{n}.expt {n}.refl" for n in range(6)]
    spec.write_text("\n".join([f"{pairs[0]} pulse.lam", *pairs[1:]]))

    reindex, lines = adopted(spec, usual.manifest, tmp_path / "reindex.h5")
    assert list(lines.outcome) == [AdoptOutcome.ADOPTED] * 6
    theirs = store.read(usual.folder / "reindex.h5", Reindex)
    shot, other = (int(reindex.lattices.shot[n]) for n in (0, 1))
    assert reindex.shots.mean_energy_ev[shot] == pytest.approx(energies_ev @ shown, abs=1e-6)
    assert reindex.shots.mean_energy_ev[other] == theirs.shots.mean_energy_ev[other]
    assert reindex.shots.pulse_photons[other] == theirs.shots.pulse_photons[other]
    photons = reindex.shots.pulse_photons[shot]
    assert photons == pytest.approx(theirs.shots.pulse_photons[shot])

    onwards(tmp_path, usual.manifest)
    spectra = store.read(tmp_path / "annulus.h5", Annulus, [Annulus.spectra]).spectra
    row = int(np.flatnonzero(spectra.shot_id == reindex.shots.shot_id[shot])[0])
    np.testing.assert_allclose(spectra.energies_ev[row], energies_ev, rtol=1e-12)
    np.testing.assert_allclose(spectra.photons[row], photons * shown, rtol=1e-9)
    row = int(np.flatnonzero(spectra.shot_id == reindex.shots.shot_id[other])[0])
    own = usual.lattices[1]["spectrum"].energies_ev
    np.testing.assert_allclose(spectra.energies_ev[row, :20], own, rtol=1e-12)

    write_lam(tmp_path / "pulse.lam", energies_ev, weights + 1.0)
    kept = (tmp_path / "reindex.spectra.h5").read_bytes()
    changed, _ = adopted(spec, usual.manifest, tmp_path / "reindex.h5")
    assert changed.shots.mean_energy_ev[shot] != reindex.shots.mean_energy_ev[shot]
    (tmp_path / "reindex.spectra.h5").write_bytes(kept)
    with pytest.raises(FileError, match=r"reindex.spectra.h5: expected the spectra .* Rerun adopt"):
        open_indexed(usual.manifest, tmp_path / "reindex.h5")

    spec.write_text("\n".join(pairs))
    adopted(spec, usual.manifest, tmp_path / "reindex.h5")
    assert not (tmp_path / "reindex.spectra.h5").exists()
    assert open_indexed(usual.manifest, tmp_path / "reindex.h5").spectra is None


def test_two_spectra_of_one_shot_are_refused(usual, tmp_path):
    """The same spectrum in two files is one."""
    for n, lattice in enumerate(usual.lattices[4:]):
        write_lam(tmp_path / f"{n}.lam", *lattice["spectrum"])
    pair = f"{usual.folder}/double.expt {usual.folder}/double.refl"
    spec = tmp_path / "spec.txt"
    spec.write_text(f"{pair} 0.lam 0\n{pair} 1.lam 1\n")
    _, lines = adopted(spec, usual.manifest, tmp_path / "reindex.h5")
    assert list(lines.outcome) == [AdoptOutcome.ADOPTED] * 2

    write_lam(tmp_path / "1.lam", *usual.lattices[0]["spectrum"])
    with pytest.raises(FileError, match=r"line 2 .* same shot"):
        adopted(spec, usual.manifest, tmp_path / "reindex.h5")


def _missing(one, folder):
    (folder / "bad.expt").unlink()


def _broken(one, folder):
    (folder / "bad.refl").write_bytes(b"\x93\xbbdials")


def _without_column(one, folder):
    write_refl(folder / "bad.refl", [one], miller_index=None)


def _short_column(one, folder):
    write_refl(folder / "bad.refl", [one], panel=["std::size_t", [1, bytes(8)]])


def _wrong_type(one, folder):
    write_refl(folder / "bad.refl", [one], panel=["std::string", [1, ["a"]]])


def _no_crystal(one, folder):
    tree = json.loads((folder / "bad.expt").read_text())
    del tree["experiment"][0]["crystal"]
    (folder / "bad.expt").write_text(json.dumps(tree))


def _not_finite(one, folder):
    tree = json.loads((folder / "bad.expt").read_text())
    tree["crystal"][0]["real_space_a"] = [float("nan"), 0, 0]
    (folder / "bad.expt").write_text(json.dumps(tree))


def _other_identifier(one, folder):
    write_refl(folder / "bad.refl", [one | {"identifier": "another"}])


def _other_indices(one, folder):
    rows = []
    for panel, (h, k, l), position in one["rows"]:
        rows.append((panel, (l, h, k), position))
    write_refl(folder / "bad.refl", [one | {"rows": rows}])


def _again(**changes):
    return lambda one, folder: write_expt(folder / "bad.expt", DETECTOR[0], [one | changes])


def _stretched(one, folder):
    _again(A=one["A"] / 1.08)(one, folder)


def _nothing(one, folder):
    pass


DETECTOR: list[Detector] = []
WRONG = {
    "missing": (_missing, "", AdoptOutcome.UNREADABLE),
    "no spectrum": (_nothing, " none.lam", AdoptOutcome.UNREADABLE),
    "broken": (_broken, "", AdoptOutcome.UNREADABLE),
    "no column": (_without_column, "", AdoptOutcome.UNREADABLE),
    "short column": (_short_column, "", AdoptOutcome.UNREADABLE),
    "wrong type": (_wrong_type, "", AdoptOutcome.UNREADABLE),
    "no crystal": (_no_crystal, "", AdoptOutcome.UNREADABLE),
    "not finite": (_not_finite, "", AdoptOutcome.UNREADABLE),
    "no such experiment": (_nothing, " 1", AdoptOutcome.NO_EXPERIMENT),
    "no such image": (_again(image="other.nxs"), "", AdoptOutcome.NO_SHOT),
    "no such frame": (_again(frame=99), "", AdoptOutcome.NO_SHOT),
    "other group": (_again(hall=" C 2y"), "", AdoptOutcome.OTHER_GROUP),
    "other cell": (_stretched, "", AdoptOutcome.OTHER_CELL),
    "other identifier": (_other_identifier, "", AdoptOutcome.NOT_PAIRED),
    "other indices": (_other_indices, "", AdoptOutcome.OTHER_INDICES),
    "twice": (_nothing, "", AdoptOutcome.DUPLICATE),
}


def test_a_bad_line_has_its_own_end_and_costs_no_other(usual, tmp_path, capsys):
    """Shot 0 stays without a lattice but for the last, good line, which another one repeats."""
    one = usual.lattices[0]
    lines = [f"{usual.folder}/1.expt {usual.folder}/1.refl"]
    DETECTOR[:] = [usual.detector]
    for n, (spoil, number, _) in enumerate(WRONG.values()):
        folder = tmp_path / str(n)
        folder.mkdir()
        write_expt(folder / "bad.expt", usual.detector, [one])
        write_refl(folder / "bad.refl", [one])
        spoil(one, folder)
        lines.append(f"{n}/bad.expt {n}/bad.refl{number}")
    lines.insert(1, f"{usual.folder}/0.expt {usual.folder}/0.refl")
    lines.append(f"{usual.folder}/double.expt {usual.folder}/double.refl")
    (tmp_path / "spec.txt").write_text("\n".join(lines))
    found, ends = adopted(tmp_path / "spec.txt", usual.manifest, tmp_path / "reindex.h5")
    good = [AdoptOutcome.ADOPTED] * 2
    expected = [*good, *(end for *_, end in WRONG.values()), AdoptOutcome.NO_EXPERIMENT]

    assert [AdoptOutcome(end) for end in ends.outcome] == expected
    assert len(found.lattices) == 2 == (ends.k >= 0).sum()

    theirs = store.read(usual.folder / "reindex.h5", Reindex, [Reindex.lattices.A]).lattices.A
    np.testing.assert_allclose(found.lattices.A, theirs[:2], rtol=0, atol=1e-14)


def test_a_screw_axis_is_not_asked_for(usual, tmp_path):
    one = usual.lattices[0]
    write_expt(tmp_path / "a.expt", usual.detector, [one | {"hall": " P 2y"}])
    write_refl(tmp_path / "a.refl", [one])
    (tmp_path / "spec.txt").write_text("a.expt a.refl")
    _, lines = adopted(tmp_path / "spec.txt", usual.manifest, tmp_path / "reindex.h5")
    assert list(lines.outcome) == [0]


def test_images_that_were_moved_are_known_by_their_name(usual, tmp_path):
    one = usual.lattices[0]
    write_expt(
        tmp_path / "a.expt", usual.detector, [one | {"image": Path("/gone") / one["image"].name}]
    )
    write_refl(tmp_path / "a.refl", [one])
    (tmp_path / "spec.txt").write_text("a.expt a.refl")
    _, lines = adopted(tmp_path / "spec.txt", usual.manifest, tmp_path / "reindex.h5")

    assert list(lines.outcome) == [0]

    shutil.copy(
        one["image"], tmp_path / one["image"].name
    )  # there, and another file than the run's
    write_expt(tmp_path / "a.expt", usual.detector, [one | {"image": one["image"].name}])

    with pytest.raises(FileError, match="1 no_shot"):
        adopted(tmp_path / "spec.txt", usual.manifest, tmp_path / "reindex.h5")


@pytest.mark.parametrize(
    ("gain", "adu_per_photon", "words"),
    [
        (2.5, 1.0, "states a gain of 2.5; that of the manifest, adu_per_photon 1, is used"),
        (2.5, 2.51, ""),
        (1.0, 9.0, ""),  # as where nobody has set it
        (0.0, 9.0, ""),
        (None, 9.0, ""),
    ],
)
def test_a_gain_of_the_experiments_that_is_not_the_manifests_is_said(
    tmp_path, caplog, gain, adu_per_photon, words
):
    panel = {} if gain is None else {"gain": gain}
    tree = {"__id__": "ExperimentList", "experiment": [], "detector": [{"panels": [panel]}]}
    (tmp_path / "none.expt").write_text("{}")
    (tmp_path / "a.expt").write_text(json.dumps(tree))
    paths = [tmp_path / "none.expt", tmp_path / "a.expt"]
    named = [SpecLine(n, path, tmp_path / "a.refl", None, None) for n, path in enumerate(paths)]
    adopt._warn_of_gain(logging.getLogger("adopt"), named, adu_per_photon)
    assert words in caplog.text and bool(words) == bool(caplog.text)


def test_a_name_of_several_files_does_not_tell_which_is_meant(usual, tmp_path):
    """Two that are gone had it, in two folders; the run's own is known by its path."""
    one, other = usual.lattices[:2]
    for n, image in enumerate(
        (Path("/gone/a") / one["image"].name, Path("/gone/b") / one["image"].name)
    ):
        write_expt(tmp_path / f"{n}.expt", usual.detector, [one | {"image": image}])
        write_refl(tmp_path / f"{n}.refl", [one])
    write_expt(tmp_path / "2.expt", usual.detector, [other])
    write_refl(tmp_path / "2.refl", [other])
    (tmp_path / "spec.txt").write_text("\n".join(f"{n}.expt {n}.refl" for n in range(3)))
    _, lines = adopted(tmp_path / "spec.txt", usual.manifest, tmp_path / "reindex.h5")

    assert list(lines.outcome) == [AdoptOutcome.NO_SHOT, AdoptOutcome.NO_SHOT, AdoptOutcome.ADOPTED]


def test_other_rules_and_other_axes_are_said(caplog):
    """Once for all lines of a rule, and for all of a change of indices; of lines that are adopted
    alone.
    """
    line = Line(AdoptOutcome.ADOPTED, A=np.eye(3), image=Path("/raw/x.cbf"), rule=Rule.STEM)
    lines = [line, line._replace(axes="-h-l,k,h"), line._replace(A=None, rule=Rule.NAME)]
    section = staged("adopt").reindex
    with caplog.at_level(logging.INFO):
        adopt._tell(logging.getLogger("adopt"), section, lines)
    assert [record.getMessage() for record in caplog.records] == [
        "images of 2 lines are those of the run of the same stem, such as that of /raw/x.cbf",
        "1 lattices are brought to P 1 21 1: indices -h-l,k,h",
    ]


def test_a_shot_that_is_lost_takes_its_lines_along(usual, tmp_path):
    """Saturated where nothing may be; the other shots are as good as before."""
    ends = adopted(
        usual.folder / "spec.txt", usual.manifest, tmp_path / "reindex.h5", saturation_photons=1e5
    )[1]
    assert list(ends.outcome) == [AdoptOutcome.ADOPTED] * 6

    keys = {"saturation_photons": 3.0, "saturated_fraction_max": 0.0}
    _, ends = adopted(usual.folder / "spec.txt", usual.manifest, tmp_path / "reindex.h5", **keys)
    assert list(ends.outcome) == [AdoptOutcome.LOST_SHOT] * 6
    assert np.all(ends.k == -1)


def test_an_image_that_is_gone_takes_its_lines_along(usual, tmp_path):
    one = usual.lattices[0]
    shutil.copy(usual.manifest, tmp_path)
    write_expt(tmp_path / "a.expt", usual.detector, [one | {"image": one["image"].name}])
    write_refl(tmp_path / "a.refl", [one])
    (tmp_path / "spec.txt").write_text("a.expt a.refl")
    found, ends = adopted(
        tmp_path / "spec.txt", tmp_path / "manifest.json", tmp_path / "reindex.h5"
    )

    assert list(ends.outcome) == [AdoptOutcome.LOST_SHOT]
    assert found.shots.outcome[0] == Outcome.UNREADABLE


@pytest.mark.filterwarnings("error")
def test_a_lattice_without_spots_is_taken_all_the_same(usual, tmp_path):
    """It keeps the mosaic spread expected before any data, and is predicted and integrated."""
    how = {"spots": {"min_pixels": 199}, "mosaic_spread_deg": None}
    found, ends = adopted(usual.folder / "spec.txt", usual.manifest, tmp_path / "reindex.h5", **how)
    assert list(ends.outcome) == [AdoptOutcome.ADOPTED] * 6
    assert not found.lattices.n_indexed.any()
    assert not found.lattices.n_rmsd.any()
    np.testing.assert_allclose(found.lattices.eta_rad, refinement.ETA_PRIOR_RAD, rtol=1e-6)
    assert np.all(np.bincount(found.reflections.lattice) > 50)


def test_a_rerun_makes_nothing_and_other_lattices_everything(usual, tmp_path):
    out = tmp_path / "reindex.h5"
    adopted(usual.folder / "spec.txt", usual.manifest, out)
    parts = sorted(out.with_suffix(".parts").iterdir())
    before = [part.stat().st_mtime_ns for part in parts]
    adopted(usual.folder / "spec.txt", usual.manifest, out)

    assert [part.stat().st_mtime_ns for part in parts] == before

    (tmp_path / "fewer.txt").write_text(f"{usual.folder}/1.expt {usual.folder}/1.refl")
    found, _ = adopted(tmp_path / "fewer.txt", usual.manifest, out)
    assert all(
        now != then for now, then in zip((p.stat().st_mtime_ns for p in parts), before, strict=True)
    )
    assert len(found.lattices) == 1


REFUSED = {
    "no file": (None, ["spec.txt", "a spec file"]),
    "no line": ("\n\n", ["spec.txt", "a line for each lattice"]),
    "one column": ("a.expt a.refl\na.expt", ["line 2", ".expt .refl"]),
    "no number": ("a.expt a.refl 0.5", ["line 1", "a.expt a.refl 0.5"]),
    "too many columns": ("a.expt a.refl 0 1", ["line 1", "a.expt a.refl 0 1"]),
    "nothing to read": ("a.expt a.refl", ["an experiment that can be read", "a.expt"]),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_spec_file_is_one_sentence(usual, tmp_path, capsys, text, words):
    if text is not None:
        (tmp_path / "spec.txt").write_text(text)
    argv = [
        "--images",
        usual.manifest,
        "--spec",
        tmp_path / "spec.txt",
        "--out",
        tmp_path / "reindex.h5",
    ]

    with pytest.raises(SystemExit) as end:
        cli.main(["adopt", "--config", section(parse(TREE), "adopt", "r"), *map(str, argv)])

    log = capsys.readouterr().err.splitlines()
    assert end.value.code == 4
    assert len(log) == 1
    assert log[0].startswith("spreadflow adopt: ")
    assert all(word in log[0] for word in words), log
    assert not (tmp_path / "reindex.h5").exists()


def test_experiments_of_two_detectors_are_refused(usual, tmp_path):
    """A hundredth of a pixel is one detector, a tenth is another."""
    for n, shift in enumerate((0.0, 0.005 * 0.3, 0.1 * 0.3)):
        one = usual.lattices[n]
        write_expt(tmp_path / f"{n}.expt", geometry.shifted(usual.detector, shift, 0.0, 0.0), [one])
        write_refl(tmp_path / f"{n}.refl", [one])
    (tmp_path / "spec.txt").write_text("0.expt 0.refl\n1.expt 1.refl\n")

    _, lines = adopted(tmp_path / "spec.txt", usual.manifest, tmp_path / "reindex.h5")
    assert len(lines) == 2

    (tmp_path / "spec.txt").write_text("0.expt 0.refl\n1.expt 1.refl\n2.expt 2.refl\n")
    with pytest.raises(FileError, match=r"line 3.*the same detector.*0\.1 px"):
        adopted(tmp_path / "spec.txt", usual.manifest, tmp_path / "reindex.h5")


@pytest.mark.chain
def test_two_ranks_make_what_one_does(usual, adopted_run, tmp_path):
    launcher = Path(sys.prefix) / "bin" / "mpiexec"
    if not launcher.exists():
        pytest.skip(f"no MPI launcher at {launcher}")
    argv = [
        "--images",
        usual.manifest,
        "--spec",
        usual.folder / "spec.txt",
        "--out",
        tmp_path / "reindex.h5",
    ]
    words = [launcher, "-n", "2", sys.executable, "-m", "spreadflow.cli", "adopt", "--ranks", "2"]
    words += ["--config", section(parse(TREE), "adopt", "r"), *argv]
    subprocess.run([*map(str, words)], check=True, timeout=300)
    for product in (Reindex, Adopt):
        paths = [folder / f"{product.kind}.h5" for folder in (adopted_run.folder, tmp_path)]
        theirs, ours = (store.read(path, product).datasets() for path in paths)
        for path in ours.keys() - {Reindex.shots.seconds.path}:
            np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)
        keys = [store.attributes(path, product)["key"] for path in paths]
        assert keys[0] == keys[1]
