"""The configuration: wrong input is refused with key, found and allowed; sections go where they are
declared.
"""

import json

import pytest
import yaml

from spreadflow.config import Config, for_stage, load, overlay, parse, section
from spreadflow.config.base import Section
from spreadflow.errors import ConfigError
from spreadflow.trial import BY_WORD

RUNS = {"one": {"simulate": {"n_single": 4}}, "two": {"images": "data/two/manifest.json"}}


@pytest.mark.parametrize(
    ("tree", "key", "allowed", "found"),
    [
        ({"indx": {}}, "indx", "trial, seed, data", "an unknown key"),
        (
            {"index": {"spots": {"gian": 2}}},
            "index.spots.gian",
            "sigma_background, sigma_strong",
            "an unknown key",
        ),
        (
            {"runs": {"one": {"simulate": {"n_sigle": 1}}}},
            "runs.one.simulate.n_sigle",
            "n_single, n_blank",
            "unknown",
        ),
        (
            {"structure_factors": {"sites": [{"atom": "FE", "curv": "x"}]}},
            "structure_factors.sites.0.curve",
            "this key",
            "nothing",
        ),
        (
            {"level0": {"form": "x"}},
            "level0.form",
            "runs, max_lattices, from, refine",
            "an unknown key",
        ),
        (
            {"reindex": {"spots": {"gian": 2}}},
            "reindex.spots.gian",
            "sigma_background, sigma_strong",
            "an unknown key",
        ),
        ({"beam": {"photons": -1}}, "beam.photons", "greater than 0", "-1"),
        ({"beam": {"photons": float("nan")}}, "beam.photons", "a finite number", "nan"),
        ({"beam": {"photons": float("inf")}}, "beam.photons", "a finite number", "inf"),
        ({"beam": {"polarization": 1.5}}, "beam.polarization", "less than or equal to 1", "1.5"),
        ({"detector": {"shape": [3]}}, "detector.shape", "at least 2 items", "[3]"),
        ({"detector": {"distance_mm": "far"}}, "detector.distance_mm", "a valid number", "'far'"),
        (
            {"crystal": {"mosaicity": "some"}},
            "crystal.mosaicity",
            "'domains', 'per_shot' or 'continuous'",
            "'some'",
        ),
        ({"trial": "a/b"}, "trial", "pattern", "'a/b'"),
        ({"reindex": {"d_min": 0}}, "reindex.d_min", "greater than or equal to 0.3", "0"),
        ({"annulus": {"d_min": 3}}, "annulus.d_min", "less than annulus.d_max, 2.5", "3.0"),
        ({"annulus": {"d_min": 1.7}}, "annulus.d_min", "at least reindex.d_min, 1.9", "1.7"),
        ({"wide": {"d_min": 1.7}}, "wide.d_min", "at least reindex.d_min, 1.9", "1.7"),
        ({"reindex": {"d_min": 2.2}}, "annulus.d_min", "at least reindex.d_min, 2.2", "2.1"),
        ({"runs": {"one": {}}}, "runs.one", "either `simulate:`", "neither"),
        ({"runs": {"one": RUNS["one"] | RUNS["two"]}}, "runs.one", "either `simulate:`", "both"),
        ({"runs": RUNS, "cells": {"runs": ["three"]}}, "cells.runs", "one, two", "three"),
        (
            {"cells": {"from": "results/trial/cells.h5"}},
            "cells.from",
            "a copy of the file",
            "results/trial/cells.h5",
        ),
        (
            {"structure_factors": {"source": "merged"}},
            "structure_factors.mtz",
            "a merged MTZ file",
            "None",
        ),
        (
            {"structure_factors": {"mtz": "results/trial/merge.mtz"}, "runs": RUNS},
            "structure_factors.mtz",
            "a copy of the file",
            "results/trial/merge.mtz",
        ),
        (
            {"stage1": {"structure_factors": {"k_sl": 1}}},
            "stage1.structure_factors.k_sl",
            "k_sol",
            "an unknown key",
        ),
        (
            {"mosaic": {"structure_factors": {"k_sl": 1}}},
            "mosaic.structure_factors.k_sl",
            "k_sol",
            "an unknown key",
        ),
        (
            {"ladder": {"structure_factors": {"source": "merged"}}},
            "ladder.structure_factors.mtz",
            "merged MTZ",
            "None",
        ),
        (
            {"stage1": {"refine": ["cell", "distance"]}},
            "stage1.refine",
            "degenerate",
            "cell, distance",
        ),
        (
            {"stage1": {"refine": ["wavelength", "cell"]}},
            "stage1.refine",
            "degenerate",
            "cell, wavelength",
        ),
        ({"stage1": {"mosaicity": "domains"}}, "stage1.domains", "a file", "None"),
        ({"stage1": {"target": "gauss"}}, "stage1.target", "'normal' or 'poisson'", "'gauss'"),
        (
            {"stage1": {"minimizer": "simplex"}},
            "stage1.minimizer",
            "'levenberg' or 'lbfgs'",
            "'simplex'",
        ),
        (
            {"stage1": {"restraints": {"n_cell": {"sigma": 1}}}},
            "stage1.restraints.n_cell",
            "n_cells",
            "an unknown key",
        ),
        (
            {"stage1": {"restraints": {"eta": {"centre": 0.1}}}},
            "stage1.restraints.eta.sigma",
            "this key",
            "nothing",
        ),
        (
            {"stage1": {"restraints": {"eta": {"sigma": 0}}}},
            "stage1.restraints.eta.sigma",
            "greater than 0",
            "0",
        ),
        (
            {"stage1": {"restraints": {"rotation": {"sigma": 1, "centre": 0}}}},
            "stage1.restraints.rotation.centre",
            "sigma",
            "an unknown key",
        ),
        (
            {"stage1": {"restraints": {"distance": {"sigma": 1}}}},
            "stage1.restraints.distance",
            "that is refined, scale, rotation, cell, n_cells, eta: what is held needs no restraint",
            "distance",
        ),
        (
            {
                "stage1": {
                    "mosaicity": "domains",
                    "domains": "d.h5",
                    "restraints": {"eta": {"sigma": 1}},
                }
            },
            "stage1.restraints.eta",
            "have no η",
            "eta",
        ),
        (
            {
                "stage1": {
                    "restraints": {"cell": {"sigma": 0.01, "centre": [67, 60, 47, 90, 110, 95]}}
                }
            },
            "stage1.restraints.cell.centre",
            "two right angles",
            "95",
        ),
        (
            {"crystal": {"space_group": "P 99"}},
            "crystal.space_group",
            "a space group gemmi knows",
            "'P 99'",
        ),
        ({"index": {"cell": [1, 2, 3]}}, "index.cell", "six positive numbers", "[1, 2, 3]"),
        (
            {"index": {"cell": [1, 1, 1, 10, 90, 170]}},
            "index.cell",
            "positive volume",
            "[1, 1, 1, 10, 90, 170]",
        ),
    ],
)
def test_wrong_input_is_refused_with_key_found_and_allowed(tree, key, allowed, found):
    with pytest.raises(ConfigError) as caught:
        parse(tree, "my.yaml")
    assert caught.value.where == f"my.yaml: {key}"
    assert allowed in caught.value.expected
    assert found in str(caught.value.found)


