"""Sets of instances: their order and seeds, the files they are read from, and an agent over several of them."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.monitor import Monitor

from ackd import models, tasks
from ackd.agents import make_agent
from ackd.envs.distillation import DistillationEnv
from ackd.envs.instances import Instance, InstanceEnv, read_instances, shipped
from ackd.envs.make import distill, tiny
from ackd.envs.recording import Recording
from ackd.errors import InputError
from tests.learned import weights

ONE = Instance("one", "train", {"steps": 4}, (0, 3))
OTHER = Instance("other", "train", {"steps": 4, "types": ("rkd-distance", "hidden"), "student_width": 8}, (10, 2))
THIRD = Instance("third", "train", {"steps": 8, "types": ("logits",)}, (20, 5))


def over(*instances: Instance, **arguments: Any) -> InstanceEnv:
    return InstanceEnv(instances or (ONE, OTHER), tiny, **arguments)


def quick(*instances: Instance, **arguments: Any) -> InstanceEnv:
    """Where nobody asks for rewards."""
    return over(*instances, reward_every=None, **arguments)


def drawn(env: InstanceEnv, episodes: int, *, seed: int | None = None) -> list[tuple[str, int]]:
    """The instance and the student's seed of each of the next episodes."""
    infos = [env.reset(seed=seed if i == 0 else None)[1] for i in range(episodes)]
    return [(info["instance"], info["seed"]) for info in infos]


def play(env: InstanceEnv | DistillationEnv, *, decisions: int = 2) -> list[Any]:
    return [env.step(np.array([1, k % 2, 1, 0, 0, 0, 0, 0], np.int8)) for k in range(decisions)]


@pytest.mark.filterwarnings("ignore:.*alternative render modes")  # which it tries on registered environments only
def test_both_checkers_pass() -> None:
    check_env(quick())
    sb3_check_env(over())


def test_instances_and_seeds_take_turns() -> None:
    expected = [("one", 0), ("other", 10), ("one", 1), ("other", 11), ("one", 2), ("other", 10), ("one", 0)]
    env = quick()
    assert drawn(env, 7) == expected
    assert drawn(env, 3, seed=5) == expected[:3]  # anew
    assert env.instances["one"].seed(4) == 1


def test_an_instances_seeds_do_not_depend_on_the_others() -> None:
    alone = [seed for _, seed in drawn(quick(ONE), 3)]
    env = quick(OTHER, ONE, THIRD, order="sampled", seed=3)
    among = [seed for name, seed in drawn(env, 16) if name == "one"]
    assert among[:3] == alone


def test_sampling_is_reproducible() -> None:
    first = drawn(quick(order="sampled", seed=1), 8)
    assert drawn(quick(order="sampled", seed=1), 8) == first
    env = quick(order="sampled", seed=1)
    again = drawn(env, 8, seed=7)
    assert drawn(env, 8, seed=7) == again
    assert drawn(env, 8, seed=8) != again
    assert {name for name, _ in first} == {"one", "other"}


def test_options_pick_out_of_turn() -> None:
    env = quick()
    assert drawn(env, 1) == [("one", 0)]
    assert env.reset(options={"instance": "one"})[1]["seed"] == 1
    info = env.reset(options={"instance": "other", "seed": 99})[1]
    assert (info["instance"], info["seed"]) == ("other", 99)
    assert drawn(env, 2) == [("other", 10), ("one", 2)]


def test_dacbench_may_choose_the_next_instance() -> None:
    env = quick()
    assert (env.get_inst_id(), env.instance) == ("one", ONE)
    assert drawn(env, 1) == [("one", 0)]
    env.use_next_instance(instance_id="one")
    assert drawn(env, 2) == [("one", 1), ("other", 10)]  # and then as it would have gone on
    env.use_next_instance(instance=OTHER)
    assert env.get_inst_id() == "other"
    with pytest.raises(gymnasium.error.ResetNeeded, match="another instance"):
        env.step(env.action_space.sample())
    twin = env.fork()
    assert drawn(env, 1) == drawn(twin, 1) == [("other", 11)]
    env.use_next_instance()  # whose turn it is
    assert env.get_inst_id() == "one"
    assert drawn(env, 2) == [("one", 2), ("other", 10)]
    with pytest.raises(InputError, match="did you mean 'other'"):
        env.use_next_instance("othr")
    assert env.get_inst_id() == "other"


