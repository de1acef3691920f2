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
from spreadflow.io import store
from spreadflow.io.truth import read_truth
from spreadflow.physics import anomalous
from spreadflow.report import ladder, merge, mosaic, spread, stage1

pytestmark = pytest.mark.stage

DOCS = Path(__file__).parents[2] / "docs" / "summaries.md"
"""The documentation of the keys."""

SPREAD_ATTRIBUTES = (
    "config",
    "runs",
    "d_min",
    "mosaicity",
    "fits",
    "sites",
    "elements",
    "weak",
    "sigma_kinds",
    "n_parameters",
    "n_undetermined",
    "changes",
    "converged",
    "controls",
    "lattices_for_goal",
)
"""Attributes of a product of `spread` that its report reads."""


@pytest.fixture
def figures_of(summaries):
    """A function that returns the figures of a stage."""
    return lambda stage: json.loads(summaries[stage].read_text())


def test_each_summary_has_a_picture(summaries):
    for path in summaries.values():
        pixels = mpl_image.imread(path.with_suffix(".png"))
        assert pixels.shape[1] > 1000
        assert pixels.std() > 0.05


def test_simulate(trial, figures_of):
    figures = figures_of("simulate")
    photons = []
    for manifest in trial.manifests:
        with h5py.File(manifest.parent / "stills.nxs") as f:
            photons.append(
                f["entry/instrument/beam/incident_wavelength_1Dspectrum_weights"][()].sum(axis=1)
            )

    assert figures["n_shots"] == 24 == sum(figures["kinds"].values())
    assert figures["kinds"]["single"] == 22
    assert figures["kinds"]["blank"] == 2
    assert figures["n_lattices"] == 18
    assert figures["photons_mean"] == pytest.approx(np.mean(photons))
    assert figures["photons_sd"] == pytest.approx(np.std(photons))


def test_adopt(figures_of):
    figures = figures_of("adopt")
    assert (figures["n_lines"], figures["n_adopted"], figures["n_reflections"]) == (12, 9, 360)
    assert figures["outcomes"]["no_shot"] == 1
    assert figures["outcomes"]["other_cell"] == 2
    assert sum(figures["outcomes"].values()) == 12
    assert figures["indices_agree"] == pytest.approx(0.9)
    assert figures["runs"].keys() == {"two"}
    assert figures["runs"]["two"]["n_lines"] == 12


def test_level0(figures_of):
    """The detector was simulated 0.03 mm along fast, −0.02 mm along slow and 0.05 mm farther than
    the header says.
    """
    figures = figures_of("level0")
    assert figures["shift_mm"] == [0.031, -0.021]
    assert figures["distance_mm"] == 60.04
    assert np.allclose(figures["true_shift_mm"], [0.03, -0.02])
    assert figures["true_distance_mm"] == pytest.approx(60.05)


def test_index_and_reindex(trial, figures_of):
    figures = figures_of("reindex")
    tables = [store.read(path, "reindex") for path in trial.reindex]
    outcome = np.concatenate([t["shots/outcome"] for t in tables])
    assert figures["n_shots"] == 24 == sum(figures["outcomes"].values())
    assert (
        figures["n_indexed"]
        == figures["outcomes"]["indexed"]
        == (outcome == Outcome.INDEXED).sum()
        == 18
    )
    assert figures["n_hits"] == 22
    assert figures["index_rate"] == pytest.approx(18 / 22)

    seconds = [s for t in tables for s in t["shots/seconds"]]
    assert figures["seconds_per_shot_per_core"] == pytest.approx(sum(seconds) / 24)

    n_rmsd = np.concatenate([t["lattices/n_rmsd"] for t in tables])
    for axis in ("radial", "transverse"):
        rmsd = np.concatenate([t[f"lattices/rmsd_{axis}_mm"] for t in tables])
        total = sum(n * r**2 for n, r in zip(n_rmsd, rmsd, strict=True))
        expected = (total / sum(n_rmsd)) ** 0.5
        assert figures[f"{axis}_rmsd_mm"] == pytest.approx(expected)
        assert figures[f"{axis}_rmsd_px"] == pytest.approx(expected / 0.1)

    assert figures["n_rmsd"] == sum(int(t["lattices/n_rmsd"].sum()) for t in tables)

    angles = []
    for table, manifest in zip(tables, trial.manifests, strict=True):
        truth = read_truth(manifest)
        turns = table["lattices/A"] @ np.linalg.inv(truth["lattices/A"])
        for turn in turns:
            cosine = min((np.trace(turn) - 1) / 2, 1)
            angles.append(np.rad2deg(np.arccos(cosine)))

    assert figures["misorientation_deg_median"] == pytest.approx(np.median(angles), rel=1e-3)
    assert figures["misorientation_deg_p95"] == pytest.approx(np.percentile(angles, 95), rel=1e-3)
    assert figures["n_singles_indexed"] == 18
    assert figures["n_singles"] == 22
    assert figures["n_blanks"] == 2
    assert abs(figures["pull_mean"]) < 0.15
    assert abs(figures["pull_sd"] - 1) < 0.1
    assert [figures["runs"][run]["n_shots"] for run in trial.runs] == [12, 12]


