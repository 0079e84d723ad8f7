"""`ackd push`: a student or a policy to the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro import conf


@dataclass(frozen=True)
class Push:
    """Upload a finished run's student, or a policy, to a repository of the Hugging Face hub, with its card.

    Nothing else of the run is uploaded. This needs a token: log in with `hf auth login`, or set HF_TOKEN.
    """

    run_or_policy: Annotated[str, conf.Positional, conf.arg(metavar="RUN|POLICY")]
    """A finished run, the folder of a student or of a policy, or a policy's name in `ackd policies list`."""
    repo: Annotated[str, conf.Positional, conf.arg(metavar="USER/REPO")]
    """The repository; it is created if it does not exist."""
    private: bool = False
    """Create a private repository; one that exists must be private already."""
    revision: str | None = None
    """The branch; it is created if it does not exist. The main branch if not given."""

    def run(self) -> None:
        """Uploads the files, and prints their address and how to use them."""
        from ackd.experiments.pushing import push

        pushed = push(self.run_or_policy, self.repo, private=self.private, revision=self.revision)
        print(f"url:     {pushed.url}\nuse it:  {pushed.use}")