def test_an_episode_equals_the_plain_environments() -> None:
    env, plain = over(), tiny(**OTHER.setting)
    env.reset()
    play(env, decisions=1)  # an episode that is left unfinished leaves nothing behind
    ours, theirs = env.reset(), plain.reset(seed=10)
    assert data_equivalence(ours[0], theirs[0], exact=True)
    for one, other in zip(play(env), play(plain), strict=True):
        assert one[4].pop("instance") == "other"
        assert data_equivalence(one, other, exact=True)
    assert torch.equal(weights(env.distillation), weights(plain.distillation))


def test_what_was_dropped_and_built_again_is_the_same() -> None:
    results, built = [], []

    def make(**setting: Any) -> DistillationEnv:
        built.append(setting["steps"])
        return tiny(**setting)

    for keep in (1, 2, 3):
        env = InstanceEnv((ONE, OTHER, THIRD), make, keep=keep, reward_every=None)
        episodes = []
        for name in ("one", "other", "one", "third", "one"):
            env.reset(options={"instance": name})
            episodes.append((play(env)[-1][4]["loss/labels"], weights(env.distillation).tolist()))
        results.append(episodes)
        assert len(env._kept) == keep
    assert results[0] == results[1] == results[2]
    assert built == [4, 4, 4, 8, 4] + [4, 4, 8] * 2  # 1 is built thrice; with 2, `one` was used last and stays


