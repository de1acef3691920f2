"""What reruns after an edit, a forced stage, an added run: asked of Snakemake's own records of finished jobs."""

import copy
import shutil

import pytest

RUNS = ("r1", "r2")


def _summaries(*stages):
    return {f"summary {stage}" for stage in stages} | {"report"}


MERGE = {"merge"} | _summaries("merge")
LADDER = {"ladder"} | _summaries("ladder")
SPREAD = {"spread"} | _summaries("spread")
STAGE1 = {"stage1"} | _summaries("stage1") | SPREAD
WIDE = {"wide"} | _summaries("wide") | SPREAD
MOSAIC = {"mosaic"} | _summaries("mosaic")
ANNULUS = {"annulus"} | _summaries("annulus") | LADDER | STAGE1
CELLS = {"cells"} | _summaries("cells") | MERGE | ANNULUS | WIDE
REINDEX = {f"reindex {run}" for run in RUNS} | _summaries("reindex") | CELLS
LEVEL0 = {"level0"} | _summaries("level0") | REINDEX
INDEX = {f"index {run}" for run in RUNS} | _summaries("index") | LEVEL0
EVERYTHING = {f"simulate {run}" for run in RUNS} | _summaries("simulate") | INDEX

EDITS = {
    "seed=2": EVERYTHING,
    "crystal={mosaic_spread_deg: 0.1}": EVERYTHING,
    "beam={photons: 2.0e12}": EVERYTHING,
    "detector={psf_fwhm_mm: 0.08}": EVERYTHING,
    "simulate={oversample: 3}": EVERYTHING,
    "runs={r1: {simulate: {n_single: 3}}}": EVERYTHING - {"simulate r2", "index r2"},
    "index={spots: {min_spots: 10}}": INDEX,
    "level0={min_reflections: 12}": LEVEL0,
    "reindex={rmsd_max_px: 1.5}": REINDEX,
    "cells={eps_ang: 0.3}": CELLS,
    "merge={n_bins: 5}": MERGE,
    "annulus={border_px: 2}": ANNULUS | WIDE,
    "annulus={d_max: 2.6}": ANNULUS,
    "wide={border_px: 2}": WIDE,
    "ladder={n_lattices: 5}": LADDER,
    "stage1={refine: [scale, rotation]}": STAGE1,
    "stage1={structure_factors: {k_sol: 0.4}}": STAGE1,
    "mosaic={max_lattices: 5}": set(),
    "stage1={mosaicity: learned}": MOSAIC | STAGE1,
    "spread={step_ev: 4.0}": SPREAD,
    "ladder={structure_factors: {k_sol: 0.4}}": LADDER,
    "trial=other": EVERYTHING - {"simulate r1", "simulate r2"},
    "results=elsewhere": EVERYTHING - {"simulate r1", "simulate r2"},
    "data=elsewhere": EVERYTHING,
}


def test_a_finished_trial_has_nothing_to_do(finished):
    assert finished.pending() == set()
    assert finished.pending("--cores", "2") == set(), "another number of ranks must rerun nothing"


@pytest.mark.parametrize(("edit", "expected"), EDITS.items(), ids=EDITS)
def test_an_edited_key_reruns_what_depends_on_it(finished, edit, expected):
    assert finished.pending("--config", edit) == expected


@pytest.mark.parametrize(
    ("stage", "expected"),
    {
        "simulate": EVERYTHING,
        "index": INDEX,
        "level0": LEVEL0,
        "reindex": REINDEX,
        "cells": CELLS,
        "merge": MERGE,
        "annulus": ANNULUS,
        "ladder": LADDER,
        "wide": WIDE,
        "stage1": STAGE1,
        "spread": SPREAD,
    }.items(),
)
def test_forced_stage(finished, stage, expected):
    assert finished.pending("--forcerun", stage) == expected


def test_the_dag_is_that_of_the_design(finished):
    assert finished.pending("--forceall") == EVERYTHING


def test_what_is_not_asked_for_is_not_learned(finished):
    assert not any("mosaic" in job for job in finished.pending("--forceall"))
    learned = "stage1={mosaicity: learned, structure_factors: {sites: []}}"
    alone = finished.pending("--forceall", "--config", learned, "mosaic={scope: per_lattice}")
    assert {"wide", "mosaic"} | _summaries(
        "wide", "mosaic", "stage1"
    ) <= alone and "spread" not in alone
    told = finished.snakemake("--dry-run", "--config", "stage1={mosaicity: learned}")
    for stage in ("stage1", "spread"):
        rule = told.split(f"rule {stage}:")[1].split("\n\n")[0]
        assert "results/t/mosaic.h5" in rule.split("output:")[0], rule