FITTING = [
    ("P 1", [50, 60, 70, 80, 95, 100]),
    ("C 1 2 1", [67.2, 59.8, 47.2, 90, 110.3, 90]),
    ("P 1 1 2", [67.2, 59.8, 47.2, 90, 90, 110.3]),
    ("P 21 21 21", [50, 60, 70, 90, 90, 90]),
    ("P 41 21 2", [107, 107, 304, 90, 90, 90]),
    ("P 31 2 1", [60, 60, 90, 90, 90, 120]),
    ("R 3 :R", [60, 60, 60, 80, 80, 80]),
    ("P 61", [60, 60, 90, 90, 90, 120]),
    ("I 2 3", [78, 78, 78, 90, 90, 90]),
]
"""one group of each crystal system (Int. Tables A, table 2.1.2.1) with a cell of its metric"""


@pytest.mark.parametrize("section_name", ["crystal", "index", "reindex", "structure_factors"])
@pytest.mark.parametrize(("group", "cell"), FITTING)
def test_cell_that_does_not_fit_the_group_is_refused(section_name, group, cell):
    index = {"index": {"space_group": group, "cell": cell}}
    parse({section_name: {"space_group": group, "cell": cell}} | index)
    if group == "P 1":
        return  # anything fits
    wrong = [*cell[:4], cell[4] + 4, cell[5] + 4]
    with pytest.raises(ConfigError) as caught:
        parse(index | {section_name: {"space_group": group, "cell": wrong}})
    assert caught.value.where == f"config: {section_name}.cell"
    assert (
        parse({section_name: {"space_group": group, "cell": cell}} | index).index.space_group
        in caught.value.expected
    )
    assert str(cell[0]) in str(caught.value.found)


