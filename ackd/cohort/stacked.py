"""N students with stacked weights and one optimizer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._pytree import tree_map

from ackd.files.reading import matches_schema, restore
from ackd.models import run
from ackd.training.mixture import Mixture
from ackd.training.student import Student
from ackd.types import Batch, OutputKey, OutputRequest, Outputs

Weights = dict[str, Tensor]
T = TypeVar("T")


class Stacked(Student):
    """Students of one shape and one setting; each parameter is one tensor `[N, ...]` for all students.

    One optimizer step updates all students, each as if it were alone: with its own gradient, clipped by its own norm,
    and its own moments. The students' modules remain; their weights become views of the stacked tensors.

    Args:
        students: the students before their first step.
    """

    def __init__(self, students: Sequence[Student]) -> None:
        first = students[0]
        self.students, self.shape = tuple(students), (len(students),)
        self.group, self.model, self.projections = first.group, first.model, first.projections  # used for all students
        self.clip, self.steps = first.clip, first.steps
        self.parameters: list[Tensor] = []  # [N, ...] each, in the order of `Student.parameters`
        self._own: list[tuple[nn.Parameter, ...]] = []  # the students' views of each parameter
        self._weights = self._stack([student.model for student in students])
        projections = zip(*(student.projections for student in students), strict=True)
        self._companions = [self._stack(those) for those in projections]
        stacked = {id(own[0]): one for one, own in zip(self.parameters, self._own, strict=True)}
        groups = first.optimizer.param_groups
        self.optimizer = AdamW(
            [{**group, "params": [stacked[id(p)] for p in group["params"]]} for group in groups], fused=True
        )
        self.schedule = LambdaLR(self.optimizer, first.schedule.lr_lambdas)
        self._reached: dict[str, frozenset[int]] = {}  # by term: indices of the parameters that have a gradient
        self._moving: NDArray[np.bool_] | None = None  # [P, N], True if the student's loss depends on the parameter
        self._split: set[int] = set()  # indices of the parameters that are updated student by student
        self._dense: dict[int, Tensor] = {}  # by parameter: a gradient buffer, 0 except in the current step's rows

    def _stack(self, modules: Sequence[nn.Module]) -> dict[str, Tensor]:
        """The modules' parameters by name, [N, ...] each."""
        weights = {}
        for named in zip(*(module.named_parameters() for module in modules), strict=True):
            name, own = named[0][0], tuple(parameter for _, parameter in named)
            weights[name] = torch.stack([parameter.detach() for parameter in own])
            for parameter, view in zip(own, weights[name].unbind(), strict=True):
                parameter.data = view
            if own[0].requires_grad:
                self.parameters.append(weights[name].requires_grad_())
                self._own.append(own)
        return weights

    def forward(self, batch: Batch, needs: OutputRequest) -> Outputs:
        """The requested outputs of a batch, [N, ...] each."""

        def one(weights: Weights) -> dict[OutputKey, Tensor]:
            return run(self.model, batch, needs, weights, stacked=self.size > 1).tensors

        return Outputs.of(self._together(one, self._weights))

    def each(self, one: Callable[..., T], outputs: Outputs, *others: Any) -> T:
        """Applies `one` (a projection or function) to each student's outputs; the result is [N, ...]."""
        own = next((w for module, w in zip(self.projections, self._companions, strict=True) if module is one), {})

        def call(tensors: dict[OutputKey, Tensor], weights: Weights) -> Any:
            given = (Outputs.of(tensors), *others)
            return functional_call(one, weights, given) if isinstance(one, nn.Module) else one(*given)

        said: T = self._together(call, outputs.tensors, own)
        return said

    def _together(self, one: Callable[..., T], *tensors: dict[Any, Tensor]) -> Any:
        """Applies `one` to each student's part of the tensors [N, ...]."""
        if self.size > 1:
            return torch.vmap(one, randomness="different")(*tensors)
        # without vmap, so that a cohort of one equals a single student bit for bit
        said = one(*({name: value.squeeze(0) for name, value in those.items()} for those in tensors))
        return tree_map(lambda value: value.unsqueeze(0), said)

    def meets(self, losses: Mapping[str, Tensor], mixture: Mixture) -> None:
        """Finds the parameters that each student's loss, [N], depends on.

        All other parameters would have no gradient if the student were alone, so they must not decay or count a step.
        """
        if mixture.uniform:
            self._moving = None
            return
        self._moving = np.zeros((len(self.parameters), self.size), dtype=bool)
        for term, chosen in mixture.chosen.items():
            if term not in self._reached:
                found = torch.autograd.grad(losses[term].sum(), self.parameters, retain_graph=True, allow_unused=True)
                self._reached[term] = frozenset(place for place, grad in enumerate(found) if grad is not None)
            self._moving[sorted(self._reached[term])] |= chosen

    def update(self) -> Tensor:
        """Takes the optimizer step; returns each student's gradient norm before clipping, [N], on the device."""
        moving = self._moving
        gradients = {place: p.grad for place, p in enumerate(self.parameters) if p.grad is not None}
        rows = {place: grad.coalesce() for place, grad in gradients.items() if grad.is_sparse}
        gradients |= rows
        norm: Tensor = torch.linalg.vector_norm(torch.stack([_norms(grad) for grad in gradients.values()]), dim=0)
        shares = (self.clip / (norm + 1e-6)).clamp_max(1.0)
        for place, grad in gradients.items():
            if place in rows:
                self._lay_out(place, grad, shares)
            else:
                grad.mul_(_along(shares, grad))
        if moving is not None:
            for place in np.flatnonzero(moving.any(1) & ~moving.all(1)).tolist():
                self.split(place)
        for place in self._split:
            whole = self.parameters[place].grad
            for i, own in enumerate(self._own[place]):
                own.grad = None if whole is None or (moving is not None and not moving[place, i]) else whole[i]
        self.optimizer.step()
        self.schedule.step()
        for place, grad in rows.items():
            self._dense[place][tuple(grad.indices())] = 0
        for one in (*self.parameters, *(own for place in self._split for own in self._own[place])):
            one.grad = None
        return norm

    def _lay_out(self, place: int, rows: Tensor, shares: Tensor) -> None:
        """Writes the clipped gradient of some rows into the parameter's dense buffer, which is 0 elsewhere."""
        stacked = self.parameters[place]
        if place not in self._dense:
            self._dense[place] = torch.zeros_like(stacked, requires_grad=False)
        values = rows.values()
        self._dense[place][tuple(rows.indices())] = values * _along(shares[rows.indices()[0]], values)
        stacked.grad = self._dense[place]

    def split(self, place: int) -> None:
        """Makes the optimizer update a parameter student by student, because it is unchanged for some students."""
        if place in self._split:
            return
        self._split.add(place)
        stacked, own = self.parameters[place], self._own[place]
        for group in self.optimizer.param_groups:
            group["params"] = [p for one in group["params"] for p in (own if one is stacked else (one,))]
        state = self.optimizer.state.pop(stacked, {})
        for i, p in enumerate(own if state else ()):
            self.optimizer.state[p] = {
                name: value[i] if value.dim() else value.clone() for name, value in state.items()
            }

    @torch.no_grad()
    def inherit(self, parents: Sequence[int]) -> None:
        """Gives student i an exact copy of the weights and moments of student `parents[i]`; [N] indices."""
        heirs = [i for i, parent in enumerate(parents) if parent != i]
        theirs = [parents[i] for i in heirs]
        if not heirs:
            return
        for weights in (self._weights, *self._companions):
            for one in weights.values():
                one[heirs] = one[theirs]
        states = self.optimizer.state
        for place, stacked in enumerate(self.parameters):
            own = self._own[place]
            if place not in self._split:
                for value in states.get(stacked, {}).values():
                    if value.dim():  # all students share the step count
                        value[heirs] = value[theirs]
                continue
            given = [{name: value.clone() for name, value in states.get(own[i], {}).items()} for i in theirs]
            for i, state in zip(heirs, given, strict=True):
                states.pop(own[i], None)
                if state:
                    states[own[i]] = state

    def state_dict(self) -> dict[str, Any]:
        """Copies of weights, optimizer moments and schedule; later steps do not change them."""
        return {
            "parameters": [one.detach().clone() for one in self.parameters],
            "split": sorted(self._split),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "schedule": copy.deepcopy(self.schedule.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`, which is not modified; call it before the first step.

        Raises:
            ValueError: if it belongs to other students.
        """
        with torch.no_grad():
            for one, saved in zip(self.parameters, state["parameters"], strict=True):
                if not matches_schema(saved, one):
                    raise ValueError("the weights are those of other students")
                one.copy_(saved)
        for place in state["split"]:
            self.split(range(len(self.parameters))[place])
        restore(self.optimizer, state["optimizer"])
        restore(self.schedule, state["schedule"])


def _along(values: Tensor, like: Tensor) -> Tensor:
    """Reshapes `values`, [N], to [N, 1, ...] with as many dimensions as `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


def _norms(gradient: Tensor) -> Tensor:
    """The norm of each student's part, [N, ...] -> [N]."""
    if not gradient.is_sparse:
        norms: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        return norms
    squares = gradient.values().square().flatten(1).sum(1)
    return squares.new_zeros(gradient.shape[0]).index_add_(0, gradient.indices()[0], squares).sqrt()
