"""`spreadflow doctor`: whether this machine has what the stages need, and how to mend what it
lacks.
"""

import argparse
import json
import sys
from itertools import chain
from pathlib import Path


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the word."""
    p = words.add_parser("doctor", help="what this machine lacks, and how to mend it")
    trial_help = "a configuration, later files over earlier ones: also what its jobs ask for"
    p.add_argument("--trial", type=Path, nargs="+", metavar="FILE", help=trial_help)
    profile_help = "under which they run: a folder in profiles/, or any other"
    p.add_argument("--profile", metavar="NAME", help=profile_help)
    p.add_argument("--json", type=Path, metavar="FILE", help="write what was found as JSON, too")
    p.set_defaults(do=run)


def run(arguments: argparse.Namespace) -> None:
    """Print what each check finds; end with status 1 where something is to be mended."""
    from spreadflow import config
    from spreadflow.doctor import examination, jobs, profile
    from spreadflow.doctor.host import Finding, here
    from spreadflow.io import store

    trial = config.load(*arguments.trial or [])
    if arguments.trial:
        config.check_ready(trial, arguments.trial[-1])
    host = here(trial.results)
    asked: list[jobs.Job] = []
    if arguments.trial:
        settings = profile.read_profile(arguments.profile) if arguments.profile else {}
        asked = profile.jobs(trial, settings, host)

    findings: list[Finding] = []
    for finding in chain(examination.examine(host), jobs.examine(host, asked)):
        print("\n".join(examination.lines(finding)), flush=True)
        findings.append(finding)
    print(examination.conclusion(findings))

    if arguments.json:
        rows = [{**one._asdict(), "is_good": one.is_good} for one in findings]
        text = json.dumps(rows, indent=1, ensure_ascii=False)
        store.write_text(arguments.json, text + "\n")
    if not all(finding.is_good for finding in findings):
        sys.exit(1)