def test_defaults_that_are_not_checked_are_those_that_are():
    config = Config()
    names = [name for name in Config.model_fields if isinstance(getattr(config, name), Section)]
    sections = [getattr(config, name) for name in names]
    assert {"crystal", "index", "stage1", "spread"} <= set(names)
    for unchecked in [*sections, config.index.spots, config.stage1.restraints]:
        assert unchecked == type(unchecked)()
        assert unchecked.model_fields_set == set()


def test_yaml_layers_lie_over_each_other(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 3\nindex: {d_min: 2.0, spots: {max_spots: 99}}\n")
    (tmp_path / "b.yaml").write_text("index: {spots: {min_spots: 5}}\n")
    config = load(tmp_path / "a.yaml", tmp_path / "b.yaml")
    assert (
        config.seed,
        config.index.d_min,
        config.index.spots.max_spots,
        config.index.spots.min_spots,
    ) == (3, 2.0, 99, 5)
    assert overlay({"a": [1, 2], "b": {"c": 1}}, {"a": [3], "b": {"d": 2}}) == {
        "a": [3],
        "b": {"c": 1, "d": 2},
    }


@pytest.mark.parametrize("text", [None, "a: [", "- a list"])
def test_file_that_is_no_mapping_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        load(tmp_path / "a.yaml")


def test_reindex_overlays_index():
    config = parse(
        {
            "index": {"d_min": 2.2, "spots": {"min_pixels": 3}},
            "reindex": {"spots": {"min_spots": 4}, "max_lattices": 1},
            "annulus": {"d_min": 2.2},
        }
    )
    merged = config.resolved("reindex")
    assert (merged.d_min, merged.spots.min_pixels, merged.spots.min_spots, merged.max_lattices) == (
        2.2,
        3,
        4,
        1,
    )
    assert config.index.max_lattices != 1
    assert for_stage(section(config, "reindex"), "reindex").reindex == merged


def test_wide_overlays_annulus_and_reaches_20_angstrom_unless_told():
    for keys, expected in (
        ({}, (20.0, 2.2, 4)),
        ({"border_px": 2}, (20.0, 2.2, 2)),
        ({"d_max": 9}, (9.0, 2.2, 4)),
    ):
        got = parse({"annulus": {"d_min": 2.2, "border_px": 4}, "wide": keys}).resolved("wide")
        assert (got.d_max, got.d_min, got.border_px) == expected


def test_the_model_of_a_stage_overlays_that_of_the_simulation_and_takes_its_cell():
    tree = {
        "crystal": {"cell": [60, 60, 50, 90, 90, 90], "space_group": "P 41 21 2"},
        "structure_factors": {"k_sol": 0.4},
    }
    config = parse(
        tree
        | {"stage1": {"structure_factors": {"perturb": True, "cell": [61, 61, 50, 90, 90, 90]}}}
    )
    plain = config.resolved("structure_factors")
    own = config.resolved("stage1.structure_factors")
    assert (plain.cell, plain.space_group, plain.k_sol, plain.perturb) == (
        [60, 60, 50, 90, 90, 90],
        "P 41 21 2",
        0.4,
        False,
    )
    assert (own.cell, own.space_group, own.k_sol, own.perturb) == (
        [61, 61, 50, 90, 90, 90],
        "P 41 21 2",
        0.4,
        True,
    )
    assert config.resolved("ladder.structure_factors") == plain
    assert config.structure_factors.cell is None


def test_what_teaches_has_the_pixels_and_the_model_of_stage1_unless_told():
    pixels = {"n_cells_axes": 3, "oversample": 4}
    factors = {"perturb": True, "b_sol": 40.0, "model": "x.pdb"}
    tree = {"stage1": pixels | {"structure_factors": factors}, "structure_factors": {"k_sol": 0.4}}
    config = parse(tree)
    staged = for_stage(section(config, "mosaic"), "mosaic")
    assert {name: getattr(staged.mosaic, name) for name in pixels} == pixels
    model = config.resolved("stage1.structure_factors")
    assert staged.structure_factors == model
    assert (model.perturb, model.b_sol, model.k_sol) == (True, 40.0, 0.4)

    own_keys = {"oversample": 1, "structure_factors": {"b_sol": 50.0}}
    own = parse(tree | {"mosaic": own_keys})
    staged = for_stage(section(own, "mosaic"), "mosaic")
    mosaic = staged.mosaic
    assert (mosaic.oversample, mosaic.n_cells_axes) == (1, 3)
    assert (staged.structure_factors.b_sol, staged.structure_factors.perturb) == (50.0, True)
    assert section(own, "stage1") == section(config, "stage1")
    assert section(own, "spread") == section(config, "spread")


@pytest.mark.parametrize(
    ("tree", "key", "expected"),
    [
        ({"index": {"spots": {"gain": 2}}}, "index.spots.gain", "recording.gain"),
        (
            {"reindex": {"readout_photons": 2}},
            "reindex.readout_photons",
            "recording.readout_photons",
        ),
        ({"ladder": {"readout_photons": 2}}, "ladder.readout_photons", "recording.readout_photons"),
        ({"mosaic": {"psf": "gauss"}}, "mosaic.psf", "recording.psf"),
        ({"stage1": {"psf_fwhm_mm": 0.1}}, "stage1.psf_fwhm_mm", "recording.psf_fwhm_mm"),
        ({"detector": {"readout_adu": 2}}, "detector.readout_adu", "recording.readout_photons"),
        ({"detector": {"gain_calibration": 0}}, "gain_calibration", "recording.calibration_error"),
        ({"beam": {"size_mm": 0.1}}, "beam.size_mm", "recording.beam_size_mm"),
    ],
)
def test_a_key_that_has_moved_names_the_new_one(tree, key, expected):
    with pytest.raises(ConfigError) as caught:
        parse(tree)
    assert key in str(caught.value.where)
    assert expected in caught.value.expected and caught.value.found == "an old key"


OF_TWO_RUNS = {
    "recording": {"readout_photons": 2.0},
    "runs": {
        "psff": {"simulate": {}},
        "psft": {"simulate": {}, "recording": {"gain": 1.5, "psf_fwhm_mm": 0.08}},
    },
}
"""Runs without and with a point spread."""


def test_a_run_may_be_recorded_in_its_own_way():
    config = parse(OF_TWO_RUNS)
    one, other = (for_stage(section(config, "simulate", run), "simulate") for run in config.runs)
    assert (one.recording.psf_fwhm_mm, one.recording.readout_photons) == (0.0, 2.0)
    assert (other.recording.psf_fwhm_mm, other.recording.readout_photons) == (0.08, 2.0)
    for stage in ("stage1", "spread"):
        recordings = for_stage(section(config, stage), stage).recordings
        assert recordings == [one.recording, other.recording]
    of_runs = [for_stage(section(config, "index", run), "index") for run in config.runs]
    assert [of_run.recording.gain for of_run in of_runs] == [1.0, 1.5]


def test_edits_of_the_recording_of_a_run_reach_no_other_run():
    config = parse(OF_TWO_RUNS)
    edited = parse(overlay(OF_TWO_RUNS, {"runs": {"psft": {"recording": {"gain": 2.0}}}}))
    for stage in ("simulate", "index", "reindex"):
        assert section(edited, stage, "psff") == section(config, stage, "psff")
        assert section(edited, stage, "psft") != section(config, stage, "psft")


def test_a_run_with_its_own_recording_is_named(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(OF_TWO_RUNS))
    with pytest.raises(ConfigError, match="psft has its own recording"):
        for_stage(str(path), "index")
    assert for_stage(str(path), "index", "psft").recording.gain == 1.5


@pytest.mark.parametrize(
    ("keys", "key", "expected"),
    [
        ({"psff": 0.1}, "runs.r.recording.psff", "one of the keys gain"),
        ({"gain": 0}, "runs.r.recording.gain", "greater than 0"),
    ],
)
def test_a_recording_of_a_run_is_checked(keys, key, expected):
    with pytest.raises(ConfigError) as caught:
        parse({"runs": {"r": {"simulate": {}, "recording": keys}}})
    assert key in str(caught.value.where) and expected in caught.value.expected


@pytest.mark.parametrize("stage", BY_WORD)
def test_a_stage_gets_the_sections_it_declares_and_no_other(stage):
    config = parse({"runs": RUNS})
    parts = json.loads(section(config, stage, "one"))
    of_run = {"simulate": {"shots"}, "adopt": {"lattices"}}.get(stage, set())
    assert {name.replace("recordings", "recording") for name in parts} == set(
        BY_WORD[stage].sections
    ) | of_run
    got = for_stage(section(config, stage, "one"), stage, "one")
    for name in set(parts) - {"recording", "recordings", "shots", "lattices"}:
        assert getattr(got, name) == config.resolved(name)
    assert all(getattr(got, name) is None for name in type(got).model_fields if name not in parts)


def test_from_survives_the_way_to_the_stage():
    config = parse({"level0": {"from": "old/level0.expt"}, "cells": {"from": "old/cells.h5"}})
    assert str(for_stage(section(config, "level0"), "level0").level0.from_file) == "old/level0.expt"
    assert str(for_stage(section(config, "cells"), "cells").cells.from_file) == "old/cells.h5"


def test_simulate_gets_the_shots_of_its_own_run_only():
    both = parse({"runs": RUNS | {"three": {"simulate": {"n_single": 9}}}})
    assert json.loads(section(both, "simulate", "one")) == json.loads(
        section(parse({"runs": RUNS}), "simulate", "one")
    )
    assert for_stage(section(both, "simulate", "three"), "simulate").shots.n_single == 9
    for run in ("two", "four", None):
        with pytest.raises(ConfigError, match="one, three"):
            section(both, "simulate", run)


def test_stage_argument_that_is_wrong_names_the_stage():
    with pytest.raises(
        ConfigError,
        match=r"--config of merge: merge\.d_min: expected greater than or equal to 0\.3; found -1",
    ):
        for_stage('{"merge": {"d_min": -1}}', "merge")
    with pytest.raises(ConfigError, match="--config of merge"):
        for_stage('{"merge": ', "merge")


def test_stage_takes_its_sections_from_a_yaml_file(tmp_path):
    (tmp_path / "a.yaml").write_text("merge: {d_min: 2.5}\n")
    got = for_stage(str(tmp_path / "a.yaml"), "merge")
    assert got.merge.d_min == 2.5


def test_defaults_are_valid():
    assert parse(json.loads(Config().model_dump_json(by_alias=True))) == Config()


def test_a_key_of_several_types_is_named_as_it_stands_in_the_file():
    with pytest.raises(
        ConfigError, match=r"simulate\.oversample: .*valid integer.* or 'adaptive'; found 'adaptiv'"
    ):
        parse({"simulate": {"oversample": "adaptiv"}})


RECORDED = {"runs": {"beamtime": {"images": "data/beamtime/manifest.json"}}}
HEXAGONAL = {"space_group": "P 61 2 2", "cell": [93.0, 93.0, 130.0, 90.0, 90.0, 120.0]}


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({}, ["index.space_group and index.cell", "'beamtime'", "found none"]),
        ({"space_group": "P 61 2 2"}, ["index.cell", "P 61 2 2", "found none"]),
        ({"space_group": "C 1 2 1"}, ["index.cell", "found none"]),
        ({"cell": HEXAGONAL["cell"]}, ["index.space_group", "found none"]),
    ],
)
def test_recorded_crystals_have_no_default(target, words):
    """Whoever states no cell is not told of one that he never gave."""
    with pytest.raises(ConfigError) as error:
        parse(RECORDED | {"index": target})
    sentence = str(error.value)
    assert all(word in sentence for word in words), sentence
    assert "67.2" not in sentence


