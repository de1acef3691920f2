"""Runs of images: photons and outcomes as they should be; what is broken costs its own shots and
nothing else.
"""

import json
import shutil
from functools import partial

import h5py
import numpy as np
import pytest

from spreadflow import cli
from spreadflow.errors import FileError, Outcome
from spreadflow.io import images, nexus_writer
from spreadflow.io.images import nexus
from spreadflow.io.truth import FileTruth, read_truth, true_curves
from spreadflow.models import Detector, Shot

RUN = "run7"
ENERGIES = 7100.0 + np.arange(8)
DETECTOR = Detector(
    origin_mm=np.array([[-1.0, 1, -100], [1.2, 1, -100]]),
    fast=np.tile([1.0, 0, 0], (2, 1)),
    slow=np.tile([0, -1.0, 0], (2, 1)),
    pixel_mm=0.1,
    shape=(20, 16),
)
SHAPE = (2, 20, 16)
OFFSET = 10
GAIN = 4.0


def write(path, frames, photons=None, *, corrupt=(), mask=None, truth=None) -> None:
    n = len(frames)
    stills = nexus_writer.Stills(
        images=np.asarray(frames),
        shot_ids=np.array([images.shot_id(RUN, path.name, k) for k in range(n)], np.uint64),
        energies_ev=ENERGIES,
        photons=np.ones((n, 8)) if photons is None else photons,
        corrupt=corrupt,
    )
    instrument = nexus_writer.Instrument(
        detector=DETECTOR,
        saturation_adu=5000,
        offset_adu=OFFSET,
        adu_per_photon=GAIN,
        mask=mask,
    )
    nexus_writer.write(path, stills, instrument, truth=truth)


def noise(n: int, seed: int = 0) -> np.ndarray:
    return OFFSET + np.random.default_rng(seed).integers(0, 400, size=(n, *SHAPE)).astype(np.int32)


@pytest.fixture
def run(tmp_path):
    """A manifest of two good files of three shots each."""
    for k in range(2):
        write(tmp_path / f"{k}.nxs", noise(3, k))
    images.write_manifest(
        tmp_path / "manifest.json", RUN, sorted(tmp_path.glob("*.nxs")), polarization=0.9
    )
    return tmp_path / "manifest.json"


def outcomes(source: images.Source) -> list:
    return [
        s if isinstance(s, Outcome) else "read" for s in map(source.read, range(source.n_shots))
    ]


def edit(path, change) -> None:
    """Change an image file and bring the manifest's size up to date."""
    with h5py.File(path, "r+") as f:
        change(f)
    tree = json.loads((path.parent / "manifest.json").read_text())
    for file in tree["files"]:
        file["size"] = (path.parent / file["path"]).stat().st_size
    (path.parent / "manifest.json").write_text(json.dumps(tree))


def test_shots_are_photons_with_mask_and_spectrum(run):
    source = images.Source(run)
    assert (source.n_shots, source.polarization) == (6, 0.9)
    assert source.shots["frame"].tolist() == [0, 1, 2, 0, 1, 2]
    assert source.shots["file"].tolist() == [0, 0, 0, 1, 1, 1]

    shot = source.read(4)
    assert isinstance(shot, Shot)
    assert shot.image.dtype == np.float32
    assert shot.image.shape == SHAPE
    assert np.allclose(shot.image, (noise(3, 1)[1] - OFFSET) / GAIN, rtol=1e-6)
    assert shot.mask.all()
    assert shot.saturated_fraction == 0
    assert shot.saturation_photons == (5000 - OFFSET) / GAIN
    assert np.allclose(shot.spectrum.energies_ev, ENERGIES)
    assert shot.shot_id == images.shot_id(RUN, "1.nxs", 1) == int(source.shots["shot_id"][4])


def test_shot_ids_are_unique_and_do_not_change_when_files_are_added_or_moved(run, tmp_path):
    before = images.Source(run).shots["shot_id"]
    write(tmp_path / "0a.nxs", noise(2, 5))
    elsewhere = tmp_path / "elsewhere" / "manifest.json"
    images.write_manifest(elsewhere, RUN, sorted(tmp_path.glob("*.nxs")))
    after = images.Source(elsewhere).shots["shot_id"]

    assert len(set(after)) == 8
    assert set(before) < set(after)
    assert not set(before) & {
        images.shot_id("other", f"{k}.nxs", i) for k in range(2) for i in range(3)
    }


