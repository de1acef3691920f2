"""Files of measured figures: each has the name of its benchmark and the commit that it is of, so
that `docs/tables.py take FILE` can put the figures into the documents.
"""

import json
import subprocess
from pathlib import Path
from typing import Any


def commit() -> str:
    """Return the short hash of the checked-out revision, with + where files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+"]
    here = Path(__file__).parent
    return subprocess.run(command, cwd=here, capture_output=True, text=True).stdout.strip()


def save(path: Path, benchmark: str, figures: Any) -> None:
    """Write the figures of a benchmark. Rows that were measured at different times have a `commit`
    of their own in `figures`.
    """
    tree = {"benchmark": benchmark, "commit": commit(), "figures": figures}
    path.write_text(json.dumps(tree, indent=1) + "\n")


def rows(path: Path | None) -> dict[str, Any]:
    """Return the rows that a file has, by name; none where there is no file."""
    if path is None or not path.exists():
        return {}
    tree = json.loads(path.read_text())
    return tree["figures"] if "figures" in tree else tree["rows"]
