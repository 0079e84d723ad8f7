"""ACKD: knowledge distillation of transformers, with agents that select the knowledge during training.

Importing the package registers the environments `ACKD/Distill-v0`, `ACKD/Tiny-v0` and `ACKD/Toy-v0` with Gymnasium.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register

from ackd.numerics.memory import uncollected

if TYPE_CHECKING:
    from ackd.building.setting import prepare as prepare
    from ackd.config import DistillationConfig as DistillationConfig
    from ackd.costs import CostTracker as CostTracker
    from ackd.envs.distillation import DistillationEnv as DistillationEnv
    from ackd.envs.instance_files import Instance as Instance
    from ackd.envs.instances import InstanceEnv as InstanceEnv
    from ackd.envs.instances import read_instances as read_instances
    from ackd.errors import InputError as InputError
    from ackd.experiments.agent import train_agent as train_agent
    from ackd.experiments.distillation import DistillationTrainer as DistillationTrainer
    from ackd.experiments.evaluation import evaluate as evaluate
    from ackd.experiments.exporting import export as export
    from ackd.experiments.finetuning import finetune as finetune
    from ackd.experiments.predictions import predict as predict
    from ackd.experiments.pushing import push as push
    from ackd.experiments.tuning import tune as tune
    from ackd.loops.balancer import Balancer as Balancer
    from ackd.mdp.action_spaces import Choice as Choice
    from ackd.mdp.episode import Episode as Episode
    from ackd.mdp.rewards import Reward as Reward
    from ackd.mdp.rewards import RewardTerms as RewardTerms
    from ackd.reporting.report import report as report
    from ackd.teachers import ModelTeacher as ModelTeacher
    from ackd.training.distillation import Distillation as Distillation
    from ackd.training.loop import distill as distill
    from ackd.types import Batch as Batch
    from ackd.types import Knowledge as Knowledge
    from ackd.types import ModelDims as ModelDims
    from ackd.types import OutputRequest as OutputRequest
    from ackd.types import Outputs as Outputs
    from ackd.types import Selection as Selection
    from ackd.types import Teacher as Teacher

__version__ = "0.1.0"

register("ACKD/Distill-v0", entry_point="ackd.envs.make:distill")
register("ACKD/Tiny-v0", entry_point="ackd.envs.make:tiny")
register("ACKD/Toy-v0", entry_point="ackd.envs.toy:ToyEnv")

_HOMES = {
    "Balancer": "ackd.loops.balancer",
    "Batch": "ackd.types",
    "Choice": "ackd.mdp.action_spaces",
    "Distillation": "ackd.training.distillation",
    "DistillationConfig": "ackd.config",
    "DistillationEnv": "ackd.envs.distillation",
    "DistillationTrainer": "ackd.experiments.distillation",
    "RewardTerms": "ackd.mdp.rewards",
    "Episode": "ackd.mdp.episode",
    "InputError": "ackd.errors",
    "Instance": "ackd.envs.instance_files",
    "InstanceEnv": "ackd.envs.instances",
    "Knowledge": "ackd.types",
    "CostTracker": "ackd.costs",
    "ModelTeacher": "ackd.teachers",
    "OutputRequest": "ackd.types",
    "Outputs": "ackd.types",
    "Reward": "ackd.mdp.rewards",
    "Selection": "ackd.types",
    "ModelDims": "ackd.types",
    "Teacher": "ackd.types",
    "distill": "ackd.training.loop",
    "evaluate": "ackd.experiments.evaluation",
    "export": "ackd.experiments.exporting",
    "finetune": "ackd.experiments.finetuning",
    "predict": "ackd.experiments.predictions",
    "prepare": "ackd.building.setting",
    "push": "ackd.experiments.pushing",
    "read_instances": "ackd.envs.instances",
    "report": "ackd.reporting.report",
    "train_agent": "ackd.experiments.agent",
    "tune": "ackd.experiments.tuning",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    # lazy, so that a command's --help does not wait for torch
    if name in _HOMES:
        with uncollected():
            return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ackd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
