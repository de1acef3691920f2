"""Snakemake's own records of finished jobs: it reruns what `spreadflow.trial.reruns` says.

All cases are in `tests/trial/test_reruns.py`; here are one edit at the root, one in the middle and
one at a leaf, and everything.
"""

import copy
import json

import pytest

from spreadflow.config import overlay, parse, setting
from spreadflow.trial.reruns import jobs, rerun

pytestmark = pytest.mark.chain

PINNED = ("beam={photons: 2.0e12}", "cells={eps_ang: 0.3}", "spread={step_ev: 4.0}")
"""Edits at the root of the workflow, in its middle, and at a leaf."""


def test_a_finished_trial_has_nothing_to_do(finished):
    assert finished.pending() == set()
    assert finished.pending("--cores", "2") == set(), "another number of ranks must rerun nothing"


@pytest.mark.parametrize("edit", PINNED)
def test_an_edited_key_reruns_what_the_table_says(finished, edit):
    before = parse(finished.config)
    after = parse(overlay(finished.config, setting(edit)))
    assert finished.pending("--config", edit) == rerun(before, after)


def test_the_jobs_are_those_of_the_table(finished):
    assert finished.pending("--forceall") == set(jobs(parse(finished.config)))


def test_a_forced_stage_reruns_what_the_table_says(finished):
    config = parse(finished.config)
    assert finished.pending("--forcerun", "merge") == rerun(config, config, forced=["merge"])


def test_a_changed_mask_of_a_manifest_reruns_its_run(new_trial):
    target = {"space_group": "C 1 2 1", "cell": [67.2, 59.8, 47.2, 90.0, 110.3, 90.0]}
    runs = {run: {"images": f"{run}.json"} for run in ("r1", "r2")}
    tree = {"trial": "t", "runs": runs, "index": target}
    trial = new_trial(tree)
    for run in runs:
        (trial.folder / f"{run}.h5").write_text("a mask")
        (trial.folder / f"{run}.json").write_text(json.dumps({"mask": f"{run}.h5"}))
    trial.finish()
    assert trial.pending() == set()

    (trial.folder / "r2.h5").write_text("another mask")
    below = rerun(parse(tree), parse(tree), forced=["index"]) - {"index r1"}
    assert trial.pending() == below


def test_a_changed_spec_file_reruns_its_run(new_trial):
    tree = {"trial": "t", "runs": {run: {"simulate": {"n_single": 2}} for run in ("r1", "r2")}}
    tree["runs"]["r2"]["spec"] = "spec.txt"
    trial = new_trial(tree)
    (trial.folder / "spec.txt").write_text("a.expt a.refl")
    trial.finish()

    assert trial.pending() == set()

    (trial.folder / "spec.txt").write_text("b.expt b.refl")
    config = parse(tree)
    below = rerun(config, config, forced=["adopt"])
    assert trial.pending() == below

    other = copy.deepcopy(tree) | {"level0": {"runs": ["r2"]}}
    trial.write(other)
    output = trial.snakemake("--dry-run", status=1)
    assert "level0.runs" in output
    assert "r2, whose lattices are another program's" in output
