"""Every key of the configuration reaches exactly the stages that declare its section."""

import copy
import json

import pytest

from spreadflow.config import Config, NoiseSection, PixelsSection, parse, section
from spreadflow.errors import ConfigError
from spreadflow.trial import BY_WORD, STAGES

BASE = {
    "runs": {"r1": {"simulate": {"n_single": 2}}, "r2": {"images": "other.json"}},
    "structure_factors": {"mtz": "merged.mtz"},
    "stage1": {"domains": "domains.h5"},
}
READERS = {
    word: {stage.word for stage in STAGES if word in stage.sections} for word in Config.model_fields
}
READERS["index"] |= {"adopt", "reindex"}  # reindex is index overlaid
READERS["annulus"] |= {"wide"}  # and wide is annulus overlaid
READERS["runs"] = {"simulate"}
NOISE_ALONE = {"index", "adopt", "reindex", "predict"}
"""stages that read of `recording` no more than the noise of pixels"""
MODEL = (
    ("crystal", "cell"),
    ("crystal", "space_group"),
)  # of the structure factors too, where these name none


def _leaves(tree, path=()):
    for key, value in tree.items():
        if isinstance(value, dict) and value and (*path, key) != ("runs",):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _candidates(path, value):
    """Yield other values that a key might accept, most ordinary first."""
    if path == ("runs",):
        yield {**copy.deepcopy(value), "r1": {"simulate": {"n_single": 3}}}
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value + 2, value * 1.001, value * 0.999)
    elif value is None:
        yield from (
            5,
            0.5,
            ["r1"],
            ["oxidized", "reduced"],
            [1.0, 1.0],
            "file.h5",
            "P 1 2 1",
            [60, 60, 60, 90, 110, 90],
            "wide",
            [7100.0, 7140.0],
            {"sigma": 0.1},
            {"rate_hz": 60.0},
            3,
            "gauss",
        )
    elif isinstance(value, str):
        yield from (
            "continuous",
            "learned",
            "per_lattice",
            "quadrants",
            "fisher",
            "merged",
            "float64",
            "gauss",
            "smooth",
            "poisson",
            "lbfgs",
            "gzip",
            "P 1 2 1",
            "other",
            "wide",
            "pack",
            "real",
            "model",
        )
    elif isinstance(value, dict):
        yield from ({"rmsd_max_px": 1.0}, {"k_sol": 0.4})
    else:
        for i, item in enumerate(value):
            if not isinstance(item, dict | list):
                yield from ([*value[:i], other, *value[i + 1 :]] for other in _candidates((), item))
        others = [{"origin_mm": [0, 0, -100]}], [[0, 0, 1, 0, 1]], ["place"]
        yield from (value[:-1], *others)


def _texts(config):
    return {stage: section(config, stage, "r1") for stage in BY_WORD}


def _dump():
    return parse(BASE).model_dump(mode="json", by_alias=True)


@pytest.mark.parametrize("path", [path for path, _ in _leaves(_dump())], ids=".".join)
def test_a_key_reaches_the_stages_that_declare_it(path):
    base = copy.deepcopy(BASE)
    if path[:2] == ("stage1", "restraints"):
        base["stage1"]["refine"] = [path[2]]  # what is held can't be restrained
    before = _texts(parse(base))
    value = dict(_leaves(_dump()))[path]
    for candidate in _candidates(path, value):
        tree = copy.deepcopy(base)
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = candidate
        try:
            config = parse(tree)
        except ConfigError:
            continue
        if config != parse(base):
            after = _texts(config)
            readers = READERS[path[0]] | (READERS["structure_factors"] if path in MODEL else set())
            readers |= (
                {"mosaic"}
                if path[0] == "stage1" and path[1] in PixelsSection.model_fields
                else set()
            )
            readers |= {"predict"} if path == ("stage1", "structure_factors") else set()
            if path[0] == "recording" and path[1] not in NoiseSection.model_fields:
                readers -= NOISE_ALONE
            readers -= {"wide"} if path == ("annulus", "d_max") else set()  # wide has its own
            assert {stage for stage in BY_WORD if after[stage] != before[stage]} == readers
            return
    pytest.fail(
        f"no other value of {'.'.join(path)} = {json.dumps(value)} validates: teach `_candidates` "
        "one"
    )