def test_the_model_of_recorded_crystals_is_of_those_that_are_indexed():
    config = parse(RECORDED | {"index": HEXAGONAL})
    for key in ("structure_factors", "stage1.structure_factors", "ladder.structure_factors"):
        assert config.resolved(key).cell == HEXAGONAL["cell"]
        assert config.resolved(key).space_group == "P 61 2 2"
    tree = RECORDED | {"index": HEXAGONAL, "structure_factors": {"space_group": "P 65 2 2"}}
    assert parse(tree).resolved("stage1.structure_factors").space_group == "P 65 2 2"
    tree = RECORDED | {"index": HEXAGONAL, "structure_factors": {"space_group": "P 61"}}
    with pytest.raises(ConfigError, match="point group of P 61 2 2, as indexed; found P 61"):
        parse(tree)


@pytest.mark.parametrize(
    ("indexed", "model", "is_same"),
    [
        ("P 31 2 1", "P 32 2 1", True),
        ("P 31 2 1", "P 31 1 2", False),
        ("P 31 2 1", "P 61 2 2", False),
        ("R 3:H", "P 3", False),
    ],
)
def test_axes_of_rotations_are_those_of_the_indexed_crystals(indexed, model, is_same):
    """P321 and P312 are of one point group, about other axes of the same lattice."""
    tree = RECORDED | {"index": HEXAGONAL | {"space_group": indexed}}
    tree |= {"structure_factors": {"space_group": model}}
    if is_same:
        assert parse(tree).resolved("structure_factors").space_group == model
        return
    with pytest.raises(ConfigError, match=f"of {indexed}, as indexed; found {model}"):
        parse(tree)
