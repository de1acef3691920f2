"""correlate as a stage of a trial: the shots of a run by its manifest, its report, and the trial of
runs that are correlated alone.
"""

import json

import h5py
import numpy as np
import pytest
import yaml
from matplotlib import image as mpl_image

from spreadflow import cli
from spreadflow.config import parse, section
from spreadflow.errors import ConfigError
from spreadflow.io.g2 import in_progress
from spreadflow.io.images import Source
from spreadflow.report import correlate as report
from spreadflow.report import summary
from spreadflow.stream.run_shots import RunShots
from spreadflow.trial import commands, facts, files, wanted

RUN = {"simulate": {"n_single": 2}, "correlate": {"delays": [1, 2], "readers": 2}}


def test_a_run_that_is_correlated_is_not_looked_through_for_crystals():
    config = parse({"runs": {"one": RUN}, "correlate": {"buffer_shots": 50}})
    assert wanted(config) == ["simulate", "correlate"]
    assert files.reported(config)[-1].endswith("one/correlate.h5")
    own = json.loads(section(config, "correlate", "one"))["correlate"]
    assert (own["delays"], own["buffer_shots"]) == ([1, 2], 50)

    both = parse({"runs": {"one": RUN, "two": {"simulate": {"n_single": 2}}}})
    assert facts.indexed_runs(both) == both.pictured_runs == ["two"]
    assert {"reindex", "merge", "correlate"} <= set(wanted(both))
    assert not any("one" in str(path) for path in files.inputs(both, "cells").values())
    assert "correlate" not in wanted(parse({"runs": {"two": {"simulate": {"n_single": 2}}}}))


def test_a_recorded_run_that_is_correlated_needs_no_cell():
    config = parse({"runs": {"one": {"images": "m.json", "correlate": {"mask": "m.npy"}}}})
    assert wanted(config) == ["correlate"]
    assert files.inputs(config, "correlate", "one")["triggers"] == ["m.npy"]


@pytest.mark.parametrize(
    ("name", "triggers"),
    [("own/g.py:Own", ["own/g.py"]), ("own.g:Own", []), ("own", [])],
)
def test_the_file_of_a_class_reruns_a_run(name, triggers):
    run = {"images": "m.json", "correlate": {"user_class": name}}
    config = parse({"runs": {"one": run}})
    assert files.inputs(config, "correlate", "one")["triggers"] == triggers


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ({**RUN, "correlate": {"delay": 3}}, "runs.one.correlate.delay"),
        ({**RUN, "correlate": {"files": ["a.h5"]}}, "images of the run"),
        ({"lattices": "a.stream", "correlate": {}}, "images alone"),
    ],
)
def test_a_run_that_can_not_be_correlated_is_refused(run, expected):
    with pytest.raises(ConfigError, match=expected):
        parse({"runs": {"one": run}})


def test_a_stage_has_one_rank_where_there_are_fewer_than_roles():
    config = parse({"runs": {"one": RUN}})
    assert [commands.ranks_with_roles(config, "one", n) for n in (1, 4, 5, 8)] == [1, 1, 5, 8]


def test_shots_of_a_run_are_in_photons_by_its_manifest(tiny_run):
    source = RunShots(tiny_run["manifest"], block_shots=3)
    blocks = list(source.blocks(0, 1, lambda event: event.shot_id != 1))
    assert [len(block.events) for block in blocks] == [3, 3, 2]
    is_valid = np.concatenate([block.is_valid for block in blocks])
    assert not is_valid[1]
    assert is_valid.sum() == 5  # one does not decompress, one is the same everywhere
    first = next(source.blocks(0, 1, lambda event: True)).images[0]
    np.testing.assert_array_equal(first, Source(tiny_run["manifest"]).recorded(0))


@pytest.fixture
def correlated(tmp_path, tiny_run) -> dict:
    """A product of the stage, beside which an interrupted run had left its own."""
    mask = np.zeros((1, 512, 512), np.int8)
    mask[0, 100:110, 200:220] = 1
    np.save(tmp_path / "mask.npy", mask)
    run = {"images": str(tiny_run["manifest"])}
    run["correlate"] = {"mask": str(tmp_path / "mask.npy"), "delays": [1, 2, 3, 4]}
    config = parse({"runs": {"one": run}, "results": str(tmp_path / "results")})
    out = files.outputs(config, "correlate", "one")[0]
    text = section(config, "correlate", "one")
    product = tmp_path / "results" / "trial" / "one" / "correlate.h5"
    assert str(product) == out
    product.parent.mkdir(parents=True)
    in_progress(product).write_bytes(b"left by a run that was killed")
    words = ["correlate", "--config", text, "--ranks", "1", "--images", str(tiny_run["manifest"])]
    assert cli.main([*words, "--out", out]) == 0
    return {"product": product, "folder": tmp_path}


def test_a_run_is_correlated_and_reported(correlated):
    product = correlated["product"]
    with h5py.File(product) as file:
        (update,) = file["user"].values()
        assert len(file["system/pixels"]) == 200
        assert update["delay_counts"][0] < 7
    assert not in_progress(product).exists()

    out = correlated["folder"] / "correlate.json"
    summary.run("correlate", products=[product], images=[], out=out)
    figures = json.loads(out.read_text())
    assert figures["n_events"] + figures["n_dropped"] == 8
    assert figures["runs"]["one"]["n_pixels"] == 200
    assert figures["warnings"] == []
    assert any("6 shots correlated" in line for line in report.headline(figures))
    assert mpl_image.imread(out.with_suffix(".png")).std() > 0.02


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-c", "CONFIG", "-s", "0"], "readers: expected greater than 0"),
        (["-c", "CONFIG", "-n", "-3"], "n_shots: expected greater than or equal to 0"),
        (["-c", "CONFIG", "-d", "a.h5"], "--images: expected none but the shots of the manifest"),
        ([], "-c FILE"),
    ],
)
def test_options_of_a_run_are_checked(tmp_path, capsys, words, expected):
    config = tmp_path / "c.yaml"
    config.write_text("correlate: {delays: [1]}\n")
    options = [str(config) if word == "CONFIG" else word for word in words]
    with pytest.raises(SystemExit) as ending:
        cli.main(["correlate", *options, "--images", "manifest.json"])
    assert ending.value.code == 3
    assert expected in capsys.readouterr().err


def test_a_run_is_checked_and_tested_as_other_shots_are(tmp_path, tiny_run, capsys):
    mask = np.zeros((1, 512, 512), np.int8)
    mask[0, 100:102, 200:220] = 1
    np.save(tmp_path / "mask.npy", mask)
    keys = {"delays": [1, 2], "test_mask": "mask.npy", "out": "o.h5", "test_out": "t.h5"}
    keys |= {key: str(tmp_path / keys[key]) for key in ("test_mask", "out", "test_out")}
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"correlate": keys}))
    words = ["correlate", "-c", str(config), "--images", str(tiny_run["manifest"])]
    assert cli.main([*words, "--check"]) == 0
    assert "262144 pixels are correlated" in capsys.readouterr().out
    for test in ("--test_main", "--test_alt", "--cmp"):
        assert cli.main([*words, test]) == 0
