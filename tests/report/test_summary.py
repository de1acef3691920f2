"""The figures of every summary, recomputed from the products by other means, and their
documentation.
"""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from matplotlib import image as mpl_image

from spreadflow.errors import LatticeOutcome, Outcome, RefinedOutcome
from spreadflow.io import images, store
from spreadflow.physics import anomalous
from spreadflow.report import ladder, merge, mosaic, spread, stage1

pytestmark = pytest.mark.stage

DOCS = Path(__file__).parents[2] / "docs" / "summaries.md"


@pytest.fixture
def told(summaries):
    """The figures of a stage."""
    return lambda stage: json.loads(summaries[stage].read_text())


def test_each_summary_has_a_picture(summaries):
    for path in summaries.values():
        pixels = mpl_image.imread(path.with_suffix(".png"))
        assert pixels.shape[1] > 1000 and pixels.std() > 0.05


def test_simulate(trial, told):
    told = told("simulate")
    photons = []
    for manifest in trial.manifests:
        with h5py.File(manifest.parent / "stills.nxs") as f:
            photons.append(
                f["entry/instrument/beam/incident_wavelength_1Dspectrum_weights"][()].sum(axis=1)
            )
    assert told["n_shots"] == 24 == sum(told["kinds"].values())
    assert told["kinds"]["single"] == 22 and told["kinds"]["blank"] == 2
    assert told["n_lattices"] == 18
    assert told["photons_mean"] == pytest.approx(np.mean(photons))
    assert told["photons_sd"] == pytest.approx(np.std(photons))


def test_adopt(told):
    told = told("adopt")
    assert (told["n_lines"], told["n_adopted"], told["n_reflections"]) == (12, 9, 360)
    assert told["outcomes"]["no_shot"] == 1 and told["outcomes"]["other_cell"] == 2
    assert sum(told["outcomes"].values()) == 12 and told["indices_agree"] == pytest.approx(0.9)
    assert told["runs"].keys() == {"two"} and told["runs"]["two"]["n_lines"] == 12


def test_level0(told):
    """Simulated 0.03 mm along fast, −0.02 mm along slow and 0.05 mm farther than the header
    says.
    """
    told = told("level0")
    assert told["shift_mm"] == [0.031, -0.021] and told["distance_mm"] == 60.04
    assert np.allclose(told["true_shift_mm"], [0.03, -0.02]) and told[
        "true_distance_mm"
    ] == pytest.approx(60.05)


def test_index_and_reindex(trial, told):
    told = told("reindex")
    tables = [store.read(path, "reindex") for path in trial.reindex]
    outcome = np.concatenate([t["shots/outcome"] for t in tables])
    assert told["n_shots"] == 24 == sum(told["outcomes"].values())
    assert (
        told["n_indexed"] == told["outcomes"]["indexed"] == (outcome == Outcome.INDEXED).sum() == 18
    )
    assert told["n_hits"] == 22 and told["index_rate"] == pytest.approx(18 / 22)
    seconds = [s for t in tables for s in t["shots/seconds"]]
    assert told["seconds_per_shot_per_core"] == pytest.approx(sum(seconds) / 24)
    for axis in ("radial", "transverse"):
        pairs = [
            (n, r)
            for t in tables
            for n, r in zip(t["lattices/n_rmsd"], t[f"lattices/rmsd_{axis}_mm"], strict=True)
        ]
        expected = (sum(n * r**2 for n, r in pairs) / sum(n for n, _ in pairs)) ** 0.5
        assert told[f"{axis}_rmsd_mm"] == pytest.approx(expected)
        assert told[f"{axis}_rmsd_px"] == pytest.approx(expected / 0.1)
    assert told["n_rmsd"] == sum(int(t["lattices/n_rmsd"].sum()) for t in tables)
    angles = []
    for table, manifest in zip(tables, trial.manifests, strict=True):
        truth = images.truth(manifest)
        turn = table["lattices/A"] @ np.linalg.inv(truth["lattices/A"])
        angles += [np.rad2deg(np.arccos(min((np.trace(r) - 1) / 2, 1))) for r in turn]
    assert told["misorientation_deg_median"] == pytest.approx(np.median(angles), rel=1e-3)
    assert told["misorientation_deg_p95"] == pytest.approx(np.percentile(angles, 95), rel=1e-3)
    assert told["n_singles_indexed"] == 18 and told["n_singles"] == 22 and told["n_blanks"] == 2
    assert abs(told["pull_mean"]) < 0.15 and abs(told["pull_sd"] - 1) < 0.1
    assert [told["runs"][run]["n_shots"] for run in trial.runs] == [12, 12]


