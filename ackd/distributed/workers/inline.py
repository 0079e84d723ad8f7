"""Backend `dummy`: workers inside this process; each call is executed when its result is read."""

from __future__ import annotations

from ackd.distributed.workers.host import Host


class Inline:
    """A `Host` in this process."""

    def __init__(self, worker: int) -> None:
        self._host = Host(worker)
        self._request = b""

    def put(self, request: bytes) -> None:
        """Stores the request."""
        self._request = request

    def get(self, seconds: float | None) -> bytes:
        """Executes the stored request; the time limit is ignored."""
        return self._host.do(self._request)

    def end(self) -> None:
        """Does nothing."""

    def kill(self) -> None:
        """Does nothing."""