def test_stage1_is_refined_against_the_range_it_names(finished):
    wide = finished.snakemake("--dry-run", "--config", "stage1={range: wide}")
    assert "results/t/wide.h5" in wide.split("rule stage1:")[1].split("output:")[0]
    alone = finished.pending(
        "--forceall", "--config", "stage1={range: wide, structure_factors: {sites: []}}"
    )
    assert {"wide"} | _summaries("wide", "stage1") <= alone and "spread" not in alone


def _with_run(config, run):
    config = copy.deepcopy(config)
    config["runs"][run] = {"simulate": {"n_single": 2}}
    return config


def test_an_added_run_joins_the_geometry(finished, new_trial):
    trial = new_trial(finished.config)
    trial.finish()
    trial.write(_with_run(trial.config, "r3"))
    new = {"simulate r3", "index r3", "reindex r3"}
    assert trial.pending() == new | _summaries("simulate", "index") | LEVEL0


def test_an_added_run_leaves_a_frozen_geometry_and_the_old_runs_alone(finished, new_trial):
    trial = new_trial(finished.config)
    trial.finish()
    shutil.copy(trial.folder / "results/t/cells.h5", trial.folder / "frozen_cells.h5")
    frozen = {"level0": {"from": "results/t/level0.expt"}, "cells": {"from": "frozen_cells.h5"}}
    trial.write(trial.config | frozen)
    assert trial.pending() == CELLS, "freezing changes the section `cells` and nothing before it"
    trial.finish()
    trial.write(_with_run(trial.config, "r3"))
    assert (
        trial.pending() == {"simulate r3", "reindex r3"} | _summaries("simulate", "reindex") | CELLS
    )


def test_a_spec_file_replaces_index_and_reindex_of_its_run(new_trial):
    """The other run alone makes the geometry; without any other there is none."""
    trial = new_trial({"trial": "t", "runs": {run: {"simulate": {"n_single": 2}} for run in RUNS}})
    (trial.folder / "spec.txt").write_text("a.expt a.refl")
    trial.write(copy.deepcopy(trial.config))
    trial.config["runs"]["r2"]["spec"] = "spec.txt"
    trial.write(trial.config)
    jobs = EVERYTHING - {"index r2", "reindex r2"} | {"adopt r2"} | _summaries("adopt")
    assert trial.pending() == jobs
    trial.finish()
    assert trial.pending() == set()
    (trial.folder / "spec.txt").write_text("b.expt b.refl")
    assert trial.pending() == {"adopt r2"} | _summaries("adopt", "reindex") | CELLS
    trial.config["runs"]["r1"]["spec"] = "spec.txt"
    trial.write(trial.config)
    made = {
        job for job in trial.pending() if job.split()[0] in ("index", "level0", "reindex", "adopt")
    }
    assert made == {"adopt r1", "adopt r2"}
    assert "summary level0" not in trial.pending("--forceall")
    output = trial.snakemake("--dry-run", "--config", "level0={runs: [r2]}", status=1)
    assert "level0.runs" in output and "r2, which has a spec file" in output


def test_external_images_replace_simulate(new_trial):
    trial = new_trial({"trial": "t", "runs": {"beamtime": {"images": "elsewhere/manifest.json"}}})
    (trial.folder / "elsewhere").mkdir()
    (trial.folder / "elsewhere" / "manifest.json").write_text("{}")
    jobs = trial.pending()
    assert "index beamtime" in jobs and not any("simulate" in job for job in jobs)
    pixels = {"ladder", "stage1"}
    curves = {"wide", "spread"}
    assert "annulus" in jobs and not (pixels | curves) & jobs, "nobody knows the structure factors"
    merged = trial.pending(
        "--config", "structure_factors={source: merged, mtz: elsewhere/manifest.json}"
    )
    assert pixels <= merged and not curves & merged, "nobody knows where the sites are"
    model = "structure_factors={model: elsewhere/manifest.json}"
    assert pixels | curves <= trial.pending("--config", model)
    without = "stage1={structure_factors: {sites: []}}"
    assert pixels <= trial.pending("--config", model, without) and not curves & trial.pending(
        "--config", model, without
    )
