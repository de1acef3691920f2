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
from spreadflow.products import (
    Annulus,
    Cells,
    Ladder,
    Merge,
    Predict,
    Reindex,
    Spread,
    Stage1,
    Stage2,
)
from spreadflow.products.spread import Curves
from spreadflow.report import cells, checks, ladder, merge, mosaic, spread, stage1, stage2

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
    "site_unknowns",
    "elements",
    "weak",
    "sigma_kinds",
    "sigma_over",
    "unknown_f",
    "log_scale",
    "cost_of_x",
    "scatter",
    "x_at_rest",
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
        assert pixels.shape[1] > 1000 and pixels.std() > 0.05


def test_simulate(trial, figures_of):
    figures = figures_of("simulate")
    weights = "entry/instrument/beam/incident_wavelength_1Dspectrum_weights"
    photons = []
    for manifest in trial.manifests:
        with h5py.File(manifest.parent / "stills.nxs") as file:
            photons.append(file[weights][()].sum(axis=1))
    assert figures["n_shots"] == 24 == sum(figures["kinds"].values())
    assert figures["kinds"]["single"] == 22 and figures["kinds"]["blank"] == 2
    assert figures["n_lattices"] == 18
    assert figures["photons_mean"] == pytest.approx(np.mean(photons))
    assert figures["photons_sd"] == pytest.approx(np.std(photons))


def test_adopt(figures_of):
    figures = figures_of("adopt")
    assert (figures["n_lines"], figures["n_adopted"], figures["n_reflections"]) == (12, 9, 360)
    assert figures["outcomes"]["no_shot"] == 1 and figures["outcomes"]["other_cell"] == 2
    assert sum(figures["outcomes"].values()) == 12
    assert figures["indices_agree"] == pytest.approx(0.9)
    assert figures["runs"].keys() == {"two"} and figures["runs"]["two"]["n_lines"] == 12


def test_level0(figures_of):
    """The detector was simulated 0.03 mm along fast, −0.02 mm along slow and 0.05 mm farther than
    the header says.
    """
    figures = figures_of("level0")
    assert figures["shift_mm"] == [0.031, -0.021] and figures["distance_mm"] == 60.04
    assert np.allclose(figures["true_shift_mm"], [0.03, -0.02])
    assert figures["true_distance_mm"] == pytest.approx(60.05)


def test_index_and_reindex(trial, figures_of):
    figures = figures_of("reindex")
    product = Reindex.joined([store.read(path, Reindex) for path in trial.reindex])
    assert figures["n_shots"] == 24 == sum(figures["outcomes"].values())
    assert figures["n_indexed"] == figures["outcomes"]["indexed"] == 18
    assert (product.shots.outcome == Outcome.INDEXED).sum() == 18
    assert figures["n_hits"] == 22 and figures["index_rate"] == pytest.approx(18 / 22)
    seconds = product.shots.seconds.mean()
    assert figures["seconds_per_shot_per_core"] == pytest.approx(seconds)
    assert [figures["runs"][run]["n_shots"] for run in trial.runs] == [12, 12]

    n = product.lattices.n_rmsd
    assert figures["n_rmsd"] == n.sum()
    for axis in ("radial", "transverse"):
        rmsd = product.lattices.as_dict()[f"rmsd_{axis}_mm"]
        expected = (sum(n * rmsd**2) / sum(n)) ** 0.5
        assert figures[f"{axis}_rmsd_mm"] == pytest.approx(expected)
        assert figures[f"{axis}_rmsd_px"] == pytest.approx(expected / 0.1)


def test_reindex_against_the_truth(trial, figures_of):
    """Misorientations by the traces of the rotations between true and refined lattices."""
    figures = figures_of("reindex")
    angles = []
    for path, manifest in zip(trial.reindex, trial.manifests, strict=True):
        A = store.read(path, Reindex).lattices.A
        turns = A @ np.linalg.inv(read_truth(manifest).lattices.A)
        cosines = (np.trace(turns, axis1=1, axis2=2) - 1) / 2
        angles += np.rad2deg(np.arccos(np.minimum(cosines, 1))).tolist()
    assert figures["misorientation_deg_median"] == pytest.approx(np.median(angles), rel=1e-3)
    assert figures["misorientation_deg_p95"] == pytest.approx(np.percentile(angles, 95), rel=1e-3)
    assert figures["n_singles_indexed"] == 18
    assert figures["n_singles"] == 22
    assert figures["n_blanks"] == 2
    assert abs(figures["pull_mean"]) < 0.15 and abs(figures["pull_sd"] - 1) < 0.1


def test_a_run_that_was_not_simulated_has_no_misorientation(figures_of):
    figures = figures_of("index")
    assert figures["misorientation_deg_median"] is None and "pull_mean" not in figures
    assert figures["n_shots"] == 24


