"""What `spread` and `stage2` have in common: lattices that are refined and reduced to Gram matrices
cycle after cycle, each from where it ended last. The matrices of a cycle are a product of kind
`gram`, so that a run that was killed continues from the blocks that are finished.
"""

import time
from collections.abc import Callable
from logging import Logger
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.config import Stage1Section
from spreadflow.errors import FileError, RefinedOutcome, SpreadOutcome
from spreadflow.io import datasets, schema, store
from spreadflow.io.rows import columns_of
from spreadflow.io.shoebox_blocks import ShoeboxBlock
from spreadflow.products import Stage1
from spreadflow.recipes import gram_rows
from spreadflow.recipes.gram import ExpandedLattice
from spreadflow.recipes.lattice import Start

Starts = dict[tuple[int, int], tuple[SpreadOutcome, Start]]
"""(shot_id, k) → whether the lattice is still used, and where its last refinement ended."""

StartsOfBlock = Callable[[int], Starts]
"""Block → the starts of its lattices."""

IDENTITY = ("run", "shot_id", "k")
"""Columns that say which lattice a row is of."""

START_COLUMNS = [f"lattices/{name}" for name in ("shot_id", "k", "outcome", *Start._fields)]
"""Columns that say where a lattice ended."""


class LatticeRow(NamedTuple):
    """A lattice among the columns of a part of packed shoeboxes."""

    row: int
    run: int
    shot_id: int
    k: int


Expand = Callable[[dict[str, np.ndarray], LatticeRow, Start], ExpandedLattice]
"""Columns of a part, a lattice of it, and where it ended last → its Gram matrices."""


class Expansion(NamedTuple):
    """How the lattices of a cycle are expanded."""

    shoeboxes: Path
    kind: str
    """of the shoeboxes: wide or pack"""
    blocks: list[ShoeboxBlock]
    unknowns: list[str]
    """of the lattices of stage 1"""
    n_channels: int
    """of all pulses"""
    log: Logger


def unknowns_of(stage1: Path, section: Stage1Section) -> list[str]:
    """Return the names of the lattices' unknowns. Raises FileError where stage 1 refined with other
    keys.
    """
    attributes = store.attributes(stage1, Stage1)
    if attributes["config"] != section.model_dump(mode="json"):
        expected = "a product of the section `stage1` as it is now"
        raise FileError(stage1, expected, "another", "Rerun stage1.")
    return attributes["unknowns"]


def starts_from(stage1: Path) -> StartsOfBlock:
    """Return where stage 1 left each lattice."""
    columns = store.read(stage1, Stage1, START_COLUMNS)
    starts = _starts(columns, lambda outcome: SpreadOutcome(int(outcome != RefinedOutcome.REFINED)))
    return lambda block: starts


def starts_again(parts: store.Parts) -> StartsOfBlock:
    """Return where the cycle before left each lattice. Lattices that it could not use are not
    tried again.
    """
    return lambda block: _starts(parts.read(block, START_COLUMNS), SpreadOutcome)


def _starts(columns: dict, outcome_of: Callable[[int], SpreadOutcome]) -> Starts:
    """Return the rows of columns as starts."""
    plain = [columns[name] for name in START_COLUMNS]
    values = [column.tolist() if column.ndim == 1 else column for column in plain]
    return {
        (shot_id, k): (outcome_of(outcome), Start(*start))
        for shot_id, k, outcome, *start in zip(*values, strict=True)
    }


def expanded_block(
    expansion: Expansion, number: int, starts: Starts, expand: Expand
) -> dict[str, np.ndarray]:
    """Return the columns of the part of one block."""
    block = expansion.blocks[number]
    columns = block.read()
    pieces = []
    for row_number in block.lattices:
        start_time = time.process_time()
        identity = {name: columns[f"lattices/{name}"][row_number] for name in IDENTITY}
        lattice = LatticeRow(row_number, *map(int, identity.values()))
        unused = (SpreadOutcome.NOT_REFINED, None)
        outcome, start = starts.get((lattice.shot_id, lattice.k), unused)
        tables = gram_rows.blank_tables(len(expansion.unknowns), expansion.n_channels)
        row = tables["lattices"]
        if outcome == SpreadOutcome.USED and start is not None:
            expanded = expand(columns, lattice, start)
            outcome = expanded.outcome
            if expanded.gram is None:
                words = "shot %016x lattice %d: %s (%s)"
                of_lattice = (lattice.shot_id, lattice.k, outcome.name, expanded.why)
                expansion.log.warning(words, *of_lattice)
            else:
                tables |= gram_rows.tables_of(expanded, expansion.unknowns)
                row |= tables["lattices"]
        row |= identity | {"outcome": outcome, "seconds": time.process_time() - start_time}
        tables["lattices"] = columns_of([row])
        pieces.append(datasets.piece("gram", tables))
    return datasets.joined("gram", schema.FILES["gram"], pieces)
