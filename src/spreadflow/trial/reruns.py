"""What an edited configuration reruns, without Snakemake: the jobs whose sections or inputs
changed, and all below.

Snakemake decides in the same way from its records of finished jobs; the tests pin this module to
it.
"""

from collections.abc import Iterable
from typing import NamedTuple

from spreadflow.config import Config, section
from spreadflow.trial.files import inputs, manifests, outputs, product, summaries, summarized
from spreadflow.trial.stages import BY_WORD, wanted


class Job(NamedTuple):
    """A job of the workflow: a stage of a run or of the trial, a summary, or the report."""

    inputs: frozenset[str]
    outputs: frozenset[str]
    text: str
    """the sections it is handed, as JSON"""


def jobs(config: Config) -> dict[str, Job]:
    """Return the jobs of a trial by name: `index <run>`, `merge`, `summary merge`, `report`."""
    found: dict[str, Job] = {}
    for word in wanted(config):
        runs = BY_WORD[word].runs
        for run in [None] if runs is None else runs(config):
            found[word if run is None else f"{word} {run}"] = Job(
                inputs=_flat(inputs(config, word, run).values()),
                outputs=frozenset(outputs(config, word, run)),
                text=section(config, word, run),
            )
        figures = product(config, f"{word}.json")
        found[f"summary {word}"] = Job(
            inputs=_flat([summarized(config, word), manifests(config)]),
            outputs=frozenset([figures]),
            text="",
        )
    page = frozenset([product(config, "report.html")])
    found["report"] = Job(inputs=frozenset(summaries(config)), outputs=page, text="")
    return found


def _flat(files: Iterable[str | list[str]]) -> frozenset[str]:
    return frozenset(
        name for entry in files for name in ([entry] if isinstance(entry, str) else entry)
    )


def rerun(before: Config, after: Config, forced: Iterable[str] = ()) -> set[str]:
    """Return the names of the jobs that run after an edit of a finished trial.

    A job runs where it was not there before, where its sections or its inputs are others, where it
    is of a stage that is forced, and where it reads what another one of these jobs writes. forced:
    words of stages.
    """
    old = jobs(before)
    new = jobs(after)
    forced = set(forced)
    pending = {
        name for name, job in new.items() if old.get(name) != job or name.split()[0] in forced
    }
    while True:
        written = frozenset[str]().union(*(new[name].outputs for name in pending))
        below = {name for name, job in new.items() if job.inputs & written} - pending
        if not below:
            return pending
        pending |= below
