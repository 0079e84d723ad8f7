"""`dummy`: workers that are no others; this process does each call when its answer is waited for."""

from __future__ import annotations

from ackd.distributed.workers.host import Host


class Inline:
    """A host in this process."""

    def __init__(self, worker: int) -> None:
        self._host = Host(worker)
        self._request = b""

    def put(self, request: bytes) -> None:
        """Remembers it."""
        self._request = request

    def get(self, seconds: float | None) -> bytes:
        """Does it; nobody can look at the clock meanwhile."""
        return self._host.do(self._request)

    def end(self) -> None:
        """There is nothing to end."""

    def kill(self) -> None:
        """There is nothing to end."""