def test_a_run_that_was_not_simulated_has_no_misorientation(told):
    told = told("index")
    assert told["misorientation_deg_median"] is None and "pull_mean" not in told
    assert told["n_shots"] == 24


def test_cells(trial, told):
    told = told("cells")
    table = store.read(trial.cells, "cells")
    kept = [
        c
        for c, end in zip(table["lattices/cell"], table["lattices/outcome"], strict=True)
        if end == 0
    ]
    assert (told["n_in"], told["n_kept"]) == (18, 15) == (len(table["lattices/cell"]), len(kept))
    assert np.allclose(told["mean"], np.mean(kept, axis=0))
    assert told["outcomes"] == {
        end.name.lower(): n for end, n in zip(LatticeOutcome, [15, 1, 1, 1], strict=True)
    }
    assert np.allclose(told["true_mean"], [67.2, 59.8, 47.2, 90.0, 110.3, 90.0])
    assert sum(run["n_kept"] for run in told["runs"].values()) == 15


def test_annulus(trial, told):
    told = told("annulus")
    table = store.read(trial.annulus, "annulus")
    assert told["n_lattices"] == 15 == told["n_shots"]
    assert told["n_reflections"] == len(table["reflections/hkl"])
    boxes = table["reflections/bbox"]
    assert (
        told["n_pixels"]
        == sum(int((b[1] - b[0]) * (b[3] - b[2])) for b in boxes)
        == len(table["pixels/photons"])
    )
    assert sum(run["n_pixels"] for run in told["runs"].values()) == told["n_pixels"]
    same = {
        frozenset({(h, k, l), (-h, k, -l), (-h, -k, -l), (h, -k, l)})
        for h, k, l in table["reflections/hkl"].tolist()
    }
    assert told["n_unique"] == len(same), "C2: h k l = -h k -l, and Friedel's mates"
    assert told["multiplicity_mean"] == pytest.approx(told["n_reflections"] / len(same))
    assert sum(bin["n"] for bin in told["multiplicity"]) == len(same)
    each = np.bincount(table["reflections/lattice"], minlength=15)
    assert told["reflections_per_lattice_median"] == np.median(each)
    for bin in told["reflections_per_lattice"]:
        assert bin["n"] == ((each >= bin["from"]) & (each <= bin["to"])).sum()
    assert sum(bin["n"] for bin in told["reflections_per_lattice"]) == 15
    valid = table["pixels/valid"]
    overlap = table["pixels/overlap"]
    assert (
        told["n_pixels_valid"] == valid.sum()
        and told["n_pixels_shared"] == (overlap % 2 == 1).sum()
    )
    assert told["n_pixels_foreign"] == (overlap >= 4).sum()
    assert told["n_pixels_counted"] == (valid & (overlap < 2)).sum()


