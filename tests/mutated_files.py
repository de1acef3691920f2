"""Image files whose structure was changed, each read in a process of its own with limits
of memory and time: `mutated_files.py JSON`, with `path` of the file, `structure` (ranges of bytes
that may change), `n` files, `seed`, and `partner`: the images of a geometry file, or the geometry
file of images, null where there is none. Prints how many ended in which way, and what should not
be.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections import Counter
from pathlib import Path

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import images

LONGEST_S = 20
"""Seconds that reading one file may take before it is taken for hanging."""

MOST_BYTES = 2 * 2**30
"""Memory that reading one file may take."""

MOST_CHANGED = 4
"""Places at which one file is changed."""

LONGEST_RUN = 60
"""Bytes that are left out or repeated at a place, at most."""

KINDS = {"bit": 0.4, "byte": 0.3, "letter": 0.1, "left out": 0.1, "repeated": 0.1}
"""What happens to a place, and how often."""

LETTERS = b"0123456789.-e?;\n"
"""What numbers in headers of text consist of, and what ends them."""

READ = 0
REFUSED = 3
BROKEN = 1
"""Exit status of a process: read, or shots lost by name; one clear error; anything else."""


def mutated(whole: bytes, structure: np.ndarray, rng: np.random.Generator) -> bytes:
    """Return a file with a few bytes changed, left out or repeated, now and then cut off at one of
    them. structure: the places that may change.
    """
    content = bytearray(whole)
    places = sorted(rng.choice(structure, rng.integers(1, MOST_CHANGED + 1)).tolist())
    for position in reversed(places):  # so that those to come stay where they are
        if position >= len(content):  # the same place twice, left out the first time
            continue
        run = slice(position, position + int(rng.integers(1, LONGEST_RUN)))
        kind = rng.choice(list(KINDS), p=list(KINDS.values()))
        if kind == "bit":
            content[position] ^= 1 << rng.integers(8)
        elif kind == "byte":
            content[position] = rng.integers(256)
        elif kind == "letter":
            content[position] = rng.choice(np.frombuffer(LETTERS, np.uint8))
        elif kind == "left out":
            del content[run]
        else:
            content[position:position] = content[run]
    return bytes(content[: places[0]] if rng.random() < 0.05 else content)


def endings(
    path: Path,
    structure: list[tuple[int, int]],
    n: int,
    seed: int = 1,
    partner: Path | None = None,
) -> dict:
    """Return how reading n mutated files ends, `endings`, and what was printed, `errors`.

    structure: ranges of bytes that may change; partner: the file that is read with them.
    """
    how = {"path": str(path), "structure": structure, "n": n, "seed": seed}
    how["partner"] = None if partner is None else str(partner)
    command = [sys.executable, __file__, json.dumps(how)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"errors": done.stderr}


def read(path: Path, partner: Path | None = None) -> int:
    """Read all of a file, as a run of one file is read. Returns the exit status."""
    stills, geometry = (path, partner) if path.suffix != ".geom" else (partner, path)
    try:
        manifest = path.with_suffix(".json")
        images.write_manifest(manifest, "r", [stills], geometry=geometry)
        source = images.Source(manifest)
        for number in range(source.n_shots):
            source.read(number)
    except FileError:
        return REFUSED
    return READ


def ending(path: Path, partner: Path | None) -> str:
    """Return how reading a file in a process of its own ends."""
    child = os.fork()
    if child == 0:
        status = BROKEN
        try:
            resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.alarm(LONGEST_S)
            status = read(path, partner)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, raw = os.waitpid(child, 0)
    if os.WIFSIGNALED(raw):
        return "hang" if os.WTERMSIG(raw) == signal.SIGALRM else "crash"
    return {READ: "read", REFUSED: "refused"}.get(os.WEXITSTATUS(raw), "traceback")


def main() -> None:
    how = json.loads(sys.argv[1])
    path = Path(how["path"])
    whole = path.read_bytes()
    partner = Path(how["partner"]) if how["partner"] else None
    assert read(path, partner) == READ  # what is imported then need not be in each process
    structure = np.concatenate([np.arange(*ends) for ends in how["structure"]])
    rng = np.random.default_rng(how["seed"])
    counts = Counter[str]()
    wrong = []
    for number in range(how["n"]):
        changed = path.with_name(f"mutated_{number}{path.suffix}")
        changed.write_bytes(mutated(whole, structure, rng))
        end = ending(changed, partner)
        counts[end] += 1
        if end in ("read", "refused"):
            changed.unlink()
        else:
            wrong.append([number, end])
        changed.with_suffix(".json").unlink(missing_ok=True)
    print(json.dumps({"endings": counts, "wrong": wrong}))


if __name__ == "__main__":
    main()
