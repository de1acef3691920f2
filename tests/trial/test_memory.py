"""How much memory rules ask for: by the rows of what their stages read."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from spreadflow.io import store
from spreadflow.io.sizes import rows_of
from spreadflow.parallel import World
from spreadflow.products import BY_KIND, Index
from spreadflow.trial import BY_WORD, STAGES, commands

GROWING = [stage for stage in STAGES if stage.grows]
"""Stages that hold more the more there is to read."""

MEASURED = Path(__file__).parents[2] / "docs" / "measured" / "size.json"
"""What benchmarks/size.py measured."""

MOST_ASKED = 2.0
"""Bar: memory that a law asks for over that taken."""


def test_stages_that_add_up_over_all_lattices_grow():
    assert [stage.word for stage in GROWING] == ["level0", "merge", "stage2", "spread"]


@pytest.mark.parametrize("stage", GROWING, ids=lambda stage: stage.word)
def test_a_law_is_of_tables_that_are_read(stage):
    """The argument is one of the stage, and a product has a table of the name."""
    arguments = {field.name for field in fields(stage.inputs)}
    tables = {table for product in BY_KIND.values() for table in product.declared()}
    for key in [*stage.shared_bytes, *stage.common_bytes]:
        argument, table = key.split("/")
        assert argument in arguments and table in tables


def test_memory_of_a_rank():
    """What is shared falls with the ranks, what each has does not; without rows it is the base."""
    merge = BY_WORD["merge"]
    n_rows = {"reindex/reflections": 40_000_000, "reindex/lattices": 1_000_000}
    shared = merge.shared_bytes["reindex/reflections"] * 40
    common = merge.common_bytes["reindex/lattices"]
    assert merge.rank_mb({}, 1) == merge.memory_mb
    assert merge.rank_mb(n_rows, 1) == merge.memory_mb + shared + common
    assert merge.rank_mb(n_rows, 4) == merge.memory_mb + shared // 4 + common
    assert BY_WORD["index"].rank_mb(n_rows, 1) == BY_WORD["index"].memory_mb


def measured_laws():
    """The rows of the table `laws` of docs/scaling.md: stage, shots, rows of its tables, MB asked
    for and MB taken, on one rank.
    """
    tables = json.loads(MEASURED.read_text())["tables"]
    (rows,) = (table["rows"] for table in tables if table["name"] == "laws")
    return rows


@pytest.mark.parametrize("row", measured_laws(), ids=lambda row: row[0].strip("`"))
def test_a_law_asks_for_what_was_measured(row):
    """As much as was taken, and not more than twice; the page says what is asked for now."""
    word, _, of_tables, asked, taken, *_ = row
    stage = BY_WORD[word.strip("`")]
    counted = zip(of_tables[::2], of_tables[1::2], strict=True)
    n_rows = {name.strip(" `,"): int(count["values"][0]) for count, name in counted}
    assert n_rows.keys() == {*stage.shared_bytes, *stage.common_bytes}
    asked_mb = stage.rank_mb(n_rows, 1)
    assert taken["values"][0] <= asked_mb <= MOST_ASKED * taken["values"][0]
    assert asked["values"] == [asked_mb]


def test_all_laws_were_measured():
    assert [row[0].strip("`") for row in measured_laws()] == [stage.word for stage in GROWING]


@pytest.fixture
def product(tmp_path, filled):
    """A product of three parts with 5 spots and 2 shots each."""
    path = tmp_path / "index.h5"
    parts = store.Parts(path, Index, "key", [[2 * part, 2 * part + 1] for part in range(3)])
    for part in range(3):
        ids = {"shots/shot_id": [2 * part, 2 * part + 1]}
        parts.write(part, filled("index", {"shots": 2, "spots": 5}, ids))
    parts.finish(World())
    return path


def test_rows_are_those_of_all_files_of_an_argument(product, tmp_path):
    text = tmp_path / "a.expt"
    text.write_text("{}")
    files = {"index": [str(product), str(product)], "geometry": str(text), "triggers": []}
    n_rows = rows_of(files)
    assert n_rows == {
        "index/shots": 12,
        "index/spots": 30,
        "index/lattices": 0,
        "index/reflections": 0,
    }


def test_a_file_that_is_not_there_yet_has_no_rows(tmp_path):
    """Snakemake asks again when it is."""
    assert rows_of({"reindex": [str(tmp_path / "reindex.h5")]}) == {}


def test_rules_ask_for_all_ranks(product):
    files = {"index": [str(product)]}
    level0 = BY_WORD["level0"]
    per_rank = commands.rank_memory("level0", rows_of, 4)(None, files)
    assert per_rank == level0.rank_mb(rows_of(files), 4) > level0.memory_mb
    assert commands.memory("level0", rows_of)(None, files, 4) == 4 * per_rank
    assert commands.memory("index", rows_of)(None, files, 4) == 4 * BY_WORD["index"].memory_mb