def test_ladder(trial, told):
    """Sums over lattices; a rung without a lattice, or beyond its bar, fails and says why."""
    told = told("ladder")
    table = store.read(trial.ladder, "ladder")
    assert (told["n_lattices"], told["n_modelled"], told["n_passed"]) == (15, 3, 4)
    rungs = {rung["name"]: rung for rung in told["rungs"]}
    failed = {name: rung["why"] for name, rung in rungs.items() if not rung["passed"]}
    assert failed.keys() == {"2", "3A", "3B"} and failed["3A"] == "2 of 3 lattices have a model"
    assert all("not so" in failed[name] for name in ("2", "3B"))
    assert "rung 3A fails: 2 of 3 lattices have a model" in ladder.headline(told)
    assert rungs["2"]["share_fell"] == 35 / 40 and rungs["3"]["planes_apart"] == 3e-8
    for row, (name, rung) in enumerate(rungs.items()):
        mine = [i for i, r in enumerate(table["rungs/rung"]) if r == row]
        if name == "00":
            assert (
                mine == []
                and rung["radial_rmsd_mm"] is None is rung["sigma_z"]
                and rung["n_read"] == 15
            )
            continue
        n, radial, across = (
            sum(table[f"rungs/{key}"][i] for i in mine) for key in ("n", "radial", "transverse")
        )
        assert rung["n"] == n and rung["radial_rmsd_mm"] == pytest.approx((radial / n) ** 0.5)
        assert rung["transverse_rmsd_mm"] == pytest.approx((across / n) ** 0.5)
        assert rung["rmsd_px"] == pytest.approx(((radial + across) / n) ** 0.5 / 0.1)
        z, square = (sum(table["rungs/z"][i, j] for i in mine) / (1000 * len(mine)) for j in (0, 1))
        assert rung["z_mean"] == pytest.approx(z) and rung["sigma_z"] == pytest.approx(
            (square - z**2) ** 0.5
        )
        assert rung["z_published_mean"] == pytest.approx(2 * z)
        assert rung["seconds_per_lattice"] == pytest.approx(
            np.median([table["rungs/seconds"][i] for i in mine])
        )


def test_mosaic(told):
    """Five sets, of which three are used: one is the truth, two have its two domains at −2 times
    their place.
    """
    told = told("mosaic")
    assert told["outcomes"] == {"learned": 3, "continuous": 2, "left_out": 0, "lost": 10}
    assert (told["n_lattices"], told["n_taught"], told["n_sets"], told["n_sets_better"]) == (
        15,
        5,
        5,
        3,
    )
    assert (told["n_components"], told["n_rounds"], told["step_deg"]) == (
        2,
        2,
        pytest.approx(np.rad2deg(2e-4)),
    )
    assert (told["held_out_continuous"], told["held_out_learned"]) == (1500.0, 1472.0)
    assert (told["held_out_gain"], told["held_out_gain_least"]) == (28.0, -2.0)
    assert told["seconds_per_lattice_per_core"] == pytest.approx(0.2)
    sigma = np.sqrt(0.63 / 4) * 2.0 / (57 * (67.2 + 59.8 + 47.2) / 3)
    x, z = np.meshgrid(np.arange(-4e-3, 4e-3, 2e-5), np.arange(-2e-3, 2e-3, 2e-5), indexing="ij")

    def at(f):
        return sum(
            np.exp(-0.5 * ((x - s * f * 1e-3) ** 2 + (z - s * f * 2e-4) ** 2) / sigma**2)
            for s in (1, -1)
        )

    away = at(1) / at(1).sum() - at(2) / at(2).sum()
    sums = [np.abs(away.sum(axis=1)).sum(), np.abs(away).sum(), np.abs(away.sum(axis=0)).sum()]
    assert told["distance_to_truth"] == pytest.approx(np.mean(sums), rel=0.01)
    assert told["distance_to_truth_continuous"] > 1.0, "two domains are no Gaussian"
    assert "3 learned, 2 continuous, 10 lost" in mosaic.headline(told)[0]