def test_identity_follows_content_not_place(run, tmp_path, tmp_path_factory):
    identity = images.Source(run).identity
    moved = tmp_path_factory.mktemp("moved") / "run"
    shutil.copytree(tmp_path, moved)
    assert images.Source(moved / "manifest.json").identity == identity
    images.write_manifest(run, RUN, sorted(tmp_path.glob("*.nxs")), offset_adu=11)
    assert images.Source(run).identity != identity


def _missing(path):
    path.unlink()


def _truncated(path):
    path.write_bytes(path.read_bytes()[:5000])


def _not_hdf5(path):
    path.write_bytes(b"x" * path.stat().st_size)


@pytest.mark.parametrize("spoil", [_missing, _truncated, _not_hdf5])
@pytest.mark.parametrize("which", [0, 1])
def test_broken_file_costs_its_own_shots(run, tmp_path, spoil, which):
    spoil(tmp_path / f"{which}.nxs")
    source = images.Source(run)
    lost = [Outcome.UNREADABLE] * 3
    read = ["read"] * 3
    assert outcomes(source) == (lost + read if which == 0 else read + lost)
    assert len(source.problems) == 1
    assert f"{which}.nxs" in source.problems[0]


def test_corrupt_frame_costs_itself(tmp_path):
    write(tmp_path / "0.nxs", noise(3), corrupt=[1])
    images.write_manifest(tmp_path / "manifest.json", RUN, [tmp_path / "0.nxs"])
    assert outcomes(images.Source(tmp_path / "manifest.json")) == [
        "read",
        Outcome.UNREADABLE,
        "read",
    ]


def test_no_file_left_is_an_error_unless_the_geometry_is_given(run, tmp_path):
    for k in range(2):
        _missing(tmp_path / f"{k}.nxs")
    with pytest.raises(FileError, match=r"at least one readable image file; found none: .*\."):
        images.Source(run)
    assert outcomes(images.Source(run, geometry=DETECTOR)) == [Outcome.UNREADABLE] * 6


def test_given_geometry_replaces_the_header(run):
    moved = DETECTOR._replace(origin_mm=DETECTOR.origin_mm + 0.1)
    assert images.Source(run, geometry=moved).detector is moved
    with pytest.raises(FileError, match="1 panels"):
        images.Source(run, geometry=DETECTOR._replace(origin_mm=DETECTOR.origin_mm[:1]))


def test_constant_saturated_and_masked_frames(tmp_path):
    zeros = np.zeros(SHAPE)
    bright = np.full(SHAPE, 9000)
    part = noise(1)[0]
    half = noise(1)[0]
    part[0, :, :8] = 5001  # 160 of the 640 pixels above the trusted range
    half[:] = -1000  # below it: nothing left
    write(tmp_path / "0.nxs", np.stack([zeros, bright, part, half, noise(1)[0]]))
    images.write_manifest(tmp_path / "manifest.json", RUN, [tmp_path / "0.nxs"])
    source = images.Source(tmp_path / "manifest.json")

    assert outcomes(source) == [Outcome.EMPTY, "read", "read", Outcome.MASKED, "read"]
    assert source.read(1).saturated_fraction == 1
    assert not source.read(1).mask.any()
    assert source.read(2).saturated_fraction == 0.25
    assert np.array_equal(source.read(2).mask, part <= 5000)

    brightest = (noise(1)[0].max() - OFFSET) / GAIN
    stricter = images.Source(tmp_path / "manifest.json", saturation_photons=brightest - 1e-3)
    assert np.isclose(
        stricter.read(4).saturated_fraction, np.mean(noise(1)[0] == noise(1)[0].max())
    )


