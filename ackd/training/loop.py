"""The plain loop over a training, without any reinforcement learning."""

from __future__ import annotations

from collections.abc import Callable

from ackd.stages import check_stages
from ackd.training.distillation import Distillation
from ackd.types import Selection, StepMetrics


def distill(
    distillation: Distillation,
    selection: Selection | Callable[[int], Selection],
    *,
    seed: int = 0,
    interval: int = 20,
    on_phase: Callable[[int, StepMetrics[float]], None] | None = None,
) -> list[StepMetrics[float]]:
    """Trains one student to the end of its budget; the plain loop, without agent, reward or environment.

    Args:
        distillation: what to train; it is reset first, and holds the student afterwards.
        selection: what to transfer, always or as a function of the steps done.
        seed: of the run.
        interval: optimizer steps between two choices.
        on_phase: is told the steps done and what they measured, as for a progress bar.

    Returns:
        The report of each phase.

    Raises:
        InputError: if a selection that changes is asked for too seldom for every stage of a published method.
        FloatingPointError: if the training diverges.

    Example:
        distill(distillation, Selection.of("logits", "hidden"), seed=1)
    """
    if not isinstance(selection, Selection):
        check_stages(distillation.stages, distillation.steps, interval)
    distillation.reset(seed)
    reports = []
    while distillation.steps_done < distillation.steps:
        chosen = selection if isinstance(selection, Selection) else selection(distillation.steps_done)
        reports.append(distillation.advance(chosen, interval))
        if not reports[-1].finite:
            raise FloatingPointError(
                f"the training diverged before step {distillation.steps_done}: lower the learning rate"
            )
        if on_phase is not None:
            on_phase(distillation.steps_done, reports[-1])
    return reports
