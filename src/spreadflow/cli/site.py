"""`spreadflow site new NAME`: writes a profile for another machine, from the row of one like it."""

import argparse
import re
from pathlib import Path

from spreadflow.errors import FileError, SpreadflowError
from spreadflow.trial.machines import BY_NAME, SCHEDULERS, Machine

NAME = re.compile(r"[\w-]+")
"""Names of profiles: each is a folder."""

FIELDS = ("launcher", "container", "nodes", "ranks_per_node", "longest_minutes")
"""Fields of a machine that options replace as they are."""


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the word."""
    p = words.add_parser("site", help="write a profile for another machine")
    p.add_argument("action", choices=["new"])
    p.add_argument("name", help="of the profile")
    like_help = "the machine to start from (default: NAME if it is one of them, else slurm)"
    p.add_argument("--like", choices=BY_NAME, help=like_help)
    p.add_argument("--account", help="who pays")
    p.add_argument("--launcher", help="what starts ranks, without their number")
    p.add_argument("--container", help="prefix of every command; empty: none")
    p.add_argument("--nodes", type=int, help="of a stage on many ranks")
    p.add_argument("--ranks-per-node", type=int)
    p.add_argument("--longest-minutes", type=int, help="time limit of the queue")
    resource_help = "a default resource: qos=debug, slurm_partition=long, pbs_queue=prod, ..."
    p.add_argument("--resource", nargs="+", default=[], metavar="KEY=VALUE", help=resource_help)
    folder_help = "where profiles are (default: %(default)s)"
    p.add_argument("--folder", type=Path, default=Path("profiles"), help=folder_help)
    p.set_defaults(do=run)


def run(arguments: argparse.Namespace) -> None:
    """Write a profile, and say how it is used."""
    from spreadflow.io import store
    from spreadflow.trial import profiles

    if not NAME.fullmatch(arguments.name):
        expected = "a name of letters, digits, - and _"
        raise SpreadflowError("NAME", expected, arguments.name, "Take another name.")
    path = arguments.folder / arguments.name / "config.yaml"
    if path.exists():
        raise FileError(path, "no profile of this name", "one", "Rename or remove it.")
    machine = _machine(arguments)
    store.write_text(path, profiles.text(machine))
    print(f"{path}: snakemake --workflow-profile {arguments.name}")
    print(f"It needs `pip install 'spreadflow[{SCHEDULERS[machine.scheduler].extra}]'`.")


def _machine(arguments: argparse.Namespace) -> Machine:
    """Return the machine that the options describe. Raises SpreadflowError for a resource without a
    value, ranks or nodes below 1.
    """
    like = BY_NAME[arguments.like or (arguments.name if arguments.name in BY_NAME else "slurm")]
    options = {field: getattr(arguments, field) for field in FIELDS}
    changed = {field: value for field, value in options.items() if value is not None}
    resources = dict(like.resources)
    if arguments.account:
        resources[SCHEDULERS[like.scheduler].account] = arguments.account
    for resource in arguments.resource:
        key, equals, value = resource.partition("=")
        if not (key.isidentifier() and equals):
            raise SpreadflowError(
                "--resource", "KEY=VALUE", resource, "Write qos=debug, for example."
            )
        resources[key] = value
    machine = like._replace(name=arguments.name, resources=resources, **changed)
    if min(machine.nodes, machine.ranks_per_node) < 1 or machine.n_ranks < 2:
        expected = "nodes and ranks per node of 1 or more, and two ranks in all"
        found = f"{machine.nodes} and {machine.ranks_per_node}"
        raise SpreadflowError("--nodes, --ranks-per-node", expected, found, "Write larger numbers.")
    return machine