def test_a_run_that_was_not_simulated_has_no_misorientation(figures_of):
    figures = figures_of("index")
    assert figures["misorientation_deg_median"] is None
    assert "pull_mean" not in figures
    assert figures["n_shots"] == 24


def test_cells(trial, figures_of):
    figures = figures_of("cells")
    table = store.read(trial.cells, "cells")
    accepted = [
        cell
        for cell, outcome in zip(table["lattices/cell"], table["lattices/outcome"], strict=True)
        if outcome == 0
    ]

    assert figures["n_in"] == 18 == len(table["lattices/cell"])
    assert figures["n_kept"] == 15 == len(accepted)
    assert np.allclose(figures["mean"], np.mean(accepted, axis=0))
    assert figures["outcomes"] == {
        end.name.lower(): n for end, n in zip(LatticeOutcome, [15, 1, 1, 1], strict=True)
    }
    assert np.allclose(figures["true_mean"], [67.2, 59.8, 47.2, 90.0, 110.3, 90.0])
    assert sum(run["n_kept"] for run in figures["runs"].values()) == 15


def test_annulus(trial, figures_of):
    figures = figures_of("annulus")
    table = store.read(trial.annulus, "annulus")
    assert figures["n_lattices"] == 15 == figures["n_shots"]
    assert figures["n_reflections"] == len(table["reflections/hkl"])

    boxes = table["reflections/bbox"]
    assert (
        figures["n_pixels"]
        == sum(int((b[1] - b[0]) * (b[3] - b[2])) for b in boxes)
        == len(table["pixels/photons"])
    )
    assert sum(run["n_pixels"] for run in figures["runs"].values()) == figures["n_pixels"]

    same = {
        frozenset({(h, k, l), (-h, k, -l), (-h, -k, -l), (h, -k, l)})
        for h, k, l in table["reflections/hkl"].tolist()
    }

    assert figures["n_unique"] == len(same), "C2: h k l = -h k -l, and Friedel's mates"
    assert figures["multiplicity_mean"] == pytest.approx(figures["n_reflections"] / len(same))
    assert sum(bin["n"] for bin in figures["multiplicity"]) == len(same)

    each = np.bincount(table["reflections/lattice"], minlength=15)
    assert figures["reflections_per_lattice_median"] == np.median(each)
    for bin in figures["reflections_per_lattice"]:
        assert bin["n"] == ((each >= bin["from"]) & (each <= bin["to"])).sum()
    assert sum(bin["n"] for bin in figures["reflections_per_lattice"]) == 15

    valid = table["pixels/valid"]
    overlap = table["pixels/overlap"]
    assert figures["n_pixels_valid"] == valid.sum()
    assert figures["n_pixels_shared"] == (overlap % 2 == 1).sum()
    assert figures["n_pixels_foreign"] == (overlap >= 4).sum()
    assert figures["n_pixels_counted"] == (valid & (overlap < 2)).sum()


