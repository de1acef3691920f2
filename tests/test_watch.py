"""A workflow's output as bars or as thin lines; nothing else is changed or lost."""

import io
import subprocess
import sys

from spreadflow.log import Progress
from spreadflow.parallel import World
from spreadflow.watch import bars, progress_of, thinned


def _line(stage, done, of=10):
    return f'{{"stage": "{stage}", "done": {done}, "of": {of}, "unit": "block"}}\n'


def test_what_a_stage_prints_is_understood(capsys):
    with Progress("index", 7, World(), unit="step") as progress:
        progress.at(7)
    lines = capsys.readouterr().out.splitlines()
    assert [progress_of(line) for line in lines] == [("index", 0, 7, "step"), ("index", 7, 7, "step")]


def test_other_lines_are_no_progress():
    for line in (
        "rule index:",
        "{",
        '{"stage": "index"}',
        '{"stage": "index", "done": "x", "of": 1, "unit": "b"}',
        "[1]",
    ):
        assert progress_of(line) is None


def test_thinned_keeps_first_last_one_per_interval_and_everything_else():
    now = iter(range(1000))
    lines = [_line("a", 0), "rule b:\n", *(_line("a", i) for i in range(1, 10)), _line("b", 0), _line("a", 10)]
    out = list(thinned(lines, clock=lambda: next(now), every_s=4))
    assert out[0] == "a: 0 of 10 blocks\n" and out[1] == "rule b:\n" and out[-1] == "a: 10 of 10 blocks\n"
    assert "b: 0 of 10 blocks\n" in out
    middle = [line for line in out if line.startswith("a:")][1:-1]
    assert 1 <= len(middle) <= 3


def test_bars_on_a_terminal_keep_other_lines():
    out = io.StringIO()
    bars([_line("index", 0), "Error in rule merge: [red]x[/red]\n", _line("index", 10)], out)
    assert "Error in rule merge: [red]x[/red]" in out.getvalue()
    assert "index" in out.getvalue() and "10/10" in out.getvalue()


def test_the_word_reads_a_pipe_to_its_end():
    words = [sys.executable, "-m", "spreadflow.cli", "watch"]
    done = subprocess.run(
        words, input="one\n" + _line("index", 3) + "two\n", capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "one\nindex: 3 of 10 blocks\ntwo\n")
