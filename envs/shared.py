"""The attribute and method access of stable-baselines3, for environments that are one object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from ackd.envs.distillation import DistillationEnv
from ackd.envs.trajectory import Trajectory

WRAPPED = ("get_wrapper_attr", "has_wrapper_attr", "set_wrapper_attr")  # as Gymnasium's environments have them


class SharedEnv(VecEnv):
    """A vector environment in which each student has only a trajectory of its own."""

    env: DistillationEnv  # the present environment, shared by all
    trajectories: list[Trajectory]

    def close(self) -> None:
        """Does nothing, since nothing is open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of each trajectory, or else of this environment, or else of the shared one."""
        return [getattr(self._holder(i, attr_name), attr_name) for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets an attribute of the trajectories."""
        for i in self._get_indices(indices):
            setattr(self.trajectories[i], attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Calls a method of the trajectories, or an attribute method of Gymnasium's wrappers (`WRAPPED`)."""
        places = list(self._get_indices(indices))
        if method_name in WRAPPED:
            method = getattr(self, f"_{method_name}")
            return [method(i, *method_args, **method_kwargs) for i in places]
        return [getattr(self.trajectories[i], method_name)(*method_args, **method_kwargs) for i in places]

    def _holder(self, place: int, name: str) -> object:
        """The object that has a student's attribute; the trajectory if none has it."""
        trajectory = self.trajectories[place]
        return next((one for one in (trajectory, self, self.env) if hasattr(one, name)), trajectory)

    def _get_wrapper_attr(self, place: int, name: str) -> Any:
        return getattr(self._holder(place, name), name)

    def _has_wrapper_attr(self, place: int, name: str) -> bool:
        return hasattr(self._holder(place, name), name)

    def _set_wrapper_attr(self, place: int, name: str, value: Any, *, force: bool = True) -> bool:
        if there := force or self._has_wrapper_attr(place, name):
            setattr(self.trajectories[place], name, value)
        return there

    def get_images(self) -> Sequence[None]:
        """None for each student, since nothing is rendered."""
        return [None] * self.num_envs

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No student has a wrapper of its own."""
        return [False for _ in self._get_indices(indices)]
