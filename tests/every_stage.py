"""A configuration whose trial has every stage: docs/commands.md shows its commands."""

EVERY_STAGE = {
    "trial": "t",
    "runs": {
        "one": {"simulate": {"n_single": 2}},
        "two": {"simulate": {"n_single": 2}, "spec": "two.txt"},
        "three": {"simulate": {"n_single": 2}, "correlate": {}},
    },
    "stage1": {"mosaicity": "learned"},
}
"""A run that is indexed here, one whose lattices another program has indexed, and one whose shots
are correlated.
"""