def test_ladder(trial, figures_of):
    """Sums over lattices; a rung without a lattice, or beyond its bar, fails and says why."""
    figures = figures_of("ladder")
    table = store.read(trial.ladder, "ladder")
    assert (figures["n_lattices"], figures["n_modelled"], figures["n_passed"]) == (15, 3, 4)

    rungs = {rung["name"]: rung for rung in figures["rungs"]}
    failed = {name: rung["why"] for name, rung in rungs.items() if not rung["passed"]}
    assert failed.keys() == {"2", "3A", "3B"}
    assert failed["3A"] == "2 of 3 lattices have a model"
    assert all("not so" in failed[name] for name in ("2", "3B"))
    assert "rung 3A fails: 2 of 3 lattices have a model" in ladder.headline(figures)
    assert rungs["2"]["share_fell"] == 35 / 40
    assert rungs["3"]["planes_apart"] == 3e-8

    for row, (name, rung) in enumerate(rungs.items()):
        rows = [i for i, r in enumerate(table["rungs/rung"]) if r == row]
        if name == "00":
            assert rows == []
            assert rung["radial_rmsd_mm"] is None is rung["sigma_z"]
            assert rung["n_read"] == 15
            continue

        n = sum(table["rungs/n"][i] for i in rows)
        radial = sum(table["rungs/radial"][i] for i in rows)
        across = sum(table["rungs/transverse"][i] for i in rows)
        assert rung["n"] == n
        assert rung["radial_rmsd_mm"] == pytest.approx((radial / n) ** 0.5)
        assert rung["transverse_rmsd_mm"] == pytest.approx((across / n) ** 0.5)
        assert rung["rmsd_px"] == pytest.approx(((radial + across) / n) ** 0.5 / 0.1)

        n_pixels = 1000 * len(rows)
        z = sum(table["rungs/z"][i, 0] for i in rows) / n_pixels
        square = sum(table["rungs/z"][i, 1] for i in rows) / n_pixels
        assert rung["z_mean"] == pytest.approx(z)
        assert rung["sigma_z"] == pytest.approx((square - z**2) ** 0.5)
        assert rung["z_published_mean"] == pytest.approx(2 * z)

        seconds = np.median([table["rungs/seconds"][i] for i in rows])
        assert rung["seconds_per_lattice"] == pytest.approx(seconds)


def test_mosaic(figures_of):
    """Five sets, of which three are used: one is the truth, two have its two domains at −2 times
    their place.
    """
    figures = figures_of("mosaic")
    assert figures["outcomes"] == {"learned": 3, "continuous": 2, "left_out": 0, "lost": 10}
    assert (figures["n_lattices"], figures["n_taught"]) == (15, 5)
    assert (figures["n_sets"], figures["n_sets_better"]) == (5, 3)
    assert (figures["n_components"], figures["n_rounds"]) == (2, 2)
    assert figures["step_deg"] == pytest.approx(np.rad2deg(2e-4))
    assert (figures["held_out_continuous"], figures["held_out_learned"]) == (1500.0, 1472.0)
    assert (figures["held_out_gain"], figures["held_out_gain_least"]) == (28.0, -2.0)
    assert figures["seconds_per_lattice_per_core"] == pytest.approx(0.2)

    sigma = np.sqrt(0.63 / 4) * 2.0 / (57 * (67.2 + 59.8 + 47.2) / 3)
    x_grid = np.arange(-4e-3, 4e-3, 2e-5)
    z_grid = np.arange(-2e-3, 2e-3, 2e-5)
    x, z = np.meshgrid(x_grid, z_grid, indexing="ij")

    def density(factor):
        """Return the density of the two domains, blurred, at `factor` times their rotations."""
        domains = []
        for sign in (1, -1):
            dx = x - sign * factor * 1e-3
            dz = z - sign * factor * 2e-4
            domains.append(np.exp(-0.5 * (dx**2 + dz**2) / sigma**2))
        both = sum(domains)
        return both / both.sum()

    difference = density(1) - density(2)
    along_z = np.abs(difference.sum(axis=1)).sum()
    along_y = np.abs(difference).sum()
    along_x = np.abs(difference.sum(axis=0)).sum()
    sums = [along_z, along_y, along_x]

    assert figures["distance_to_truth"] == pytest.approx(np.mean(sums), rel=0.01)
    assert figures["distance_to_truth_continuous"] > 1.0, "two domains are no Gaussian"
    assert "3 learned, 2 continuous, 10 lost" in mosaic.headline(figures)[0]


