"""All checks of a machine, and what they found as text."""

from collections.abc import Callable, Iterable, Iterator

from spreadflow.doctor import folders, software
from spreadflow.doctor.host import Finding, Host

CHECKS: tuple[Callable[[Host], Finding], ...] = (
    software.mpi_library,
    software.launcher,
    software.two_ranks,
    software.slurm,
    software.jax,
    software.hdf5,
    software.snakemake,
    software.containers,
    folders.results,
    folders.locks,
    folders.scratch,
    folders.cache,
    folders.compiled,
    folders.compiled_by_jax,
)
"""What is looked at on every machine, in this order."""

WIDTH = 16
"""Letters of the longest name of a check."""


def examine(host: Host) -> Iterator[Finding]:
    """Yield what each check finds, as it finds it."""
    for check in CHECKS:
        yield check(host)


def lines(finding: Finding) -> list[str]:
    """Return a finding as text: what was found, and on a second line how to mend it."""
    verdict = "good" if finding.is_good else "MEND"
    first = f"{verdict}  {finding.check:{WIDTH}}  {finding.found}"
    return [first] if finding.is_good else [first, f"      -> {finding.remedy}"]


def conclusion(findings: Iterable[Finding]) -> str:
    """Return the closing line."""
    verdicts = [finding.is_good for finding in findings]
    return f"{verdicts.count(False)} of {len(verdicts)} to mend"
