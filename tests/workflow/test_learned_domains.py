"""Mosaic domains learned on the tiny chain, and its lattices refined with them."""

import json
from pathlib import Path

import pytest
import yaml

from spreadflow import cli
from spreadflow.config import overlay, parse, section
from trials import summary_of

REPOSITORY = Path(__file__).parents[2]

pytestmark = [pytest.mark.chain, pytest.mark.long]


def test_the_domains_are_learned_from_the_pixels(tiny_chain, tmp_path):
    """The 25 that were simulated; with them lattices are refined as if the model were true."""
    products = tiny_chain / "results" / "tiny"
    words = ["--ranks", "1", "--shoeboxes"]
    keys = {"stage1": {"mosaicity": "learned"}, "mosaic": {"oversample": 1, "max_lattices": 8}}
    tree = overlay(yaml.safe_load((REPOSITORY / "config" / "tiny.yaml").read_text()), keys)
    for stage, also in (("mosaic", []), ("stage1", ["--mosaic", str(tmp_path / "mosaic.h5")])):
        out = ["--out", str(tmp_path / f"{stage}.h5")]
        text = section(parse(tree), stage)
        assert (
            cli.main([stage, "--config", text, *words, str(products / "annulus.h5"), *also, *out])
            == 0
        )
        images = ["--images", str(tiny_chain / "data" / "tiny" / "manifest.json")]
        summed = [
            "--products",
            str(tmp_path / f"{stage}.h5"),
            *images,
            "--out",
            str(tmp_path / f"{stage}.json"),
        ]
        assert cli.main(["summary", stage, *summed]) == 0
    f, refined = (
        json.loads((tmp_path / f"{stage}.json").read_text()) for stage in ("mosaic", "stage1")
    )

    n_lattices = summary_of(tiny_chain, "tiny", "annulus")["n_lattices"]
    assert f["n_lattices"] == n_lattices == sum(f["outcomes"].values())
    assert f["outcomes"]["learned"] >= 7
    assert f["held_out_gain"] > 1000
    assert f["distance_to_truth"] < 0.55 * f["distance_to_truth_continuous"]
    assert refined["outcomes"]["refined"] >= f["n_lattices"] - 2
    assert refined["n_worse"] == 0
    assert refined["radial_rmsd_mm"] < 1.5 * refined["radial_floor_mm"], "that of a true model"
    assert refined["radial_rmsd_mm"] < 0.7 * refined["radial_rmsd_mm_before"]
    assert 0.97 < refined["sigma_z_median"] < 1.05
    assert "eta" not in refined["pull_sd"]
    assert refined["misorientation_deg_median"] < 0.003
