"""A trial whose only run is correlated in time: the workflow correlates it, and reports."""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.chain


def test_a_trial_of_a_run_that_is_correlated(new_trial, tmp_path, tiny_run):
    mask = np.zeros((1, 512, 512), np.int8)
    mask[0, 100:110, 200:220] = 1
    np.save(tmp_path / "mask.npy", mask)
    run = {"images": str(tiny_run["manifest"])}
    run["correlate"] = {"mask": str(tmp_path / "mask.npy"), "delays": [1, 2, 3]}
    trial = new_trial({"trial": "t", "runs": {"one": run}})
    assert trial.pending() == {"correlate one", "report"}

    trial.snakemake("--cores", "2")
    results = trial.folder / "results" / "t"
    page = (results / "report.html").read_text()
    assert '<h2 id="correlate">' in page
    assert "200 pixels" in page
    assert json.loads((results / "correlate.json").read_text())["n_events"] == 6
    assert trial.pending() == set()

    mask[0, 0, 0] = 1
    np.save(tmp_path / "mask.npy", mask)
    assert trial.pending() == {"correlate one", "report"}
