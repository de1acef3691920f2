"""Runs without images: which stages a trial has, what they read, and what an edit reruns."""

import json

import pytest

from spreadflow.config import files, parse, section
from spreadflow.errors import ConfigError
from spreadflow.trial import facts, wanted
from spreadflow.trial.files import inputs, manifests, outputs, pattern_of_runs
from spreadflow.trial.reruns import rerun

TARGET = {"space_group": "C 1 2 1", "cell": [67.2, 59.8, 47.2, 90.0, 110.3, 90.0]}
MODEL = {"model": "m.pdb", "sites": [{"atom": "FE1", "curve": "oxidized"}]}


def trial(runs: dict, **sections):
    return parse({"runs": runs, "index": TARGET, "structure_factors": MODEL} | sections)


OLD = {"old": {"lattices": "old.stream"}}
IMAGES = {"new": {"images": "new/manifest.json"}}


def test_stages_that_need_pixels_are_absent():
    assert wanted(trial(OLD)) == ["adopt", "reindex", "cells", "merge"]
    both = wanted(trial(IMAGES | OLD))
    assert both[:6] == ["index", "level0", "adopt", "reindex", "cells", "merge"]
    assert {"annulus", "stage1", "spread"} <= set(both)
    assert not facts.has_images(trial(OLD))


def test_stages_that_need_pixels_take_the_runs_with_images():
    config = trial(OLD | IMAGES | {"two": {"images": "two/manifest.json"}})
    new = ["results/trial/new/reindex.h5", "results/trial/two/reindex.h5"]
    for word in ("annulus", "predict", "pack"):
        files_of = inputs(config, word)
        assert files_of["reindex"] == new
        assert files_of["images"] == manifests(config) == ["new/manifest.json", "two/manifest.json"]
    for word in ("cells", "merge"):
        assert inputs(config, word)["reindex"] == ["results/trial/old/reindex.h5", *new]
    assert len(json.loads(section(config, "stage1"))["recordings"]) == 2
    assert inputs(config, "level0")["index"] == [path.replace("reindex", "index") for path in new]


def test_adopt_reads_the_files_and_what_lies_beside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.stream", "a.stream", "x_integrated.expt"):
        (tmp_path / name).touch()
    old = {"lattices": {"files": ["x_*.expt", "*.stream"], "geometry": "own.geom"}}
    config = trial({"old": old})
    found = inputs(config, "adopt", "old")
    assert found["lattices"] == ["x_integrated.expt", "a.stream", "b.stream"]
    assert found["triggers"] == ["x_integrated.refl", "own.geom"]
    assert outputs(config, "adopt", "old")[0] == "results/trial/old/reindex.h5"
    assert pattern_of_runs(config, "adopt") == "old"
    named = {key: str(path) for key, path in files(config).items() if key.startswith("runs")}
    assert named["runs.old.lattices.files.2"] == "b.stream"
    assert named["runs.old.lattices.geometry"] == "own.geom"


def test_a_pattern_that_matches_nothing_is_a_file_that_is_not_there():
    config = trial({"old": {"lattices": ["none_*.stream"]}})
    assert inputs(config, "adopt", "old")["lattices"] == ["none_*.stream"]


def test_an_edited_key_reruns_what_reads_it():
    config = trial(IMAGES | OLD)
    edited = trial(IMAGES | {"old": {"lattices": {"files": ["old.stream"], "bandwidth": 0.002}}})
    jobs = rerun(config, edited)
    assert {"adopt old", "cells", "merge", "annulus"} <= jobs
    assert not {"index new", "level0", "reindex new"} & jobs
    assert json.loads(section(edited, "adopt", "old"))["lattices"]["bandwidth"] == 0.002


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"lattices": "a.stream", "images": "m.json"}, "found both images and lattices"),
        ({"lattices": "a.stream", "spec": "s.txt"}, "no spec file beside `lattices:`"),
        ({"lattices": []}, r"runs.old.lattices.files"),
        ({"lattices": {"files": ["a.stream"], "bandwidth": 0}}, "lattices.bandwidth"),
        ({"lattices": {"streams": ["a.stream"]}}, "runs.old.lattices"),
        ({"lattices": 3}, "runs.old.lattices"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_key(run, message):
    with pytest.raises(ConfigError, match=message):
        trial({"old": run})


def test_level0_takes_no_run_without_images():
    with pytest.raises(ConfigError, match="old, whose lattices are another program's"):
        trial(OLD | IMAGES, level0={"runs": ["old"]})
