"""Options of commands whose work is spread over processes and machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ackd.config import Common

if TYPE_CHECKING:
    from ackd.distributed.workers import Make, Workers

# what may differ when a run is resumed: it changes who does the work, and not what comes of it
GROWING = ("backend", "ray_address", "share_gpu", "step_timeout")

LONGEST = 1e6  # seconds that a call may take


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """Who does the work."""

    workers: Common[int | None] = None
    """So many do it at once; 1 if not given, and under torchrun as many as it starts processes."""
    backend: str | None = None
    """Where the workers are: subproc (processes of this machine, the default of several), torchrun, ray, or dummy (all
    in this process, one after the other)."""
    ray_address: str | None = None
    """HOST:PORT of a Ray cluster; Ray on this machine alone if not given."""
    share_gpu: bool = False
    """Let several workers share a GPU."""
    step_timeout: float = 1800.0
    """Seconds that a worker may take over one call before it counts as lost."""

    @property
    def remote(self) -> bool:
        """Whether there are workers besides this process."""
        return self.backend is not None or (self.workers or 1) > 1

    @property
    def count(self) -> int:
        """How many workers there are.

        Raises:
            InputError: if torchrun is named and did not start this process.
        """
        if self.workers is None and self.backend == "torchrun":
            from ackd.distributed.workers import torchrun

            return torchrun.world_size()
        return 1 if self.workers is None else self.workers

    def serves(self) -> bool:
        """Whether this process is one of torchrun's that only works for the first; it has done so then.

        Raises:
            InputError: if torchrun is named and did not start this process, or its first process is gone.
        """
        if self.backend != "torchrun":
            return False
        from ackd.distributed.workers import torchrun

        if torchrun.rank() == 0:
            return False
        torchrun.serve(self.step_timeout)
        return True

    def dismiss(self) -> None:
        """Lets those processes go that torchrun started to work for this one.

        Raises:
            InputError: if they do not all come.
        """
        if self.backend == "torchrun":
            from ackd.distributed.workers import torchrun

            torchrun.dismiss(self.step_timeout)

    def check_workers(self, device: str) -> str:
        """Refuses what cannot work, on devices of that kind, before anything is begun.

        Returns:
            The device: what `auto` is, where there are workers.

        Raises:
            InputError: if an option is out of range, or says something of a backend that is not named.
        """
        from ackd.distributed.workers import BACKENDS, automatic, check
        from ackd.errors import InputError, unknown

        if self.backend is not None and self.backend not in BACKENDS:
            raise unknown("backend", self.backend, BACKENDS)
        if self.count < 1:
            raise InputError(f"{self.workers} workers do nothing: give --workers 1 or more")
        if not 0 < self.step_timeout <= LONGEST:  # a NaN neither
            raise InputError(f"--step-timeout is {self.step_timeout:g}: give seconds above 0, and at most {LONGEST:g}")
        if self.ray_address is not None and self.backend != "ray":
            raise InputError("--ray-address is of a Ray cluster: add --backend ray")
        if not self.remote:
            return device
        how: dict[str, Any] = {"address": self.ray_address, "share_gpu": self.share_gpu}
        backend = self.backend or "subproc"
        if device == "auto":
            device = automatic(backend, self.count, **how)
        check(backend, self.count, device=device, **how)
        return device

    def start_workers(self, make: Make, device: str) -> Workers:
        """The workers, each with what `make` makes there.

        Raises:
            InputError: if they cannot be had.
        """
        from ackd.distributed.workers import WorkerLost, start
        from ackd.errors import InputError

        try:
            return start(
                self.backend or "subproc",
                make,
                self.count,
                address=self.ray_address,
                device=device,
                share_gpu=self.share_gpu,
                seconds=self.step_timeout,
            )
        except WorkerLost as lost:
            raise InputError(
                f"{lost}, before it had begun: look for what ends it, such as too little memory, or for room in the "
                "cluster"
            ) from None

    def device_of(self, worker: int, device: str) -> str:
        """Where a worker computes: each on a GPU of its own, as far as there are as many."""
        from ackd.distributed.workers import device_of

        return device_of(self.backend or "subproc", worker, device)


@dataclass(frozen=True)
class OnItsDevice:
    """Makes what does a command's jobs in a worker, there and on that worker's device; travels by pickle.

    Args:
        make: from the command with its options.
        command: which has a device and `WorkerConfig`.
    """

    make: Callable[[Any], object]
    command: Any

    def __call__(self, worker: int) -> object:
        """For one worker."""
        return self.make(replace(self.command, device=self.command.device_of(worker, self.command.device)))