def test_stage1(trial, figures_of):
    """Distances from the beam centre by hand: both panels lie normal to the beam, 0.1 mm pixels."""
    figures = figures_of("stage1")
    table = store.read(trial.stage1, "stage1")
    assert figures["outcomes"] == {"refined": 13, "not_converged": 0, "too_few": 1, "lost": 1}
    assert (figures["n_lattices"], figures["n_refined"]) == (15, 13)
    assert (figures["n_truth"], figures["n_worse"]) == (13, 1)

    squares, floor = _squared_distances(table)
    for suffix in ("", "_before"):
        radial, transverse = np.sqrt(np.mean(squares[suffix], axis=0))
        assert figures[f"radial_rmsd_mm{suffix}"] == pytest.approx(radial, rel=1e-4)
        assert figures[f"transverse_rmsd_mm{suffix}"] == pytest.approx(transverse, rel=1e-4)

    assert figures["radial_floor_mm"] == pytest.approx(np.sqrt(np.mean(floor)), rel=1e-4)
    assert figures["n_rmsd"] == len(squares[""])
    assert figures["radial_rmsd_px"] == pytest.approx(figures["radial_rmsd_mm"] / 0.1)

    pulls = _scale_pulls(table, [read_truth(manifest) for manifest in trial.manifests])

    assert figures["pull_sd"]["scale"] == pytest.approx(np.std(pulls))
    assert figures["pull_mean"]["scale"] == pytest.approx(np.mean(pulls))
    assert figures["pull_sd_fisher"]["scale"] == pytest.approx(2 * np.std(pulls))
    assert 0.7 < figures["pull_sd"]["rotation"] < 1.3
    assert figures["pull_sd"].keys() == {"scale", "rotation", "n_cells"}
    assert np.rad2deg(2e-5) < figures["misorientation_deg_median"] < np.rad2deg(6e-5)
    assert figures["seconds_per_lattice_per_core"] == pytest.approx(
        np.median(table["lattices/seconds"])
    )
    assert "13 refined, 1 too few, 1 lost" in stage1.headline(figures)[0]


def _squared_distances(table: dict) -> tuple[dict[str, list], list[float]]:
    """Return the squared radial and transverse distances of the model's centroids from the observed
    ones, after ("") and before ("_before") the refinement, and the squared radial floor, all mm².
    """
    squares = {"": [], "_before": []}
    floor = []
    for row in np.flatnonzero(np.isfinite(table["reflections/fast_obs"])):
        centroid = {
            name: np.array([table[f"reflections/{axis}{name}"][row] for axis in ("fast", "slow")])
            for name in ("", "_before", "_obs")
        }
        x0 = -10.0 if table["reflections/panel"][row] == 0 else 1.0
        x = x0 + 0.1 * centroid["_before"][0]
        y = 10.0 - 0.1 * centroid["_before"][1]
        square = x**2 + y**2
        for name in squares:
            dx, dy = 0.1 * (centroid[name] - centroid["_obs"]) * [1, -1]
            radial = (x * dx + y * dy) ** 2 / square
            transverse = (x * dy - y * dx) ** 2 / square
            squares[name].append([radial, transverse])
        floor.append((0.01 * (x - y)) ** 2 / square)
    return squares, floor


def _scale_pulls(table: dict, truth: list[dict]) -> list[float]:
    """Return the deviations of the logarithm of the scale of 13 lattices from the truth, over σ."""
    pulls = []
    for lattice in range(13):
        run = table["lattices/run"][lattice]
        shot_ids = list(truth[run]["shots/shot_id"])
        shot = shot_ids.index(table["lattices/shot_id"][lattice])
        true = truth[run]["lattices/scale"][shot]
        pulls.append(np.log(table["lattices/scale"][lattice] / true) / 0.1)
    return pulls


def test_a_fit_that_has_not_converged_may_be_worse_too(trial):
    table = store.read(trial.stage1, "stage1")
    attributes = store.attributes(trial.stage1, "stage1")
    table["lattices/outcome"][5] = RefinedOutcome.NOT_CONVERGED
    table["lattices/loss_after"][[5, 14]] = 200.0
    figures = stage1._figures(table, attributes)

    assert (figures["n_refined"], figures["n_worse"]) == (12, 2), (
        "one of the refined, and this one; not one that was not fitted"
    )


