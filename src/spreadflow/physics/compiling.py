"""How Numba compiles loops and where they are kept: in the user's cache, as JAX does (`precision`).
By itself it puts them beside their source, which a container or an installation for all may not
allow, and then refuses to compile at all.

Each state of the loops has a folder of its own: Numba reads what it kept before it asks whether the
source has changed, fails where a type of then is no longer there, and knows nothing of constants
that a module takes from another.
"""

import hashlib
import os
import re
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

import numba

from spreadflow.folders import own_cache

PACKAGE = Path(__file__).parents[1]
"""The folder of the package."""

ROOM = 2**16
"""Bytes that a folder has to take: a compiled loop has about as many, and Numba ends the process
where it can't keep one.
"""

_IMPORTED = re.compile(r"^from spreadflow\.([\w.]+) import", re.MULTILINE)
"""A module that another one takes names from."""


def _state() -> str:
    """Return eight hexadecimal digits that tell the loops, and the modules that these import, from
    any others.
    """
    sources = set(PACKAGE.glob("*/**/*loops.py"))
    for path in tuple(sources):
        names = _IMPORTED.findall(path.read_text())
        sources |= {PACKAGE.joinpath(*name.split(".")).with_suffix(".py") for name in names}
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _cache_folder() -> Path | None:
    """Return a folder that takes files: that of the user, or one for this process alone; None where
    neither does.
    """
    with suppress(OSError, RuntimeError):
        folder = own_cache(os.environ) / "numba" / _state()
        folder.mkdir(parents=True, exist_ok=True)
        _fill(folder)
        return folder
    with suppress(OSError):
        _fill(Path(tempfile.gettempdir()))
        return Path(tempfile.mkdtemp(prefix="spreadflow-numba-"))
    return None


def _fill(folder: Path) -> None:
    """Write a file that does not stay. Raises OSError where a folder takes none."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(ROOM))


_folder = os.environ.get("NUMBA_CACHE_DIR") or _cache_folder()
if _folder is not None:
    setattr(numba.config, "CACHE_DIR", str(_folder))  # noqa: B010 (Numba declares it late)


_jit = partial(numba.njit, cache=_folder is not None, error_model="numpy")

compiled = _jit(fastmath={"reassoc", "contract", "nsz"})
"""Compiles a function that Python calls. Sums may run in vector registers; infinities and NaN stay
what they are, as after a division by zero.
"""

inlined = _jit(fastmath={"reassoc", "contract", "nsz"}, forceinline=True)
"""Compiles a function that compiled ones call, into each of them. Had it code of its own as well, a
process that compiles it would call that, and one that finds its callers in the cache the copy in
there, optimized once more: sums would differ in their last bits from process to process.
"""

compiled_in_order = _jit(fastmath={"contract"})
"""As `compiled`; operations keep their order."""

inlined_in_order = _jit(fastmath={"contract"}, forceinline=True)
"""As `inlined`; operations keep their order."""
