"""`spreadflow validate`: what image files are, what is read from them, and traps by name."""

import json

import h5py
import numpy as np
import pytest

import crystfel_file
import nexus_file
from image_files import full_cbf, image
from spreadflow import cli


def validated(capsys, *words: str) -> tuple[int, str, str]:
    """Return the exit status of `validate`, and what it printed."""
    status = cli.main(["validate", *words])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def traps_of(figures: dict) -> dict[str, dict]:
    return {trap["name"]: trap for trap in figures["traps"]}


@pytest.mark.stage
def test_a_simulated_file_is_as_it_was_written(tiny_run, capsys):
    """Pedestal 10 and gain 1 are stated, and the pixels agree."""
    path = tiny_run["manifest"].parent / "tiny.h5"
    status, out, _ = validated(capsys, str(path), "--json")
    assert status == 0
    (figures,) = json.loads(out)
    assert figures["format"] == "NXmx (HDF5)"
    assert (figures["n_panels"], figures["panel_px"], figures["pixel_mm"]) == (1, [512, 512], 0.3)
    assert figures["distance_mm"] == pytest.approx(90.0)
    assert figures["beam_centre"] == {"panel": 0, "fast_slow_px": [256.0, 256.0]}
    assert figures["spectrum"] == "15 channels a shot"
    assert figures["used_adu_per_photon"] == figures["stated_adu_per_photon"] == 1.0
    assert figures["used_offset_adu"] == figures["stated_offset_adu"] == 10.0
    assert {"gain", "pedestal", "bandwidth", "wavelength"}.isdisjoint(traps_of(figures))
    assert "HDF5_PLUGIN_PATH=" in traps_of(figures)["compression"]["remedy"]
    wavelength = 12398.4198 / figures["energy_ev"][0]
    two_theta = np.arctan2(256 * 0.3 * np.sqrt(2), 90.0)
    corner = wavelength / (2 * np.sin(two_theta / 2))
    assert figures["resolution_ang"] == pytest.approx(corner, rel=1e-3)


def test_a_small_cbf_is_described_and_what_can_not_be_read_is_told(tmp_path, capsys):
    """One wrong file does not keep the others from being told."""
    full_cbf(tmp_path / "a.cbf", {"ARRAY": image(2, 4, 6)})
    (tmp_path / "b.cbf").write_text("no image")
    status, out, err = validated(capsys, str(tmp_path / "*.cbf"))
    assert status == 4
    assert "a.cbf: CBF (full or mini), 1 of 1 shots" in out and "2 panels of 4 × 3 px" in out
    assert "TRAP bandwidth" in out and "--bandwidth" in out
    assert "gain          9 ADU per photon (stated, or left open: 9" in out
    assert "b.cbf: expected an image file in a format that can be read" in err
    status, out, _ = validated(capsys, str(tmp_path / "b.cbf"), "--json")
    assert status == 4 and "can be read" in json.loads(out)[0]["error"]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_file_without_a_usable_pixel_is_described(tmp_path, capsys):
    nexus_file.write(tmp_path / "a.nxs")
    with h5py.File(tmp_path / "a.nxs", "r+") as f:
        f[f"{nexus_file.SENSOR}/pixel_mask"][...] = 1
    status, out, _ = validated(capsys, str(tmp_path / "a.nxs"))
    assert status == 0 and "masked        100.00%" in out


def test_a_cxi_file_is_described_by_its_geometry(tmp_path, capsys):
    files = crystfel_file.write(tmp_path)
    status, out, _ = validated(capsys, str(files.images), "--geometry", str(files.geom), "--json")
    (figures,) = json.loads(out)
    assert status == 0
    assert figures["format"] == "HDF5 with a CrystFEL geometry file"
    assert figures["n_shots"] == figures["n_shots_looked_at"] == crystfel_file.N_FRAMES
    assert (figures["n_panels"], figures["panel_px"]) == (2, list(crystfel_file.SHAPE))
    assert figures["energy_ev"] == [7100.0, 7125.0]
    assert figures["stated_adu_per_photon"] == 4.0
    assert "compression" not in traps_of(figures), "of NXmx, which DIALS reads"

    status, _, err = validated(capsys, str(files.images))
    assert status == 4 and "--geometry" in err


def test_all_shots_of_a_file_are_counted_and_some_looked_at(tmp_path, capsys):
    def more(f):
        n_frames = 25
        stored = np.tile(crystfel_file.frames(), (n_frames, 1, 1))[:n_frames]
        crystfel_file.put(f, crystfel_file.DATA, stored)
        crystfel_file.put(f, crystfel_file.ENERGY, np.full(n_frames, 7100.0))

    files = crystfel_file.write(tmp_path, edit=more)
    _, out, _ = validated(capsys, str(files.images), "--geometry", str(files.geom))
    assert "10 of 25 shots looked at" in out


@pytest.mark.stage
def test_traps_of_real_stills_are_named(real_stills, tmp_path, capsys):
    stills = sorted((real_stills / "thermolysin_cspad").glob("*.cbf"))
    picture = tmp_path / "still.png"
    status, out, _ = validated(capsys, str(stills[0]), "--picture", str(picture))
    assert status == 0
    assert "64 panels of 185 × 194 px" in out and "130.11 mm" in out
    assert "TRAP gain: the one-photon peak says" in out and "leave open 1\n" in out
    assert "-> spreadflow manifest --adu-per-photon 8." in out
    assert picture.read_bytes().startswith(b"\x89PNG")

    status, out, _ = validated(capsys, str(real_stills / "rayonix340" / "*.cbf"), "--json")
    (figures,) = json.loads(out)
    assert status == 0 and figures["measured_by"] == "variance over mean"
    assert {"bandwidth", "mask", "sentinel"} <= traps_of(figures).keys()
    assert figures["sentinels"] == [{"adu": 0.0, "n_pixels": 9009}]