def test_it_is_built_when_its_turn_comes_and_the_spaces_are_one() -> None:
    built: list[str] = []

    def make(**setting: Any) -> DistillationEnv:
        built.append(str(setting.get("knowledge")))
        return tiny(**setting)

    env = InstanceEnv((ONE, OTHER, THIRD), make, k_max=5, reward_every=None)
    assert len(built) == 1
    assert env.knowledge == ("logits", "hidden", "attention", "rkd-distance")
    assert len(built) == 1
    for free in (4, 3, 2):  # the labels and the types
        observation, info = env.reset()
        assert env.observation_space.contains(observation)
        assert info["action_mask"].tolist() == [2] * free + [0] * (5 - free)
        assert env.decisions == -(-env.distillation.steps // 2)
        assert len(env.signals.families) == free
        assert env.choice.mask.tolist() == info["action_mask"].tolist()
    assert env.episode is not None
    assert env.reward is env.present.reward
    with pytest.raises(gymnasium.error.ResetNeeded):
        over().step(np.zeros(8, np.int8))


def test_building_an_instance_leaves_the_agents_randomness_alone() -> None:
    """Otherwise an agent beside its environments would draw other than one whose environments are elsewhere."""

    def make(**setting: Any) -> DistillationEnv:
        torch.rand(3)
        return tiny(**setting)

    before = torch.get_rng_state()
    env = InstanceEnv((ONE, OTHER), make, reward_every=None)
    drawn(env, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_states_and_forks() -> None:
    env = over(order="sampled", seed=4)
    drawn(env, 3)
    play(env, decisions=1)
    twin, fresh = env.fork(), over(order="sampled", seed=9)
    fresh.load_state_dict(env.state_dict())
    env.action_space.seed(1)
    ends = []
    for each in (env, twin, fresh):
        steps = play(each, decisions=1)
        ends.append((steps[0][1], weights(each.distillation).tolist(), drawn(each, 5), play(each)[-1][1]))
    assert ends[0] == ends[1] == ends[2]
    assert twin.action_space == env.action_space
    assert twin.action_space is not env.action_space
    assert twin.distillation.task is env.distillation.task


def test_an_agent_learns_over_instances_and_all_is_on_record(tmp_path: Path) -> None:
    env = over()
    recording = Recording(env, tmp_path)
    agent = make_agent("a2c", Monitor(recording, info_keywords=("instance",)), seed=0, n_steps=2)
    agent.learn(16)
    recording.close()
    with (tmp_path / "decisions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["seed"]) for row in rows] == [seed for s in (0, 10, 1, 11, 2, 10, 0, 11) for seed in (s, s)]
    assert recording.costs.steps == 8 * 4
    for name, elsewhere in (("logits", OTHER), ("rkd-distance", ONE), ("hidden", None)):
        where = {row["seed"] for row in rows if float(row[f"select/{name}"])}
        first = elsewhere.seeds[0] if elsewhere else -10
        assert not any(int(seed) // 10 == first // 10 for seed in where)
        assert all(row[f"loss/{name}"] for row in rows if float(row[f"select/{name}"]))


def test_a_card_tells_no_paths() -> None:
    setting = {
        "task": "x", "teacher": ("/home/me/a", "b/c"), "student": "/s/t", "data": "/d", "dev_data": "/e",
        "cache": "/c", "types": ("logits",), "lr": 1e-3,
    }  # fmt: skip
    published = Instance("one", "train", setting, (3, 2)).published
    assert json.loads(json.dumps(published)) == published
    assert published == {
        "name": "one", "split": "train", "seeds": [3, 2], "task": "x", "teacher": ["a", "c"], "student": "t",
        "types": ["logits"], "lr": 1e-3,
    }  # fmt: skip
    assert pickle.loads(pickle.dumps(ONE)) == ONE  # for workers


def test_types_of_several_teachers() -> None:
    setting = {"teacher": ("a", "b"), "types": ("logits", "hidden@2")}
    assert Instance("one", "train", setting, (0, 1)).knowledge == ("logits@1", "logits@2", "hidden@2")
    assert Instance("one", "train", {"teacher": ("a",)}, (0, 1)).knowledge == ("logits", "hidden", "attention")


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: InstanceEnv((), tiny), "at least one instance"),
        (lambda: over(ONE, ONE), "a name of its own"),
        (lambda: over(order="round"), "did you mean 'round-robin'"),
        (lambda: over(keep=0), "at least 1 environment has to be kept, got 0"),
        (lambda: over(k_max=2), "k_max is 2, but instance 'one' has 3"),
        (lambda: over(steps=2), "instance 'one' sets steps, which the caller sets"),
        (lambda: over(lr=0.0), "instance 'one': the learning rate must be above 0"),
        (lambda: InstanceEnv((ONE,), lambda **_: tiny(knowledge=("fsp",))), "'one' has the knowledge types fsp"),
        (lambda: InstanceEnv((ONE,), lambda **_: tiny(knowledge=ONE.knowledge[::-1])), "types attention, hidden"),
        (lambda: over().reset(options={"instanc": "one"}), "did you mean 'instance'"),
        (lambda: over().reset(options={"instance": "others"}), "did you mean 'other'"),
        (lambda: over().reset(options={"seed": -1}), "at least 0, got -1"),
        (lambda: over().reset(options={"seed": True}), "at least 0, got True"),
        (lambda: drawn(over(ONE, Instance("b", "x", {"choice": "weights"}, (0, 1))), 2), "'b' has other observations"),
        (lambda: Instance("one", "train", {}, (0, 0)), r"seeds is \[0, 0\]"),
        (lambda: Instance("one", "train", {}, (-1, 5)), r"seeds is \[-1, 5\]"),
        (lambda: Instance("one", "train", {}, (2**31 - 1, 2)), "below 2"),
    ],
)
def test_errors_of_the_environment(act: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        act()


def item(**fields: Any) -> dict[str, Any]:
    return {"name": "a", "split": "train", "seeds": [0, 5], "task": "polarity", "teacher": "t", **fields}


def write(folder: Path, **fields: Any) -> Path:
    (folder / "t").mkdir(exist_ok=True)
    path = folder / "set.json"
    path.write_text(json.dumps({"format": 1, "instances": [item()]} | fields))
    return path


def test_a_file_is_read(tmp_path: Path) -> None:
    defaults = {"task": "polarity", "teacher": "t", "lr": 1, "types": ["logits"], "student_layers": 2}
    rows: list[Mapping[str, Any]] = [
        {"name": "a", "split": "train", "seeds": [0, 5]},
        {"name": "b", "split": "test", "seeds": [5, 1], "task": "own", "data": "d.csv", "student_layers": None},
        {"name": "c", "split": "test", "seeds": [5, 1], "task": "rte", "teacher": ["t", str(tmp_path / "t")]},
    ]
    path = write(tmp_path, name="mine", description="words", defaults=defaults, instances=rows)
    a, b, c = read_instances(path)
    here = {"task": "polarity", "teacher": str(tmp_path / "t"), "lr": 1, "knowledge": ("logits",), "student_layers": 2}
    assert a == Instance("a", "train", here, (0, 5))
    assert b.setting == here | {"task": "own", "data": str(tmp_path / "d.csv"), "student_layers": None}
    assert c.setting["teacher"] == (str(tmp_path / "t"),) * 2
    assert "data" not in c.setting
    assert read_instances(str(path), split="test") == (b, c)
    (tmp_path / "models" / "t").mkdir(parents=True)
    moved = read_instances(path, teachers=tmp_path / "models", data=Path("/glue"))
    assert moved[0].setting["teacher"] == str(tmp_path / "models" / "t")
    assert [one.setting.get("data") for one in moved] == [None, "/glue/d.csv", "/glue"]


SHIPPED = {
    "embedded-v1": (8, ["polarity"]),
    "glue-small-v1": (12, ["sst2", "mrpc"]),
    "varied-v1": (40, [f"train-{number:02}" for number in range(24)]),
    "varied-v2": (24, []),
    "varied-v3": (96, []),
}
VARIED = {"varied-v1": {"train", "unseen"}, "varied-v2": {"unseen"}, "varied-v3": {"unseen"}}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_sets(name: str, tmp_path: Path) -> None:
    assert shipped() == tuple(sorted(SHIPPED))
    with pytest.raises(InputError, match=f"{name} needs the folder of its teachers .* `ackd finetune --task"):
        read_instances(name)
    with pytest.raises(InputError, match=r"instance '[\w-]+': the teacher .* is not there"):
        read_instances(name, teachers=tmp_path)
    for teacher in ("polarity", "polarity-2", "tally", "minilm-l12-sst2"):
        (tmp_path / teacher).mkdir()
    for task in ("sst2", "mrpc", "cola", "rte", "stsb"):
        (tmp_path / f"minilm-l6-{task}").mkdir()
    for task, quality in product(("polarity", "tally"), ("strong", "middling", "weak", "start")):
        (tmp_path / f"{task}-{quality}").mkdir()
    instances = read_instances(name, teachers=tmp_path)
    count, train = SHIPPED[name]
    assert len(instances) == count
    assert [one.name for one in instances if one.split == "train"] == train
    kinds = "seed task depth teacher type".split()
    splits = {"train", "longer-budget", *(f"unseen-{kind}" for kind in kinds)}
    assert {one.split for one in instances} == VARIED.get(name, splits)
    learned = {seed for one in instances if one.split == "train" for seed in range(sum(one.seeds))}
    for one in instances:
        assert one.split == "train" or one.seeds[0] not in learned
        assert str(tmp_path) not in json.dumps(one.published)


def test_a_shipped_set_is_distilled(tmp_path: Path) -> None:
    """Its settings are accepted by what takes them, with random teachers in place of trained ones."""
    tokenizer = tasks.embedded_tokenizer("polarity")
    config = models.small_config(len(tokenizer), 2, width=16, heads=2)
    for teacher in ("polarity", "polarity-2", "tally"):
        models.save_model(tmp_path / teacher, models.from_config(config)(), tokenizer)
    env = InstanceEnv(read_instances("embedded-v1", teachers=tmp_path), distill, reward_every=None)
    for name, decisions in [("polarity", 10), ("tally", 10), ("polarity-rkd", 10), ("polarity-320-steps", 20)]:
        env.reset(options={"instance": name})
        assert env.decisions == 4
        assert env.present.variant(decisions=None).decisions == decisions
    assert env.knowledge == ("logits", "hidden", "attention", "rkd-distance")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"formt": 1}, "unknown field formt"),
        ({"format": 2}, "format is 2: this version of ackd reads 1"),
        ({"format": True}, "format is true"),
        ({"defaults": []}, r"defaults is \[\]: it should be an object"),
        ({"instances": {}}, "instances is {}: .* array"),
        ({"instances": []}, r"instances is \[\]: .* at least 1"),
        ({"instances": [3]}, r"instances\[0\] is 3: .* object"),
        ({"instances": [item(name="")]}, r'instances\[0\]\.name is "": .* at least 1'),
        ({"instances": [item(), item(split=3)]}, r"instances\[1\]\.split is 3: .* string"),
        ({"instances": [item(), item()]}, "the name 'a' is given to 2 instances"),
        ({"instances": [item(stepz=3)]}, "instance 'a' 'stepz': did you mean 'steps'"),
        ({"defaults": {"seeds": [0, 1]}}, "unknown field of .*set.json, defaults 'seeds'"),
        ({"defaults": {"steps": 1.5}}, "defaults: steps must be a whole number .*, not 1.5"),
        ({"instances": [item(steps=True)]}, "'a': steps must be a whole number .*, not true"),
        ({"instances": [item(steps=2**40)]}, "'a': steps must be a whole number below"),
        ({"instances": [item(lr=float("nan"))]}, "'a': lr must be a number, not NaN"),
        ({"instances": [item(lr=10**400)]}, "'a': lr must be a number, not 1000"),
        ({"instances": [item(types="logits")]}, "'a': types must be a list, each text, not \"logits\""),
        ({"instances": [item(types=["logits", 3])]}, "'a': types must be a list, each text"),
        ({"instances": [item(schedule="cosin")]}, "'a': unknown schedule 'cosin': did you mean 'cosine'"),
        ({"instances": [item(student_init=3)]}, "'a': student_init must be one of even, first, not 3"),
        ({"instances": [item(warmup=1.5)]}, "'a': the warm-up is 1.5"),
        (
            {"instances": [item(adam_betas=[0.9])]},
            "'a': adam_betas must be a list of 2, each a number or null",
        ),
        ({"instances": [item(steps=4, epochs=1)]}, "'a': steps .4. and epochs .1. both say how long .* name one of"),
        ({"instances": [item(epochs=0)]}, "'a': the number of epochs must be above 0, got 0"),
        ({"instances": [item(data=3)]}, "'a': data must be text or null, not 3"),
        ({"instances": [item(device="cuda")]}, "'a': device belongs to the machine"),
        ({"instances": [item(k_max=4)]}, "'a': k_max is one for all"),
        ({"instances": [item(preset="pkd")]}, "'a': preset leaves nothing to choose"),
        ({"instances": [item(teacher=[])]}, "instance 'a' names no teacher"),
        ({"instances": [item(teacher="no")]}, "the teacher .*no is not there: make it as `ackd finetune --task pol"),
        ({"instances": [item(seeds=[0])]}, r"lacks instances\[0\]\.seeds\[1\]"),
        ({"instances": [item(seeds=[0, 0.5])]}, r"instances\[0\]\.seeds\[1\] is 0\.5: .* integer"),
        ({"instances": [item(seeds="all")]}, r'instances\[0\]\.seeds is "all"'),
        ({"instances": [item(seeds=[0, 0])]}, r"set.json, instance 'a': seeds is \[0, 0\]"),
        ({"instances": [item(seeds=[-5, 3])]}, r"'a': seeds is \[-5, 3\]"),
    ],
)
def test_errors_of_a_file(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_instances(write(tmp_path, **fields))
    assert str(tmp_path / "set.json") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"format: 1", "is no instance set"),
        (b"\xff\xfe\x00", "is no instance set"),
        (b"[" * 100_000, "is no instance set"),
        (b"[]", "should be an object"),
        (b'{"format": 1, "format": 1}', "'format' is given twice"),
        (b" " * 1_000_001, "more than 1000000 bytes"),
    ],
)
def test_files_that_are_no_sets(text: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_bytes(text)
    with pytest.raises(InputError, match=words):
        read_instances(path)


def test_other_errors_of_reading(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(InputError, match=r"unknown split of .*set.json 'trian': did you mean 'train'"):
        read_instances(path, split="trian")
    with pytest.raises(InputError, match="unknown instance set 'embeded-v1': did you mean 'embedded-v1'"):
        read_instances("embeded-v1")
    for nothing in ("there/is/none", "none.json", tmp_path, "no\0name"):
        with pytest.raises(InputError, match=r"there is no file|unknown instance set"):
            read_instances(nothing)
