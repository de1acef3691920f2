"""The stage cells: runs joined, clusters found on some of them or frozen, clear errors."""

import pickle
from zlib import crc32

import numpy as np
import pytest

import uc_metrics_pickle
from spreadflow.config import CellsConfig
from spreadflow.errors import ConfigError, FileError, LatticeOutcome
from spreadflow.io import frozen_cells, store
from spreadflow.parallel import World
from spreadflow.physics import unit_cell
from spreadflow.products import Cells, Reindex
from spreadflow.stages import cells as stage

DETECTOR = {
    "origin_mm": [[-170.0, 170.0, -141.7]],
    "fast": [[1.0, 0.0, 0.0]],
    "slow": [[0.0, -1.0, 0.0]],
    "pixel_mm": 0.177,
    "shape": [1920, 1920],
}

MEAN = np.array([67.2, 59.8, 47.2, 90.0, 110.3, 90.0])


@pytest.fixture
def reindexed(tmp_path, filled):
    """A function that writes a reindex product with n lattices around a cell."""

    def write(run: str, n: int, mean=MEAN, space_group: str = "C 1 2 1", **attributes):
        rng = np.random.default_rng(n)
        table = mean + rng.standard_normal((n, 6)) * [0.05, 0.04, 0.03, 0.0, 0.05, 0.0]
        in_radians = np.array([unit_cell.radians(c) for c in table]).reshape(n, 6)
        planted = {
            "lattices/A": np.array([unit_cell.reciprocal(c) for c in in_radians]).reshape(n, 3, 3),
            "lattices/cell": in_radians,
            "lattices/shot_id": crc32(run.encode()) * 10_000 + np.arange(n),
        }
        part = filled("reindex", {"shots": n, "lattices": n}, planted)
        path = tmp_path / run / "reindex.h5"
        config = {"space_group": space_group, "cell": MEAN.tolist()}
        attributes |= {"run": run, "config": config, "detector": DETECTOR}
        parts = store.Parts(path, Reindex, run, [[n]])
        parts.write(0, part)
        parts.finish(World(), **attributes)
        return path

    return write


def run(reindex, out, **section):
    stage.run(
        CellsConfig.model_validate({"cells": section}), reindex=reindex, out=out, world=World()
    )
    return store.read(out, Cells), store.attributes(out, Cells)


def test_every_lattice_of_every_run_is_listed_and_ends_once(reindexed, tmp_path):
    paths = [reindexed("one", 300), reindexed("two", 40, MEAN * [1.01, 1, 1, 1, 1, 1])]
    cells, attributes = run(paths, tmp_path / "cells.h5")
    assert attributes["runs"] == ["one", "two"]
    assert attributes["features"] == ["a", "b", "c", "beta"]

    ids = np.concatenate(
        [store.read(p, Reindex, [Reindex.lattices.shot_id]).lattices.shot_id for p in paths]
    )
    assert np.array_equal(cells.lattices.shot_id, ids)

    outcome = cells.lattices.outcome
    lattice_run = cells.lattices.run
    assert (outcome[lattice_run == 0] == LatticeOutcome.ACCEPTED).sum() >= 296
    assert (outcome[lattice_run == 1] != LatticeOutcome.ACCEPTED).all()
    assert np.bincount(outcome, minlength=len(LatticeOutcome)).sum() == 340
    assert np.allclose(cells.clusters.mean[attributes["chosen"]], MEAN, atol=0.02)

    lines = (tmp_path / "cells.tdata").read_text().splitlines()
    assert len(lines) == 340
    assert all(line.split()[6] == "C12/m1" for line in lines)

    listed = np.array([[float(word) for word in line.split()[:6]] for line in lines])
    assert np.allclose(listed, cells.lattices.cell, atol=1e-6)


def test_the_same_run_twice_is_refused(reindexed, tmp_path):
    path = reindexed("one", 30)
    with pytest.raises(FileError, match="each shot once; found 30 more often"):
        run([path, path], tmp_path / "cells.h5")
    assert not (tmp_path / "cells.h5").exists()


