"""What reruns after an edit, a forced stage, an added run: a function of the table of stages.

`tests/workflow/test_reruns.py` pins it to what Snakemake does.
"""

import copy

import pytest
import yaml

from spreadflow.config import overlay, parse, setting
from spreadflow.trial import wanted
from spreadflow.trial.reruns import jobs, rerun

RUNS = ("r1", "r2")
SMALL = {"trial": "t", "runs": {run: {"simulate": {"n_single": 2}} for run in RUNS}}
"""A trial of two simulated runs."""


STAGE2 = {"stage2", "report"}
MERGE = {"merge"} | STAGE2
LADDER = {"ladder", "report"}
SPREAD = {"spread", "report"}
PACK = {"pack"} | STAGE2
PREDICT = {"predict"} | PACK
STAGE1 = {"stage1"} | SPREAD | PREDICT
WIDE = {"wide"} | SPREAD
MOSAIC = {"mosaic"}
ANNULUS = {"annulus"} | LADDER | STAGE1
CELLS = {"cells"} | MERGE | ANNULUS | WIDE
REINDEX = {f"reindex {run}" for run in RUNS} | CELLS
LEVEL0 = {"level0"} | REINDEX
INDEX = {f"index {run}" for run in RUNS} | LEVEL0
EVERYTHING = {f"simulate {run}" for run in RUNS} | INDEX

EDITS = {
    "seed=2": EVERYTHING,
    "crystal={mosaic_spread_deg: 0.1}": EVERYTHING,
    "beam={photons: 2.0e12}": EVERYTHING,
    "recording={psf_fwhm_mm: 0.08}": EVERYTHING,
    "runs={r1: {recording: {psf_fwhm_mm: 0.08}}}": EVERYTHING - {"simulate r2", "index r2"},
    "recording={readout_photons: 2.0}": EVERYTHING,
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
    "predict={min_expected: 1.0}": PREDICT,
    "pack={border_px: 2}": PACK,
    "stage2={converged: 0.2}": STAGE2,
    "spread={shoeboxes: pack}": SPREAD,
    "mosaic={max_lattices: 5}": set(),
    "stage1={mosaicity: learned}": MOSAIC | STAGE1,
    "spread={step_ev: 4.0}": SPREAD,
    "ladder={structure_factors: {k_sol: 0.4}}": LADDER,
    "trial=other": EVERYTHING - {"simulate r1", "simulate r2"},
    "results=elsewhere": EVERYTHING - {"simulate r1", "simulate r2"},
    "data=elsewhere": EVERYTHING,
}
"""Edit, as on the command line of Snakemake → the jobs it reruns."""

FORCED = {
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
    "predict": PREDICT,
    "pack": PACK,
    "stage2": STAGE2,
    "spread": SPREAD,
}
"""Stage that is forced → the jobs that run."""


def edited(tree: dict, *edits: str) -> dict:
    """Return a configuration with edits laid over it."""
    for edit in edits:
        tree = overlay(tree, setting(edit))
    return tree


@pytest.mark.parametrize(("edit", "expected"), EDITS.items(), ids=EDITS)
def test_an_edited_key_reruns_what_depends_on_it(edit, expected):
    assert rerun(parse(SMALL), parse(edited(SMALL, edit))) == expected


def test_nothing_reruns_where_nothing_was_edited():
    assert rerun(parse(SMALL), parse(SMALL)) == set()


@pytest.mark.parametrize(("stage", "expected"), FORCED.items())
def test_forced_stage(stage, expected):
    assert rerun(parse(SMALL), parse(SMALL), forced=[stage]) == expected


def test_the_jobs_are_those_of_the_design():
    assert set(jobs(parse(SMALL))) == EVERYTHING


