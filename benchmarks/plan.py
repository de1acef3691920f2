"""What does a plan cost for a crystal with a long axis?

`spreadflow plan` of 4 lattices of a phantom of 3369 atoms in P 65 2 2, 77.8 77.8 263.8 Å, with two
irons: a process from its start to its picture. User CPU seconds, on one thread, medians of several
turns, with all compiled programs at hand: the first turn is not counted.
"""

import argparse
import json
import tempfile
from pathlib import Path

import recorded
from starts import measure

BAR_S = 60.0
"""Most seconds of a plan."""

CRYSTAL = {
    "seed": 5,
    "crystal": {"space_group": "P 65 2 2", "cell": [77.8, 77.8, 263.8, 90, 90, 120]},
    "structure_factors": {
        "sites": [{"atom": "FE1", "curve": "oxidized"}, {"atom": "FE2", "curve": "reduced"}]
    },
}
"""The configuration."""


def main() -> None:
    """Print the seconds of a plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="`src` of another revision, measured as well")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    own = Path(__file__).parents[1] / "src"
    sources = [own, arguments.before] if arguments.before else [own]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "crystal.yaml"
        config.write_text(json.dumps(CRYSTAL))
        words = ["-m", "spreadflow.cli", "plan", "--config", str(config), "--lattices", "4"]
        words += ["--out", str(folder / "plan.json")]
        print(f"at most {BAR_S:.0f} s")
        seconds = measure({"plan": words}, sources, arguments.turns, folder)["plan"]
    if arguments.json:
        recorded.save(arguments.json, "plan", {"seconds": seconds})


if __name__ == "__main__":
    main()