def test_cells(trial, figures_of):
    figures = figures_of("cells")
    lattices = store.read(trial.cells, Cells).lattices
    accepted = lattices.cell[lattices.outcome == 0]
    assert figures["n_in"] == 18 == len(lattices)
    assert figures["n_kept"] == 15 == len(accepted)
    assert np.allclose(figures["mean"], np.mean(accepted, axis=0))
    assert figures["outcomes"] == {
        end.name.lower(): n for end, n in zip(LatticeOutcome, [15, 1, 1, 1], strict=True)
    }
    assert np.allclose(figures["true_mean"], [67.2, 59.8, 47.2, 90.0, 110.3, 90.0])
    assert sum(run["n_kept"] for run in figures["runs"].values()) == 15
    assert [cluster["n"] for cluster in figures["clusters"]] == [17, 1]
    assert figures["eps_ang"] == 0.2 and figures["is_eps_suggested"]
    assert figures["forbidden_strain"] == 2e-5

    lines = cells.headline(figures)
    assert sum("lattices of 67.200 59.800 47.200" in line for line in lines) == 2


def test_annulus(trial, figures_of):
    figures = figures_of("annulus")
    annulus = store.read(trial.annulus, Annulus)
    reflections = annulus.reflections
    assert figures["n_lattices"] == 15 == figures["n_shots"]
    assert figures["n_reflections"] == len(reflections)
    fast0, fast1, slow0, slow1 = reflections.bbox.astype(int).T
    n_pixels = ((fast1 - fast0) * (slow1 - slow0)).sum()
    assert figures["n_pixels"] == n_pixels == len(annulus.pixels)
    assert sum(run["n_pixels"] for run in figures["runs"].values()) == figures["n_pixels"]
    unique = {
        frozenset({(h, k, l), (-h, k, -l), (-h, -k, -l), (h, -k, l)})
        for h, k, l in reflections.hkl.tolist()
    }
    assert figures["n_unique"] == len(unique), "C2: h k l = -h k -l, and Friedel's mates"
    assert figures["multiplicity_mean"] == pytest.approx(figures["n_reflections"] / len(unique))
    assert sum(bin["n"] for bin in figures["multiplicity"]) == len(unique)
    per_lattice = np.bincount(reflections.lattice, minlength=15)
    assert figures["reflections_per_lattice_median"] == np.median(per_lattice)
    for bin in figures["reflections_per_lattice"]:
        is_in_bin = (per_lattice >= bin["from"]) & (per_lattice <= bin["to"])
        assert bin["n"] == is_in_bin.sum()
    assert sum(bin["n"] for bin in figures["reflections_per_lattice"]) == 15


def test_pixels_of_annulus(trial, figures_of):
    figures = figures_of("annulus")
    pixels = store.read(trial.annulus, Annulus, [Annulus.pixels]).pixels
    valid = pixels.valid
    overlap = pixels.overlap
    assert figures["n_pixels_valid"] == valid.sum()
    assert figures["n_pixels_shared"] == (overlap % 2 == 1).sum()
    assert figures["n_pixels_foreign"] == (overlap >= 4).sum()
    assert figures["n_pixels_counted"] == (valid & (overlap < 2)).sum()