def test_stage1(trial, told):
    """Distances from the beam centre by hand: both panels lie normal to the beam, 0.1 mm pixels."""
    told = told("stage1")
    t = store.read(trial.stage1, "stage1")
    assert told["outcomes"] == {"refined": 13, "not_converged": 0, "too_few": 1, "lost": 1}
    assert (told["n_lattices"], told["n_refined"], told["n_truth"], told["n_worse"]) == (
        15,
        13,
        13,
        1,
    )
    squares: dict = {"": [], "_before": [], "_floor": []}
    for row in np.flatnonzero(np.isfinite(t["reflections/fast_obs"])):
        at = {
            n: np.array([t[f"reflections/{axis}{n}"][row] for axis in ("fast", "slow")])
            for n in ("", "_before", "_obs")
        }
        x0 = -10.0 if t["reflections/panel"][row] == 0 else 1.0
        x, y = x0 + 0.1 * at["_before"][0], 10.0 - 0.1 * at["_before"][1]
        for name in ("", "_before"):
            dx, dy = 0.1 * (at[name] - at["_obs"]) * [1, -1]
            squares[name].append(
                [(x * dx + y * dy) ** 2 / (x**2 + y**2), (x * dy - y * dx) ** 2 / (x**2 + y**2)]
            )
        squares["_floor"].append([(0.01 * (x - y)) ** 2 / (x**2 + y**2)] * 2)
    for name, keys in {
        "": "{}_rmsd_mm",
        "_before": "{}_rmsd_mm_before",
        "_floor": "{}_floor_mm",
    }.items():
        expected = np.sqrt(np.mean(squares[name], axis=0))
        assert told[keys.format("radial")] == pytest.approx(expected[0], rel=1e-4)
        if name != "_floor":
            assert told[keys.format("transverse")] == pytest.approx(expected[1], rel=1e-4)
    assert told["n_rmsd"] == len(squares[""]) and told["radial_rmsd_px"] == pytest.approx(
        told["radial_rmsd_mm"] / 0.1
    )
    truth = [images.truth(manifest) for manifest in trial.manifests]
    pulls = []
    for run, shot_id, found in list(
        zip(t["lattices/run"], t["lattices/shot_id"], t["lattices/scale"], strict=True)
    )[:13]:
        i = list(truth[run]["shots/shot_id"]).index(shot_id)
        pulls.append(np.log(found / truth[run]["lattices/scale"][i]) / 0.1)
    assert told["pull_sd"]["scale"] == pytest.approx(np.std(pulls))
    assert told["pull_mean"]["scale"] == pytest.approx(np.mean(pulls))
    assert told["pull_sd_fisher"]["scale"] == pytest.approx(2 * np.std(pulls))
    assert 0.7 < told["pull_sd"]["rotation"] < 1.3 and told["pull_sd"].keys() == {
        "scale",
        "rotation",
        "n_cells",
    }
    assert np.rad2deg(2e-5) < told["misorientation_deg_median"] < np.rad2deg(6e-5)
    assert told["seconds_per_lattice_per_core"] == pytest.approx(np.median(t["lattices/seconds"]))
    assert "13 refined, 1 too few, 1 lost" in stage1.headline(told)[0]


def test_a_fit_that_has_not_converged_may_be_worse_too(trial):
    table = store.read(trial.stage1, "stage1")
    told = store.attributes(trial.stage1, "stage1")
    table["lattices/outcome"][5], table["lattices/loss_after"][[5, 14]] = (
        RefinedOutcome.NOT_CONVERGED,
        200.0,
    )
    f = stage1._figures(table, told)
    assert (f["n_refined"], f["n_worse"]) == (12, 2), (
        "one of the refined, and this one; not one that was not fitted"
    )


