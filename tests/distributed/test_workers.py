"""Every backend keeps its objects, tells what went wrong there, and is missed when it is gone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch

from ackd.distributed import workers
from ackd.distributed.workers import BACKENDS, WorkerFailed, WorkerLost, Workers, device_of, host, start
from ackd.distributed.workers.actors import check_address
from ackd.distributed.workers.inline import Inline
from ackd.errors import InputError
from tests import processes

power = partial(pow, 2)  # worker i holds the number 2^i


@pytest.fixture(scope="module", params=["dummy", "subproc", "ray"])
def three(request: pytest.FixtureRequest) -> Iterator[Workers]:
    there = start(request.param, power, 3, threads=1)
    yield there
    there.close()
    there.close()  # does no harm


def ask(there: Workers, method: str, *args: object) -> list[object]:
    for worker in range(len(there)):
        there.send(worker, method, *args)
    return [there.receive(worker, 60) for worker in range(len(there))]


def pause(process: int) -> None:
    """Comes back when the process does nothing any more."""
    os.kill(process, signal.SIGSTOP)
    while Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "T":
        time.sleep(0.001)


def restart(there: Workers, worker: int) -> None:
    """With everything imported, where it is not Ray that starts it."""
    with processes.workers_of(processes.Forked(all_of_dev=True)):
        there.restart(worker)


def answers(there: Workers, worker: int, count: int) -> None:
    for _ in range(count):
        there.send(worker, "bit_length")
        there.receive(worker, 60)
        time.sleep(0.01)


def test_each_has_its_object(three: Workers) -> None:
    assert ask(three, "__add__", 10) == [11, 12, 14]
    assert ask(three, "bit_length") == [1, 2, 3]


def test_what_goes_wrong_there_is_told(three: Workers) -> None:
    three.send(1, "__floordiv__", 0)
    with pytest.raises(WorkerFailed, match=r"worker 1 \(process \d+ on .*\) failed:[^$]*ZeroDivisionError"):
        three.receive(1, 60)
    three.send(1, "to_bytes", "no")
    with pytest.raises(WorkerFailed, match="TypeError"):
        three.receive(1, 60)
    assert ask(three, "__neg__") == [-1, -2, -4]  # and they go on


@pytest.mark.parametrize("three", ["subproc", "ray"], indirect=True)
def test_a_lost_worker_is_missed_and_replaced(three: Workers) -> None:
    lost = int(three.about[1]["pid"])
    os.kill(lost, signal.SIGKILL)
    with pytest.raises(WorkerLost, match=rf"worker 1 \(process {lost} on .*\) (was killed by SIGKILL|is gone)"):
        answers(three, 1, 100)  # the news may take a moment
    three.restart(1)
    assert int(three.about[1]["pid"]) != lost
    assert ask(three, "__add__", 10) == [11, 12, 14]


@pytest.mark.parametrize("three", ["subproc", "ray"], indirect=True)
def test_a_worker_that_hangs_is_missed_in_time(three: Workers) -> None:
    pause(int(three.about[2]["pid"]))
    three.send(2, "bit_length")
    with pytest.raises(WorkerLost, match=r"worker 2 .* did not answer within 0\.5 s"):
        three.receive(2, 0.5)
    restart(three, 2)
    assert ask(three, "bit_length") == [1, 2, 3]


@pytest.mark.parametrize("three", ["subproc", "ray"], indirect=True)
def test_an_answer_that_comes_too_late_is_not_taken_for_the_next(three: Workers) -> None:
    late = int(three.about[2]["pid"])
    pause(late)
    three.send(2, "__add__", 10)
    with pytest.raises(WorkerLost, match=r"worker 2 .* did not answer within 0\.01 s"):
        three.receive(2, 0.01)
    with suppress(ProcessLookupError):
        os.kill(late, signal.SIGCONT)
    with suppress(WorkerLost):  # it was ended, which with Ray takes a moment
        three.send(2, "bit_length")
        assert three.receive(2, 60) == 3
    restart(three, 2)
    assert ask(three, "bit_length") == [1, 2, 3]


def test_ranks_of_torchrun(tmp_path: Path) -> None:
    """Rank 0 is worker 0 too; when another rank dies, it can only end, so that torchrun starts them all again."""
    script = tmp_path / "ranks.py"
    script.write_text(
        "import os, signal, sys\n"
        "from functools import partial\n"
        "from ackd.errors import InputError\n"
        "from ackd.distributed.rendezvous import restarted\n"
        "from ackd.distributed.workers import WorkerFailed, WorkerLost, start, torchrun\n"
        "if torchrun.rank():\n"
        "    torchrun.serve(30)\n"
        "    sys.exit()\n"
        "there = start('torchrun', partial(pow, 2), 2, threads=1, seconds=30)\n"
        "def ask(method, *args):\n"
        "    for worker in range(2): there.send(worker, method, *args)\n"
        "    return [there.receive(worker, 10) for worker in range(2)]\n"
        "print('SAID', ask('__add__', 10), ask('bit_length'))\n"
        "try: there.send(1, '__floordiv__', 0); there.receive(1)\n"
        "except WorkerFailed as failed: print('FAILED', 'ZeroDivisionError' in str(failed))\n"
        "if not restarted():\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"  # torchrun sends it when it sees the loss before we do
        "    os.kill(int(there.about[1]['pid']), signal.SIGKILL)\n"
        "    try: ask('bit_length')\n"
        "    except WorkerLost as lost: print('LOST', lost)\n"
        "    try: there.restart(1)\n"
        "    except InputError as error: print('ENDS', error)\n"
        "    sys.exit(2)\n"
        "there.close()\n"
    )
    arguments = ["--nproc-per-node", "2", "--max-restarts", "1", "--standalone", str(script)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *arguments],
        capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("SAID [11, 12] [1, 2]") == 2  # once before the loss, once after it
    assert done.stdout.count("FAILED True") == 2
    assert "LOST worker 1" in done.stdout
    assert "ENDS a rank is lost" in done.stdout


class Gone(Inline):
    """Is lost before it answers anything."""

    def get(self, seconds: float | None) -> bytes:
        raise WorkerLost("is gone")


def test_who_is_lost_before_the_beginning_has_two_more_tries() -> None:
    opened: list[int] = []

    def opener(lost: int) -> Callable[[int], Inline]:
        def open_one(worker: int) -> Inline:
            opened.append(worker)
            return Gone(worker) if worker and opened.count(worker) <= lost else Inline(worker)

        return open_one

    assert ask(Workers(opener(2), power, 2), "__add__", 10) == [11, 12]
    assert opened == [0, 1, 1, 1]
    opened.clear()
    with pytest.raises(WorkerLost, match="worker 1 is gone"):
        Workers(opener(3), power, 2)


def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = host.versions()
    monkeypatch.setattr(workers.workers, "versions", lambda: ours | {"torch": "1.0"})
    expected = rf"worker 0 on {socket.gethostname()} runs torch {torch.__version__.split('+')[0]}.*the learner 1\.0: "
    with pytest.raises(InputError, match=expected):
        start("dummy", power, 2)


def test_an_object_that_cannot_be_made() -> None:
    with pytest.raises(WorkerFailed, match=r"worker 0 .* failed:[^$]*ZeroDivisionError"):
        start("dummy", partial(divmod, 1), 1)


@pytest.mark.parametrize(
    ("backend", "count", "more", "sentence"),
    [
        ("subprocess", 2, {}, "unknown backend 'subprocess': did you mean 'subproc'"),
        ("subproc", 0, {}, "0 workers do nothing"),
        ("subproc", 2, {"address": "localhost:1"}, "no use to the backend subproc"),
        ("torchrun", 2, {}, "needs torchrun to start it"),
        ("ray", 2, {"address": "here"}, "write HOST:PORT"),
        ("ray", 2, {"address": "ray://host:1"}, "write HOST:PORT"),
        ("ray", 2, {"address": "127.0.0.1:1"}, "no Ray cluster answers at 127.0.0.1:1"),
        ("subproc", 2, {"device": "cuda:0"}, "--share-gpu"),
    ],
)
def test_bad_input(backend: str, count: int, more: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        start(backend, power, count, **more)  # type: ignore[arg-type]
    assert sentence in str(error.value)


def test_a_listener_that_is_no_ray_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.actors, "PATIENCE", 0.5)
    with socket.socket() as mute, socket.socket() as chatty:
        for one in (mute, chatty):
            one.bind(("127.0.0.1", 0))
            one.listen()

        def chat() -> None:
            with chatty.accept()[0] as caller:
                caller.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        talk = threading.Thread(target=chat)
        talk.start()
        for one, reason in ((mute, "Deadline Exceeded"), (chatty, "http1")):
            with pytest.raises(InputError, match=rf"no Ray cluster answers at .* \(.*{reason}"):
                check_address(f"127.0.0.1:{one.getsockname()[1]}")
        talk.join()


def listens(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.socket() as caller:
        return caller.connect_ex((host, int(port))) == 0


@pytest.mark.slow
@pytest.mark.parametrize("token", [True, False])
def test_a_cluster_with_a_token_and_one_without(tmp_path: Path, token: bool) -> None:
    """Started as people start it; also where Ray ran on this machine before, and so has left a token."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    (tmp_path / "use.py").write_text(
        "import sys\n"
        "from functools import partial\n"
        "from ackd.distributed.workers import start\n"
        "there = start('ray', partial(pow, 2), 2, threads=1, address=sys.argv[1] or None, seconds=60)\n"
        "for worker in range(2): there.send(worker, '__add__', 10)\n"
        "print('SAID', [there.receive(worker, 60) for worker in range(2)])\n"
        "there.close()\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    # without what Ray has set in this process, where other tests have used it
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"HOME": str(tmp_path)}
    own = {"RAY_USAGE_STATS_ENABLED": "0", **({} if token else {"RAY_AUTH_MODE": "disabled"})}
    head = ["start", "--head", "--port", address.partition(":")[2], "--num-cpus", "2", "--include-dashboard=false"]
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    temporary = ["--temp-dir", str(Path(tempfile.mkdtemp(prefix="r", dir="/tmp")))]  # its sockets need short names
    process = subprocess.Popen(
        [*ray, *head, *temporary, "--block"], env=ours | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 60
        while not listens(address) and time.monotonic() < until:
            time.sleep(0.2)
        given, more = (address, {}) if token else ("", {"RAY_ADDRESS": address})
        done = subprocess.run(
            [sys.executable, str(tmp_path / "use.py"), given],
            capture_output=True, text=True, timeout=120, env=ours | more, check=False,
        )  # fmt: skip
        assert "SAID [11, 12]" in done.stdout, done.stderr
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(temporary[1], ignore_errors=True)


def test_room_on_each_node() -> None:
    """Two nodes of three CPUs have none for three workers of two."""
    nodes: list[dict[str, float]] = [{"CPU": 3.0}, {"CPU": 3.0, "GPU": 1.0}]
    workers.actors._check_room(nodes, "CPU", 2, 2.0, "")
    workers.actors._check_room(nodes, "GPU", 4, 0.25, "")
    with pytest.raises(InputError, match=r"has 3 \+ 3 CPUs on its nodes, and 3 workers want 2 each: give fewer"):
        workers.actors._check_room(nodes, "CPU", 3, 2.0, "")
    with pytest.raises(InputError, match=r"has 0 \+ 1 GPUs on its nodes, and 2 workers want 1 each: .*--share-gpu"):
        workers.actors._check_room(nodes, "GPU", 2, 1.0, ", or let them share with --share-gpu")
    with pytest.raises(InputError, match=r"has 0 GPUs"):
        workers.actors._check_room(nodes[:1], "GPU", 2, 0.0, "")


def test_no_wait_is_too_long() -> None:
    there = start("subproc", power, 1, threads=1)
    there.send(0, "bit_length")
    assert there.receive(0, 1e9) == 1  # more than its pipe can count
    there.close()


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.actors, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "ackd\[ray\]"'):
        start("ray", power, 2)


def test_where_workers_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [device_of("subproc", worker, "cuda") for worker in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert device_of("torchrun", 5, "cuda") == "cuda:1"
    assert device_of("ray", 5, "cuda") == "cuda:0"
    assert {device_of(backend, 1, "cpu") for backend in BACKENDS} == {"cpu"}
    with pytest.raises(InputError, match=r"3 workers want a GPU each, and there are 2: .*--share-gpu"):
        start("dummy", power, 3, device="cuda")
    start("dummy", power, 3, device="cuda", share_gpu=True).close()
