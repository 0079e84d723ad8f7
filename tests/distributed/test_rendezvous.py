"""Processes meet through their launcher, and end with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from ackd.distributed import rendezvous


def test_a_launcher_that_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        for name, value in {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        monkeypatch.setattr(rendezvous, "REACH", 0.5)
        began = time.monotonic()
        with pytest.raises(RuntimeError, match=r"the launcher at 127\.0\.0\.1:\d+ is gone"):
            rendezvous.meet(timedelta(seconds=600))
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_processes_end_with_their_launcher(tmp_path: Path) -> None:
    """Rank 1 is busy, and rank 0 waits for what it sends."""
    script = tmp_path / "ranks.py"
    script.write_text(
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from ackd.distributed.workers import torchrun\n"
        "torchrun.join(30)\n"
        "Path(sys.argv[1], os.environ['RANK']).write_text(str(os.getpid()))\n"
        "if torchrun.rank():\n"
        "    while True: time.sleep(0.1)\n"
        "torchrun.Rank(1).get(300)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    own = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*command, str(script), str(tmp_path)], env=own, stderr=subprocess.DEVNULL) as launcher:
        files, until = [tmp_path / "0", tmp_path / "1"], time.monotonic() + 240
        while not all(file.is_file() and file.read_text() for file in files):
            assert time.monotonic() < until
            time.sleep(0.05)
        ranks = [Path("/proc", file.read_text(), "cmdline") for file in files]
        assert all(rank.exists() for rank in ranks)
        os.kill(launcher.pid, signal.SIGKILL)
    until = time.monotonic() + 10
    while any(rank.exists() for rank in ranks) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(rank.exists() for rank in ranks)