def test_spread(trial, told):
    """Of the nodes from 7100 eV on; the true ones are the channels' straight lines."""
    told = told("spread")
    t = store.read(trial.spread, "spread")
    assert (told["n_lattices"], told["n_lattices_in"], told["cycles"]) == (12, 15, 2)
    assert told["outcomes"] == {"used": 12, "not_refined": 2, "lost": 1}
    assert told["compared_ev"] == [7100.0, 7140.0] and told["n_nodes"] == 11
    energies = 7100.0 + np.arange(20)
    for f, name in enumerate(("free", "kramers_kronig", "smooth")):
        off, sigma, bound = ({"fp": [], "fdp": []} for _ in range(3))
        for i in np.flatnonzero((t["curves/fit"] == f) & (t["curves/energy_ev"] >= 7100)):
            curve = anomalous.site("Fe", ("oxidized", "reduced")[t["curves/site"][i]], energies)
            for key, values in (("fp", curve.real), ("fdp", curve.imag)):
                off[key].append(
                    t[f"curves/{key}"][i] - np.interp(t["curves/energy_ev"][i], energies, values)
                )
                sigma[key].append(t[f"curves/{key}_sigma"][i])
                bound[key].append(t[f"curves/{key}_fisher"][i])
        for key in ("fp", "fdp"):
            for what, values in (("rms", off), ("sigma", sigma), ("crlb", bound)):
                expected = np.sqrt(np.mean(np.square(values[key])))
                assert told["fits"][name][f"{what}_{key}"] == pytest.approx(expected)
                assert f > 0 or told[f"{what}_{key}"] == pytest.approx(expected)
        if f == 0:
            pulls = np.concatenate([np.divide(off[key], sigma[key]) for key in off])
            assert told["pull_sd"] == pytest.approx(np.std(pulls)) and 0.6 < told["pull_sd"] < 1.4
            assert told["pull_mean"] == pytest.approx(np.mean(pulls))
    assert told["band_ev"] == [7096.0, 7116.0], "1.2 times 0.3 e, then 0.8 e"
    assert (told["edge_difference_ev"], told["edge_difference_sigma_ev"]) == (2.3, 0.5)
    assert told["true_edge_difference_ev"] == pytest.approx(2.0, abs=0.02), "2 eV a unit of valence"
    assert told["sites"]["FE1"]["e0_ev"] == 7118.2 and told["sites"]["FE1"][
        "true_e0_ev"
    ] == pytest.approx(7118, abs=0.2)
    assert [row["sigma_kind"] for row in told["fits"].values()] == ["sandwich", "scaled", "fisher"]
    assert told["sigma_kind"] == "sandwich" and told["n_undetermined"] == 3
    assert told["fits"]["kramers_kronig"]["edge_difference_ev"] == 2.0
    assert told["fits"]["smooth"]["edge_difference_ev"] is None, "smoothing moves edges"
    assert told["controls"] == {"start swapped": True, "half sets": False}
    assert told["verdicts"]["half sets"] == {"passed": False, "figure": 2.5, "bar": "0.7-1.4"}
    assert told["lattices_for_goal"] == {"fp": 1235, "fdp": None}
    assert told["loss_fall_per_lattice"] == pytest.approx(np.mean(10 + 0.5 * np.arange(12)))
    words = "\n".join(spread.headline(told))
    assert "from 12 lattices" in words and "1 of 2 passed; not: half sets" in words
    assert (
        "E0(FE1) − E0(FE2) = 2.30 ± 0.50 eV (truth 2.00)" in words
        and "1 200 lattices for f′, endless" in words
    )


def test_curves_without_truth(trial, tmp_path):
    """Of images that were not simulated, and as quoted from a smoothed fit."""
    figures, _ = spread.make("spread", [trial.spread], [])
    missing = ("rms_fp", "rms_fdp", "pull_sd", "pull_mean", "true_edge_difference_ev")
    assert (
        all(figures[key] is None for key in missing)
        and figures["sites"]["FE2"]["true_e0_ev"] is None
    )
    assert not any("truth" in line for line in spread.headline(figures))
    told = store.attributes(trial.spread, "spread")
    t = store.read(trial.spread, "spread")
    told["fits"] = ["smooth", "free", "kramers_kronig"]
    for name in ("curves/fit", "values/fit", "edges/fit"):
        t[name] = np.array([1, 2, 0])[t[name]]
    names = (
        "config",
        "runs",
        "d_min",
        "mosaicity",
        "fits",
        "sites",
        "elements",
        "weak",
        "sigma_kinds",
    )
    names += (
        "n_parameters",
        "n_undetermined",
        "changes",
        "converged",
        "controls",
        "lattices_for_goal",
    )
    told |= {"changes": [3.0, 0.6], "converged": False}
    store.write(
        tmp_path / "spread.h5", "spread", t, key="smooth", **{name: told[name] for name in names}
    )
    smooth, _ = spread.make("spread", [tmp_path / "spread.h5"], trial.manifests)
    ended = "not converged: the last of 2 cycles moved f′, f″ by 0.6 σ"
    assert ended in spread.headline(smooth) and ended not in spread.headline(figures)
    assert smooth["edges_from"] == "free" and smooth["edge_difference_ev"] == 2.3
    assert smooth["sigma_fp"] == pytest.approx(0.3 * figures["sigma_fp"])
    assert smooth["true_edge_difference_ev"] == pytest.approx(2.0, abs=0.02)


