"""Intensities as the PDB takes them: structure factors in mmCIF, merged and, of `merge`, the
observations as well, in one file.
"""

from collections.abc import Sequence
from pathlib import Path

import gemmi

from spreadflow.errors import FileError
from spreadflow.io import store
from spreadflow.stages import unmerged

KINDS = ("merge", "stage2")
"""Products that have merged intensities."""


def export(product: Path, out: Path, images: Sequence[Path] = ()) -> list[Path]:
    """Write the intensities of a product of `merge` or `stage2` as `out`.cif, and return this path.

    The first block, `merged`, is of the MTZ file beside the product. For `merge` another one,
    `unmerged`, has the observations that were averaged. Raises FileError.
    """
    kind = store.kind(product)
    if kind not in KINDS:
        expected = f"a product of {' or '.join(KINDS)}"
        raise FileError(product, expected, kind, "Export one of these.")
    beside = product.with_suffix(".mtz")
    try:
        merged = gemmi.read_mtz_file(str(beside))
    except (OSError, RuntimeError, ValueError) as error:
        raise FileError(beside, "an MTZ file", error, f"Rerun {kind}.") from None

    document = gemmi.cif.Document()
    document.add_copied_block(_block("merged", merged))
    if kind == "merge":
        observations = unmerged.table(product, is_in_asu=False)  # no M/ISYM would tell mates apart
        document.add_copied_block(_block("unmerged", observations))
    path = out.with_name(f"{out.name}.cif")
    content = document.as_string()  # gemmi itself does not notice that the disk is full
    store.write_text(path, content)
    return [path]


def _block(name: str, table: gemmi.Mtz) -> gemmi.cif.Block:
    """Return an MTZ table as a block of mmCIF."""
    writer = gemmi.MtzToCif()
    writer.with_comments = False
    block = gemmi.cif.read_string(writer.write_cif_to_string(table)).sole_block()
    block.name = name
    return block