def test_predict(trial, figures_of):
    """Every fifth reflection is left out but for each second of them; distances are 0.5 px."""
    figures = figures_of("predict")
    reflections = store.read(trial.predict, Predict).reflections
    n = len(reflections)
    assert figures["n_lattices"] == 18 == sum(figures["outcomes"].values())
    assert figures["outcomes"]["predicted"] == 13
    assert figures["n_reflections"] == n == 13 * 40 == figures["n_in_range"]
    assert (figures["n_left_out"], figures["n_weak"]) == (n // 10, n // 10)
    assert figures["n_chosen"] == n - n // 10 == figures["n_strong"] + figures["n_weak"]
    assert figures["n_matched"] == n // 2
    assert figures["matched"] == pytest.approx(0.5)
    assert figures["distance_px_median"] == pytest.approx(0.5)
    assert figures["distance_mm_median"] == pytest.approx(0.05)
    assert sum(run["n_chosen"] for run in figures["runs"].values()) == figures["n_chosen"]

    is_good = reflections.flags == 0
    bright = is_good & (reflections.intensity > 3 * reflections.sigma)
    assert figures["n_signal"] == bright.sum()
    chosen = reflections.choice != 2
    assert figures["signal_chosen"] == pytest.approx(chosen[bright].mean())

    shells = figures["shells"]
    assert sum(shell["n"] for shell in shells) == n
    assert (np.diff([shell["d_max"] for shell in shells]) < 0).all()
    total = sum(shell["n_strong"] for shell in shells)
    assert total == figures["n_strong"]
    rows = is_good & (reflections.d >= np.float32(shells[0]["d_min"]))
    expected = reflections.intensity[rows].mean() / 100.0
    assert shells[0]["brightness"] == pytest.approx(expected)


def test_ladder(trial, figures_of):
    """A rung without a lattice, or beyond its bar, fails and says why."""
    figures = figures_of("ladder")
    assert (figures["n_lattices"], figures["n_modelled"], figures["n_passed"]) == (15, 3, 4)
    rungs = {rung["name"]: rung for rung in figures["rungs"]}
    failed = {name: rung["why"] for name, rung in rungs.items() if not rung["passed"]}
    assert failed.keys() == {"2", "3A", "3B"} and failed["3A"] == "2 of 3 lattices have a model"
    assert all("not so" in failed[name] for name in ("2", "3B"))
    assert "rung 3A fails: 2 of 3 lattices have a model" in ladder.headline(figures)
    assert rungs["2"]["share_fell"] == 35 / 40 and rungs["3"]["planes_apart"] == 3e-8


def test_rungs_of_the_ladder(trial, figures_of):
    """Sums over lattices, 1000 pixels each; the first rung has none."""
    rungs = figures_of("ladder")["rungs"]
    sums = store.read(trial.ladder, Ladder).rungs
    reading, *others = rungs
    assert 0 not in sums.rung
    assert reading["name"] == "00" and reading["n_read"] == 15
    assert reading["radial_rmsd_mm"] is None is reading["sigma_z"]
    for number, rung in enumerate(others, 1):
        of_rung = sums[sums.rung == number]
        n = of_rung.n.sum()
        radial = of_rung.radial.sum()
        transverse = of_rung.transverse.sum()
        assert rung["n"] == n
        assert rung["radial_rmsd_mm"] == pytest.approx((radial / n) ** 0.5)
        assert rung["transverse_rmsd_mm"] == pytest.approx((transverse / n) ** 0.5)
        assert rung["rmsd_px"] == pytest.approx(((radial + transverse) / n) ** 0.5 / 0.1)
        z, square = of_rung.z.sum(axis=0) / (1000 * len(of_rung))
        assert rung["z_mean"] == pytest.approx(z)
        assert rung["sigma_z"] == pytest.approx((square - z**2) ** 0.5)
        assert rung["z_published_mean"] == pytest.approx(2 * z)
        assert rung["seconds_per_lattice"] == pytest.approx(np.median(of_rung.seconds))


def test_mosaic(figures_of):
    """Five sets, of which three are used."""
    figures = figures_of("mosaic")
    assert figures["outcomes"] == {"learned": 3, "continuous": 2, "left_out": 0, "lost": 10}
    assert (figures["n_lattices"], figures["n_taught"]) == (15, 5)
    assert (figures["n_sets"], figures["n_sets_better"]) == (5, 3)
    assert (figures["n_components"], figures["n_rounds"]) == (2, 2)
    assert figures["step_deg"] == pytest.approx(np.rad2deg(2e-4))
    assert (figures["held_out_continuous"], figures["held_out_learned"]) == (1500.0, 1472.0)
    assert (figures["held_out_gain"], figures["held_out_gain_least"]) == (28.0, -2.0)
    assert figures["seconds_per_lattice_per_core"] == pytest.approx(0.2)
    assert "3 learned, 2 continuous, 10 lost" in mosaic.headline(figures)[0]


def test_distance_of_mosaics_from_the_truth(figures_of):
    """Of the three sets used one is the truth, two have its two domains at −2 times their place."""
    figures = figures_of("mosaic")
    sigma = np.sqrt(0.63 / 4) * 2.0 / (57 * (67.2 + 59.8 + 47.2) / 3)
    x, z = np.meshgrid(np.arange(-4e-3, 4e-3, 2e-5), np.arange(-2e-3, 2e-3, 2e-5), indexing="ij")

    def density(factor):
        """Return the two domains, blurred, at so many times their place."""
        total = 0.0
        for place in (factor, -factor):
            square = (x - place * 1e-3) ** 2 + (z - place * 2e-4) ** 2
            total = total + np.exp(-0.5 * square / sigma**2)
        return total / total.sum()

    difference = density(1) - density(2)
    along_z = np.abs(difference.sum(axis=1)).sum()
    along_y = np.abs(difference).sum()
    along_x = np.abs(difference.sum(axis=0)).sum()
    sums = [along_z, along_y, along_x]
    assert figures["distance_to_truth"] == pytest.approx(np.mean(sums), rel=0.01)
    assert figures["distance_to_truth_continuous"] > 1.0, "two domains are no Gaussian"


def test_stage1(trial, figures_of):
    figures = figures_of("stage1")
    lattices = store.read(trial.stage1, Stage1).lattices
    assert figures["outcomes"] == {"refined": 13, "not_converged": 0, "too_few": 1, "lost": 1}
    assert (figures["n_lattices"], figures["n_refined"]) == (15, 13)
    assert (figures["n_truth"], figures["n_worse"]) == (13, 1)
    assert figures["seconds_per_lattice_per_core"] == pytest.approx(np.median(lattices.seconds))
    assert "13 refined, 1 too few, 1 lost" in stage1.headline(figures)[0]


def test_centroids_of_stage1(trial, figures_of):
    """Distances from the beam centre by hand: both panels lie normal to the beam, 0.1 mm pixels."""
    figures = figures_of("stage1")
    reflections = store.read(trial.stage1, Stage1).reflections
    observed = reflections[np.isfinite(reflections.fast_obs)]
    panel_x = np.where(observed.panel == 0, -10.0, 1.0)

    def position(suffix):
        fast = observed.as_dict()[f"fast{suffix}"]
        slow = observed.as_dict()[f"slow{suffix}"]
        return panel_x + 0.1 * fast, 10.0 - 0.1 * slow

    x, y = position("_before")
    radius = np.hypot(x, y)
    x_obs, y_obs = position("_obs")
    for suffix in ("", "_before"):
        x_model, y_model = position(suffix)
        dx = x_model - x_obs
        dy = y_model - y_obs
        radial = np.sqrt(np.mean(((x * dx + y * dy) / radius) ** 2))
        transverse = np.sqrt(np.mean(((x * dy - y * dx) / radius) ** 2))
        assert figures[f"radial_rmsd_mm{suffix}"] == pytest.approx(radial, rel=1e-4)
        assert figures[f"transverse_rmsd_mm{suffix}"] == pytest.approx(transverse, rel=1e-4)
    floor = np.sqrt(np.mean((0.01 * (x - y) / radius) ** 2))
    assert figures["radial_floor_mm"] == pytest.approx(floor, rel=1e-4)
    assert figures["n_rmsd"] == len(observed)
    assert figures["radial_rmsd_px"] == pytest.approx(figures["radial_rmsd_mm"] / 0.1)


def test_stage1_against_the_truth(trial, figures_of):
    """Pulls of the scale by hand, of σ 0.1 by the sandwich and 0.05 by Fisher."""
    figures = figures_of("stage1")
    lattices = store.read(trial.stage1, Stage1).lattices
    truth = [read_truth(manifest) for manifest in trial.manifests]
    pulls = []
    for lattice in range(13):
        true = truth[lattices.run[lattice]]
        shot = list(true.shots.shot_id).index(lattices.shot_id[lattice])
        ratio = lattices.scale[lattice] / true.lattices.scale[shot]
        pulls.append(np.log(ratio) / 0.1)
    assert figures["pull_sd"]["scale"] == pytest.approx(np.std(pulls))
    assert figures["pull_mean"]["scale"] == pytest.approx(np.mean(pulls))
    assert figures["pull_sd_fisher"]["scale"] == pytest.approx(2 * np.std(pulls))
    assert 0.7 < figures["pull_sd"]["rotation"] < 1.3
    assert figures["pull_sd"].keys() == {"scale", "rotation", "n_cells"}
    assert np.rad2deg(2e-5) < figures["misorientation_deg_median"] < np.rad2deg(6e-5)


def test_a_fit_that_has_not_converged_may_be_worse_too(trial):
    product = store.read(trial.stage1, Stage1)
    attributes = store.attributes(trial.stage1, Stage1)
    product.lattices.outcome[5] = RefinedOutcome.NOT_CONVERGED
    product.lattices.loss_after[[5, 14]] = 200.0
    figures = stage1._figures(product, attributes)
    assert (figures["n_refined"], figures["n_worse"]) == (12, 2), (
        "one of the refined, and this one; not one that was not fitted"
    )


def test_spread(figures_of):
    figures = figures_of("spread")
    assert (figures["n_lattices"], figures["n_lattices_in"], figures["cycles"]) == (12, 15, 2)
    assert figures["outcomes"] == {"used": 12, "not_refined": 2, "lost": 1}
    assert figures["compared_ev"] == [7100.0, 7140.0] and figures["n_nodes"] == 11
    assert figures["band_ev"] == [7096.0, 7116.0], "1.2 times 0.3 e, then 0.8 e"
    kinds = [row["sigma_kind"] for row in figures["fits"].values()]
    assert kinds == ["sandwich", "scaled", "fisher"]
    assert figures["sigma_kind"] == "sandwich" and figures["n_undetermined"] == 3
    assert figures["controls"] == {"start swapped": True, "half sets": False}
    assert figures["verdicts"]["half sets"] == {
        "passed": False,
        "figure": 2.5,
        "what": "standard deviation of their difference over its σ",
        "bar": "0.6 to 1.4",
    }
    assert figures["lattices_for_goal"] == {"fp": 1235, "fdp": None}
    assert figures["loss_fall_per_lattice"] == pytest.approx(np.mean(10 + 0.5 * np.arange(12)))
    words = "\n".join(spread.headline(figures))
    assert "(σ: sandwich over reflections)" in words
    assert "from 12 lattices" in words and "1 of 2 passed; not: half sets" in words
    assert "E0(FE1) − E0(FE2) = 2.30 ± 0.50 eV (truth 2.00)" in words
    assert "1 200 lattices for f′, endless" in words


def test_constants_and_shapes_of_spread(trial, figures_of):
    """Errors of the curves taken apart into means over the nodes from 7100 eV on and what is left
    of them; σ are those of the table.
    """
    figures = figures_of("spread")
    product = store.read(trial.spread, Spread)
    curves = product.curves
    constants = product.constants.as_dict()
    for fit, name in enumerate(("free", "kramers_kronig", "smooth")):
        of_fit = figures["fits"][name]
        for key in ("fp", "fdp"):
            left = []
            for site, label in enumerate(("FE1", "FE2")):
                is_here = (curves.fit == fit) & (curves.site == site)
                here = curves[is_here & (curves.energy_ev >= 7100)]
                error = here.as_dict()[key] - _true_values(here, key)
                left.append(error - error.mean())
                row = 2 * fit + site
                moved = constants[key][row] - constants[f"{key}_start"][row]
                constant = of_fit[f"constant_{key}"][label]
                assert constant["error"] == pytest.approx(error.mean())
                assert constant["value"] == pytest.approx(moved)
                sigma = constants[f"{key}_sigma"][row]
                assert of_fit[f"constant_sigma_{key}"][label] == pytest.approx(sigma)
            assert of_fit[f"shape_rms_{key}"] == pytest.approx(np.std(left))
            sigma = constants[f"{key}_shape_sigma"][2 * fit : 2 * fit + 2]
            assert of_fit[f"shape_sigma_{key}"] == pytest.approx(np.hypot(*sigma) / 2**0.5)
    for key in ("shape_rms_fp", "shape_sigma_fdp", "constant_fp", "constant_sigma_fdp"):
        assert figures[key] == figures["fits"]["free"][key]
    assert figures["shape_sigma_fp"] == pytest.approx(0.5**0.5), "of 0.6 and 0.8 e"
    words = "\n".join(spread.headline(figures))
    assert "f′ is known up to a constant: ± 0.4 e (FE1), ± 0.5 e (FE2)" in words
    assert "without their means: f′ ± 0.71 e, f″ ± 0.7 e" in words


def test_x_of_spread(trial, figures_of):
    figures = figures_of("spread")
    reflections = store.read(trial.spread, Spread).reflections
    moved = np.average(abs(reflections.phase_deg), weights=reflections.f)
    assert figures["phase_moved_deg"] == pytest.approx(moved)
    for number, width in enumerate(figures["prior_rms_by_shell"]):
        chosen = reflections.prior_sigma[reflections.shell == number]
        assert width == pytest.approx(np.sqrt(np.mean(chosen**2)))
    assert figures["unknown_f"] == "complex" and figures["sigma_over"] == "reflections"
    assert figures["log_scale"] == [0.001, -0.02] and figures["x_at_rest"] is True
    assert figures["n_reflections"] == 60
    words = "\n".join(spread.headline(figures))
    assert "σ of shapes 1.25 (f′), 1.2 (f″) times those of X known" in words
    assert "X of 60 reflections complex: √S 40 to 50 e" in words and "ln scale -0.02" in words
    assert figures["scatter"] == 0.12
    assert "spots brighter or dimmer than their models by 0.12" in words


def test_sites_of_spread(trial, figures_of, tmp_path):
    """What was refined of sites beside their curves, in one line; not a word where nothing was."""
    figures = figures_of("spread")
    assert figures["site_unknowns"] == {
        "FE1": {"x": [0.02, 0.01], "B": [-0.7, 0.3]},
        "FE2": {"x": [-0.01, 0.01], "B": [0.4, 0.2]},
    }
    words = [line for line in spread.headline(figures) if line.startswith("sites")]
    assert words == [
        "sites, off the model by: FE1 x +0.02 ± 0.01 Å, FE1 B -0.7 ± 0.3 Å²; "
        "FE2 x -0.01 ± 0.01 Å, FE2 B +0.4 ± 0.2 Å²"
    ]
    product = store.read(trial.spread, Spread)
    attributes = store.attributes(trial.spread, Spread) | {"site_unknowns": []}
    product.sites = product.sites[:0]
    _write_spread(tmp_path / "spread.h5", product, attributes)
    without, _ = spread.make("spread", [tmp_path / "spread.h5"], trial.manifests)
    assert without["site_unknowns"] == {}
    assert not any(line.startswith("sites") for line in spread.headline(without))


def test_spread_with_x_of_the_model(trial, tmp_path):
    """There is nothing to say of X, and no panel for it."""
    attributes = store.attributes(trial.spread, Spread)
    product = store.read(trial.spread, Spread)
    product.reflections = product.reflections[:0]
    product.shells = product.shells[:0]
    attributes |= {"unknown_f": "none", "sigma_over": "lattices"}
    attributes |= {"log_scale": [], "cost_of_x": None, "x_at_rest": None, "scatter": None}
    _write_spread(tmp_path / "spread.h5", product, attributes)
    figures, page = spread.make("spread", [tmp_path / "spread.h5"], trial.manifests)
    nothing = ("n_reflections", "phase_moved_deg", "x_at_rest", "cost_of_x", "scatter")
    assert [figures[name] for name in nothing] == [None] * 5
    assert figures["prior_rms_by_shell"] == figures["log_scale"] == []
    assert figures["shape_rms_fp"] is not None
    words = "\n".join(spread.headline(figures))
    assert "sandwich over lattices" in words and "X of" not in words and "constant" not in words
    page.savefig(tmp_path / "spread.png")
    _, with_x = spread.make("spread", [trial.spread], trial.manifests)
    assert len(with_x.axes) == len(page.axes) + 3, "two panels, one of them with two axes"


def test_edges_of_spread(figures_of):
    """The edges are 2 eV apart for each unit of valence."""
    figures = figures_of("spread")
    assert (figures["edge_difference_ev"], figures["edge_difference_sigma_ev"]) == (2.3, 0.5)
    assert figures["true_edge_difference_ev"] == pytest.approx(2.0, abs=0.02)
    assert figures["sites"]["FE1"]["e0_ev"] == 7118.2
    assert figures["sites"]["FE1"]["true_e0_ev"] == pytest.approx(7118, abs=0.2)
    assert figures["fits"]["kramers_kronig"]["edge_difference_ev"] == 2.0
    assert figures["fits"]["smooth"]["edge_difference_ev"] is None, "smoothing moves edges"


def test_errors_of_spread(trial, figures_of):
    """Errors over the nodes from 7100 eV on; true curves are straight between channels."""
    figures = figures_of("spread")
    curves = store.read(trial.spread, Spread).curves
    for fit, name in enumerate(("free", "kramers_kronig", "smooth")):
        of_fit = curves[(curves.fit == fit) & (curves.energy_ev >= 7100)]
        columns = of_fit.as_dict()
        pulls = []
        for key in ("fp", "fdp"):
            error = columns[key] - _true_values(of_fit, key)
            sigma = columns[f"{key}_sigma"]
            bound = columns[f"{key}_fisher"]
            pulls.append(error / sigma)
            for figure, values in (("rms", error), ("sigma", sigma), ("crlb", bound)):
                expected = np.sqrt(np.mean(values**2))
                assert figures["fits"][name][f"{figure}_{key}"] == pytest.approx(expected)
                assert fit > 0 or figures[f"{figure}_{key}"] == pytest.approx(expected)
        if fit == 0:
            assert figures["pull_sd"] == pytest.approx(np.std(pulls))
            assert 0.6 < figures["pull_sd"] < 1.4
            assert figures["pull_mean"] == pytest.approx(np.mean(pulls))


def _true_values(curves: Curves, key: str) -> np.ndarray:
    """f′ or f″ of the true curves at these nodes, linear between channels of 1 eV."""
    channels_ev = 7100.0 + np.arange(20)
    values = []
    for site, energy_ev in zip(curves.site, curves.energy_ev, strict=True):
        curve = anomalous.site("Fe", ("oxidized", "reduced")[site], channels_ev)
        part = curve.real if key == "fp" else curve.imag
        values.append(np.interp(energy_ev, channels_ev, part))
    return np.array(values)


def _write_spread(path: Path, product: Spread, attributes: dict) -> None:
    """Write a product of `spread` with the attributes that its report reads."""
    chosen = {name: attributes[name] for name in SPREAD_ATTRIBUTES}
    store.write(path, product, key="changed", **chosen)


def test_curves_without_truth(trial, tmp_path):
    """Curves of images that were not simulated, and curves that are quoted from a smoothed fit."""
    figures, _ = spread.make("spread", [trial.spread], [])
    missing = (
        "rms_fp",
        "rms_fdp",
        "shape_rms_fp",
        "shape_rms_fdp",
        "pull_sd",
        "pull_mean",
        "true_edge_difference_ev",
    )
    assert all(figures[key] is None for key in missing)
    assert figures["sites"]["FE2"]["true_e0_ev"] is None
    assert figures["constant_fp"]["FE1"] == {"value": pytest.approx(0.2), "error": None}
    assert not any("truth" in line for line in spread.headline(figures))
    attributes = store.attributes(trial.spread, Spread)
    product = store.read(trial.spread, Spread)
    attributes["fits"] = ["smooth", "free", "kramers_kronig"]
    for table in (product.curves, product.values, product.constants, product.edges):
        table.fit = np.array([1, 2, 0])[table.fit]
    attributes |= {"changes": [3.0, 0.6], "converged": False}
    _write_spread(tmp_path / "spread.h5", product, attributes)
    smooth, _ = spread.make("spread", [tmp_path / "spread.h5"], trial.manifests)
    warning = "not converged: the last of 2 cycles moved f′, f″ by 0.6 σ"
    assert warning in spread.headline(smooth) and warning not in spread.headline(figures)
    assert smooth["edges_from"] == "free" and smooth["edge_difference_ev"] == 2.3
    assert smooth["sigma_fp"] == pytest.approx(0.3 * figures["sigma_fp"])
    assert smooth["true_edge_difference_ev"] == pytest.approx(2.0, abs=0.02)


def test_sites_without_an_edge(trial, tmp_path):
    """A site that has none leaves no difference; page and headline say so."""
    attributes = store.attributes(trial.spread, Spread)
    product = store.read(trial.spread, Spread)
    product.edges.energy_ev[1::2] = np.nan
    product.edges.sigma_ev[1::2] = np.nan
    product.edges.difference_ev[:] = np.nan
    product.edges.difference_sigma_ev[:] = np.nan
    _write_spread(tmp_path / "spread.h5", product, attributes)
    figures, page = spread.make("spread", [tmp_path / "spread.h5"], trial.manifests)
    assert figures["edge_difference_ev"] is None and figures["true_edge_difference_ev"] is None
    assert figures["sites"]["FE2"]["e0_ev"] is None and figures["sites"]["FE1"]["e0_ev"] == 7118.2
    page.savefig(tmp_path / "spread.png")
    words = "\n".join(spread.headline(figures))
    assert "E0(FE1) = 7118.20 ± 0.30 eV (truth 711" in words
    assert "E0(FE2) = none found (truth 711" in words


def test_merge(trial, figures_of):
    figures = figures_of("merge")
    merged = store.read(trial.merge, Merge).merged
    half = merged.half
    half = half[np.isfinite(half).all(axis=1)]
    assert figures["n_lattices"] == 13 and figures["n_pairs"] == 270 == len(half)
    assert figures["cc_half"] == pytest.approx(np.corrcoef(half.T)[0, 1])
    r_split = abs(half[:, 0] - half[:, 1]).sum() * 2**0.5 / half.sum()
    assert figures["r_split"] == pytest.approx(r_split)
    assert figures["n_observations"] == merged.n.sum()
    assert figures["completeness"] == pytest.approx(300 / 390)
    assert figures["multiplicity"] == pytest.approx(merged.n.sum() / 300)
    difference = merged.half[::2] - merged.half[1::2]
    difference = difference[np.isfinite(difference).all(axis=1)]
    assert figures["n_pairs_ano"] == len(difference)
    assert figures["cc_ano"] == pytest.approx(np.corrcoef(difference.T)[0, 1])
    assert figures["scaling"] == "mark0 against model.mtz"
    assert figures["scaling"] in "\n".join(merge.headline(figures))
    assert figures["wilson_b"] == 21.0
    assert len(figures["bins"]) == 3
    assert figures["bins"][2]["cc_half"] is None


def test_stage2(figures_of, trial):
    figures = figures_of("stage2")
    product = store.read(trial.stage2, Stage2)
    assert (figures["n_lattices_in"], figures["n_lattices"]) == (15, 13)
    assert figures["outcomes"] == {"used": 13, "not_refined": 2, "lost": 0}
    n = len(product.merged)
    assert figures["n_reflections"] == n == figures["n_pairs"]
    assert figures["multiplicity"] == pytest.approx(product.merged.n.mean())
    assert figures["cc_half"] == pytest.approx(np.corrcoef(product.merged.half.T)[0, 1])
    assert figures["i_over_sigma"] == pytest.approx((200 * 9 + 100 * 3) / 300)
    assert figures["i_over_sigma_merge"] == pytest.approx((200 * 6 + 100 * 3) / 300)
    assert (figures["cc_half_merge"], figures["cc_half_ano"]) == pytest.approx((0.6, 0.4))
    assert figures["cc_half_ano_merge"] == pytest.approx((20 * 0.1 + 10 * 0.4) / 30)

    assert figures["cycles"] == 2 == len(figures["of_cycles"])
    assert (figures["change"], figures["spread"], figures["scatter"]) == (0.05, 0.3, 0.03)
    assert figures["of_cycles"][0]["held_out_before"] is None
    assert figures["seconds_solve_per_lattice"] == pytest.approx(0.2)
    used = product.lattices.seconds[:13]
    assert figures["seconds_per_lattice"] == pytest.approx(np.median(used))
    assert (figures["reduced_bytes"], figures["n_reductions"]) == (123456, 78)
    assert figures["sites"]["FE2"] == {"height": 9.0, "height_merge": None}

    facts = "\n".join(stage2.headline(figures))
    assert "FE1 12 σ (merge 6), FE2 9 σ (merge –)" in facts
    assert "not converged" not in facts
    assert "R(F) 0.8 % (merge 2.3" in facts and "sd of pulls" in facts
    assert "0.286 s per lattice, cycle and core" in facts
    unlike = stage2.headline(figures | {"converged": False, "r_f": None})
    assert "not converged: the last cycle moved I by 0.05 σ" in "\n".join(unlike)


def test_stage2_against_the_truth(figures_of, trial):
    """Of the reflections that the merge has, too; each on its own scale. All are so strong that
    amplitudes are √I.
    """
    figures = figures_of("stage2")
    merged = store.read(trial.stage2, Stage2).merged
    in_merge = np.isfinite(merged.merge)
    unique = trial.unique
    assert figures["n_true"] == in_merge.sum() == len(unique) - 10
    F_true = np.sqrt(trial.intensity)
    mate = unique.mate
    plus = np.flatnonzero((unique.friedel > 0) & in_merge & in_merge[mate])
    true_difference = F_true[plus] - F_true[mate[plus]]
    for suffix, intensity in (("", merged.intensity), ("_merge", merged.merge)):
        F = np.sqrt(intensity)
        F *= (F[in_merge] @ F_true[in_merge]) / (F[in_merge] @ F[in_merge])
        away = np.abs(F - F_true)[in_merge].sum() / F_true[in_merge].sum()
        assert figures[f"r_f{suffix}"] == pytest.approx(away, rel=0.05)
        difference = F[plus] - F[mate[plus]]
        expected = np.corrcoef(difference, true_difference)[0, 1]
        assert figures[f"cc_ano{suffix}"] == pytest.approx(expected, abs=0.005)
    pull_sd = np.std(trial.pulls[0][in_merge])
    assert figures["pull_sd"] == pytest.approx(pull_sd, abs=0.03)


def test_lattices_that_are_packed_reach_stage2(figures_of):
    figures = figures_of("stage2")
    of_stage = stage2.checks({"stage2": figures, "pack": {"n_lattices": 15}})
    assert len(of_stage) == 2 and all(check.holds for check in of_stage)
    of_stage = stage2.checks({"stage2": figures, "pack": {"n_lattices": 14}})
    assert [check.holds for check in of_stage] == [True, False]
    assert stage2.checks({}) == []


def test_stage2_without_truth(trial):
    figures, _ = stage2.make("stage2", [trial.stage2], [])
    named = ("r_f", "r_f_merge", "cc_ano", "cc_ano_merge", "n_true", "pull_sd")
    assert [figures[name] for name in named] == [None] * len(named)
    assert "truth" not in "\n".join(stage2.headline(figures))


def test_every_key_is_documented(summaries, figures_of):
    """Each key of each summary stands in docs/summaries.md under its stage."""
    parts = re.split(r"^## ", DOCS.read_text(), flags=re.M)
    documented = {part.split("\n")[0]: set(re.findall(r"`([a-z0-9_]+)`", part)) for part in parts}
    for stage in summaries:
        here = next(keys for title, keys in documented.items() if stage in title.split(", "))
        assert figures_of(stage).keys() <= here | documented["every stage"], stage


def test_stages_that_need_pixels_are_not_asked_for_runs_without_images():
    cells = {"n_in": 30, "n_kept": 25, "outcomes": {"accepted": 25, "noise": 5}}
    cells["runs"] = {"old": {"n_in": 20, "n_kept": 18}, "new": {"n_in": 10, "n_kept": 7}}
    adopt = {"without_images": ["old"], "outcomes": {"adopted": 20}, "n_lines": 20, "n_adopted": 20}
    adopt["runs"] = {"old": {}}
    summaries = {"cells": cells, "adopt": adopt, "annulus": {"n_lattices": 7}}
    assert all(check.holds for check in checks.collect(summaries))
    assert any("reaches annulus" in check.statement for check in checks.collect(summaries))
    del summaries["adopt"]
    assert not all(check.holds for check in checks.collect(summaries))