def test_sites_without_an_edge(trial, tmp_path):
    """A site that has none leaves no difference; page and headline say so."""
    told = store.attributes(trial.spread, "spread")
    t = store.read(trial.spread, "spread")
    for name in ("energy_ev", "sigma_ev"):
        t[f"edges/{name}"][1::2] = np.nan
    for name in ("difference_ev", "difference_sigma_ev"):
        t[f"edges/{name}"][:] = np.nan
    names = (
        "config",
        "runs",
        "d_min",
        "mosaicity",
        "fits",
        "sites",
        "elements",
        "weak",
        "sigma_kinds",
    )
    names += (
        "n_parameters",
        "n_undetermined",
        "changes",
        "converged",
        "controls",
        "lattices_for_goal",
    )
    store.write(
        tmp_path / "spread.h5", "spread", t, key="none", **{name: told[name] for name in names}
    )
    figures, page = spread.make("spread", [tmp_path / "spread.h5"], trial.manifests)
    assert figures["edge_difference_ev"] is None and figures["true_edge_difference_ev"] is None
    assert figures["sites"]["FE2"]["e0_ev"] is None and figures["sites"]["FE1"]["e0_ev"] == 7118.2
    page.savefig(tmp_path / "spread.png")
    words = "\n".join(spread.headline(figures))
    assert (
        "E0(FE1) = 7118.20 ± 0.30 eV (truth 711" in words
        and "E0(FE2) = none found (truth 711" in words
    )


def test_merge(trial, told):
    told = told("merge")
    table = store.read(trial.merge, "merge")
    half = np.array([h for h in table["merged/half"] if np.isfinite(h).all()])
    assert told["n_lattices"] == 13 and told["n_pairs"] == 270 == len(half)
    assert told["cc_half"] == pytest.approx(np.corrcoef(half.T)[0, 1])
    assert told["r_split"] == pytest.approx(
        abs(half[:, 0] - half[:, 1]).sum() * 2**0.5 / half.sum()
    )
    assert told["n_observations"] == table["merged/n"].sum()
    assert told["completeness"] == pytest.approx(300 / 390)
    assert told["multiplicity"] == pytest.approx(table["merged/n"].sum() / 300)
    difference = table["merged/half"][::2] - table["merged/half"][1::2]
    difference = difference[np.isfinite(difference).all(axis=1)]
    assert told["n_pairs_ano"] == len(difference)
    assert told["cc_ano"] == pytest.approx(np.corrcoef(difference.T)[0, 1])
    assert told["scaling"] == "mark0 against model.mtz" and told["scaling"] in "\n".join(
        merge.headline(told)
    )
    assert (
        told["wilson_b"] == 21.0 and len(told["bins"]) == 3 and told["bins"][2]["cc_half"] is None
    )


def test_every_key_is_documented(summaries, told):
    """Each key of each summary stands in docs/summaries.md under its stage."""
    parts = re.split(r"^## ", DOCS.read_text(), flags=re.M)
    documented = {part.split("\n")[0]: set(re.findall(r"`([a-z0-9_]+)`", part)) for part in parts}
    for stage in summaries:
        here = next(keys for title, keys in documented.items() if stage in title.split(", "))
        assert told(stage).keys() <= here | documented["every stage"], stage