def test_spread(trial, figures_of):
    """Errors over the nodes from 7100 eV on; true curves are straight between channels."""
    figures = figures_of("spread")
    table = store.read(trial.spread, "spread")
    assert (figures["n_lattices"], figures["n_lattices_in"], figures["cycles"]) == (12, 15, 2)
    assert figures["outcomes"] == {"used": 12, "not_refined": 2, "lost": 1}
    assert figures["compared_ev"] == [7100.0, 7140.0]
    assert figures["n_nodes"] == 11

    for fit, name in enumerate(("free", "kramers_kronig", "smooth")):
        error, sigma, bound = _errors_of_curves(table, fit)
        for key in ("fp", "fdp"):
            for figure, values in (("rms", error), ("sigma", sigma), ("crlb", bound)):
                expected = np.sqrt(np.mean(np.square(values[key])))
                assert figures["fits"][name][f"{figure}_{key}"] == pytest.approx(expected)
                assert fit > 0 or figures[f"{figure}_{key}"] == pytest.approx(expected)
        if fit == 0:
            pulls = np.concatenate([np.divide(error[key], sigma[key]) for key in error])
            assert figures["pull_sd"] == pytest.approx(np.std(pulls))
            assert 0.6 < figures["pull_sd"] < 1.4
            assert figures["pull_mean"] == pytest.approx(np.mean(pulls))

    assert figures["band_ev"] == [7096.0, 7116.0], "1.2 times 0.3 e, then 0.8 e"
    assert (figures["edge_difference_ev"], figures["edge_difference_sigma_ev"]) == (2.3, 0.5)
    assert figures["true_edge_difference_ev"] == pytest.approx(2.0, abs=0.02), (
        "2 eV a unit of valence"
    )
    assert figures["sites"]["FE1"]["e0_ev"] == 7118.2
    assert figures["sites"]["FE1"]["true_e0_ev"] == pytest.approx(7118, abs=0.2)

    kinds = [row["sigma_kind"] for row in figures["fits"].values()]
    assert kinds == ["sandwich", "scaled", "fisher"]
    assert figures["sigma_kind"] == "sandwich"
    assert figures["n_undetermined"] == 3
    assert figures["fits"]["kramers_kronig"]["edge_difference_ev"] == 2.0
    assert figures["fits"]["smooth"]["edge_difference_ev"] is None, "smoothing moves edges"
    assert figures["controls"] == {"start swapped": True, "half sets": False}
    assert figures["verdicts"]["half sets"] == {"passed": False, "figure": 2.5, "bar": "0.7-1.4"}
    assert figures["lattices_for_goal"] == {"fp": 1235, "fdp": None}
    assert figures["loss_fall_per_lattice"] == pytest.approx(np.mean(10 + 0.5 * np.arange(12)))

    words = "\n".join(spread.headline(figures))
    assert "from 12 lattices" in words
    assert "1 of 2 passed; not: half sets" in words
    assert "E0(FE1) − E0(FE2) = 2.30 ± 0.50 eV (truth 2.00)" in words
    assert "1 200 lattices for f′, endless" in words


def _errors_of_curves(table: dict, fit: int) -> tuple[dict[str, list], ...]:
    """Return deviations from the truth, σ and bounds of f′ ("fp") and f″ ("fdp") of a fit at the
    nodes from 7100 eV on.
    """
    energies = 7100.0 + np.arange(20)
    node_ev = table["curves/energy_ev"]
    error, sigma, bound = ({"fp": [], "fdp": []} for _ in range(3))
    for i in np.flatnonzero((table["curves/fit"] == fit) & (node_ev >= 7100)):
        state = ("oxidized", "reduced")[table["curves/site"][i]]
        curve = anomalous.site("Fe", state, energies)
        for key, values in (("fp", curve.real), ("fdp", curve.imag)):
            true = np.interp(node_ev[i], energies, values)
            error[key].append(table[f"curves/{key}"][i] - true)
            sigma[key].append(table[f"curves/{key}_sigma"][i])
            bound[key].append(table[f"curves/{key}_fisher"][i])
    return error, sigma, bound


def _write_spread(path: Path, table: dict, attributes: dict) -> None:
    chosen = {name: attributes[name] for name in SPREAD_ATTRIBUTES}
    store.write(path, "spread", table, key="changed", **chosen)