def test_pixels_that_are_not_numbers(run, tmp_path):
    """NaN pixels of a float image are not used; a frame of NaN only is MASKED."""

    def spoil(f):
        data = f["entry/data/data"][()].astype(np.float32)
        data[0, SHAPE[1] + 2, 3] = np.nan  # of the second panel
        data[1] = np.nan
        del f["entry/data/data"]
        f["entry/data/data"] = data

    edit(tmp_path / "0.nxs", spoil)
    source = images.Source(run)

    assert outcomes(source)[:3] == ["read", Outcome.MASKED, "read"]

    shot = source.read(0)
    assert np.isfinite(shot.image).all()
    assert np.argwhere(~shot.mask).tolist() == [[1, 2, 3]]


def test_masks_of_file_manifest_and_user_add_up(tmp_path):
    own, extra, users = (np.ones(SHAPE, bool) for _ in range(3))
    own[0, 0] = False
    extra[0, 1] = False
    users[0, 2] = False
    write(tmp_path / "0.nxs", noise(1), mask=own)
    for name, good in (("extra.h5", extra), ("users.h5", users)):
        with h5py.File(tmp_path / name, "w") as f:
            f["mask"] = np.where(good, 0, 1)
    images.write_manifest(
        tmp_path / "manifest.json", RUN, [tmp_path / "0.nxs"], mask=tmp_path / "extra.h5"
    )
    source = images.Source(tmp_path / "manifest.json", mask=tmp_path / "users.h5")

    assert np.array_equal(source.read(0).mask, own & extra & users)


def test_nan_in_a_mask_file_is_a_pixel_not_used(run, tmp_path):
    one_row = np.zeros(SHAPE)
    one_row[0, 0] = np.nan
    for name, mask in (("row.h5", one_row), ("all.h5", np.full(SHAPE, np.nan))):
        with h5py.File(tmp_path / name, "w") as f:
            f["mask"] = mask
    shot = images.Source(run, mask=tmp_path / "row.h5").read(0)

    assert np.array_equal(shot.mask, one_row == 0)
    assert outcomes(images.Source(run, mask=tmp_path / "all.h5")) == [Outcome.MASKED] * 6


@pytest.mark.parametrize("shape", [(20, 16), (3, 20, 16), (2, 16, 20), (4,)])
def test_mask_of_another_detector_is_an_error(run, tmp_path, shape):
    with h5py.File(tmp_path / "mask.h5", "w") as f:
        f["mask"] = np.zeros(shape)
    with pytest.raises(FileError, match="mask"):
        images.Source(run, mask=tmp_path / "mask.h5")


@pytest.mark.parametrize("content", [None, "text", "no dataset"])
def test_mask_that_is_none_is_an_error(run, tmp_path, content):
    if content == "text":
        (tmp_path / "mask.h5").write_text("text")
    if content == "no dataset":
        h5py.File(tmp_path / "mask.h5", "w").close()
    with pytest.raises(FileError, match=r"mask\.h5"):
        images.Source(run, mask=tmp_path / "mask.h5")


def test_spectra_that_make_no_sense(tmp_path):
    photons = np.ones((6, 8))
    photons[0] = 0
    photons[1, 2] = np.nan
    photons[2] = -1
    photons[3, 0] = -0.5
    photons[5] = 1e308
    path = tmp_path / "0.nxs"
    with np.errstate(over="ignore"):
        write(path, noise(6), photons)
    manifest = tmp_path / "manifest.json"
    images.write_manifest(manifest, RUN, [path])
    source = images.Source(manifest)

    assert outcomes(source) == [Outcome.BAD_SPECTRUM] * 3 + ["read", "read", Outcome.BAD_SPECTRUM]
    assert source.read(3).spectrum.photons.min() == 0


@pytest.mark.parametrize("value", [0.0, -1.7, np.nan, np.inf])
def test_wavelength_that_is_not_positive(run, tmp_path, value):
    def spoil(f):
        f["entry/instrument/beam/incident_wavelength_1Dspectrum"][2] = value

    edit(tmp_path / "0.nxs", spoil)
    assert outcomes(images.Source(run)) == [Outcome.BAD_SPECTRUM] * 3 + ["read"] * 3


def test_no_spectrum_means_the_wavelength_of_the_header(run, tmp_path):
    def spoil(f):
        beam = f["entry/instrument/beam"]
        for name in ("", "_weight", "_weights"):
            del beam[f"incident_wavelength_1Dspectrum{name}"]
        beam["incident_wavelength"][1] = -1

    edit(tmp_path / "0.nxs", spoil)
    source = images.Source(run)

    assert outcomes(source) == ["read", Outcome.BAD_SPECTRUM] + ["read"] * 4
    assert np.allclose(source.read(0).spectrum.energies_ev, ENERGIES.mean())