def test_the_common_error_of_all_lengths_is_that_of_the_least_known_distance(reindexed, tmp_path):
    paths = [reindexed("one", 30, length_sigma=5e-5), reindexed("two", 30, length_sigma=2e-4)]
    _, attributes = run(paths, tmp_path / "cells.h5")
    assert attributes["length_sigma"] == 2e-4
    _, attributes = run([reindexed("three", 30)], tmp_path / "cells.h5")
    assert attributes["length_sigma"] is None


def test_a_frozen_file_accepts_the_same_lattices(reindexed, tmp_path):
    paths = [reindexed("one", 300)]
    first, _ = run(paths, tmp_path / "cells.h5")
    frozen, attributes = run(paths, tmp_path / "again.h5", **{"from": str(tmp_path / "cells.h5")})
    accepted = first.lattices.outcome == LatticeOutcome.ACCEPTED
    assert np.array_equal(frozen.lattices.outcome == LatticeOutcome.ACCEPTED, accepted)
    assert np.array_equal(frozen.clusters.covariance, first.clusters.covariance)
    assert attributes["chosen"] == 0


def test_frozen_populations_of_json_and_of_uc_metrics_accept_the_same_lattices(
    reindexed, tmp_path, monkeypatch
):
    paths = [reindexed("one", 300)]
    first, attributes = run(paths, tmp_path / "cells.h5")
    [as_json] = frozen_cells.export(tmp_path / "cells.h5", tmp_path / "cells")
    as_pickle = tmp_path / "covariance.pickle"
    other_programs = uc_metrics_pickle.OtherPrograms(
        uc_metrics_pickle.plant_uc_metrics(monkeypatch),
        uc_metrics_pickle.plant_scikit_learn(monkeypatch),
    )
    clusters = first.clusters
    content = uc_metrics_pickle.content(
        other_programs, attributes["features"], clusters.location, clusters.covariance
    )
    as_pickle.write_bytes(pickle.dumps(content, 4))
    monkeypatch.undo()

    for number, path in enumerate((as_json, as_pickle)):
        frozen, of_frozen = run(paths, tmp_path / f"{number}.h5", **{"from": str(path)})
        is_accepted = frozen.lattices.outcome == LatticeOutcome.ACCEPTED
        assert np.array_equal(is_accepted, first.lattices.outcome == LatticeOutcome.ACCEPTED)
        np.testing.assert_allclose(frozen.lattices.mahalanobis, first.lattices.mahalanobis)
        np.testing.assert_allclose(frozen.clusters.mean, first.clusters.mean, atol=0.02)
        assert of_frozen["features"] == attributes["features"]


def test_features_that_make_no_cell_of_the_space_group_are_refused(
    reindexed, tmp_path, monkeypatch
):
    path = tmp_path / "covariance.pickle"
    other_programs = uc_metrics_pickle.OtherPrograms(
        uc_metrics_pickle.plant_uc_metrics(monkeypatch),
        uc_metrics_pickle.plant_scikit_learn(monkeypatch),
    )
    lengths = MEAN[np.newaxis, :3]
    content = uc_metrics_pickle.content(
        other_programs, ["a", "b", "c"], lengths, [0.01 * np.eye(3)]
    )
    path.write_bytes(pickle.dumps(content, 4))
    with pytest.raises(FileError, match="nothing that says beta"):
        run([reindexed("one", 30)], tmp_path / "cells.h5", **{"from": str(path)})


def test_clusters_of_some_runs_are_applied_to_all(reindexed, tmp_path):
    """The larger run is not of the chosen form: it is listed, and rejected."""
    other_mean = MEAN + np.array([0, 2.0, 0, 0, 0, 0])
    paths = [reindexed("one", 100), reindexed("two", 300, other_mean)]
    cells, _ = run(paths, tmp_path / "cells.h5", runs=["one"])
    accepted = cells.lattices.outcome == LatticeOutcome.ACCEPTED
    lattice_run = cells.lattices.run

    assert accepted[lattice_run == 0].sum() >= 97
    assert not accepted[lattice_run == 1].any()


