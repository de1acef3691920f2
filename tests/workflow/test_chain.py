"""The real chain on a small trial: every stage on real pixels.

The bars are those of the demo (docs/status.md), wider where a figure is over 96 lattices there and
over few here.
"""

import gemmi
import numpy as np
import pytest
import yaml

from spreadflow import cli
from spreadflow.errors import LatticeOutcome
from spreadflow.io import store
from spreadflow.products import Annulus, Cells, Index, Reindex
from spreadflow.report.checks import collect
from trials import check_header_error, summary_of

NUMBER = (int, float)
COUNT = int
LIST = list
OR_NONE = (int, float, type(None))
KEYS = {
    "index": dict.fromkeys(("n_shots", "n_hits", "n_indexed", "n_rmsd"), COUNT)
    | dict.fromkeys(
        ("index_rate", "misorientation_deg_median", "seconds_per_shot_per_core"), NUMBER
    )
    | dict.fromkeys(("radial_rmsd_mm", "transverse_rmsd_mm", "radial_rmsd_px"), NUMBER),
    "level0": dict.fromkeys(("shift_mm", "shift_sigma_mm", "true_shift_mm"), LIST)
    | dict.fromkeys(("distance_mm", "true_distance_mm"), NUMBER),
    "cells": {"mean": LIST, "n_in": COUNT, "n_kept": COUNT},
    "merge": dict.fromkeys(("n_lattices", "n_observations", "n_pairs"), COUNT)
    | dict.fromkeys(("completeness", "multiplicity", "cc_half", "r_split"), NUMBER)
    | {"cc_ano": OR_NONE, "scaling": str},  # too few Friedel mates in so few stills
    "annulus": dict.fromkeys(("n_lattices", "n_reflections", "n_pixels"), COUNT),
    "ladder": {"rungs": LIST},
    "stage1": dict.fromkeys(("n_lattices", "n_worse", "n_rmsd"), COUNT)
    | dict.fromkeys(
        ("radial_rmsd_mm", "radial_rmsd_mm_before", "radial_floor_mm", "transverse_rmsd_mm"), NUMBER
    )
    | dict.fromkeys(
        ("misorientation_deg_median", "sigma_z_median", "seconds_per_lattice_per_core"), NUMBER
    )
    | {"mosaicity": str, "pull_sd": dict},
    "wide": dict.fromkeys(("n_lattices", "n_reflections", "n_pixels"), COUNT),
    "predict": dict.fromkeys(("n_lattices", "n_reflections", "n_chosen", "n_matched"), COUNT)
    | {"signal_chosen": NUMBER, "matched": NUMBER, "outcomes": dict, "shells": LIST},
    "pack": dict.fromkeys(("n_lattices", "n_reflections", "n_pixels"), COUNT),
    "stage2": dict.fromkeys(("n_lattices", "n_reflections", "cycles", "reduced_bytes"), COUNT)
    | dict.fromkeys(("r_f", "r_f_merge", "pull_sd", "seconds_per_lattice"), NUMBER)
    | dict.fromkeys(("cc_half", "cc_ano", "cc_ano_merge"), OR_NONE)  # few pairs in few stills
    | {"of_cycles": LIST, "sites": dict, "sigma_kind": str},
    "spread": dict.fromkeys(("n_lattices", "cycles", "n_parameters"), COUNT)
    | dict.fromkeys(
        ("rms_fp", "rms_fdp", "crlb_fp", "crlb_fdp", "sigma_fp", "sigma_fdp", "pull_sd"), NUMBER
    )
    | dict.fromkeys(
        ("edge_difference_ev", "edge_difference_sigma_ev", "true_edge_difference_ev"), NUMBER
    )
    | {"sigma_kind": str, "controls": dict, "weak": LIST, "verdicts": dict},
}
KEYS["reindex"] = KEYS["index"]
"""what a checker reads of each summary, and its type"""
LENGTHS = {"shift_mm": 2, "shift_sigma_mm": 2, "true_shift_mm": 2, "mean": 6}

pytestmark = pytest.mark.chain


@pytest.fixture(scope="module")
def figures(tiny_chain) -> dict[str, dict]:
    """All summaries of the tiny trial."""
    return {stage: summary_of(tiny_chain, "tiny", stage) for stage in ("simulate", *KEYS)}


@pytest.mark.parametrize("stage", KEYS)
def test_summaries_hold_what_a_checker_reads(tiny_chain, figures, stage):
    for key, kind in KEYS[stage].items():
        value = figures[stage][key]
        assert isinstance(value, kind) and not isinstance(value, bool), f"{key}: {value!r}"
        if key in LENGTHS:
            assert len(value) == LENGTHS[key]
            assert all(isinstance(x, float) for x in value)
    assert (tiny_chain / "results" / "tiny" / f"{stage}.png").stat().st_size > 1000


