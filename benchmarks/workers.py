"""Measures speed-up, overhead and fault tolerance of workers: `ackd train` on every backend.

    python benchmarks/workers.py speed                        # 2 workers against 1, in pairs; transport of a decision
    python benchmarks/workers.py speed --device cuda --workers 4 --backends subproc           # 4 workers share a GPU
    python benchmarks/workers.py kills --kills 20             # SIGKILL of workers and learners at random times
    python benchmarks/workers.py nodes                        # two nodes on this machine against one

Each measurement is a Markdown row. All processes have one thread. Speed is measured from the first decision to the
last. A pair is a run with one worker and a run with --workers, which train the same number of students. Transport is
the time of a decision in an environment that does nothing. After kills, the files of a run must be equal to those of an
undisturbed run, byte for byte. A run that hangs is ended after --limit seconds and counts as failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BACKENDS = ("subproc", "torchrun", "ray")
PORT = 29517
ALONE = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def train(options: argparse.Namespace, output: Path, *more: str) -> list[str]:
    """The arguments of a run."""
    arguments = ["train", "--task", options.task, "--teacher", options.teacher, "--student-layers", "2"]
    arguments += ["--max-examples", "1200", "--reward-examples", "64", "--batch-size", "16", "--lr", "5e-4"]
    arguments += ["--steps", str(options.steps), "--decision-interval", "10", "--episodes", str(options.episodes)]
    arguments += ["--device", options.device, *["--share-gpu"] * (options.device == "cuda")]
    return [*arguments, "--checkpoint-seconds", "1", "--output", str(output), *more]


def command(backend: str, workers: int, arguments: Sequence[str]) -> list[str]:
    """A run with so many workers, restarted by torchrun where that starts it."""
    if backend == "torchrun":
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
        return [sys.executable, *launch, "--max-restarts", "100", "-m", "ackd", *arguments, "--backend", backend]
    return [sys.executable, "-m", "ackd", *arguments, "--workers", str(workers), "--backend", backend]


def begin(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """The process, which leads a group of its own and writes to `log`."""
    with log.open("ab") as file:
        return subprocess.Popen(
            arguments, env=os.environ | ALONE, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def end(process: subprocess.Popen[bytes], limit: float) -> bool:
    """Whether it came to a good end in time; otherwise it is killed with all that it started."""
    try:
        return process.wait(limit) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False


def left(folder: Path) -> dict[str, object]:
    """What a run leaves that may not depend on what happened on the way."""
    files: dict[str, object] = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".safetensors", ".csv")
    }
    result = json.loads((folder / "result.json").read_text())
    return files | {name: value for name, value in result.items() if name != "seconds"}


def below(process: int) -> list[int]:
    """All processes below it that are there now."""
    try:
        own = [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []
    return own + [grandchild for one in own for grandchild in below(one)]


def is_worker(backend: str, process: int) -> bool:
    """Whether a process is a worker other than the learner."""
    try:
        called = Path(f"/proc/{process}/cmdline").read_bytes()
        around = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    if backend == "torchrun":
        return b"RANK=1" in around and b"ackd" in called
    return (b"spawn_main" if backend == "subproc" else b"ray::Host") in called


def learning_seconds(process: subprocess.Popen[bytes], decisions: Path, rows: int, limit: float) -> float:
    """From the first decision on record to the last."""
    began, until = None, time.monotonic() + limit
    while time.monotonic() < until:
        written = decisions.read_bytes().count(b"\n") - 1 if decisions.exists() else 0
        if began is None and written > 0:
            began = time.monotonic(), written
        if began is not None and written >= rows:
            return (time.monotonic() - began[0]) * rows / (rows - began[1])
        if process.poll():
            break
        time.sleep(0.02)
    raise SystemExit(f"a run in {decisions.parent} came to nothing: look into {decisions.parent}.log")


def speed(options: argparse.Namespace) -> None:
    """Student steps a second of several workers over those of one, and what a decision costs on its way."""
    many = options.workers
    print(f"| backend | pairs | 1 worker (steps/s) | {many} workers (steps/s) | ratio, median | least to most |")
    print("|---|---|---|---|---|---|")
    rows = options.episodes * options.steps // 10
    for backend in options.backends:
        rates: dict[int, list[float]] = {1: [], many: []}
        for pair in range(options.pairs):
            for workers in (1, many) if pair % 2 else (many, 1):
                folder = fresh(options.output / f"{backend}-{workers}")
                process = begin(command(backend, workers, train(options, folder)), Path(f"{folder}.log"))
                seconds = learning_seconds(process, folder / "decisions.csv", rows, options.limit)
                end(process, options.limit)
                rates[workers].append(options.episodes * options.steps / seconds)
        ratios = [several / one for one, several in zip(rates[1], rates[many], strict=True)]
        one, several, ratio = (statistics.median(values) for values in (rates[1], rates[many], ratios))
        print(
            f"| {backend} | {options.pairs} | {one:.1f} | {several:.1f} | {ratio:.2f} "
            f"| {min(ratios):.2f} to {max(ratios):.2f} |",
            flush=True,
        )
    print("\n| backend | a decision of 2 workers that do nothing, median of 200 (ms) |\n|---|---|")
    for backend in options.backends:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] * (backend == "torchrun")
        arguments = [sys.executable, *launch, __file__, "transport", "--backends", backend]
        subprocess.run(arguments, env=os.environ | ALONE, check=True)


def transport(options: argparse.Namespace) -> None:
    """Run by `speed`: times decisions of the toy, whose own step takes less than a tenth of a millisecond."""
    from ackd.distributed.workers import start, torchrun
    from ackd.envs.env_server import Registered
    from ackd.envs.remote import RemoteVecEnv

    (backend,) = options.backends
    if backend == "torchrun" and torchrun.rank():
        torchrun.serve()
        return
    env = RemoteVecEnv(start(backend, Registered("ACKD/Toy-v0"), 2, threads=1))
    env.seed(0)
    env.reset()
    env.action_space.seed(0)
    times = []
    for _ in range(220):
        actions = [env.action_space.sample() for _ in range(2)]
        began = time.perf_counter()
        env.step(actions)  # type: ignore[arg-type]
        times.append(time.perf_counter() - began)
    env.close()
    print(f"| {backend} | {1e3 * statistics.median(times[20:]):.2f} |", flush=True)


def kills(options: argparse.Namespace) -> None:
    """Runs that are disturbed against one that is not."""
    reference = fresh(options.output / "undisturbed")
    log = Path(f"{reference}.log")
    began = time.monotonic()
    if not end(begin(command("dummy", 2, train(options, reference)), log), options.limit):
        raise SystemExit(f"the undisturbed run failed: look into {log}")
    expected, seconds = left(reference), time.monotonic() - began
    print("| backend | who is killed | kills | runs | gave up, resumed | hung | the same at the end |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for backend in options.backends:
        for who, disturb in (("worker", kill_workers), ("learner", kill_learner)):
            killed = runs = resumed = hung = same = 0
            while killed < options.kills:
                folder = fresh(options.output / f"{backend}-{who}")
                arguments = command(backend, 2, train(options, folder, "--resume"))
                dice = random.Random(f"{backend} {who} {runs}")
                more, status = disturb(backend, arguments, folder, dice, seconds, options)
                killed, runs = killed + more, runs + 1
                resumed, hung = resumed + (status > 0), hung + (status < 0)
                good = end(begin(arguments, Path(f"{folder}.log")), options.limit)  # a finished run does not change
                same += good and left(folder) == expected
            print(f"| {backend} | {who} | {killed} | {runs} | {resumed} | {hung} | {same} |", flush=True)


def kill_workers(
    backend: str,
    arguments: Sequence[str],
    folder: Path,
    dice: random.Random,
    seconds: float,
    options: argparse.Namespace,
) -> tuple[int, int]:
    """One run; how many of its workers were killed, and its status: 1 if it gave up, as after three at one step."""
    process, killed = begin(arguments, Path(f"{folder}.log")), 0
    until = time.monotonic() + options.limit
    while process.poll() is None and time.monotonic() < until:
        time.sleep(dice.uniform(0.1, 1.0) * seconds)
        workers = [one for one in below(process.pid) if is_worker(backend, one)]
        if workers and process.poll() is None and (folder / "checkpoint").exists():
            os.kill(dice.choice(workers), signal.SIGKILL)
            killed += 1
    end(process, 0)
    return killed, process.returncode


def kill_learner(
    backend: str,
    arguments: Sequence[str],
    folder: Path,
    dice: random.Random,
    seconds: float,
    options: argparse.Namespace,
) -> tuple[int, int]:
    """A run that is killed and resumed up to five times; how often."""
    killed = 0
    for _ in range(5):
        process = begin(arguments, Path(f"{folder}.log"))
        try:
            process.wait(dice.uniform(0.2, 1.2) * seconds)
            break
        except subprocess.TimeoutExpired:
            killed += 1
            (os.killpg if backend == "torchrun" else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
    return killed, 0


def nodes(options: argparse.Namespace) -> None:
    """Two nodes of torchrun and of Ray on this machine."""
    reference = fresh(options.output / "one-node")
    end(begin(command("dummy", 2, train(options, reference)), Path(f"{reference}.log")), options.limit)
    expected = left(reference)
    print("| two nodes of | the same as one |\n|---|---|")
    both: dict[str, Callable[[argparse.Namespace, Path], bool]] = {"torchrun": torchrun_nodes, "ray": ray_nodes}
    for backend in options.backends:
        if backend in both:
            folder = fresh(options.output / f"{backend}-nodes")
            good = both[backend](options, folder)
            print(f"| {backend} | {'yes' if good and left(folder) == expected else 'NO'} |", flush=True)


def torchrun_nodes(options: argparse.Namespace, folder: Path) -> bool:
    """One process on each of two agents that meet on the loopback."""
    launch = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    launch += ["--rdzv-endpoint", f"127.0.0.1:{PORT}", "--rdzv-id", str(os.getpid()), "-m", "ackd"]
    arguments = [sys.executable, *launch, *train(options, folder), "--backend", "torchrun"]
    agents = [begin(arguments, Path(f"{folder}.log")) for _ in range(2)]
    ends = [end(agent, options.limit) for agent in agents]  # wait for both, even if the first failed
    return all(ends)


def ray_nodes(options: argparse.Namespace, folder: Path) -> bool:
    """One CPU on each of two nodes."""
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    arguments = command("ray", 2, train(options, folder, "--ray-address", cluster.address))
    try:
        return end(begin(arguments, Path(f"{folder}.log")), options.limit)
    finally:
        cluster.shutdown()


def fresh(folder: Path) -> Path:
    """The folder's name; nothing is there any more."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{folder}.log").unlink(missing_ok=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "kills", "nodes", "transport"))
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=("dummy", *BACKENDS))
    parser.add_argument("--task", default="polarity")
    parser.add_argument("--teacher", default="build/teachers/polarity")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="of `speed`, against one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds that a run may take")
    parser.add_argument("--output", type=Path, default=Path("build/workers"))
    options = parser.parse_args()
    {"speed": speed, "kills": kills, "nodes": nodes, "transport": transport}[options.what](options)


if __name__ == "__main__":
    main()
