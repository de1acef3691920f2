"""Masks and colours to begin with: `correlate` takes them, and they are where pixels are."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from spreadflow import cli
from spreadflow.config.correlate import CorrelateSection
from spreadflow.errors import ConfigError, FileError
from spreadflow.io.colours import check_test_mask, read_pixels
from spreadflow.io.images import open_image
from spreadflow.physics import geometry
from spreadflow.stages import correlation_mask
from spreadflow.stages.correlation_mask import Request, named
from spreadflow.units import wavelength

SIMULATED = {"shape": [12, 20], "n_shots": 30, "n_saturated": 3}


def request(folder: Path, section: dict, **keys) -> Request:
    """Return what a user says."""
    defaults = {
        "section": CorrelateSection.model_validate(section),
        "images": None,
        "out": folder / "x",
        "n_shots": 20,
        "n_colours": 3,
        "n_fine_colours": 9,
        "by": None,
        "q_range": None,
        "geometry": None,
        "energy_ev": None,
        "mask": None,
        "n_test_pixels": 10,
        "is_replacing": False,
    }
    return Request(**(defaults | keys))


def start(*arguments, **keys):
    """Write masks and colours."""
    return correlation_mask.start(request(*arguments, **keys), lambda _n: None)


def load(folder: Path, what: str) -> np.ndarray:
    """Return an array that was written."""
    return np.load(named(folder / "x", what))


def test_masks_and_colours_pass_all_rules(tmp_path):
    written = start(tmp_path, {"simulated": SIMULATED})
    files = (named(tmp_path / "x", what) for what in ("mask", "colours", "fine_colours"))
    pixels = read_pixels((12, 20), *files)
    check_test_mask(named(tmp_path / "x", "test_mask"), (12, 20))
    assert pixels.n_masked_in == len(pixels.places)  # nothing is wasted
    assert np.ptp(np.bincount(pixels.colours)[1:]) <= 1
    assert len(np.unique(pixels.fine_colours)) == 9
    assert ((load(tmp_path, "test_mask") > 0) <= (load(tmp_path, "mask") > 0)).all()
    figures = json.loads((tmp_path / "x.json").read_text())
    assert figures["n_shots"] == written.figures["n_shots"] == 20
    assert figures["n_shared"] == figures["n_gaps"] == 0
    assert figures["by"] == "intensity"
    np.testing.assert_array_equal(load(tmp_path, "mean_image"), load(tmp_path, "mean"))


def test_saturated_and_masked_pixels_have_no_colour(tmp_path):
    images = np.ones((5, 4, 8))
    images[2, 0, 0] = 40000.0
    images[3, 0, 1] = np.nan
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["images"] = images * np.arange(1, 33).reshape(4, 8)
    given = np.ones((4, 8), np.int8)
    given[3] = 0
    np.save(tmp_path / "given.npy", given)
    source = {"files": [str(tmp_path / "s.h5")], "dataset": "images"}
    start(tmp_path, source, mask=tmp_path / "given.npy")
    mask = load(tmp_path, "mask")
    assert mask.sum() == 22
    assert not mask[0, :2].any()
    assert not mask[3].any()
    with h5py.File(tmp_path / "mask.h5", "w") as file:
        file["mask"] = 1 - given[None]
    start(tmp_path, source, mask=tmp_path / "mask.h5", is_replacing=True)
    np.testing.assert_array_equal(load(tmp_path, "mask"), mask)


@pytest.mark.stage
def test_rings_are_about_the_beam(tmp_path, tiny_run):
    path = tiny_run["manifest"].parent / "tiny.h5"
    start(tmp_path, {"files": [str(path)]}, n_shots=2, q_range=(0.5, 2.0))
    colours = load(tmp_path, "colours")
    file = open_image(path)
    ray = geometry.direction(file.detector, np.zeros(1, int), np.array([150.5]), np.array([180.5]))
    sine = np.sqrt((1 - ray[0] @ geometry.S0) / 2)
    q = 4 * np.pi * sine / wavelength(file.spectrum(0).mean_energy_ev)
    assert 0.5 < q < 2.0
    assert colours[0, 180, 150] == 1 + int((q - 0.5) / 0.5)
    fine = load(tmp_path, "fine_colours")
    is_in = colours > 0
    np.testing.assert_array_equal(colours[is_in], 1 + (fine[is_in] - 1) // 3)
    assert not colours[~load(tmp_path, "mask").astype(bool)].any()
    figures = json.loads((tmp_path / "x.json").read_text())
    qs = [one["q_per_ang"] for one in figures["colours"].values()]
    assert qs == sorted(qs)
    assert figures["by"] == "q"


@pytest.mark.stage
def test_a_run_of_a_trial_has_the_masks_of_its_manifest(tmp_path, tiny_run):
    config = tmp_path / "c.yaml"
    config.write_text("correlate: {delays: [1]}\n")
    words = ["correlate", "mask", "start", "-c", str(config), "--out", str(tmp_path / "x")]
    words += ["--images", str(tiny_run["manifest"]), "--shots", "2", "--q-range", "0.5", "2"]
    assert cli.main(words) == 0
    files = (named(tmp_path / "x", what) for what in ("mask", "colours", "fine_colours"))
    assert len(read_pixels((1, 512, 512), *files).places) > 10_000
    path = tiny_run["manifest"].parent / "tiny.h5"
    keys = {"n_colours": 6, "n_fine_colours": 18, "q_range": (0.5, 2.0), "out": tmp_path / "y"}
    start(tmp_path, {"files": [str(path)]}, n_shots=2, **keys)
    colours, others = load(tmp_path, "colours"), np.load(named(tmp_path / "y", "colours"))
    is_in_both = (colours > 0) & (others > 0)
    assert is_in_both.sum() > 0.99 * (others > 0).sum()
    np.testing.assert_array_equal(colours[is_in_both], others[is_in_both])


GEOM = """
clen = 0.1
photon_energy = 8000
res = 10000
adu_per_eV = 1
left/min_fs = 0
left/max_fs = 7
left/min_ss = 0
left/max_ss = 3
left/fs = +x
left/ss = +y
left/corner_x = -10
left/corner_y = -2
right/min_fs = 0
right/max_fs = 7
right/min_ss = 4
right/max_ss = 7
right/fs = +x
right/ss = +y
right/corner_x = 2
right/corner_y = -2
"""


@pytest.fixture
def two_panels(tmp_path) -> dict:
    """A source of two panels, one above the other in the file and side by side in the laboratory,
    with its geometry.
    """
    (tmp_path / "two.geom").write_text(GEOM)
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["images"] = np.arange(64.0).reshape(1, 8, 8)
    source = {"files": [str(tmp_path / "s.h5")], "dataset": "images"}
    return {"section": source, "geometry": tmp_path / "two.geom", "energy_ev": 8000.0}


def test_arrays_become_images_by_the_geometry_and_back(tmp_path, two_panels, capsys):
    written = start(tmp_path, **two_panels)
    assert written.figures["image_shape"] == (4, 20)
    image = load(tmp_path, "mean_image")
    array = np.arange(64.0).reshape(8, 8)
    # y is upwards, and the x of CrystFEL points to the left
    np.testing.assert_array_equal(image[:, 12:], array[3::-1, ::-1])
    np.testing.assert_array_equal(image[:, :8], array[:3:-1, ::-1])
    assert not image[:, 8:12].any()

    marked = np.zeros((4, 20), np.int8)
    marked[0, 12] = 1  # as a person draws it
    np.save(tmp_path / "drawn.npy", marked)
    words = ["correlate", "mask", "array", str(tmp_path / "drawn.npy"), "--map"]
    words += [str(tmp_path / "x"), "--out", str(tmp_path / "array.npy")]
    assert cli.main(words) == 0
    np.testing.assert_array_equal(np.argwhere(np.load(tmp_path / "array.npy")), [[3, 7]])
    assert (tmp_path / "array.png").exists()
    words = ["correlate", "mask", "image", str(tmp_path / "array.npy"), "--map"]
    words += [str(tmp_path / "x"), "--out", str(tmp_path / "image.npy")]
    assert cli.main(words) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "image.npy"), marked)
    np.save(tmp_path / "wrong.npy", marked[1:])
    words[3] = str(tmp_path / "wrong.npy")
    assert cli.main(words) == 4


@pytest.mark.parametrize(
    ("keys", "error", "expected"),
    [
        ({"n_fine_colours": 2}, ConfigError, "--fine-colours"),
        ({"n_test_pixels": 9}, ConfigError, "10 to 100"),
        ({"q_range": (2.0, 1.0)}, ConfigError, "--q-range"),
        ({"q_range": (8.0, 9.0)}, FileError, "at least 10 pixels"),
        ({"saturated": 1e-3}, FileError, "at least 10 pixels that may be used; found 1"),
        ({"saturated": 1e-3, "by": "intensity"}, FileError, "at least 10 pixels"),
        ({"by": "q", "energy_ev": None}, ConfigError, "--energy-ev"),
        ({"by": "q", "geometry": None}, ConfigError, "--geometry"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, two_panels, keys, error, expected):
    keys = two_panels | keys
    keys["section"] = keys["section"] | {"saturated": keys.pop("saturated", 1e9)}
    with pytest.raises(error, match=expected):
        start(tmp_path, **keys)
    assert not named(tmp_path / "x", "mask").exists()


def test_files_that_are_there_are_kept_and_a_geometry_of_another_detector_refused(
    tmp_path, two_panels
):
    start(tmp_path, **two_panels)
    with pytest.raises(FileError, match="--force"):
        start(tmp_path, **two_panels)
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        del file["images"]
        file["images"] = np.ones((1, 7, 8))
    with pytest.raises(FileError, match="of another detector"):
        start(tmp_path, **two_panels, is_replacing=True)


def test_what_is_printed_is_a_configuration(tmp_path, capsys):
    config = tmp_path / "c.yaml"
    section = {"simulated": SIMULATED, "delays": [1, 2], "out": str(tmp_path / "g.h5")}
    config.write_text(yaml.safe_dump({"correlate": section}))
    words = ["correlate", "mask", "start", "-c", str(config), "--out", str(tmp_path / "x")]
    assert cli.main([*words, "--shots", "5", "--colours", "2"]) == 0
    _, _, printed = capsys.readouterr().out.partition("To use them:\n")
    keys = yaml.safe_load(printed)["correlate"]
    assert set(keys) == {"mask", "test_mask", "colours", "fine_colours"}
    assert (tmp_path / "x.png").exists()
    config.write_text(yaml.safe_dump({"correlate": section | keys}))
    assert cli.main(["correlate", "-c", str(config)]) == 0
    with h5py.File(tmp_path / "g.h5") as file:
        (update,) = file["user"].values()
        assert {"delay_curve_color_1", "delay_curve_color_2"} < set(update)
