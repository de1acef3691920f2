"""The profile of a machine: what Snakemake has to know to run the stages there."""

import math
from types import SimpleNamespace
from typing import Any

import yaml

from spreadflow.trial.machines import SCHEDULERS, Machine, Settings
from spreadflow.trial.stages import STAGES, Stage

RULES_OF_ONE_RANK = (
    *(stage.word for stage in STAGES if not stage.is_parallel),
    "summary",
    "report",
)
"""Rules without a launcher."""

HEADER = """\
# {meaning}: `snakemake --workflow-profile {name}`.
# Written by `spreadflow site new`; profiles/README.md explains it. Words in capitals are yours.
"""

Profile = dict[str, Any]
"""The settings of a profile, as its YAML file has them."""


def profile(machine: Machine) -> Profile:
    """Return the profile of a machine."""
    defaults: Settings = {"runtime": 60, "mem_mb": 4000, **machine.resources}
    if machine.scheduler == "pbs":
        defaults["nodes"] = 1
    if machine.container:
        defaults["container"] = machine.container
    many = {stage.word: _many_ranks(machine, stage) for stage in STAGES if stage.is_parallel}
    one = {word: {"mem_mb": 0} for word in RULES_OF_ONE_RANK if _asks_for_no_memory(machine)}
    return {
        **SCHEDULERS[machine.scheduler].settings,
        "jobs": 100,
        "latency-wait": 30,
        "rerun-incomplete": True,
        **machine.settings,
        "default-resources": defaults,
        "set-resources": many | one,
    }


def _asks_for_no_memory(machine: Machine) -> bool:
    """Whether the executor would ask for memory unless it is told to ask for none."""
    return machine.has_whole_nodes and machine.scheduler == "slurm"


def _many_ranks(machine: Machine, stage: Stage) -> Settings:
    """Return the resources of a stage that runs on many ranks."""
    if machine.devices is not None and stage.takes_devices:
        machine = machine._replace(**machine.devices._asdict())
    n_ranks = max(2, machine.n_ranks // stage.ranks_divisor)
    resources: Settings = {"mpi": machine.launcher, "tasks": n_ranks}
    match machine.scheduler:
        case "slurm":
            resources["cpus_per_task"] = machine.cpus_per_rank
        case "lsf":  # its plugin takes this for all slots of the job
            resources["cpus_per_task"] = n_ranks
            resources["ptile"] = machine.ranks_per_node
        case "sge":  # its plugin takes this for the slots of the job
            resources["threads"] = n_ranks
    if machine.has_whole_nodes:
        resources["nodes"] = math.ceil(n_ranks / machine.ranks_per_node)
    elif not stage.grows:  # else its rule says so, by what there is to do
        resources["mem_mb_per_cpu"] = math.ceil(stage.memory_mb / machine.cpus_per_rank)
    if _asks_for_no_memory(machine):
        resources["mem_mb"] = 0
        if stage.grows:
            resources["mem_mb_per_cpu"] = 0
    if machine.longest_minutes and stage.minutes > machine.longest_minutes:
        resources["runtime"] = machine.longest_minutes
    return resources


def text(machine: Machine) -> str:
    """Return the file of a profile."""
    settings = profile(machine)
    rules = settings.pop("set-resources")
    lines = [
        HEADER.format(name=machine.name, meaning=machine.meaning),
        yaml.safe_dump(settings, sort_keys=False, width=math.inf),
        "\n# `tasks` exceeds 1 where `mpi` is set.\nset-resources:\n",
    ]
    lines += [f"  {rule}: {_in_one_line(resources)}\n" for rule, resources in rules.items()]
    return "".join(lines)


def _in_one_line(resources: Settings) -> str:
    """Return a mapping as YAML in one line."""
    written = yaml.safe_dump(resources, default_flow_style=True, sort_keys=False, width=math.inf)
    return written.strip()


class Granted(SimpleNamespace):
    """The resources that a stage has by a profile."""

    mpi: str
    tasks: int

    def get(self, name: str, default: str) -> str:
        """Return a resource that a profile may leave out."""
        return getattr(self, name, default)


def granted(settings: Profile, stage: Stage) -> Granted:
    """Return the resources of a stage: its rule's own, the profile's defaults where it has none,
    and what the profile sets in their place.
    """
    own = {"mpi": "", "tasks": 1, "runtime": stage.minutes}
    placed = settings["set-resources"].get(stage.word, {})
    return Granted(**{**settings["default-resources"], **own, **placed})
