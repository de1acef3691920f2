"""A real Slurm of two nodes on one host, for the length of a test. Needs root; installs the daemons
with apt if needed.

Never touches a machine that has a Slurm: an existing slurm.conf that is not of this file means no.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

CONF = Path("/etc/slurm/slurm.conf")
MARK = "# written by the tests of spreadflow"
NODES = ("n1", "n2")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
SETTINGS = """\
{mark}
ClusterName=ci
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldPort=26817
SlurmdPort=26818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=pmi2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=10000
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
ReturnToService=2
JobRequeue=0
SlurmdParameters=config_overrides
MinJobAge=600
KillWait=5
SwitchType=switch/none
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[26821-26822] CPUs=4 RealMemory=16000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


class NoSlurm(Exception):
    """The reason why there can be no Slurm here."""


def _do(*command: object, seconds: int = 30, ok: tuple[int, ...] = (0,)) -> str:
    """Run a command under a hard limit. Raises NoSlurm when it fails."""
    words = ["timeout", "-s", "KILL", str(seconds), *map(str, command)]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    completed = subprocess.run(
        words, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment
    )
    if completed.returncode not in ok:
        raise NoSlurm(
            f"{' '.join(words[4:])} failed ({completed.returncode}): "
            f"{(completed.stderr or completed.stdout)[-300:].strip()}"
        )
    return completed.stdout


def install() -> None:
    """Make sure the programs are there. Raises NoSlurm with the reason why they can't be."""
    if os.geteuid() != 0:
        raise NoSlurm("the daemons need root")
    if CONF.exists() and not CONF.read_text().startswith(MARK):
        raise NoSlurm(f"this machine has a Slurm of its own ({CONF})")
    if all(shutil.which(program) for program in ("slurmctld", "slurmd", "sbatch", "munged")):
        return
    if not shutil.which("apt-get"):
        raise NoSlurm("slurmctld is not installed and there is no apt-get")
    _do("apt-get", "update", "-q", seconds=120)
    _do("apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES, seconds=240)


class Slurm:
    """`with Slurm(folder):` two idle nodes n1 and n2."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._pid_files = [folder / "slurmctld.pid", *map(self._pid_file, NODES)]

    def _pid_file(self, node: str) -> Path:
        """Return the path of the file that holds the number of a node's daemon."""
        return self.folder / f"slurmd.{node}.pid"

    def __enter__(self) -> "Slurm":
        install()
        for name in ("state", "spool/n1", "spool/n2"):
            (self.folder / name).mkdir(parents=True)
        CONF.parent.mkdir(parents=True, exist_ok=True)
        CONF.write_text(
            SETTINGS.format(mark=MARK, host=socket.gethostname().split(".")[0], folder=self.folder)
        )
        try:
            self._start()
        except NoSlurm:
            self._stop()
            raise
        return self

    def _start(self) -> None:
        run = Path("/run/munge")
        run.mkdir(exist_ok=True)
        shutil.chown(run, "munge", "munge")
        munge_pid = run / "munged.pid"
        if not (munge_pid.exists() and Path(f"/proc/{munge_pid.read_text().strip()}").exists()):
            _do("su", "-s", "/bin/sh", "munge", "-c", "munged")
            self._pid_files.append(munge_pid)
        _do("slurmctld", "-c")
        time.sleep(1)
        for node in NODES:
            _do("slurmd", "-N", node)
        self._wait_until_idle()

    def _wait_until_idle(self) -> None:
        for _ in range(30):
            if len(_do("sinfo", "-h", "-N", "-t", "idle").splitlines()) == len(NODES):
                return
            time.sleep(0.5)
        raise NoSlurm(f"the nodes did not come up: {_do('sinfo', '-R')}")

    def running(self) -> dict[str, str]:
        """Return the numbers of the jobs that run → their nodes."""
        lines = _do("squeue", "-h", "-t", "running", "-o", "%i %N").splitlines()
        return dict(line.split() for line in lines)

    def cancel(self, job: str) -> None:
        """Cancel a job, as its owner does."""
        _do("scancel", job)

    def limit(self, job: str, minutes: int) -> None:
        """Give a job that runs another time limit."""
        _do("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")

    def lose(self, node: str) -> None:
        """Kill the daemon of a node and all that jobs run there, and have the controller find out,
        which by itself takes it minutes.
        """
        for pid in [int(self._pid_file(node).read_text()), *_processes_of_jobs(node)]:
            with contextlib.suppress(ProcessLookupError):  # it ended with one before it
                os.kill(pid, signal.SIGKILL)
        _do("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def restore(self, node: str) -> None:
        """Start a node again that was lost, and wait until both are idle."""
        _do("slurmd", "-N", node)
        self._wait_until_idle()

    def __exit__(self, *_exc: object) -> None:
        """Cancel the jobs that a test left, which would outlive the daemons, and stop these."""
        with contextlib.suppress(NoSlurm):
            _do("scancel", "--user", "root")
            patience = time.monotonic() + 20
            while _do("squeue", "-h") and time.monotonic() < patience:
                time.sleep(0.2)
        self._stop()

    def _stop(self) -> None:
        """Stop the daemons that were started here, by their pid files, and wait for their end."""
        pids = []
        for pid_file in self._pid_files:
            try:
                pids.append(int(pid_file.read_text()))
                os.kill(pids[-1], signal.SIGTERM)
            except (OSError, ValueError):
                continue
        patience = time.monotonic() + 20
        while any(_runs(pid) for pid in pids) and time.monotonic() < patience:
            time.sleep(0.2)
        for pid in filter(_runs, pids):
            os.kill(pid, signal.SIGKILL)
        CONF.unlink(missing_ok=True)


def _processes_of_jobs(node: str) -> list[int]:
    """Return the numbers of the processes of jobs on a node, those that watch over them first."""
    watching = set()
    watched = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
            name = Path(f"/proc/{parent}/comm").read_text().strip()
        except OSError:
            continue
        if f"SLURMD_NODENAME={node}".encode() in variables:
            watched.add(int(folder.name))
            if name == "slurmstepd":
                watching.add(int(parent))
    return [*watching, *watched]


def _runs(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
