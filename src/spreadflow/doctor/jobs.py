"""Checks of what the jobs of a trial ask for: launchers, containers, devices.

The workflow makes them once a launch, before the first job, and `spreadflow doctor --trial` without
a launch.
"""

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spreadflow.doctor.host import Finding, Host, probe
from spreadflow.doctor.software import accelerators
from spreadflow.errors import ConfigError
from spreadflow.trial import BY_WORD

IMAGES = (".sif", ".simg", ".img", ".sqfs", ".squashfs", ".sqsh")
"""Endings of container images that are files."""

MOST_NAMED = 3
"""Rules that are named one by one."""

TO_LEAVE_OUT = "`snakemake --no-hooks` leaves this check out."
"""What to do where the job will find what this machine lacks."""


class Job(NamedTuple):
    """What jobs of one rule ask for."""

    rule: str
    """name of the rule"""
    launcher: str = ""
    """launcher of MPI programs with its options; empty = none"""
    ranks: int = 1
    """ranks, all on this machine where `is_here`"""
    container: str = ""
    """prefix of the command that runs it in a container; empty = none"""
    is_here: bool = True
    """whether the job runs on this machine, and not on one of a cluster"""


def job(rule: str, resources: Mapping[str, Any], is_here: bool) -> Job:
    """Return what a job asks for. resources: as Snakemake grants them, or a profile has them."""
    return Job(
        rule=rule,
        launcher=str(resources.get("mpi") or ""),
        ranks=int(resources.get("tasks", 1)),
        container=str(resources.get("container") or ""),
        is_here=is_here,
    )


def asked(planned: Iterable[Any], is_here: bool) -> list[Job]:
    """Return what Snakemake's jobs ask for, without those that start no program."""
    return [job(one.rule.name, one.resources, is_here) for one in planned if not one.is_norun]


def program(prefix: str) -> str:
    """Return the program that a prefix of a command starts: its first word but variables."""
    words = [word for word in shlex.split(prefix) if "=" not in word or word.startswith("-")]
    return words[0] if words else ""


def _by(wish: Callable[[Job], str], jobs: Iterable[Job]) -> dict[str, list[str]]:
    """Return what jobs ask for → the names of their rules, without those that ask for nothing."""
    rules: dict[str, list[str]] = {}
    for one in jobs:
        if wish(one) and one.rule not in rules.setdefault(wish(one), []):
            rules[wish(one)].append(one.rule)
    return rules


def _named(rules: Sequence[str]) -> str:
    """Return the names of rules, of many the first ones."""
    if len(rules) <= MOST_NAMED:
        return ", ".join(rules)
    return f"{', '.join(rules[:MOST_NAMED])} and {len(rules) - MOST_NAMED} more"


def _not_on_path(check: str, name: str, jobs: Sequence[Job], remedy: str) -> Finding:
    """Return the finding for a program that this machine lacks: the nodes of a cluster may have
    what the machine that submits to them has not.
    """
    if any(one.is_here for one in jobs):
        return Finding(check, f"{name} is not on PATH", remedy)
    return Finding(check, f"{name} is not on PATH here; the nodes that run it may have it")


def launchers_on_path(host: Host, jobs: Sequence[Job]) -> list[Finding]:
    """Whether the launchers of jobs with several ranks are on PATH."""
    findings = []
    several = [one for one in jobs if one.ranks > 1]
    for name, rules in _by(lambda one: program(one.launcher), several).items():
        check = f"launcher of {_named(rules)}"
        path = host.which(name)
        if path:
            findings.append(Finding(check, path))
        else:
            remedy = "set the resource `mpi` of the profile to a launcher on PATH"
            findings.append(_not_on_path(check, name, several, remedy))
    return findings


def containers_there(host: Host, jobs: Sequence[Job]) -> list[Finding]:
    """Whether programs that run containers are on PATH, and images that are files exist."""
    findings = []
    for prefix, rules in _by(lambda one: one.container, jobs).items():
        check = f"container of {_named(rules)}"
        name = program(prefix)
        missing = [
            word
            for word in shlex.split(prefix)
            if word.endswith(IMAGES) and not Path(word).is_file()
        ]
        if missing:
            remedy = "build the image (containers/README.md), or set the resource `container`"
            findings.append(Finding(check, f"no image {missing[0]}", remedy))
        elif host.which(name) is None:
            remedy = "load its module, or set the resource `container` of the profile"
            findings.append(_not_on_path(check, name, jobs, remedy))
        else:
            findings.append(Finding(check, prefix))
    return findings


def devices_there(host: Host, jobs: Sequence[Job]) -> list[Finding]:
    """Whether JAX finds the devices that it is asked for, and whether ranks of a job here share
    them, as there are fewer.

    JAX is started where JAX_PLATFORMS asks for devices, or where this machine has some, and a job
    here computes in JAX.
    """
    bare = [one for one in jobs if one.is_here and not one.container and _is_in_jax(one)]
    platforms = host.environment.get("JAX_PLATFORMS", "")
    if not bare or platforms == "cpu" or not (platforms or accelerators(host)):
        return []
    answer = probe(host, "devices")
    figures = answer.figures
    if figures is None:
        remedy = "unset JAX_PLATFORMS" if platforms else "export JAX_PLATFORMS=cpu"
        return [Finding("devices", answer.reason, remedy)]
    most = max(bare, key=lambda one: one.ranks)
    found = f"{figures['n_devices']} × {figures['platform']}"
    if figures["platform"] != "cpu" and figures["n_devices"] < most.ranks:
        found = f"{found}, shared by the {most.ranks} ranks of {most.rule}"
    return [Finding("devices", found)]


def _is_in_jax(job: Job) -> bool:
    """Whether a job is of a stage that computes in JAX."""
    stage = BY_WORD.get(job.rule)
    return stage is not None and stage.is_in_jax


CHECKS = (launchers_on_path, containers_there, devices_there)
"""What is looked at for the jobs of a trial."""


def examine(host: Host, jobs: Sequence[Job]) -> Iterator[Finding]:
    """Yield what each check finds, as it finds it."""
    for check in CHECKS:
        yield from check(host, jobs)


def refuse(host: Host, jobs: Sequence[Job]) -> None:
    """Raise ConfigError for the first thing that jobs ask for and that is not there."""
    for finding in examine(host, jobs):
        if not finding.is_good:
            todo = f"To mend it: {finding.remedy}. {TO_LEAVE_OUT}"
            raise ConfigError(finding.check, "what its jobs ask for", finding.found, todo)
