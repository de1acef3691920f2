"""Importing this module, before Numba, tells it where to keep compiled loops: in the user's cache,
as JAX does (`precision`). By itself Numba keeps them beside their source, which a container or an
installation for all may not allow, and then refuses to compile at all.

Each state of the loops has a folder of its own: Numba reads what it kept before it asks whether the
source has changed, and fails where a type of then is no longer there.
"""

import hashlib
import os
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
"""The folder of the package."""


def _state() -> str:
    """Return eight hexadecimal digits that tell the loops from any others."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.glob("*/**/*loops.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _cache_folder() -> Path:
    """Return a folder that can be written: that of the user, or one for this process alone."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        folder = folder / "spreadflow" / "numba" / _state()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):
        return Path(tempfile.mkdtemp(prefix="spreadflow-numba-"))


if not os.environ.get("NUMBA_CACHE_DIR"):
    os.environ["NUMBA_CACHE_DIR"] = str(_cache_folder())