def test_nothing_disappears_from_stage_to_stage(figures, pytestconfig):
    shots = yaml.safe_load((pytestconfig.rootpath / "config" / "tiny.yaml").read_text())["runs"][
        "tiny"
    ]["simulate"]
    assert {f"n_{kind}": n for kind, n in figures["simulate"]["kinds"].items()} == shots

    for stage in ("index", "reindex"):
        f = figures[stage]
        assert f["n_shots"] == figures["simulate"]["n_shots"] == sum(shots.values())
        assert f["outcomes"]["saturated"] == shots["n_saturated"]
        assert f["outcomes"]["unreadable"] == shots["n_unreadable"]
        assert f["index_rate"] == f["n_indexed"] / f["n_hits"]
    found = collect(figures)

    assert len(found) >= 7
    assert [check for check in found if not check.holds] == []

    merge = figures["merge"]
    assert (
        merge["n_observations"]
        == merge["reflections"]["used"] - merge["reflections"]["multiplicity"]
    )


def test_lattices_are_found_where_they_are_and_nowhere_else(figures):
    """With a target β wrong by 3° and a beam centre wrong by half a pixel; then with both right."""
    for stage in ("index", "reindex"):
        f = figures[stage]
        assert f["n_singles_indexed"] >= f["n_singles"] - 1
        assert f["n_blanks_with_lattice"] == 0
        assert f["n_lattices_wrong"] == 0
        assert f["n_lattices_second"] == f["n_doubles_both"] == f["n_doubles"]

    assert figures["reindex"]["misorientation_deg_median"] <= 0.03
    assert figures["reindex"]["miller_right"] >= 0.999


def test_the_planted_header_error_is_found(figures):
    check_header_error(figures["level0"], 0.003 * (96 / 14) ** 0.5, 0.020 * (96 / 14) ** 0.5)


def test_photons_are_the_true_ones_within_their_errors(figures):
    f = figures["reindex"]
    assert f["n_pulls"] > 500
    assert abs(f["pull_mean"]) <= 0.1
    assert 0.9 <= f["pull_sd"] <= 1.1
    assert f["n_strong_true"] > 300
    assert f["prediction_recall"] >= 0.98


def test_the_mean_cell_is_the_true_one(figures):
    np.testing.assert_allclose(
        figures["cells"]["mean"], [67.2, 59.8, 47.2, 90.0, 110.3, 90.0], rtol=0, atol=0.02
    )


def test_annulus_counts_are_those_of_a_loop(tiny_chain, figures):
    """Over the reflections of reindex, its images and the accepted lattices."""
    trial = tiny_chain / "results" / "tiny"
    cells = store.read(trial / "cells.h5", Cells)
    reflections = store.read(trial / "tiny" / "reindex.h5", Reindex).reflections
    section = store.attributes(trial / "annulus.h5", Annulus)["config"]

    assert section["min_i_over_sigma"] is None

    border = section["border_px"]
    shape = (1280, 1280)
    n_reflections = 0
    n_pixels = 0
    accepted = cells.lattices.outcome == LatticeOutcome.ACCEPTED
    for d, (fast0, fast1, slow0, slow1), lattice in zip(
        reflections.d, reflections.bbox, reflections.lattice, strict=True
    ):
        if accepted[lattice] and section["d_min"] <= d < section["d_max"]:
            n_reflections += 1
            fast = range(max(fast0 - border, 0), min(fast1 + border, shape[1]))
            n_pixels += len(fast) * len(
                range(max(slow0 - border, 0), min(slow1 + border, shape[0]))
            )

    assert figures["annulus"]["n_reflections"] == n_reflections > 100
    assert figures["annulus"]["n_pixels"] == n_pixels
    assert figures["annulus"]["n_lattices"] == accepted.sum()


def test_all_rungs_of_the_ladder_pass(figures):
    """The last is a lattice's orientation found from its pixels, after it was turned by 0.02°."""
    rungs = {rung["name"]: rung for rung in figures["ladder"]["rungs"]}
    assert list(rungs) == ["00", "1", "2", "3", "3A", "3B", "4"]
    assert [(name, rung["why"]) for name, rung in rungs.items() if rung["passed"] is not True] == []
    for rung in list(rungs.values())[1:]:
        for key in ("radial_rmsd_mm", "transverse_rmsd_mm", "sigma_z", "seconds_per_lattice"):
            assert isinstance(rung[key], float)
            assert rung[key] > 0
    assert rungs["4"]["sigma_z"] < rungs["3B"]["sigma_z"] < rungs["1"]["sigma_z"]


