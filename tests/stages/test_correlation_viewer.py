"""Outputs of correlate beside the older layout: each two shots, and NeXus."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from matplotlib import image as mpl_image

from spreadflow import cli
from spreadflow.config.correlate import CorrelateSection
from spreadflow.errors import ConfigError
from spreadflow.io.g2 import differences
from spreadflow.log import logger
from spreadflow.parallel import World
from spreadflow.stages import correlate
from spreadflow.stages.correlate import Request

SIMULATED = {"n_shots": 300, "shape": [4, 6], "missing": 0.1, "duplicate": 0.05, "disordered": 0.1}
KEYS = {
    "simulated": SIMULATED,
    "delays": [1, 2, 5, 11, 400],
    "rate_hz": 100.0,
    "buffer_shots": 80,
    "update_shots": 128,
    "two_time": {"n_shots": 60, "n_ages": 3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with colours, 2 and 5, and an output of them."""
    path = tmp_path_factory.mktemp("g2")
    np.save(path / "colours.npy", np.repeat([0, 2, 2, 5], 6).reshape(4, 6))
    np.save(path / "fine.npy", np.repeat([0, 1, 2, 3], 6).reshape(4, 6))
    correlate.run(Request(section(path, out=str(path / "g.h5"))), World())
    return path


@pytest.fixture
def said(caplog):
    """What is logged, from information on."""
    log = logger("correlate", World())
    level = log.level
    log.setLevel("INFO")  # a configuration may have set another one
    log.addHandler(caplog.handler)
    yield caplog
    log.removeHandler(caplog.handler)
    log.setLevel(level)


def section(folder: Path, **keys) -> CorrelateSection:
    """Return a section with the colours in a folder."""
    colours = {"colours": folder / "colours.npy", "fine_colours": folder / "fine.npy"}
    return CorrelateSection.model_validate(KEYS | colours | keys)


def test_nexus_has_the_last_curves_where_its_definition_says(folder):
    with h5py.File(folder / "g.h5") as file:
        last = max(file["user"].values(), key=lambda update: update.attrs["n_shots"])
        assert last.attrs["n_shots"] > 250
        entry = file["/entry"]
        assert entry["definition"][()] == b"NXxpcs"
        assert entry["entry_identifier"][()] == b"g"
        assert entry["instrument/detector_1/frame_time"][()] == 0.01
        classes = {
            name: item.attrs["NX_class"] for name, item in entry.items() if "NX_class" in item.attrs
        }
        assert classes == {
            "data": "NXdata",
            "twotime": "NXdata",
            "instrument": "NXinstrument",
            "process": "NXprocess",
        }
        data = entry["data"]
        np.testing.assert_array_equal(data["delay_difference"], [1, 2, 5, 11])  # 400: no partners
        for column, colour in enumerate((2, 5)):
            curve = last[f"delay_curve_color_{colour}"][:4]
            np.testing.assert_array_equal(data["g2"][:, column], curve)
            sigma = last[f"delay_curve_sigma_color_{colour}"][:4]
            np.testing.assert_array_equal(data["g2_derr"][:, column], sigma)
        means = last["sums/G2"][:4] / last["delay_counts"][:4][:, None]
        products = [means[:, :12].mean(axis=1), means[:, 12:].mean(axis=1)]
        np.testing.assert_allclose(data["G2_unnormalized"], np.transpose(products), rtol=1e-12)
        modes = {data[name].attrs["storage_mode"] for name in data}
        assert modes == {"one_array"}
        masks = entry["instrument/masks"]
        np.testing.assert_array_equal(masks["dynamic_roi_map"], np.load(folder / "colours.npy"))
        np.testing.assert_array_equal(masks["static_roi_map"][3], [3] * 6)
        np.testing.assert_array_equal(masks["dynamic_q_list"], [2, 5])
        for group, field in (("incident_beam", "incident_energy"), ("detector_1", "count_time")):
            assert np.isnan(entry["instrument"][group][field][()])