def test_one_setting_for_all_lattices_is_told(reindexed, tmp_path, filled):
    """β of 90.4° and of 89.6° are one cell; the mean of both is none. Most lattices decide."""
    mean = np.array([60.0, 50.0, 80.0, 90.0, 90.4, 90.0])
    other = np.array([60.0, 50.0, 80.0, 90.0, 89.6, 90.0])
    paths = [
        reindexed("one", 60, mean, "P 1 21 1"),
        reindexed("two", 40, other, "P 1 21 1"),
    ]
    cells, attributes = run(paths, tmp_path / "cells.h5")
    setting = cells.lattices.setting
    is_second = cells.lattices.run == 1

    assert (setting[~is_second] == np.eye(3)).all()
    assert (setting[is_second] == np.diag([-1, -1, 1])).all()
    np.testing.assert_allclose(cells.clusters.mean[0], mean, atol=0.03)
    told = {warning["what"]: warning["value"] for warning in attributes["warnings"]}
    (n_changed,) = [value for what, value in told.items() if "another setting" in what]
    assert n_changed == 40
    assert [value for what, value in told.items() if what.startswith("beta")] == [
        pytest.approx(90.4, abs=0.03)
    ], "the target has β = 110.3°"

    frozen, _ = run(paths[1:], tmp_path / "again.h5", **{"from": str(tmp_path / "cells.h5")})
    assert (frozen.lattices.setting == np.diag([-1, -1, 1])).all()


def test_other_populations_are_told_and_one_of_them_can_be_chosen(reindexed, tmp_path):
    """A fifth of the lattices has another β: they are left out by name, or taken by number."""
    other = MEAN + np.array([0, 0, 0, 0, 0.8, 0])
    paths = [reindexed("one", 80), reindexed("two", 20, other)]
    cells, attributes = run(paths, tmp_path / "cells.h5")
    is_second = cells.lattices.run == 1
    outcome = cells.lattices.outcome

    assert attributes["chosen"] == 0
    assert cells.clusters.n.tolist() == [80, 20]
    assert (outcome[is_second] == LatticeOutcome.OTHER_CLUSTER).all()
    np.testing.assert_allclose(cells.clusters.mean, [MEAN, other], atol=0.04)
    (share,) = [w["value"] for w in attributes["warnings"] if "other populations" in w["what"]]
    assert share == 0.2

    cells, attributes = run(paths, tmp_path / "second.h5", cluster=1)
    assert attributes["chosen"] == 1
    assert (cells.lattices.outcome[is_second] == LatticeOutcome.ACCEPTED).all()
    assert any(
        "share of the lattices that are accepted" in w["what"] for w in attributes["warnings"]
    )

    frozen, _ = run(paths, tmp_path / "again.h5", **{"from": str(tmp_path / "second.h5")})
    assert (frozen.lattices.outcome == cells.lattices.outcome).all()
    with pytest.raises(ConfigError, match="of which there are 2"):
        run(paths, tmp_path / "third.h5", cluster=2)


def test_a_cell_that_is_the_target_is_not_told(reindexed, tmp_path):
    _, attributes = run([reindexed("one", 100)], tmp_path / "cells.h5")
    assert attributes["warnings"] == []


def test_what_cannot_be_filtered_is_said(reindexed, tmp_path):
    with pytest.raises(FileError, match="expected lattices; found none"):
        run([reindexed("one", 0)], tmp_path / "cells.h5")
    with pytest.raises(FileError, match=r"at least cells\.min_samples = 3 lattices; found 2"):
        run([reindexed("one", 2)], tmp_path / "cells.h5")
    with pytest.raises(FileError, match="noise only"):
        run([reindexed("one", 30)], tmp_path / "cells.h5", eps_ang=1e-4)
    with pytest.raises(FileError, match="one space group"):
        run(
            [reindexed("one", 30), reindexed("two", 30, space_group="P 1 2 1")],
            tmp_path / "cells.h5",
        )

    run([reindexed("one", 30)], tmp_path / "cells.h5", eps_ang=0.4)
    with pytest.raises(FileError, match="space group P 1 2 1"):
        other = reindexed("two", 30, space_group="P 1 2 1")
        run([other], tmp_path / "again.h5", **{"from": str(tmp_path / "cells.h5")})
