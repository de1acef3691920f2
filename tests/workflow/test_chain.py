"""The real chain on small trials: every stage on real pixels, also for another crystal and another detector."""

import json

import pytest
import yaml

KEYS = {
    "index": "n_shots n_hits n_indexed index_rate misorientation_deg_median radial_rmsd_mm transverse_rmsd_mm "
    "radial_rmsd_px n_rmsd seconds_per_shot_per_core",
    "level0": "shift_mm shift_sigma_mm true_shift_mm distance_mm true_distance_mm",
    "cells": "mean n_in n_kept",
    "merge": "n_lattices n_observations completeness multiplicity cc_half n_pairs r_split cc_ano",
    "annulus": "n_lattices n_reflections n_pixels",
}
KEYS["reindex"] = KEYS["index"]

pytestmark = pytest.mark.slow


def _summary(folder, trial, stage):
    return json.loads((folder / "results" / trial / f"{stage}.json").read_text())


@pytest.mark.parametrize("stage", KEYS)
def test_summaries_hold_what_a_checker_reads(tiny_chain, stage):
    figures = _summary(tiny_chain, "tiny", stage)
    assert set(KEYS[stage].split()) <= figures.keys()
    assert (tiny_chain / "results" / "tiny" / f"{stage}.png").stat().st_size > 1000


def test_every_shot_is_accounted_for(tiny_chain, pytestconfig):
    shots = yaml.safe_load((pytestconfig.rootpath / "config" / "tiny.yaml").read_text())["runs"]["tiny"]["simulate"]
    for stage in ("index", "reindex"):
        figures = _summary(tiny_chain, "tiny", stage)
        assert figures["n_shots"] == sum(shots.values())
    # Every single and double hit but at most one; nothing on blanks, saturated and unreadable shots.
    assert shots["n_single"] + shots["n_double"] - 1 <= figures["n_indexed"] <= shots["n_single"] + shots["n_double"]


def test_the_planted_header_error_is_found(tiny_chain):
    figures = _summary(tiny_chain, "tiny", "level0")
    for found, sigma, true in zip(
        figures["shift_mm"], figures["shift_sigma_mm"], figures["true_shift_mm"], strict=False
    ):
        assert abs(found - true) < max(5 * sigma, 0.02)


def test_a_finished_chain_does_nothing_more(tiny_chain, chain):
    assert "Nothing to be done" in chain(tiny_chain, "tiny", "--dry-run")


@pytest.mark.parametrize("config", ["tetragonal", "panels"])
def test_another_crystal_and_another_detector(tmp_path, chain, config):
    chain(tmp_path, config, f"results/{config}/reindex.json", f"results/{config}/level0.json")
    figures = _summary(tmp_path, config, "reindex")
    assert figures["n_shots"] == 7
    assert figures["n_indexed"] >= 5
    assert figures["misorientation_deg_median"] < 0.1
