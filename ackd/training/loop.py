"""The plain training loop, without reinforcement learning."""

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
    """Trains one student until its budget is used, without agent, reward or environment.

    Args:
        distillation: the training; it is reset first and contains the trained student afterwards.
        selection: what to transfer: constant, or a function of the steps done.
        seed: of the run.
        interval: optimizer steps of a phase; a function is called once per phase.
        on_phase: called after each phase with the steps done and the metrics, e.g. for a progress bar.

    Returns:
        The metrics of each phase.

    Raises:
        InputError: if `selection` is a function and the interval is so long that a stage of a published method is
            skipped.
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