def test_nexus_has_c_and_its_partials(folder):
    with h5py.File(folder / "g.h5") as file:
        two_time = file["/entry/twotime"]
        correlation = two_time["two_time_corr_func"]
        assert correlation.shape == (2, 60, 60)
        np.testing.assert_allclose(correlation[0], correlation[0].T, rtol=1e-12)
        assert dict(correlation.attrs) == {
            "storage_mode": "one_array_q_first",
            "baseline_reference": 1,
            "time_origin_location": "upper_left",
            "populated_elements": "all",
        }
        assert (np.diff(two_time["frame"]) > 0).all()
        partials = two_time["g2_from_two_time_corr_func_partials"]
        assert partials.shape == (5, 2, 3)
        last = max(file["user"].values(), key=lambda update: update.attrs["n_shots"])
        np.testing.assert_array_equal(partials[2, 1], last["two_time/g2"][1, :, 2])
        times = two_time["frame"][()]
        counts = last["two_time/delay_counts"][()].sum(axis=0)
        expected = [np.isin(times + delay, times).sum() for delay in KEYS["delays"]]
        np.testing.assert_array_equal(counts, expected)
        assert correlation == last["two_time/correlation"]  # a link, no copy
        assert all("two_time" in update for update in file["user"].values())


def updates_of(path: Path) -> dict[str, int]:
    """Return the number of shots of each update of a file."""
    with h5py.File(path) as file:
        return {name: int(update.attrs["n_shots"]) for name, update in file["user"].items()}


SPECKLE = {
    "simulated": {"n_shots": 400, "shape": [16, 16], "mean_photons": 4.0},
    "delays": [1, 2, 4, 8, 16, 32],
    "rate_hz": 100.0,
    "update_shots": 100,
}


@pytest.mark.parametrize("out", ["g.h5", None])
def test_curves_are_told_and_drawn_at_each_update(tmp_path, said, out):
    """With a picture of its own where there is no output."""
    keys = SPECKLE | {"out": out and str(tmp_path / out)}
    if out is None:
        keys["picture"] = str(tmp_path / "live_%C.png")
    drawn = []

    def draw(curves, decays, rate_hz, words, path):
        drawn.append((curves[0], decays[0], rate_hz, words, path))

    correlate.run(Request(CorrelateSection.model_validate(keys)), World(), draw)
    told = [line for line in said.messages if line.startswith("colour 1: contrast")]
    assert len(told) == len(drawn) == 4
    curve, decay, rate_hz, words, path = drawn[-1]
    assert (rate_hz, words) == (100.0, "400 shots, 0 dropped")
    assert path == tmp_path / ("g.png" if out else "live_000.png")
    np.testing.assert_array_equal(curve.delays, keys["delays"])
    assert abs(decay.rate - 0.02) < 4 * decay.sigmas[2]
    assert f"Γ {100 * decay.rate:.3g} ± " in told[-1]


def test_what_is_no_exponential_is_told_as_it_is(tmp_path, said):
    keys = SPECKLE | {"delays": [2, 4], "update_shots": 0, "out": None}
    correlate.run(Request(CorrelateSection.model_validate(keys)), World())
    (told,) = [line for line in said.messages if line.startswith("colour")]
    assert "at 0.02 s, no exponential fits" in told


@pytest.mark.stage
def test_a_command_leaves_the_picture_of_its_curves(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"correlate": SPECKLE | {"out": str(tmp_path / "g.h5")}}))
    assert cli.main(["correlate", "-c", str(path)]) == 0
    assert mpl_image.imread(tmp_path / "g.png").std() > 0.02


@pytest.mark.parametrize(("buffer_shots", "two_time_shots"), [(200, 100), (100, 200)])
def test_curves_and_each_two_shots_leave_the_same_pixels_out(
    tmp_path, buffer_shots, two_time_shots
):
    """A pixel saturates in a shot that is late for the shorter buffer alone."""
    images = np.random.default_rng(5).poisson(5.0, (101, 4, 5)).astype(np.float32)
    images[-1, 0, 0] = 1e6
    with h5py.File(tmp_path / "shots.h5", "w") as file:
        file["ids"] = [*range(1, 101), 0]
        file["images"] = images
    keys = {"files": [str(tmp_path / "shots.h5")], "dataset": "images", "shot_ids": "ids"}
    keys |= {"delays": [1, 2, 5], "buffer_shots": buffer_shots, "out": str(tmp_path / "g.h5")}
    keys["two_time"] = {"n_shots": two_time_shots, "n_ages": 1}
    correlate.run(Request(CorrelateSection.model_validate(keys)), World())
    with h5py.File(tmp_path / "g.h5") as file:
        (update,) = file["user"].values()
        assert update["is_bad"][()].tolist() == [1] + 19 * [0]
        frames = images[:100].reshape(100, -1)[:, 1:].astype(float)
        expected = np.mean(frames[3] * frames[4]) / (frames[3].mean() * frames[4].mean())
        times = update["two_time/shot_ids"][()].tolist()
        one = update["two_time/correlation"][0, times.index(4), times.index(5)]
        assert one == pytest.approx(expected, rel=1e-9)


