"""Objects that live and work elsewhere: in other processes, on other machines; called by name, answered in turn."""

from ackd.workers.protocol import WorkerFailed, WorkerLost, Workers

__all__ = ["WorkerFailed", "WorkerLost", "Workers"]