def test_a_bandwidth_widens_the_wavelength_and_no_spectrum(run):
    """A Gaussian of 0.3 % FWHM about the header's energy where spectra are gone, and the recorded
    spectrum where it is there.
    """

    def remove(f):
        beam = f["entry/instrument/beam"]
        for name in ("", "_weight", "_weights"):
            del beam[f"incident_wavelength_1Dspectrum{name}"]

    edit(run.parent / "0.nxs", remove)
    single = images.Source(run).spectrum(0)
    tree = json.loads(run.read_text())
    run.write_text(json.dumps(tree | {"bandwidth": 0.003}))
    source = images.Source(run)
    wide = source.spectrum(0)
    (energy,) = single.energies_ev

    assert wide.mean_energy_ev == pytest.approx(energy)
    share = wide.photons / wide.photons.sum()
    sigma = np.sqrt(share @ (wide.energies_ev - energy) ** 2)
    assert sigma * np.sqrt(8 * np.log(2)) == pytest.approx(0.003 * energy, rel=0.03)
    assert wide.photons.sum() == pytest.approx(single.photons.sum())
    assert np.allclose(source.spectrum(3).energies_ev, ENERGIES)
    assert np.allclose(source.read(0).spectrum.photons, wide.photons)


def test_no_wavelength_at_all(run, tmp_path):
    def spoil(f):
        del f["entry/instrument/beam/incident_wavelength"]

    edit(tmp_path / "0.nxs", spoil)
    assert outcomes(images.Source(run)) == [Outcome.BAD_SPECTRUM] * 3 + ["read"] * 3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": 2}, "version"),
        ({"colour": "red"}, "colour"),
        ({"adu_per_photon": 0}, "adu_per_photon"),
        ({"adu_per_photon": float("inf")}, "adu_per_photon"),
        ({"files": [{"path": "0.nxs"}]}, "size"),
    ],
)
def test_manifest_that_is_not_one(run, change, named):
    run.write_text(json.dumps(json.loads(run.read_text()) | change))
    with pytest.raises(FileError, match=named):
        images.Source(run)


def test_a_file_twice_in_a_manifest_is_refused(run):
    tree = json.loads(run.read_text())
    run.write_text(json.dumps(tree | {"files": tree["files"] + tree["files"][:1]}))
    with pytest.raises(
        FileError, match=r"manifest\.json: expected file names .* found 0\.nxs twice"
    ):
        images.Source(run)


def test_more_frames_than_any_file_has_are_refused(run):
    tree = json.loads(run.read_text())
    tree["files"][0]["n_frames"] = 100_000_000
    run.write_text(json.dumps(tree))
    with pytest.raises(FileError, match="less than or equal to 1000000"):
        images.Source(run)


