"""The stage ladder on lattices whose truth is known."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from spreadflow.analysis.least_squares import Unsolvable
from spreadflow.analysis.pixels import ladder
from spreadflow.analysis.pixels.rungs import MODELLED, RUNGS
from spreadflow.config import for_stage, parse, section
from spreadflow.errors import ConfigError, LatticeOutcome
from spreadflow.io import store
from spreadflow.parallel import World
from spreadflow.products import Annulus, Ladder
from spreadflow.report import ladder as report
from spreadflow.stages import ladder as stage

pytestmark = pytest.mark.stage


def run(packed_run, out, cells=None, **keys):
    """Run the stage, and return its product and the figures of its summary."""
    tree = packed_run.tree | {"ladder": {"misset_deg": 0.1, "n_domains": 9, **keys}}
    config = for_stage(section(parse(tree), "ladder"), "ladder")
    stage.run(
        config, annulus=packed_run.annulus, cells=cells or packed_run.cells, out=out, world=World()
    )
    return store.read(out, Ladder), report.make("ladder", [out], [])[0]


@pytest.fixture(scope="module")
def product(packed_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("ladder") / "ladder.h5"
    return out, *run(packed_run, out, n_lattices=3)


def test_every_lattice_is_read_and_flagged_and_the_first_are_modelled(packed_run, product):
    _, found, figures = product
    annulus = store.read(packed_run.annulus, Annulus)
    np.testing.assert_array_equal(found.lattices.shot_id, [1, 2, 3, 4])

    strong = annulus.reflections.intensity >= 2.0 * annulus.reflections.sigma
    n_flagged = np.bincount(annulus.reflections.lattice[strong], minlength=4)
    np.testing.assert_array_equal(found.lattices.n_flagged, n_flagged)
    np.testing.assert_array_equal(found.lattices.n_counted, n_flagged)
    assert n_flagged.min() > 5
    assert set(zip(found.rungs.lattice.tolist(), found.rungs.rung.tolist(), strict=True)) == {
        (i, list(RUNGS).index(name)) for i in range(3) for name in MODELLED
    }

    first = {name: figure for name, figure in figures.items() if name != "rungs"}
    assert first == {
        "n_lattices": 4,
        "n_modelled": 3,
        "misset_deg": 0.1,
        "n_domains": 9,
        "n_passed": 7,
    }


def test_figures_are_sums_over_the_list(packed_run, product):
    """Rung 1: prediction against the true centroids, projected by hand on the directions from the
    beam.
    """
    figures = product[2]
    rungs = {rung["name"]: rung for rung in figures["rungs"]}
    listed = store.read(packed_run.annulus, Annulus, [Annulus.reflections]).reflections
    on = np.isfinite(listed.fast_obs) & (listed.lattice < 3)
    names = ("panel", "fast", "slow", "fast_obs", "slow_obs")
    columns = [listed.as_dict()[name][on] for name in names]
    squares = []
    for panel, fast, slow, fast_obs, slow_obs in zip(*columns, strict=True):
        panel_keys = packed_run.tree["detector"]["panels"][panel]
        f = np.array(panel_keys.get("fast", [1.0, 0.0, 0.0]))
        f /= np.linalg.norm(f)
        s = np.array([0.0, -1.0, 0.0]) + f * f[1]
        s /= np.linalg.norm(s)
        plane = np.column_stack([f, s, [0.0, 0.0, 1.0]])
        beam = np.linalg.solve(plane, -np.array(panel_keys["origin_mm"]))[:2] / 0.3
        radial = np.array([fast, slow]) - beam
        away = 0.3 * np.array([fast_obs - fast, slow_obs - slow])
        along = away @ radial / np.linalg.norm(radial)
        squares.append([along**2, away @ away - along**2])
    expected = np.sqrt(np.mean(squares, axis=0))

    assert rungs["1"]["n"] == on.sum() > 20

    found = [rungs["1"]["radial_rmsd_mm"], rungs["1"]["transverse_rmsd_mm"]]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert rungs["1"]["rmsd_mm"] == pytest.approx(np.hypot(*expected), rel=1e-4)
    assert rungs["1"]["rmsd_px"] == pytest.approx(np.hypot(*expected) / 0.3, rel=1e-4)
    assert {rungs[name]["n"] for name in MODELLED} == {on.sum()}


def test_with_what_is_true_the_last_rung_is_right(product):
    """All rungs pass; the orientation that was turned away is found, whatever domains the model
    draws.
    """
    figures = product[2]
    rungs = {rung["name"]: rung for rung in figures["rungs"]}
    failed = [(name, rung["why"]) for name, rung in rungs.items() if not rung["passed"]]
    last = rungs["4"]
    before = rungs["3B"]

    assert failed == []
    assert last["radial_rmsd_mm"] < 0.7 * before["radial_rmsd_mm"]
    assert last["transverse_rmsd_mm"] < 0.5 * before["transverse_rmsd_mm"]
    assert last["sigma_z"] < before["sigma_z"]
    assert abs(last["z_mean"]) < 0.1
    assert all(rungs[name]["seconds_per_lattice"] > 0 for name in ("00", *MODELLED))


def test_samples_are_pixels_of_the_annulus_with_models_beside(packed_run, product):
    _, found, _ = product
    a = store.read(packed_run.annulus, Annulus)
    size = np.array([(b[1] - b[0]) * (b[3] - b[2]) for b in a.reflections.bbox])
    i_over_sigma = a.reflections.intensity / a.reflections.sigma

    assert len(found.samples.lattice) == 3

    for lattice, hkl, first in zip(
        found.samples.lattice, found.samples.hkl, found.samples.first_pixel, strict=True
    ):
        rows = np.flatnonzero(a.reflections.lattice == lattice)
        best = rows[np.argmax(i_over_sigma[rows])]
        assert tuple(hkl) == tuple(a.reflections.hkl[best])

        start = a.reflections.first_pixel[best]
        box = slice(start, start + size[best])
        pixels = slice(first, first + size[best])
        expected = np.where(a.pixels.valid[box], a.pixels.photons[box], np.nan)
        np.testing.assert_array_equal(found.pixels.photons[pixels], expected)

        good = np.isfinite(expected)
        photons = expected[good, None]
        residual = found.pixels.model[pixels][good] - photons
        z = residual / np.sqrt(photons + 1.0)
        square = (z**2).mean(axis=0)
        assert square[2] < square[1]


def test_a_lattice_missing_from_the_annulus_fails_rung_00(packed_run, filled, tmp_path):
    planted = {
        "lattices/shot_id": [1, 2, 3, 4, 5, 6],
        "lattices/outcome": [0, 0, 0, 0, 0, LatticeOutcome.NOISE],
    }
    cells = filled("cells", {"lattices": 6, "clusters": 1, "features": 1}, planted)
    store.write(tmp_path / "cells.h5", cells, key="other", runs=["r"])
    figures = run(packed_run, tmp_path / "ladder.h5", tmp_path / "cells.h5", n_lattices=1)[1]
    rung = figures["rungs"][0]

    assert (rung["passed"], rung["n_read"], rung["n_accepted"], rung["n_others"]) == (
        False,
        4,
        5,
        0,
    )


def test_a_lattice_without_solution_is_a_failed_rung(packed_run, tmp_path, monkeypatch):
    def singular(*_):
        raise Unsolvable("the normal equations are singular")

    monkeypatch.setattr(ladder, "run_rungs", singular)
    figures = run(packed_run, tmp_path / "ladder.h5")[1]
    failed = {rung["name"]: rung["why"] for rung in figures["rungs"] if not rung["passed"]}
    assert failed == dict.fromkeys(MODELLED, "0 of 4 lattices have a model")


def test_finished_parts_are_kept_and_other_structure_factors_make_others(
    packed_run, product, tmp_path
):
    out, found, _ = product
    key = store.attributes(out, Ladder)["key"]
    store.part_path(out, 1).unlink()
    before = store.part_path(out, 0).stat().st_mtime_ns
    again, _ = run(packed_run, out, n_lattices=3)

    assert store.part_path(out, 0).stat().st_mtime_ns == before
    for name, column in found.datasets().items():
        if name != Ladder.rungs.seconds.path:
            np.testing.assert_array_equal(again.datasets()[name], column, err_msg=name)

    other = tmp_path / "ladder.h5"
    run(packed_run, other, n_lattices=1, structure_factors={"perturb": True})
    assert store.attributes(other, Ladder)["key"] != key == store.attributes(out, Ladder)["key"]


def test_structure_factors_of_another_crystal_are_refused(packed_run, tmp_path):
    with pytest.raises(ConfigError, match=r"ladder\.structure_factors\.cell"):
        run(
            packed_run,
            tmp_path / "ladder.h5",
            structure_factors={"cell": [50.0, 36.0, 30.0, 80.0, 108.0, 95.0]},
        )


@pytest.mark.parametrize(
    ("n", "expected"), [(5, [2, 0, 2, 1]), (2, [1, 0, 1, 0]), (None, [3, 0, 4, 2])]
)
def test_lattices_are_of_all_parts_alike(monkeypatch, n, expected):
    """All ranks have work; the second part has no shoebox, and the next one gives its share."""
    sizes = [3, 2, 4, 2]
    ends = np.cumsum(sizes)

    def part(number):
        with_boxes = np.arange(0 if number == 1 else sizes[number])
        rows = slice(ends[number] - sizes[number], ends[number])
        reflections = SimpleNamespace(lattice=with_boxes)
        return SimpleNamespace(
            rows=lambda table: rows, read=lambda wanted: SimpleNamespace(reflections=reflections)
        )

    identities = np.arange(ends[-1])
    lattices = SimpleNamespace(shot_id=identities, k=np.zeros_like(identities))
    monkeypatch.setattr(
        stage.store, "read", lambda *_: SimpleNamespace(lattices=lattices), raising=True
    )
    ids, chosen = stage._choose(Path("annulus.h5"), [part(i) for i in range(4)], n)
    assert [int(np.count_nonzero(rows)) for rows in chosen] == expected
    assert [len(of_part) for of_part in ids] == [2 * size for size in sizes]