class Publishing:
    """A user's class that notes how often it publishes."""

    n_times = 0

    def viewerPublish(self, counts, lastEventTime, name2delay2ndarray, int8array, h5GroupUser):
        type(self).n_times += 1


def test_the_last_update_is_there_whatever_its_last_shot_is(tmp_path):
    """The shot of an update comes once more, at the very end."""
    ids = np.concatenate([np.arange(100), [59]])
    with h5py.File(tmp_path / "shots.h5", "w") as file:
        file["ids"] = ids
        file["images"] = np.random.default_rng(2).poisson(3.0, (101, 3, 5))
    out = tmp_path / "late.h5"
    keys = {"files": [str(tmp_path / "shots.h5")], "dataset": "images", "shot_ids": "ids"}
    keys |= {"delays": [1, 2], "update_shots": 60, "out": str(out)}
    correlate.run(Request(CorrelateSection.model_validate(keys)), World())
    assert updates_of(out) == {"G2_results_at_000059": 101}
    with h5py.File(out) as file:
        (update,) = file["user"].values()
        np.testing.assert_array_equal(update["delay_counts"], [99, 98])
        np.testing.assert_array_equal(
            file["entry/data/g2"][:, 0], update["delay_curve_color_1"][()]
        )


def test_what_is_published_already_is_not_published_again(tmp_path, said):
    keys = {"simulated": {"n_shots": 120, "shape": [3, 5]}, "delays": [1, 2], "update_shots": 60}
    own = CorrelateSection.model_validate(keys | {"out": str(tmp_path / "g.h5")})
    correlate.run(Request(own), World())
    assert {record.levelname for record in said.records} == {"INFO"}
    assert updates_of(tmp_path / "g.h5") == {
        "G2_results_at_000059": 60,
        "G2_results_at_000119": 120,
    }
    with h5py.File(tmp_path / "g.h5") as file:
        assert "entry" in file
    own = own.model_copy(update={"out": None})
    correlate.run(Request(own, Publishing), World())
    assert Publishing.n_times == 2


def test_tests_leave_each_two_shots_out(folder, tmp_path):
    outs = {"out": str(tmp_path / "m.h5"), "test_out": str(tmp_path / "a.h5")}
    request = Request(section(folder, **outs), is_test=True)
    correlate.run(request, World())
    correlate.run_alternate(request)
    assert differences(tmp_path / "m.h5", tmp_path / "a.h5", 1e-6)[1] == []
    with h5py.File(tmp_path / "m.h5") as file:
        assert "twotime" not in file["entry"]


class Own:
    """A user's class that publishes by itself."""

    def __init__(self, user_params, system_params, mpiParams, testAlternate):
        pass

    def viewerPublish(self, *results):
        pass


def test_each_two_shots_and_results_of_a_user_are_refused(folder, tmp_path):
    own = section(folder, out=str(tmp_path / "o.h5"))
    with pytest.raises(ConfigError, match=r"correlate.two_time: .*Own.viewerPublish"):
        correlate.run(Request(own, Own), World())


@pytest.mark.parametrize("keys", [{"calculator": "fft"}, {"engine": "jax", "calculator": "at_end"}])
def test_other_means_give_the_same_output(folder, tmp_path, keys):
    for name, how in (("a", {"calculator": "at_end"}), ("b", keys)):
        correlate.run(Request(section(folder, out=str(tmp_path / f"{name}.h5"), **how)), World())
    _, lines = differences(tmp_path / "a.h5", tmp_path / "b.h5", 1e-9)
    parameters = {"system/system_params/calculator", "system/system_params/engine"}
    assert {line.partition(":")[0] for line in lines} <= parameters


def test_a_device_is_refused_where_nothing_uses_it():
    with pytest.raises(ValueError, match="numba, where the calculator is fft or multi_tau"):
        CorrelateSection(engine="jax", calculator="multi_tau")
