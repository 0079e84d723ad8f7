"""Options of commands that use several processes and machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ackd.config import Common

if TYPE_CHECKING:
    from ackd.distributed.workers import Make, Workers

# options that may change when a run is resumed, because they do not affect its results
GROWING = ("backend", "ray_address", "share_gpu", "step_timeout")

LONGEST = 1e6  # longest timeout of a call, in seconds


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """The worker processes."""

    workers: Common[int | None] = None
    """Number of workers; if not given: 1, or the number of torchrun's processes."""
    backend: str | None = None
    """Kind of workers: subproc (processes of this machine; default for several workers), torchrun, ray, or dummy (all
    in this process, one after the other)."""
    ray_address: str | None = None
    """HOST:PORT of a Ray cluster; Ray on this machine if not given."""
    share_gpu: bool = False
    """Let several workers share a GPU."""
    step_timeout: float = 1800.0
    """Most seconds that a worker may take for one call; after that it counts as lost."""

    @property
    def remote(self) -> bool:
        """Whether there are workers besides this process."""
        return self.backend is not None or (self.workers or 1) > 1

    @property
    def count(self) -> int:
        """The number of workers.

        Raises:
            InputError: if the backend is torchrun, but torchrun did not start this process.
        """
        if self.workers is None and self.backend == "torchrun":
            from ackd.distributed.workers import torchrun

            return torchrun.world_size()
        return 1 if self.workers is None else self.workers

    def serves(self) -> bool:
        """Serves the first process if this is another process of torchrun; returns True after that, else False.

        Raises:
            InputError: if the backend is torchrun, but torchrun did not start this process or its first process is
                gone.
        """
        if self.backend != "torchrun":
            return False
        from ackd.distributed.workers import torchrun

        if torchrun.rank() == 0:
            return False
        torchrun.serve(self.step_timeout)
        return True

    def dismiss(self) -> None:
        """Releases the other processes of torchrun.

        Raises:
            InputError: if some of them do not respond.
        """
        if self.backend == "torchrun":
            from ackd.distributed.workers import torchrun

            torchrun.dismiss(self.step_timeout)

    def check_workers(self, device: str) -> str:
        """Checks the worker options for a device, before anything starts.

        Returns:
            The device; with workers, `auto` is replaced by the actual device.

        Raises:
            InputError: if an option is out of range, or belongs to another backend.
        """
        from ackd.distributed.workers import BACKENDS, automatic, check
        from ackd.errors import InputError, unknown

        if self.backend is not None and self.backend not in BACKENDS:
            raise unknown("backend", self.backend, BACKENDS)
        if self.count < 1:
            raise InputError(f"{self.workers} workers do nothing: give --workers 1 or more")
        if not 0 < self.step_timeout <= LONGEST:  # also false for NaN
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
        """Starts the workers; each calls `make`.

        Raises:
            InputError: if the workers cannot be started.
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
        """The device of a worker: its own GPU if there are enough."""
        from ackd.distributed.workers import device_of

        return device_of(self.backend or "subproc", worker, device)


@dataclass(frozen=True)
class OnItsDevice:
    """Makes the object that runs a command's jobs, inside a worker and on its device; can be pickled.

    Args:
        make: makes the object from the command's options.
        command: the command's options, with a device and the fields of `WorkerConfig`.
    """

    make: Callable[[Any], object]
    command: Any

    def __call__(self, worker: int) -> object:
        """Makes the object for one worker."""
        return self.make(replace(self.command, device=self.command.device_of(worker, self.command.device)))
