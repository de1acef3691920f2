"""What each rank had of the work of a stage, in a file beside the product: `index.ranks.json` of
`index.h5`. The product itself is the same on any number of ranks.
"""

import json
from contextlib import suppress
from pathlib import Path

from spreadflow.errors import FileError
from spreadflow.io import store
from spreadflow.parallel import Shares

SUFFIX = ".ranks.json"
"""In place of the suffix of the product."""


def remove(product: Path) -> None:
    """Remove the file of an earlier product, where that can be: the stage says what is wrong with a
    folder that nothing can be written to.
    """
    with suppress(OSError):
        product.with_suffix(SUFFIX).unlink()


def write(product: Path, shares: Shares) -> None:
    """Write the file beside a product."""
    store.write_text(product.with_suffix(SUFFIX), json.dumps(shares._asdict()) + "\n")


def read(product: Path) -> Shares | None:
    """Return what each rank had, None where it is not known. Raises FileError for another file."""
    path = product.with_suffix(SUFFIX)
    if not path.exists():
        return None
    try:
        return Shares(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise FileError(path, "the shares of ranks", error, store.RERUN) from None
