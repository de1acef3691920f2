"""What an edited configuration reruns, without Snakemake: the jobs whose sections or inputs have
changed, and all that depend on them.

Snakemake decides in the same way from its records of finished jobs; tests compare the two.
"""

from collections.abc import Iterable
from typing import NamedTuple

from spreadflow.config import Config, section
from spreadflow.trial.files import inputs, manifests, outputs, product, reported
from spreadflow.trial.stages import BY_WORD, wanted


class Job(NamedTuple):
    """A job of the workflow: a stage of a run or of the trial, or the report."""

    inputs: frozenset[str]
    outputs: frozenset[str]
    text: str
    """the sections it is handed, as JSON"""


def jobs(config: Config) -> dict[str, Job]:
    """Return the jobs of a trial by name: `index <run>`, `merge`, `report`."""
    jobs_by_name: dict[str, Job] = {}
    for word in wanted(config):
        runs = BY_WORD[word].runs
        if runs is None:
            jobs_by_name[word] = _stage_job(config, word, None)
        else:
            for run in runs(config):
                jobs_by_name[f"{word} {run}"] = _stage_job(config, word, run)
    page = product(config, "report.html")
    jobs_by_name["report"] = Job(
        inputs=_flat([reported(config), manifests(config)]), outputs=frozenset([page]), text=""
    )
    return jobs_by_name


def _stage_job(config: Config, word: str, run: str | None) -> Job:
    """Return the job of a stage. run: where the stage works run by run."""
    return Job(
        inputs=_flat(inputs(config, word, run).values()),
        outputs=frozenset(outputs(config, word, run)),
        text=section(config, word, run),
    )


def _flat(files: Iterable[str | list[str]]) -> frozenset[str]:
    """Return the names among files and lists of files."""
    names: set[str] = set()
    for entry in files:
        names |= {entry} if isinstance(entry, str) else set(entry)
    return frozenset(names)


def rerun(before: Config, after: Config, forced: Iterable[str] = ()) -> set[str]:
    """Return the names of the jobs that run after an edit of a finished trial.

    A job runs where it was not there before, where its sections or its inputs have changed, where
    its stage is forced, and where it reads what another of these jobs writes. forced: words of
    stages.
    """
    jobs_before = jobs(before)
    jobs_after = jobs(after)
    changed = {name for name, job in jobs_after.items() if jobs_before.get(name) != job}
    words = set(forced)
    pending = changed | {name for name in jobs_after if name.split()[0] in words}
    while True:
        written: set[str] = set()
        for name in pending:
            written |= jobs_after[name].outputs
        below = {name for name, job in jobs_after.items() if job.inputs & written} - pending
        if not below:
            return pending
        pending |= below
