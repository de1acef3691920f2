"""What checks are asked about, what they answer, and how they run programs."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from spreadflow.trial import launchers

PATIENCE_S = 60
"""Seconds that a program has for its answer: JAX starts in a few, on a slow file system in many."""

NOT_THERE = 127
"""Status of a program that does not exist, as shells have it."""


class Finding(NamedTuple):
    """What a check found, and how to mend it."""

    check: str
    """what was looked at"""
    found: str
    """what is there"""
    remedy: str = ""
    """a command that mends it, or a key; empty where there is nothing to mend"""

    @property
    def is_good(self) -> bool:
        """Whether there is nothing to mend."""
        return not self.remedy


class Host(NamedTuple):
    """A machine and the environment in which spreadflow runs on it."""

    environment: Mapping[str, str]
    """its variables, without those that a launcher left"""
    results: Path
    """folder of the trials"""
    paths: Sequence[str] = tuple(sys.path)
    """folders in which Python looks for packages"""
    devices: Path = Path("/dev")
    """folder of the device files"""
    mounts: Path = Path("/proc/mounts")
    """table of the file systems"""

    def which(self, program: str) -> str | None:
        """Return the path of a program; None where it is not on PATH."""
        return shutil.which(program, path=self.environment.get("PATH"))

    @property
    def launcher(self) -> str:
        """The launcher of jobs whose profile names none, as a word for a shell; empty where there
        is none.
        """
        path = self.which("mpiexec")
        return shlex.quote(path) if path else ""


def short(path: Path | str) -> str:
    """Return a path as people write it: relative to the working folder, or to the home."""
    absolute = Path(path).absolute()
    for folder, written in ((Path.cwd(), Path()), (Path(os.path.expanduser("~")), Path("~"))):
        if absolute.is_relative_to(folder):
            return str(written / absolute.relative_to(folder))
    return str(absolute)


def here(results: Path) -> Host:
    """Return this machine, with the programs of this Python's environment first on PATH, as the
    workflow has them.
    """
    environment = launchers.clean(os.environ)
    environment["PATH"] = f"{Path(sys.prefix, 'bin')}:{environment.get('PATH', os.defpath)}"
    return Host(environment, results)


class Answer(NamedTuple):
    """What a program printed, and how it ended."""

    status: int
    text: str

    @property
    def is_late(self) -> bool:
        """Whether the program was killed, as it did not end in time."""
        return self.status == -signal.SIGKILL

    @property
    def reason(self) -> str:
        """Why a program failed, in one line: the message of spreadflow, or the last line."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        own = [line for line in lines if line.startswith("spreadflow ")]
        return [f"status {self.status}, no message", *lines[-1:], *own[:1]][-1]

    @property
    def figures(self) -> dict[str, Any] | None:
        """What a probe found out, the last line that is JSON: libraries may print others about it.
        None where the probe did not come to its end.
        """
        if self.status:
            return None
        for line in reversed(self.text.splitlines()):
            with suppress(json.JSONDecodeError):
                return dict(json.loads(line))
        return None


def ask(host: Host, words: Sequence[object], patience_s: float = PATIENCE_S) -> Answer:
    """Run a program on the host and return its answer. One that takes longer is killed, with all
    that it started.
    """
    command = [str(word) for word in words]
    try:
        process = subprocess.Popen(
            command,
            env=dict(host.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return Answer(NOT_THERE, str(error))
    try:
        text, _ = process.communicate(timeout=patience_s)
    except BaseException as error:  # also Ctrl-C, which does not reach another session
        os.killpg(process.pid, signal.SIGKILL)
        text, _ = process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return Answer(-signal.SIGKILL, f"{text}\nno answer in {patience_s:g} s")
    return Answer(process.returncode, text)


def probe(host: Host, name: str, launcher: Sequence[object] = ()) -> Answer:
    """Run a function of `probes` in a process of its own: a library that crashes is a finding."""
    return ask(host, [*launcher, sys.executable, "-m", "spreadflow.doctor.probes", name])
