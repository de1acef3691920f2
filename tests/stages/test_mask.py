"""`spreadflow mask`: what is found beside what was planted, and nothing where nothing was."""

import json
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest

import defects
from spreadflow import cli
from spreadflow.analysis.recording.unusable import NAMES
from spreadflow.io import images

FOUND_AS = {
    "dead": {"dead", "stuck"},
    "deaf": {"dead"},
    "stuck": {"stuck", "dead"},
    "hot": {"hot"},
    "noisy": {"noisy"},
    "flickering": {"noisy"},
    "shadow": {"shadow"},
}
"""What planted pixels may be called: what holds the number of the pedestal is dead and stuck."""


class Found(NamedTuple):
    """What `mask` wrote."""

    kinds: np.ndarray
    """(panel, slow, fast) names"""
    figures: dict
    picture: Path


def masked(manifest: Path, folder: Path, *words: str) -> Found:
    out = folder / "mask.h5"
    assert cli.main(["mask", str(manifest), "--out", str(out), *words]) == 0
    with h5py.File(out) as file:
        assert file["mask"].attrs["kinds"].tolist() == list(NAMES)
        kinds = np.array(NAMES)[file["mask"][()]]
    np.testing.assert_array_equal(images.read_mask(out), kinds == "good")
    return Found(kinds, json.loads(out.with_suffix(".json").read_text()), out.with_suffix(".png"))


def good(run: defects.Run) -> np.ndarray:
    """Return the pixels with nothing wrong, those at the rim of shadows left out."""
    flawed = np.logical_or.reduce(list(run.defects.values()))
    return ~flawed & ~run.penumbra


@pytest.fixture(scope="module")
def flawed(tmp_path_factory):
    return defects.write(tmp_path_factory.mktemp("flawed"), 100, is_flawed=True)


@pytest.mark.stage
def test_planted_pixels_are_found_and_named_and_good_ones_kept(flawed, tmp_path):
    found = masked(flawed.manifest, tmp_path)
    for name, planted in flawed.defects.items():
        certain = planted & ~flawed.penumbra
        share = np.mean(np.isin(found.kinds[certain], list(FOUND_AS[name])))
        n_left = np.count_nonzero(found.kinds[certain] == "good")
        print(f"{name}: {share:.1%} of {certain.sum()} named, {n_left} missed")
        assert n_left <= 0.05 * certain.sum(), name
        assert share >= 0.9, name
    is_false = found.kinds[good(flawed)] != "good"
    print(f"{is_false.sum()} of {is_false.size} good ones masked")
    assert np.mean(is_false) <= 1e-4
    assert found.figures["n_shots_looked_at"] == 100 and found.figures["undecided"] == []
    counted = {name: int(np.count_nonzero(found.kinds == name)) for name in NAMES[1:]}
    assert found.figures["kinds"] == counted
    assert {name: sum(n) for name, n in found.figures["panels"].items()} == {
        name: n for name, n in counted.items() if n
    }
    assert found.picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.stage
@pytest.mark.parametrize("n_shots", [1, 6, 40])
def test_sound_detectors_keep_their_pixels_and_so_do_spots_and_the_water_ring(tmp_path, n_shots):
    run = defects.write(tmp_path, n_shots, is_flawed=False)
    found = masked(run.manifest, tmp_path)
    assert np.mean(found.kinds != "good") <= 1e-4
    assert np.all(found.kinds[run.rings] == "good")


@pytest.mark.stage
def test_few_shots_tell_what_they_can_and_the_rest_is_said(flawed, tmp_path, capsys):
    found = masked(flawed.manifest, tmp_path, "--shots", "3")
    printed = capsys.readouterr().out
    for name in ("hot", "stuck", "noisy"):
        assert f"{name} pixels are not looked for: 3 shots do not tell them" in printed
        assert found.figures["kinds"][name] == 0
    certain = flawed.defects["shadow"] & ~flawed.penumbra
    assert np.mean(found.kinds[certain] == "shadow") > 0.95
    assert np.mean(found.kinds[good(flawed)] != "good") <= 1e-4


@pytest.mark.stage
def test_a_mask_takes_the_place_of_the_manifest_s_and_edges_are_an_option(flawed, tmp_path):
    """Pixels that were masked before stay so, and the manifest can name the new file."""
    before = np.zeros(defects.SHAPE, np.uint8)
    before[0, 100:120, 30:50] = 1
    images.write_mask(tmp_path / "before.h5", before, ("good", "masked"))
    manifest = tmp_path / "manifest.json"
    own = flawed.manifest.parent / "run.h5"
    images.write_manifest(manifest, "run", [own], mask=tmp_path / "before.h5")
    found = masked(manifest, tmp_path, "--shots", "5", "--edge", "2")
    assert np.all(found.kinds[before > 0] == "masked")
    assert found.figures["kinds"]["masked"] == np.count_nonzero(before)
    inside = found.kinds[:, 2:-2, 2:-2]
    assert "edge" not in inside and np.all(found.kinds[:, :2] != "good")

    images.write_manifest(manifest, "run", [own], mask=tmp_path / "mask.h5")
    shot = images.Source(manifest).read(0)
    assert not shot.mask[found.kinds != "good"].any()


@pytest.mark.stage
def test_start_masks_the_same_pixels_by_the_same_names(flawed, tmp_path):
    """In as many shots as `start` looks at; rims of shadows may differ by rounding."""
    words = ["--run", "r", "--data", str(tmp_path), "--config", str(tmp_path / "r.yaml")]
    assert cli.main(["start", str(flawed.manifest.parent / "run.h5"), *words]) == 0
    with h5py.File(tmp_path / "r" / "mask.h5") as file:
        of_start = np.array(NAMES)[file["mask"][()]]
    found = masked(flawed.manifest, tmp_path, "--shots", "10")
    certain = ~flawed.penumbra
    np.testing.assert_array_equal(of_start[certain], found.kinds[certain])
    remarks = (tmp_path / "r.yaml").read_text()
    assert "mask: noisy pixels are not looked for: 10 shots" in remarks


@pytest.mark.stage
def test_two_real_stills_of_a_cspad_say_what_they_do_not_tell(real_stills, tmp_path):
    """Nor are pedestals of its parts, which differ by half a photon, taken for shadows."""
    stills = sorted((real_stills / "thermolysin_cspad").glob("*.cbf"))
    manifest = tmp_path / "manifest.json"
    images.write_manifest(manifest, "thermolysin", stills, adu_per_photon=8.7)
    found = masked(manifest, tmp_path)
    assert len(found.figures["undecided"]) == 4
    assert found.figures["share_masked"] < 1e-3


def test_a_run_is_named_by_its_configuration(tmp_path, capsys):
    config = tmp_path / "own.yaml"
    crystal = "index: {space_group: P 1, cell: [40, 50, 60, 80, 90, 100]}"
    config.write_text(f"runs: {{one: {{images: none.json}}}}\n{crystal}\n")
    assert cli.main(["mask", "two", "--config", str(config)]) == 3
    assert "a run of one" in capsys.readouterr().err
    assert cli.main(["mask", "one", "--config", str(config)]) == 4
    assert "none.json" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--shots", "0"], ["--edge", "-1"], ["--shots", "many"]])
def test_wrong_numbers_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        cli.main(["mask", "manifest.json", *words])
    assert "invalid" in capsys.readouterr().err
