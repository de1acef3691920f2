"""XTC through psana-1 and XTC2 through psana-2, for which stand-ins answer: events that a locator
names are shots, whose panels are those of the geometry; what can't be read is one clear error.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import mutated_files
import psana_stand_in as psana
from crystfel_file import ENCODER, GEOM
from spreadflow import cli
from spreadflow.errors import FileError, Outcome
from spreadflow.io import images
from spreadflow.io.images import formats
from spreadflow.io.images.xtc import UNIT_REMARK
from spreadflow.io.lattices import dials_writer
from spreadflow.models import Detector
from spreadflow.units import wavelength

LOCATOR = f"""# as of cctbx.xfel
experiment = cxi12345
run = {psana.RUN}
detector_address = {psana.ADDRESS}
mode = idx
calib_dir = None
geometry = a.geom
"""

GENERATIONS = {"psana-1": psana.first, "psana-2": psana.second}


@pytest.fixture(params=GENERATIONS)
def module(request, monkeypatch):
    """One psana after the other, as it would be imported."""
    module = GENERATIONS[request.param]()
    monkeypatch.setitem(sys.modules, "psana", module)
    return module


def write(folder: Path, text: str = LOCATOR) -> Path:
    (folder / "a.geom").write_text(GEOM.replace(ENCODER, "-0.45 m").replace("photon_energy", ";"))
    (folder / "r20.loc").write_text(text)
    return folder / "r20.loc"


def flat(shape: tuple[int, int], n_panels: int) -> Detector:
    """Panels of a shape, one beside the other."""
    origin_mm = [[10.0 * number, 0.0, -100.0] for number in range(n_panels)]
    fast, slow = [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]
    axes = np.tile(fast, (n_panels, 1)), np.tile(slow, (n_panels, 1))
    return Detector(np.array(origin_mm), *axes, pixel_mm=0.1, shape=shape)


def test_events_are_shots_in_a_manifest(module, tmp_path):
    """An event without image and one that is damaged cost themselves."""
    path = write(tmp_path)
    manifest = images.write_manifest(tmp_path / "m.json", "r", [path], adu_per_photon=2.0)
    assert manifest.geometry == "a.geom", "so that a change of it is noticed"
    assert manifest.files[0].n_frames == psana.N_EVENTS
    assert any(UNIT_REMARK in remark for remark in manifest.remarks)

    source = images.Source(tmp_path / "m.json")
    shots = [source.read(number) for number in range(psana.N_EVENTS)]
    is_lost = [shot is Outcome.UNREADABLE for shot in shots]
    assert is_lost == [number in (psana.LOST, psana.BROKEN) for number in range(psana.N_EVENTS)]
    assert source.causes[psana.LOST] == "the detector was not read out"
    for number in (0, 2):
        np.testing.assert_array_equal(shots[number].image, psana.image(number) / np.float32(2))
        np.testing.assert_array_equal(shots[number].mask, psana.good() == 1)
        assert shots[number].spectrum.energies_ev == [psana.energy_ev(number)]


def test_an_event_is_read_once_for_image_and_energy(module, monkeypatch, tmp_path):
    images.write_manifest(tmp_path / "m.json", "r", [write(tmp_path)])
    source = images.Source(tmp_path / "m.json")
    psana._Run.read.clear()
    source.read(2)
    assert psana._Run.read == [2]


def test_a_geom_may_have_modules_one_above_the_other_or_numbered(module, tmp_path):
    path = write(tmp_path)
    stacked = images.open_image(path)
    text = (tmp_path / "a.geom").read_text().replace("dim1 = ss\ndim2", "dim2 = ss\ndim3")
    for number, name in enumerate("ab"):
        text = text.replace(f"{name}/min_fs", f"{name}/dim1 = {number}\n{name}/min_fs")
    text = text.replace("min_ss = 4", "min_ss = 0").replace("max_ss = 7", "max_ss = 3")
    (tmp_path / "a.geom").write_text(text)
    numbered = images.open_image(path)
    np.testing.assert_array_equal(stacked.frame(0), psana.image(0))
    np.testing.assert_array_equal(numbered.frame(0), psana.image(0))
    np.testing.assert_array_equal(stacked.detector.origin_mm, numbered.detector.origin_mm)


def test_modules_are_cut_into_the_panels_of_an_experiment_list(module, tmp_path):
    """Row by row, as dxtbx numbers the ASICs of a Jungfrau."""
    path = write(tmp_path)
    file = images.open_image(path, flat((2, 3), 8))
    expected = [
        psana.image(0)[module, slow : slow + 2, fast : fast + 3]
        for module in range(2)
        for slow in (0, 2)
        for fast in (0, 3)
    ]
    np.testing.assert_array_equal(file.frame(0), expected)
    assert np.argwhere(~file.mask).tolist() == [[7, 0, 0]], "module 1, row 2, column 3"

    with pytest.raises(FileError, match=r"8 panels of \(2, 4\) px.*found modules \(2, 4, 6\)"):
        images.open_image(path, flat((2, 4), 8))


def test_energies_are_of_each_event(module, tmp_path):
    path = write(tmp_path, LOCATOR + "wavelength_offset = 0.01\n")
    file = images.open_image(path)
    for number in (0, 2):
        (energy_ev,) = file.spectrum(number).energies_ev
        assert wavelength(energy_ev) - wavelength(psana.energy_ev(number)) == pytest.approx(0.01)
    with pytest.raises(FileError, match="a photon energy of the event; found None"):
        file.spectrum(psana.LOST)
    energies_ev, photons = file.spectra(slice(2, 3))
    assert energies_ev.shape == photons.shape == (1, 1)


def test_a_run_without_energies_or_mask_is_read_without(monkeypatch, tmp_path):
    """As psana-2 reads what its own `xtcwriter` writes."""
    monkeypatch.setitem(sys.modules, "psana", psana.second())
    monkeypatch.setattr(psana._Run2, "detnames", frozenset({psana.ADDRESS}))
    raw = SimpleNamespace(raw=SimpleNamespace(calib=psana.image))
    monkeypatch.setattr(psana._Run2, "Detector", lambda self, name: raw)
    file = images.open_image(write(tmp_path))
    assert file.mask.all()
    np.testing.assert_array_equal(file.frame(2), psana.image(2))
    with pytest.raises(FileError, match="a photon energy of the event; found None"):
        file.spectrum(2)


def test_as_many_events_are_read_as_the_locator_says(module, tmp_path):
    file = images.open_image(write(tmp_path, LOCATOR + "n_events = 1\n"))
    assert file.n_frames == 1


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (LOCATOR, "exp=cxi12345:run=20:idx"),
        (LOCATOR.replace("20", "20,21"), "exp=cxi12345:run=20,21:idx"),
        (LOCATOR + "dir = /data/xtc", "exp=cxi12345:run=20:idx:dir=/data/xtc"),
        (LOCATOR + 'data_source = "exp=a:run=1:idx"', "exp=a:run=1:idx"),
    ],
)
def test_psana_1_is_asked_in_its_words(monkeypatch, tmp_path, text, asked):
    module = psana.first()
    monkeypatch.setitem(sys.modules, "psana", module)
    images.open_image(write(tmp_path, text.replace("calib_dir = None", "calib_dir = /calib")))
    assert module.calls == [("psana.calib-dir", "/calib"), asked]


def test_psana_2_is_asked_in_its_words(monkeypatch, tmp_path):
    module = psana.second()
    monkeypatch.setitem(sys.modules, "psana", module)
    images.open_image(write(tmp_path, LOCATOR + "dir = /data/xtc"))
    assert module.calls == [{"exp": "cxi12345", "run": 20, "dir": "/data/xtc"}]
    with pytest.raises(FileError, match="experiment and one run"):
        images.open_image(write(tmp_path, LOCATOR.replace("20", "20, 21")))


def test_the_undulators_turned_the_polarization_in_2020(monkeypatch, tmp_path):
    for module, polarization in (
        (psana.first(psana.BEFORE), 1.0),
        (psana.first(psana.AFTER), -1.0),
        (psana.second(), -1.0),
    ):
        monkeypatch.setitem(sys.modules, "psana", module)
        assert images.open_image(write(tmp_path)).polarization == polarization


def test_validate_and_start_take_a_locator(module, monkeypatch, tmp_path, capsys):
    path = write(tmp_path)
    assert cli.main(["validate", str(path)]) == 0
    assert f"{formats.XTC}, 2 of {psana.N_EVENTS} shots looked at" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert cli.main(["start", str(path), "--run", "r"]) == 0
    manifest = images.read_manifest(tmp_path / "data" / "r" / "manifest.json")
    assert manifest.geometry == str(tmp_path / "a.geom")


def test_without_psana_one_error_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "psana", None)
    path = write(tmp_path)
    assert cli.main(["manifest", str(path), "--out", str(tmp_path / "m.json")]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install psana" in line and "r20.loc" in line


def test_what_psana_raises_is_one_clear_error(module, monkeypatch, tmp_path):
    def fails(*args: object, **how: object) -> None:
        raise RuntimeError("no such experiment")

    monkeypatch.setattr(module, "DataSource", fails)
    with pytest.raises(FileError, match=r"r20\.loc: expected a run .*no such experiment"):
        images.open_image(write(tmp_path))


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        (("run = 20", ""), "expected experiment, run and detector_address"),
        (("run = 20", "run = twenty"), "run: expected numbers; found 'twenty'"),
        (("mode = idx", "n_events = -1"), "n_events: expected numbers; found '-1'"),
        (("mode", "use_ffb"), "found 'use_ffb = idx'"),
        (("mode = idx", "filter {"), "found 'filter {'"),
        (("mode = idx", "run = 21"), "each once, .*found 'run = 21'"),
        (("geometry = a.geom", ""), "expected a geometry, .geom or .expt; found none"),
        (("geometry = a.geom", "geometry = b.geom"), "b.geom: expected a geometry"),
    ],
)
def test_a_locator_that_makes_no_sense_is_one_clear_error(module, tmp_path, changed, found):
    with pytest.raises(FileError, match=found):
        images.open_image(write(tmp_path, LOCATOR.replace(*changed)))


def test_changed_locators_are_read_or_refused(module, tmp_path):
    path = write(tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    n_read = 0
    for _ in range(50):
        path.write_bytes(mutated_files.mutated(whole, np.arange(len(whole)), rng))
        try:
            images.open_image(path).frame(0)
        except FileError:
            continue
        n_read += 1
    assert 0 < n_read < 25


def test_a_locator_is_told_by_its_content(tmp_path):
    assert images.format_of(write(tmp_path)) == formats.XTC
    with pytest.raises(FileError, match="in a format that can be read"):
        images.format_of(tmp_path / "a.geom")


def test_locators_of_different_geometries_are_of_different_runs(module, tmp_path):
    path = write(tmp_path)
    other = tmp_path / "r21.loc"
    other.write_text(LOCATOR.replace("a.geom", "b.geom"))
    with pytest.raises(FileError, match=r"r21\.loc: expected the geometry of .*r20\.loc"):
        images.write_manifest(tmp_path / "m.json", "r", [path, other])


def test_the_geometry_of_a_manifest_is_preferred(module, tmp_path):
    path = write(tmp_path)
    dials_writer.write_expt(
        tmp_path / "b.expt", flat(psana.SHAPE[1:], 2), wavelength=1.74, polarization=1
    )
    images.write_manifest(tmp_path / "m.json", "r", [path], geometry=tmp_path / "b.expt")
    detector = images.Source(tmp_path / "m.json").detector
    assert detector.origin_mm.tolist() == [[0, 0, -100], [10, 0, -100]]
