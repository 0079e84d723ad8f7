"""`ackd push`: a student or a policy to the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro import conf


@dataclass(frozen=True)
class Push:
    """Upload a finished run's student, or a policy, to a repository of the Hugging Face hub, with its card.

    Nothing else of the run goes there. Whoever may write there is told by HF_TOKEN, or by `hf auth login`.
    """

    run_or_policy: Annotated[str, conf.Positional, conf.arg(metavar="RUN|POLICY")]
    """A finished run, the folder of a student or of a policy, or what `ackd policies list` calls a policy."""
    repo: Annotated[str, conf.Positional, conf.arg(metavar="USER/REPO")]
    """The repository; it is made if it is not there."""
    private: bool = False
    """Nobody else may see it; a repository that is there must be private already."""
    revision: str | None = None
    """The branch, which is made if it is not there; the main one if none is named."""

    def run(self) -> None:
        """Uploads it, and prints where it is and how others use it."""
        from ackd.experiments.pushing import push

        pushed = push(self.run_or_policy, self.repo, private=self.private, revision=self.revision)
        print(f"url:     {pushed.url}\nuse it:  {pushed.use}")
