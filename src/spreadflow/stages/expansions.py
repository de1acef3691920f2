"""What `spread` and `stage2` have in common: lattices that are refined and reduced to Gram matrices
cycle after cycle, each from where it ended last. The matrices of a cycle are a product of kind
`gram`, so that a run that was killed continues from the blocks that are finished.
"""

import time
from collections.abc import Callable
from logging import Logger
from pathlib import Path
from typing import NamedTuple

from spreadflow.config import Stage1Section
from spreadflow.errors import FileError, RefinedOutcome, SpreadOutcome
from spreadflow.io import store
from spreadflow.io.pieces import Piece
from spreadflow.io.shoebox_blocks import ShoeboxBlock
from spreadflow.products import Annulus, Column, Gram, Stage1, gram, stage1
from spreadflow.recipes import gram_rows
from spreadflow.recipes.gram import ExpandedLattice
from spreadflow.recipes.lattice import Start

Starts = dict[tuple[int, int], tuple[SpreadOutcome, Start]]
"""(shot_id, k) → whether the lattice is still used, and where its last refinement ended."""

StartsOfBlock = Callable[[int], Starts]
"""Block → the starts of its lattices."""


class LatticeRow(NamedTuple):
    """A lattice of a part of packed shoeboxes."""

    row: int
    run: int
    shot_id: int
    k: int


Expand = Callable[[Annulus, LatticeRow, Start], ExpandedLattice]
"""A part of packed shoeboxes, a lattice of it, and where it ended last → its Gram matrices."""


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


def unknowns_of(path: Path, section: Stage1Section) -> list[str]:
    """Return the names of the lattices' unknowns. Raises FileError where stage 1 refined with other
    keys. path: of its product.
    """
    attributes = store.attributes(path, Stage1)
    if attributes["config"] != section.model_dump(mode="json"):
        expected = "a product of the section `stage1` as it is now"
        raise FileError(path, expected, "another", "Rerun stage1.")
    return attributes["unknowns"]


def starts_from(path: Path) -> StartsOfBlock:
    """Return where stage 1 left each lattice. path: of its product."""
    lattices = store.read(path, Stage1, _columns_of_starts(Stage1.lattices)).lattices

    def outcome_of(outcome: int) -> SpreadOutcome:
        is_refined = outcome == RefinedOutcome.REFINED
        return SpreadOutcome.USED if is_refined else SpreadOutcome.NOT_REFINED

    starts = _starts(lattices, outcome_of)
    return lambda block: starts


def starts_again(parts: store.Parts[Gram]) -> StartsOfBlock:
    """Return where the cycle before left each lattice. Lattices that it could not use are not
    tried again.
    """
    wanted = _columns_of_starts(Gram.lattices)
    return lambda block: _starts(parts.read(block, wanted).lattices, SpreadOutcome)


def _columns_of_starts(table: type[stage1.Lattices] | type[gram.Lattices]) -> list[Column]:
    """Return the columns that say where a lattice ended."""
    identity = [table.shot_id, table.k]
    end = [table.A, table.n_cells, table.eta_axes_rad, table.scale]
    return [*identity, table.outcome, *end]


def _starts(
    lattices: stage1.Lattices | gram.Lattices, outcome_of: Callable[[int], SpreadOutcome]
) -> Starts:
    """Return lattices as starts."""
    rows = zip(
        lattices.shot_id.tolist(),
        lattices.k.tolist(),
        lattices.outcome.tolist(),
        lattices.A,
        lattices.n_cells,
        lattices.eta_axes_rad,
        lattices.scale.tolist(),
        strict=True,
    )
    return {
        (shot_id, k): (outcome_of(outcome), Start(*start)) for shot_id, k, outcome, *start in rows
    }


def expanded(expansion: Expansion, piece: Piece, starts: Starts, expand: Expand) -> Gram:
    """Return some lattices of one block."""
    block = expansion.blocks[piece.block]
    shoeboxes = block.read()
    of_lattices = []
    for row in block.lattices[piece.first : piece.end]:
        start_time = time.process_time()
        identity = shoeboxes.lattices[row : row + 1]
        lattice = LatticeRow(row, identity.run.item(), identity.shot_id.item(), identity.k.item())
        not_refined = (SpreadOutcome.NOT_REFINED, None)
        outcome, start = starts.get((lattice.shot_id, lattice.k), not_refined)
        own = gram_rows.unused(len(expansion.unknowns), expansion.n_channels)
        if outcome == SpreadOutcome.USED and start is not None:
            result = expand(shoeboxes, lattice, start)
            outcome = result.outcome
            if result.gram is None:
                words = "shot %016x lattice %d: %s (%s)"
                of_lattice = (lattice.shot_id, lattice.k, outcome.name, result.why)
                expansion.log.warning(words, *of_lattice)
            else:
                own = gram_rows.used(result, expansion.unknowns)
        own.lattices.run = identity.run
        own.lattices.shot_id = identity.shot_id
        own.lattices.k = identity.k
        own.lattices.outcome = [outcome]
        own.lattices.seconds = [time.process_time() - start_time]
        of_lattices.append(own)
    return Gram.joined(of_lattices)
