"""Importing this module, before Numba, tells it where to keep compiled loops: in the user's cache,
as JAX does (`precision`). By itself Numba keeps them beside their source, which a container or an
installation for all may not allow, and then refuses to compile at all.
"""

import os
import tempfile
from pathlib import Path


def _cache_folder() -> Path:
    """Return a folder that can be written: that of the user, or one for this process alone."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        folder = folder / "spreadflow" / "numba"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):
        return Path(tempfile.mkdtemp(prefix="spreadflow-numba-"))


if not os.environ.get("NUMBA_CACHE_DIR"):
    os.environ["NUMBA_CACHE_DIR"] = str(_cache_folder())