def test_lattices_are_refined_against_their_pixels(tiny_chain, figures):
    """Of the published 25 domains with the continuous model: no better than that, but honest about
    it.
    """
    f = figures["stage1"]
    assert f["n_lattices"] == figures["annulus"]["n_lattices"]
    assert f["n_worse"] == 0
    assert f["outcomes"]["refined"] >= f["n_lattices"] - 2
    assert f["outcomes"]["lost"] == 0
    assert f["mosaicity"] == "continuous"
    assert f["uncertainty"] == "sandwich"
    assert f["radial_floor_mm"] < f["radial_rmsd_mm"] <= 0.07
    assert f["transverse_rmsd_mm"] < 0.03
    assert f["misorientation_deg_median"] <= 0.01
    assert 0.95 < f["sigma_z_median"] < 1.6
    assert f["pull_sd"].keys() == {"scale", "rotation", "cell", "n_cells", "eta"}
    assert all(0.3 < sd < 3 for sd in f["pull_sd"].values()), f["pull_sd"]

    lines = (tiny_chain / "results" / "tiny" / "stage1.csv").read_text().splitlines()
    assert len(lines) == 1 + f["n_lattices"]
    assert lines[0].startswith("run,shot_id,k,outcome,a,b,c,")


def test_curves_of_the_sites_are_found_within_their_errors(tiny_chain, figures):
    """From metallic curves; few lattices of a narrow range, with the continuous model of 25
    domains.
    """
    f = figures["spread"]
    assert f["n_lattices_in"] == figures["wide"]["n_lattices"]
    assert f["n_lattices"] >= f["n_lattices_in"] - 2
    assert f["mosaicity"] == "continuous"
    assert f["cycles"] == 2
    assert f["sigma_kind"] == "scaled"
    assert f["loss_fall_per_lattice"] > 1
    assert 0.3 < f["pull_sd"] < 2
    assert f["rms_fp"] < 2 * f["sigma_fp"]
    assert f["rms_fdp"] < 2 * f["sigma_fdp"]
    assert f["true_edge_difference_ev"] == pytest.approx(2.0, abs=0.02)
    assert abs(f["edge_difference_ev"] - 2.0) < 4 * f["edge_difference_sigma_ev"]
    assert all(
        passed for name, passed in f["controls"].items() if "start" in name or "swapped" in name
    )
    assert f["verdicts"]["h, k, l + 1"]["figure"] > 1e3, "per lattice"

    lines = (tiny_chain / "results" / "tiny" / "spread.csv").read_text().splitlines()
    assert lines[0].startswith("fit,site,energy_ev,fp,fp_sigma,fp_fisher")


def test_merged_intensities_are_in_the_mtz(tiny_chain, figures):
    mtz = gemmi.read_mtz_file(str(tiny_chain / "results" / "tiny" / "merge.mtz"))
    assert {"IMEAN", "SIGIMEAN", "I(+)", "SIGI(+)", "I(-)", "SIGI(-)"} <= set(mtz.column_labels())
    assert mtz.spacegroup.hm == "C 1 2 1"
    # A reflection has one row for both of its mates.
    assert figures["merge"]["n_measured"] / 2 <= mtz.nreflections <= figures["merge"]["n_measured"]


def test_a_finished_chain_does_nothing_more(tiny_chain, chain):
    assert "Nothing to be done" in chain(tiny_chain, "tiny", "--dry-run")


def test_external_images_are_indexed_as_simulated_ones(tiny_chain, chain, tmp_path):
    """The same files by way of `spreadflow manifest` and `images:`; not a bit differs."""
    pattern = str(tiny_chain / "data" / "tiny" / "images" / "*.nxs")
    assert (
        cli.main(["manifest", pattern, "--run", "tiny", "--out", str(tmp_path / "manifest.json")])
        == 0
    )

    tree = {"trial": "mine", "runs": {"tiny": {"images": str(tmp_path / "manifest.json")}}}
    cell = [67.2, 59.8, 47.2, 90.0, 113.2, 90.0]
    tree["index"] = {"space_group": "C 1 2 1", "cell": cell}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    chain(tmp_path, str(tmp_path / "mine"), "results/mine/tiny/index.h5")
    ours = store.read(tmp_path / "results/mine/tiny/index.h5", Index).datasets()
    theirs = store.read(tiny_chain / "results/tiny/tiny/index.h5", Index).datasets()

    for dataset in ours.keys() - {"shots/seconds"}:
        np.testing.assert_array_equal(ours[dataset], theirs[dataset], err_msg=dataset)