def test_curves_without_truth(trial, tmp_path):
    """Curves of images that were not simulated, and curves that are quoted from a smoothed fit."""
    figures, _ = spread.make("spread", [trial.spread], [])
    missing = ("rms_fp", "rms_fdp", "pull_sd", "pull_mean", "true_edge_difference_ev")
    assert all(figures[key] is None for key in missing)
    assert figures["sites"]["FE2"]["true_e0_ev"] is None
    assert not any("truth" in line for line in spread.headline(figures))

    attributes = store.attributes(trial.spread, "spread")
    table = store.read(trial.spread, "spread")
    attributes["fits"] = ["smooth", "free", "kramers_kronig"]
    for name in ("curves/fit", "values/fit", "edges/fit"):
        table[name] = np.array([1, 2, 0])[table[name]]
    attributes |= {"changes": [3.0, 0.6], "converged": False}
    _write_spread(tmp_path / "spread.h5", table, attributes)
    smooth, _ = spread.make("spread", [tmp_path / "spread.h5"], trial.manifests)
    warning = "not converged: the last of 2 cycles moved f′, f″ by 0.6 σ"

    assert warning in spread.headline(smooth)
    assert warning not in spread.headline(figures)
    assert smooth["edges_from"] == "free"
    assert smooth["edge_difference_ev"] == 2.3
    assert smooth["sigma_fp"] == pytest.approx(0.3 * figures["sigma_fp"])
    assert smooth["true_edge_difference_ev"] == pytest.approx(2.0, abs=0.02)


def test_sites_without_an_edge(trial, tmp_path):
    """A site that has none leaves no difference; page and headline say so."""
    attributes = store.attributes(trial.spread, "spread")
    table = store.read(trial.spread, "spread")
    for name in ("energy_ev", "sigma_ev"):
        table[f"edges/{name}"][1::2] = np.nan
    for name in ("difference_ev", "difference_sigma_ev"):
        table[f"edges/{name}"][:] = np.nan
    _write_spread(tmp_path / "spread.h5", table, attributes)
    figures, page = spread.make("spread", [tmp_path / "spread.h5"], trial.manifests)

    assert figures["edge_difference_ev"] is None
    assert figures["true_edge_difference_ev"] is None
    assert figures["sites"]["FE2"]["e0_ev"] is None
    assert figures["sites"]["FE1"]["e0_ev"] == 7118.2

    page.savefig(tmp_path / "spread.png")
    words = "\n".join(spread.headline(figures))
    assert "E0(FE1) = 7118.20 ± 0.30 eV (truth 711" in words
    assert "E0(FE2) = none found (truth 711" in words


def test_merge(trial, figures_of):
    figures = figures_of("merge")
    table = store.read(trial.merge, "merge")
    half = np.array([h for h in table["merged/half"] if np.isfinite(h).all()])
    assert figures["n_lattices"] == 13
    assert figures["n_pairs"] == 270 == len(half)
    assert figures["cc_half"] == pytest.approx(np.corrcoef(half.T)[0, 1])

    difference = abs(half[:, 0] - half[:, 1]).sum()
    assert figures["r_split"] == pytest.approx(difference * 2**0.5 / half.sum())

    n_observations = table["merged/n"].sum()
    assert figures["n_observations"] == n_observations
    assert figures["completeness"] == pytest.approx(300 / 390)
    assert figures["multiplicity"] == pytest.approx(n_observations / 300)

    difference = table["merged/half"][::2] - table["merged/half"][1::2]
    difference = difference[np.isfinite(difference).all(axis=1)]
    assert figures["n_pairs_ano"] == len(difference)
    assert figures["cc_ano"] == pytest.approx(np.corrcoef(difference.T)[0, 1])
    assert figures["scaling"] == "mark0 against model.mtz"
    assert figures["scaling"] in "\n".join(merge.headline(figures))
    assert figures["wilson_b"] == 21.0
    assert len(figures["bins"]) == 3
    assert figures["bins"][2]["cc_half"] is None


def test_every_key_is_documented(summaries, figures_of):
    """Each key of each summary stands in docs/summaries.md under its stage."""
    documented = {}
    for part in re.split(r"^## ", DOCS.read_text(), flags=re.M):
        title = part.split("\n")[0]
        documented[title] = set(re.findall(r"`([a-z0-9_]+)`", part))

    for stage in summaries:
        keys_of_stage = next(
            keys for title, keys in documented.items() if stage in title.split(", ")
        )
        assert figures_of(stage).keys() <= keys_of_stage | documented["every stage"], stage
