"""Stills without and with a point spread, in one trial, from simulate to curves."""

import numpy as np
import pytest
import yaml

from spreadflow.io import store
from spreadflow.products import Stage1
from trials import summary_of

RUNS = {
    "psff": {"simulate": {"n_single": 8}},
    "psft": {"simulate": {"n_single": 8}, "recording": {"psf_fwhm_mm": 0.08}},
}


@pytest.mark.long
def test_runs_without_and_with_a_point_spread_end_in_one_set_of_curves(
    tmp_path, chain, pytestconfig
):
    tree = yaml.safe_load((pytestconfig.rootpath / "config" / "tiny.yaml").read_text())
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(tree | {"trial": "two", "runs": RUNS}))
    chain(
        tmp_path,
        str(tmp_path / "two"),
        "results/two/spread.json",
        "results/two/stage1.json",
        cores=2,
    )

    lattices = store.read(
        tmp_path / "results" / "two" / "stage1.h5",
        Stage1,
        [Stage1.lattices.run, Stage1.lattices.sigma_z],
    ).lattices
    assert np.unique(lattices.run).tolist() == [0, 1]
    medians = [np.nanmedian(lattices.sigma_z[lattices.run == run]) for run in (0, 1)]
    assert max(medians) < 1.3 * min(medians)
    assert summary_of(tmp_path, "two", "spread")["n_lattices"] >= 12
