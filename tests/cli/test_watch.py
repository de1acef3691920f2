"""A workflow's output as bars or as thin lines; nothing else is changed or lost."""

import io
import subprocess
import sys

from spreadflow.cli.watch import bars, parse_step, thinned
from spreadflow.log import Progress
from spreadflow.parallel import World


def _line(stage, done, total=10):
    return f'{{"stage": "{stage}", "done": {done}, "of": {total}, "units": "blocks"}}\n'


def test_what_a_stage_prints_is_understood(capsys):
    with Progress("index", 7, World(), units="steps") as progress:
        progress.at(7)
    lines = capsys.readouterr().out.splitlines()
    assert [parse_step(line) for line in lines] == [
        ("index", 0, 7, "steps"),
        ("index", 7, 7, "steps"),
    ]


def test_other_lines_are_no_progress():
    for line in (
        "rule index:",
        "{",
        '{"stage": "index"}',
        '{"stage": "index", "done": "x", "of": 1, "units": "b"}',
        "[1]",
    ):
        assert parse_step(line) is None


def test_thinned_keeps_first_last_one_per_interval_and_everything_else():
    now = iter(range(1000))
    lines = [
        _line("a", 0),
        "words\n",
        *(_line("a", i) for i in range(1, 10)),
        _line("b", 0),
        _line("a", 10),
    ]
    out = list(thinned(lines, clock=lambda: next(now), every_s=4))
    assert (
        out[0] == "a: 0 of 10 blocks\n"
        and out[1] == "words\n"
        and out[-1] == "a: 10 of 10 blocks\n"
    )
    assert "b: 0 of 10 blocks\n" in out
    middle = [line for line in out if line.startswith("a:")][1:-1]
    assert 1 <= len(middle) <= 3


JOBS = """\
Building DAG of jobs...
Job stats:
job        count
-------  -------
cells          1

Execute 1 jobs...

[Sat Nov 21 13:50:23 2026]
localrule report:
    input: results/t/cells.h5
    jobid: 4
    resources: tmpdir=/tmp, mpi=, tasks=1
MissingInputException in rule x
WARNING: odd
[Sat Nov  1 13:50:37 2026]
Finished jobid: 4 (Rule: report)
4 of 14 steps (29%) done
[Sat Nov  1 13:50:37 2026]
Error in rule merge:
    jobid: 9
    log: results/t/logs/merge.log (check log file(s) for error details)
localrule all:
    jobid: 0
    resources: tmpdir=/tmp
Finished jobid: 0 (Rule: all)
"""


def test_jobs_are_told_chatter_is_dropped_errors_stay():
    assert list(thinned(JOBS.splitlines(keepends=True), clock=lambda: 0.0)) == [
        "report: started\n",
        "MissingInputException in rule x\n",
        "WARNING: odd\n",
        "report: done in 0 s\n",
        "Error in rule merge:\n",
        "    jobid: 9\n",
        "    log: results/t/logs/merge.log (check log file(s) for error details)\n",
    ]


def test_bars_show_jobs_without_blocks():
    out = io.StringIO()
    bars(JOBS.splitlines(keepends=True), out)
    assert "report" in out.getvalue() and "1/1" in out.getvalue()
    assert "Error in rule merge:" in out.getvalue() and "Building DAG" not in out.getvalue()


def test_bars_on_a_terminal_keep_other_lines():
    out = io.StringIO()
    bars([_line("index", 0), "Error in rule merge: [red]x[/red]\n", _line("index", 10)], out)
    assert "Error in rule merge: [red]x[/red]" in out.getvalue()
    assert "index" in out.getvalue() and "10/10" in out.getvalue()


def test_the_word_reads_a_pipe_to_its_end():
    words = [sys.executable, "-m", "spreadflow.cli", "watch"]
    done = subprocess.run(
        words,
        input="one\n" + _line("index", 3) + "two\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "one\nindex: 3 of 10 blocks\ntwo\n")