@pytest.mark.parametrize("content", [None, "", "not json", "[]"])
def test_manifest_that_can_not_be_read(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(FileError, match=r"manifest\.json"):
        images.Source(tmp_path / "manifest.json")


def test_manifest_takes_offset_and_gain_from_the_files(run):
    manifest = images.read_manifest(run)
    assert (manifest.offset_adu, manifest.adu_per_photon) == (OFFSET, GAIN)


def test_manifest_refuses_files_that_do_not_belong_together(run, tmp_path):
    good = tmp_path / "0.nxs"
    (tmp_path / "sub").mkdir()
    shutil.copy(good, tmp_path / "sub" / "0.nxs")
    shutil.copy(good, tmp_path / "moved.nxs")
    edit(
        tmp_path / "moved.nxs",
        lambda f: f["entry/instrument/detector/transformations/AXIS_RAIL"].write_direct(np.ones(1)),
    )

    for other, why in (
        (tmp_path / "sub" / "0.nxs", r"0\.nxs twice"),
        (tmp_path / "moved.nxs", "geometry"),
    ):
        with pytest.raises(FileError, match=why):
            images.write_manifest(tmp_path / "new.json", RUN, [good, other])
    with pytest.raises(FileError, match="at least one"):
        images.write_manifest(tmp_path / "new.json", RUN, [])
    for key, value in (("adu_per_photon", 0), ("polarization", 1.5), ("offset_adu", float("nan"))):
        with pytest.raises(FileError, match=key):
            images.write_manifest(tmp_path / "new.json", RUN, [good], **{key: value})
    assert not (tmp_path / "new.json").exists()


def test_check_names_what_changed(run, tmp_path):
    images.check_manifest(run)
    data = bytearray((tmp_path / "0.nxs").read_bytes())
    data[-100] ^= 1
    (tmp_path / "0.nxs").write_bytes(data)
    (tmp_path / "1.nxs").unlink()
    with pytest.raises(FileError, match=r"0\.nxs has another checksum; .*1\.nxs is missing"):
        images.check_manifest(run)


def test_manifest_from_the_command_line(run, tmp_path, capsys):
    out = tmp_path / "cli" / "m.json"
    assert (
        cli.main(["manifest", f"{tmp_path}/*.nxs", "--out", str(out), "--adu-per-photon", "2"]) == 0
    )
    assert "2 files, 6 shots" in capsys.readouterr().out

    manifest = images.read_manifest(out)
    assert (manifest.run, manifest.offset_adu, manifest.adu_per_photon) == ("cli", OFFSET, 2)
    assert cli.main(["manifest", "--out", str(out), "--check"]) == 0

    (tmp_path / "0.nxs").unlink()
    assert cli.main(["manifest", "--out", str(out), "--check"]) == FileError.exit_code
    assert "0.nxs is missing" in capsys.readouterr().err


def test_truth_is_joined_over_files_with_rows_shifted(tmp_path, filled):
    for k in range(2):
        ids = np.array([images.shot_id(RUN, f"{k}.nxs", i) for i in range(3)], np.uint64)
        columns = {
            "shots/shot_id": ids,
            "lattices/shot": np.array([0, 2]),
            "domains/lattice": np.array([0, 1]),
            "reflections/lattice": np.array([1, 1, 0]),
        }
        sizes = {"shots": 3, "lattices": 2, "domains": 2, "reflections": 3}
        all_columns = partial(filled, "truth", sizes, columns)
        write(tmp_path / f"{k}.nxs", noise(3), truth=FileTruth(all_columns, DETECTOR, {}))
    paths = sorted(tmp_path.glob("*.nxs"))
    images.write_manifest(tmp_path / "manifest.json", "another name", paths)

    assert true_curves(tmp_path / "manifest.json") == {}, "these files have no sites"

    truth = read_truth(tmp_path / "manifest.json")
    assert truth.lattices.shot.tolist() == [0, 2, 3, 5]
    assert truth.reflections.lattice.tolist() == [1, 1, 0, 3, 3, 2]
    assert truth.domains.lattice.tolist() == [0, 1, 2, 3]
    assert np.array_equal(
        truth.shots.shot_id, images.Source(tmp_path / "manifest.json").shots["shot_id"]
    )


def test_real_images_have_no_truth(run):
    assert read_truth(run) is None


def test_nanobragg_run(shared_data, tmp_path):
    """The pedestal of the other simulator: 10 ADU; its noise has a mean of 0 outside the Bragg
    spots and background.
    """
    images.write_manifest(
        tmp_path / "m.json", "nb", [shared_data / "nanobragg_c2" / "stills.nxs"], offset_adu=10
    )
    source = images.Source(tmp_path / "m.json")
    truth = json.loads((shared_data / "nanobragg_c2" / "truth.json").read_text())

    assert source.n_shots == 24
    assert np.allclose(source.detector.origin_mm, [truth["metadata_panel_origin_mm"]])

    shot = source.read(3)
    assert np.isclose(shot.spectrum.mean_energy_ev, truth["images"][3]["mean_energy_eV"])
    assert shot.mask.all()
    assert shot.saturated_fraction == 0


def test_why_shots_can_not_be_used_is_the_same_in_all_files(run, tmp_path):
    """The reader's error without the path."""
    unit = "entry/instrument/beam/incident_wavelength_1Dspectrum"
    for k in range(2):
        edit(tmp_path / f"{k}.nxs", lambda f: f[unit].attrs.update(units="furlong"))
    source = images.Source(run)
    assert outcomes(source) == [Outcome.BAD_SPECTRUM] * 6
    (cause,) = set(source.causes.values())
    assert sorted(source.causes) == list(range(6))
    assert cause.startswith(f"/{unit}: expected units among")
    assert "'furlong'" in cause


def test_missing_files_and_masks_the_other_way_round_say_why(run, tmp_path):
    _missing(tmp_path / "0.nxs")
    with h5py.File(tmp_path / "mask.h5", "w") as f:
        f["mask"] = np.arange(640).reshape(SHAPE) >= 7
    source = images.Source(run, mask=tmp_path / "mask.h5", geometry=DETECTOR)
    assert outcomes(source) == [Outcome.UNREADABLE] * 3 + [Outcome.MASKED] * 3
    assert str(tmp_path) not in source.causes[0]
    assert source.causes[3].startswith("99% of the pixels are masked, 99% with those")


def test_constant_and_lost_frames_say_why(tmp_path):
    write(tmp_path / "0.nxs", np.stack([np.full(SHAPE, 3), *noise(3)]), corrupt=[1, 2])
    images.write_manifest(tmp_path / "manifest.json", RUN, [tmp_path / "0.nxs"])
    source = images.Source(tmp_path / "manifest.json")
    lost = [Outcome.UNREADABLE] * 2
    assert outcomes(source) == [Outcome.EMPTY, *lost, "read"]
    assert source.causes[0] == "every pixel that may be used is 3"
    assert source.causes[1] == source.causes[2]
    assert len(source.problems) == 1
    assert "0.nxs, frame 1" in source.problems[0]


def _polarize(path, value: float) -> None:
    """State a polarization in an image file."""
    with h5py.File(path, "r+") as f:
        f["entry/instrument/beam/incident_polarization_stokes"][...] = [1.0, value, 0.0, 0.0]


def test_manifest_takes_the_polarization_from_the_files(run, tmp_path):
    """What the call states wins, with a word; files that differ in it are different runs."""
    paths = [tmp_path / f"{k}.nxs" for k in range(2)]
    for path in paths:
        _polarize(path, -1.0)
    out = tmp_path / "manifest.json"
    stated = images.write_manifest(out, RUN, paths)
    assert (stated.polarization, stated.remarks) == (-1.0, [])
    assert images.Source(out).polarization == -1.0

    other = images.write_manifest(out, RUN, paths, polarization=0.5, adu_per_photon=9.0)
    assert other.polarization == 0.5
    assert other.remarks == [
        "adu_per_photon: 9 is used in place of 4, which the files state or leave open",
        "polarization: 0.5 is used in place of -1, which the files state or leave open",
    ]
    _polarize(paths[1], 0.9)
    with pytest.raises(FileError, match=r"gain and polarization as in"):
        images.write_manifest(out, RUN, paths)


def test_manifest_command_tells_what_was_assumed(run, tmp_path, capsys):
    for k in range(2):
        edit(tmp_path / f"{k}.nxs", _without_unit)
    out = tmp_path / "manifest.json"
    assert cli.main(["manifest", f"{tmp_path}/*.nxs", "--out", str(out), "--run", RUN]) == 0
    printed = capsys.readouterr().err.splitlines()
    assert printed == [f"{out}: incident_wavelength has no units: taken as Å"]
    assert images.read_manifest(out).remarks == ["incident_wavelength has no units: taken as Å"]
    before = images.Source(out).identity
    out.write_text(json.dumps(json.loads(out.read_text()) | {"remarks": []}))
    assert images.Source(out).identity == before


def _without_unit(f) -> None:
    del f["entry/instrument/beam/incident_wavelength_1Dspectrum"].attrs["units"]


def test_many_remarks_are_counted(run, tmp_path, monkeypatch):
    """Files that differ in what they leave open don't fill the manifest."""
    remarks = [f"remark {k}" for k in range(15)]
    monkeypatch.setattr(nexus.NexusFile, "remarks", property(lambda _: remarks))
    manifest = images.write_manifest(tmp_path / "m.json", RUN, [tmp_path / "0.nxs"])
    assert manifest.remarks == [*remarks[:10], "and 5 more remarks of this kind"]
