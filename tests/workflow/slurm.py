"""A real Slurm of two nodes on one host, for the length of a test. Needs root; installs the daemons
with apt if needed.

Never touches a machine that has a Slurm: an existing slurm.conf that is not of this file means no.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

CONF = Path("/etc/slurm/slurm.conf")
MARK = "# written by the tests of spreadflow"
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
        self._pid_files = [
            folder / "slurmctld.pid",
            folder / "slurmd.n1.pid",
            folder / "slurmd.n2.pid",
        ]

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
            self.__exit__()
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
        for node in ("n1", "n2"):
            _do("slurmd", "-N", node)
        for _ in range(30):
            if len(_do("sinfo", "-h", "-N", "-t", "idle").splitlines()) == 2:
                return
            time.sleep(0.5)
        raise NoSlurm(f"the nodes did not come up: {_do('sinfo', '-R')}")

    def __exit__(self, *_exc: object) -> None:
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


def _runs(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