def test_what_is_not_asked_for_is_not_learned():
    assert "mosaic" not in wanted(parse(SMALL))
    asked = "stage1={mosaicity: learned, structure_factors: {sites: []}}"
    tree = edited(SMALL, asked, "mosaic={scope: per_lattice}")
    assert {"wide", "mosaic", "stage1"} <= set(wanted(parse(tree)))
    assert "spread" not in wanted(parse(tree))
    learned = jobs(parse(edited(SMALL, "stage1={mosaicity: learned}")))
    for stage in ("stage1", "stage2", "spread"):
        assert "results/t/mosaic.h5" in learned[stage].inputs


def test_stage1_is_refined_against_the_range_it_names():
    wide = jobs(parse(edited(SMALL, "stage1={range: wide}")))
    assert "results/t/wide.h5" in wide["stage1"].inputs
    alone = parse(edited(SMALL, "stage1={range: wide, structure_factors: {sites: []}}"))
    assert "wide" in wanted(alone) and "spread" not in wanted(alone)


def test_curves_are_refined_against_the_shoeboxes_they_name():
    packed = jobs(parse(edited(SMALL, "spread={shoeboxes: pack}")))
    assert "results/t/pack.h5" in packed["spread"].inputs
    assert "wide" not in packed, "nobody else asks for it"


def with_run(tree: dict, run: str) -> dict:
    """Return a configuration with one more simulated run."""
    tree = copy.deepcopy(tree)
    tree["runs"][run] = {"simulate": {"n_single": 2}}
    return tree


def test_an_added_run_joins_the_geometry():
    added = {"simulate r3", "index r3", "reindex r3"}
    pending = rerun(parse(SMALL), parse(with_run(SMALL, "r3")))
    assert pending == added | LEVEL0


def test_an_added_run_leaves_a_frozen_geometry_and_the_old_runs_alone():
    frozen = SMALL | {
        "level0": {"from": "results/t/level0.expt"},
        "cells": {"from": "frozen_cells.h5"},
    }
    message = "freezing changes the section `cells` and nothing before it"
    assert rerun(parse(SMALL), parse(frozen)) == CELLS, message
    pending = rerun(parse(frozen), parse(with_run(frozen, "r3")))
    assert pending == {"simulate r3", "reindex r3"} | CELLS


def test_a_spec_file_replaces_index_and_reindex_of_its_run():
    """The other run alone makes the geometry; without any other there is none."""
    one = copy.deepcopy(SMALL)
    one["runs"]["r2"]["spec"] = "spec.txt"
    expected = EVERYTHING - {"index r2", "reindex r2"} | {"adopt r2"}
    assert set(jobs(parse(one))) == expected
    both = copy.deepcopy(one)
    both["runs"]["r1"]["spec"] = "spec.txt"
    names = set(jobs(parse(both)))
    indexing = {
        name for name in names if name.split()[0] in ("index", "level0", "reindex", "adopt")
    }
    assert indexing == {"adopt r1", "adopt r2"}


def test_external_images_replace_simulate():
    target = {"space_group": "C 1 2 1", "cell": [67.2, 59.8, 47.2, 90.0, 110.3, 90.0]}
    runs = {"beamtime": {"images": "elsewhere/manifest.json"}}
    tree = {"trial": "t", "runs": runs, "index": target}
    stages = set(wanted(parse(tree)))
    pixels = {"ladder", "stage1", "predict", "pack", "stage2"}
    curves = {"wide", "spread"}
    assert "index beamtime" in jobs(parse(tree)) and "simulate" not in stages
    assert "annulus" in stages, "shoeboxes need no model"
    assert not (pixels | curves) & stages, "nobody knows the structure factors"
    merged = set(wanted(parse(tree | {"structure_factors": {"source": "merged", "mtz": "m.mtz"}})))
    assert pixels <= merged and not curves & merged, "nobody knows where the sites are"
    model = tree | {"structure_factors": {"model": "model.pdb"}}
    assert pixels | curves <= set(wanted(parse(model)))
    without = set(wanted(parse(model | {"stage1": {"structure_factors": {"sites": []}}})))
    assert pixels <= without and not curves & without


def test_edits_are_written_as_on_the_command_line():
    assert setting("annulus={d_max: 2.6}") == {"annulus": yaml.safe_load("{d_max: 2.6}")}
