"""Saved policies: what comes back is what was saved, and whatever else lies there is refused with one sentence."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from huggingface_hub import ModelCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stable_baselines3 import A2C
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from ackd.agents import LearnedPolicy, SetNetwork, SetPolicy, SetWeights, load, save
from ackd.agents.learned import Actor
from ackd.agents.model_card import card_text
from ackd.agents.residual_network import ResidualNetwork
from ackd.agents.schedule import ProbeRule, Schedule
from ackd.agents.store import KINDS
from ackd.envs.toy import ToyEnv
from ackd.errors import InputError
from ackd.mdp.observations import FEATURES, GLOBALS, SCHEMA

KNOWLEDGE = ("hidden", "attention", "logits")
Fields = dict[str, Any]


def random_network(seed: int = 0, width: int = 8, kind: type[SetNetwork] = SetNetwork) -> SetNetwork:
    network = kind(len(GLOBALS), len(FEATURES), width)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return network


def observe(seed: int, batch: int, k_max: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {
        "globals": rng.uniform(-3, 3, (batch, len(GLOBALS))).astype(np.float32),
        "knowledge": rng.uniform(-3, 3, (batch, k_max * len(FEATURES))).astype(np.float32),
        "mask": rng.integers(0, 2, (batch, k_max), dtype=np.int8),
    }


def network_of(policy: LearnedPolicy) -> SetNetwork:
    assert isinstance(policy.network, SetNetwork)
    return policy.network


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(
        tmp_path / "policy",
        random_network(),
        algorithm="a2c",
        knowledge=KNOWLEDGE,
        k_max=8,
        instances=[{"task": "sst2", "seed": 3}],
        metrics={"return": 0.9},
        cost={"episodes": 4, "flops": 1e12},
        name="small",
    )
    return tmp_path / "policy"


@pytest.fixture(scope="module", params=[SetNetwork, SetWeights])
def trained_on_three(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of each kind."""
    folder = tmp_path_factory.mktemp("policy")
    save(folder, random_network(kind=request.param), algorithm="a2c", knowledge=KNOWLEDGE, k_max=3)
    return folder


def test_the_folder_holds_three_files_and_says_what_it_is(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", "policy.json", "policy.safetensors"]
    fields = json.loads((saved / "policy.json").read_text())
    assert (fields["format"], fields["kind"], fields["choice"], fields["sizes"]) == (2, "set", "subset", {"width": 8})
    assert fields["license"] == "Apache-2.0"
    assert fields["schema"] == SCHEMA
    assert fields["features"] == list(FEATURES)
    card = load(saved).card
    assert (card.knowledge, card.k_max, card.sizes, card.algorithm) == (KNOWLEDGE, 8, {"width": 8}, "a2c")
    assert (card.name, card.cost) == ("small", {"episodes": 4, "flops": 1e12})
    assert card.instances == ({"task": "sst2", "seed": 3},)
    assert card.metrics == {"return": 0.9}
    assert load(saved, k_max=12).card.k_max == 12


def test_decides_as_the_model_it_was_saved_from(tmp_path: Path) -> None:
    """Deterministic decisions and the logits behind them, bit for bit, on what the environment shows and on noise."""
    model = A2C(SetPolicy, ToyEnv(), n_steps=10, learning_rate=0.01, seed=0, device="cpu").learn(300)
    assert isinstance(model.policy, SetPolicy)
    save(tmp_path, model.policy.network, algorithm="a2c", knowledge=KNOWLEDGE, k_max=8)
    learned = load(tmp_path)
    for seed in range(20):
        batch = observe(seed, 7, 8)
        for observation in (batch, {name: value[0] for name, value in batch.items()}, ToyEnv().reset(seed=seed)[0]):
            expected, _ = model.predict(observation, deterministic=True)
            actions, _ = learned.predict(observation, deterministic=True)
            assert actions.dtype == expected.dtype == np.int8
            assert (actions == expected).all()
        tensors = {name: torch.as_tensor(value) for name, value in batch.items()}
        with torch.no_grad():
            assert torch.equal(network_of(learned).read(tensors)[0], model.policy.network.read(tensors)[0])
    returns = []
    for policy in (model, learned):
        env = Monitor(ToyEnv())
        env.reset(seed=5)  # what follows goes on with this stream
        predictor: Any = policy
        returns.append(evaluate_policy(predictor, env, 3, return_episode_rewards=True))
    assert returns[0] == returns[1]


@given(seed=st.integers(0, 1000), k_max=st.integers(1, 12), batch=st.integers(1, 4), deterministic=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_acts_on_any_number_of_types_and_never_on_a_masked_one(
    saved: Path, seed: int, k_max: int, batch: int, deterministic: bool
) -> None:
    policy, observation = load(saved), observe(seed, batch, k_max)
    actions, state = policy.predict(observation, deterministic=deterministic)
    assert state is None
    assert actions.shape == (batch, k_max)
    assert not (actions * (1 - observation["mask"])).any()
    if deterministic:  # bits past the last one change nothing for the ones before
        wider = {
            "globals": observation["globals"],
            "knowledge": np.pad(observation["knowledge"], ((0, 0), (0, 2 * len(FEATURES)))),
            "mask": np.pad(observation["mask"], ((0, 0), (0, 2))),
        }
        assert (policy.predict(wider, deterministic=True)[0][:, :k_max] == actions).all()


@given(seed=st.integers(0, 1000), k_max=st.integers(1, 12), batch=st.integers(1, 4), deterministic=st.booleans())
def test_each_kind_acts_as_what_was_saved_and_never_on_a_masked_type(
    trained_on_three: Path, seed: int, k_max: int, batch: int, deterministic: bool
) -> None:
    """Trained with three types, it acts on any number of them, whatever else the observation holds."""
    policy, observation = load(trained_on_three, seed=seed), observe(seed, batch, k_max)
    original = random_network(kind=type(network_of(policy)))
    with torch.no_grad():
        expected = original.act(
            {name: torch.as_tensor(value) for name, value in observation.items()},
            deterministic,
            torch.Generator().manual_seed(seed),
        )
    observation["others"] = np.zeros((batch, 2, 2))
    actions, _ = policy.predict(observation, deterministic=deterministic)
    assert actions.dtype == (np.int8 if policy.card.choice == "subset" else np.float32)
    assert (actions == expected.numpy()).all()
    assert ((actions >= 0) & (actions <= 1)).all()
    assert (actions[observation["mask"] == 0] == 0).all()


def test_what_a_network_would_give_a_masked_type_is_dropped(saved: Path) -> None:
    policy = load(saved)
    policy.network.act = lambda batch, deterministic, generator=None: torch.full(batch["mask"].shape, torch.inf)  # type: ignore[method-assign]
    policy.card = replace(policy.card, choice="weights")
    observation = observe(0, 3, 8)
    actions, _ = policy.predict(observation)
    assert (actions[observation["mask"] == 0] == 0).all()


def test_a_network_for_another_number_of_types_is_refused(saved: Path) -> None:
    policy = load(saved)
    policy.network.act = lambda batch, deterministic, generator=None: torch.zeros(len(batch["mask"]), 1)  # type: ignore[method-assign]
    with pytest.raises(InputError, match="decides over 1 entries, and here are 8"):
        policy.predict(observe(0, 3, 8))


def test_draws_come_from_its_own_generator(saved: Path) -> None:
    observation = observe(0, 200, 8)
    state = torch.get_rng_state()
    first, again, other = (load(saved, seed=seed).predict(observation)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert (first == again).all()
    assert (first != other).any()


def test_an_observation_of_another_size_is_refused(saved: Path) -> None:
    observation = observe(0, 2, 8)
    observation["globals"] = observation["globals"][:, 1:]
    with pytest.raises(InputError, match="globals has the shape"):
        load(saved).predict(observation)
    observation = observe(0, 2, 8) | {"others": np.zeros(3)}
    with pytest.raises(InputError, match="others has the shape"):
        load(saved).predict(observation)


def test_saving_again_replaces_the_policy(saved: Path) -> None:
    save(saved, random_network(1), algorithm="ppo", knowledge=("logits",), k_max=4)
    assert load(saved).card.algorithm == "ppo"
    (saved / "README.md").unlink()  # it is for people
    assert torch.equal(network_of(load(saved)).encoder[0].weight, random_network(1).encoder[0].weight)  # type: ignore[arg-type]
    assert len(list(saved.iterdir())) == 2


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_an_interrupted_save_leaves_no_half_file(saved: Path, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Interrupted at the first rename the old policy still loads; between the others, what lies there is refused."""
    calls, replace = [], Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == moment:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(saved, random_network(1), algorithm="ppo", knowledge=KNOWLEDGE, k_max=8)
    assert len(list(saved.iterdir())) == 3
    if moment == 1:
        assert load(saved).card.algorithm == "a2c"
    else:
        with pytest.raises(InputError, match=r"not the file that policy.json was saved with"):
            load(saved)


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    network = random_network()
    with pytest.raises(InputError, match="not JSON"):
        save(tmp_path, network, algorithm="a2c", knowledge=KNOWLEDGE, k_max=8, metrics={"return": float("nan")})
    with pytest.raises(InputError, match=r"k_max is 0: .* 1"):
        save(tmp_path, network, algorithm="a2c", knowledge=KNOWLEDGE, k_max=0)
    with pytest.raises(InputError, match=r'name is "\.\./up"'):
        save(tmp_path, network, algorithm="a2c", knowledge=KNOWLEDGE, k_max=8, name="../up")
    with pytest.raises(InputError, match="no policy has more than"):
        save(tmp_path, network, algorithm="a2c", knowledge=KNOWLEDGE, k_max=8, metrics={"notes": "x" * 300_000})
    with pytest.raises(InputError, match="does not fit"):
        save(tmp_path, SetNetwork(3, len(FEATURES), 8), algorithm="a2c", knowledge=KNOWLEDGE, k_max=8)
    with pytest.raises(InputError, match="'table' is no kind"):
        save(tmp_path, Table(3, 3, 8), algorithm="a2c", knowledge=KNOWLEDGE, k_max=8)
    network.critic[0].weight.data[0, 0] = float("inf")  # type: ignore[operator]
    with pytest.raises(InputError, match=r"critic.0.weight holds NaN or infinity"):
        save(tmp_path, network, algorithm="a2c", knowledge=KNOWLEDGE, k_max=8)
    assert not list(tmp_path.iterdir())


class Table(SetNetwork):
    """Of a kind that no version knows."""

    kind = "table"


def rewrite(**changes: Any) -> Callable[[Fields], Fields]:
    return lambda fields: fields | changes


def without(name: str) -> Callable[[Fields], Fields]:
    return lambda fields: {key: value for key, value in fields.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rewrite(format=1), "format is 1: this version of ackd reads 2"),
        (rewrite(format=[[1]] * 10**4), r"format is \[\[1\], .* integer"),
        (rewrite(schema=SCHEMA + 1), f"schema is {SCHEMA + 1}: this version of ackd reads {SCHEMA}"),
        (rewrite(kind="table"), f'kind "table", this version of ackd reads {", ".join(sorted(KINDS))}'),
        (rewrite(kind="set-weights"), "choice 'subset': the kind 'set-weights' has 'weights'"),
        (rewrite(choice="stages"), "choice 'stages': the kind 'set' has 'subset'"),
        (rewrite(name="a/b"), r"name is \"a/b\": 'a/b' cannot be a policy's name"),
        (rewrite(name=".."), r'name is "\.\."'),
        (rewrite(name="a\n"), r'name is "a\\n"'),
        (rewrite(globals=["mood", *GLOBALS[1:]]), r'globals is .*: it has \["mood"\], this version has \["progress"\]'),
        (
            rewrite(features=list(FEATURES[::-1])),
            rf'features is .*: it has \["{FEATURES[-1]}", .* this version has \["{FEATURES[0]}", ',
        ),
        (rewrite(features=list(FEATURES[:-1])), rf'it has none besides, this version has \["{FEATURES[-1]}"\]'),
        (rewrite(surprise=1), "unknown field surprise"),
        (rewrite(**{"\ud800\x1b[2J\n": 1}), "not JSON"),
        (without("sizes"), "it lacks sizes"),
        (rewrite(sizes={"width": 10**9}), "width 1000000000: it must be between 1 and 1024"),
        (rewrite(sizes={"width": 0}), "width 0"),
        (rewrite(sizes={"width": True}), r"sizes\.width is true: .* integer"),
        (rewrite(sizes={"width": 8.0}), r"sizes\.width is 8\.0: .* integer"),
        (rewrite(sizes={}), "other sizes than width"),
        (rewrite(sizes={"width": 8, "depth": 2}), "other sizes than width"),
        (rewrite(cost={"flops": -1}), r"cost\.flops is -1: costs are numbers from 0 up"),
        (rewrite(cost={"flops": "1"}), "costs are numbers from 0 up"),
        (rewrite(cost={"\x1b": 1}), "short printable name"),
        (rewrite(algorithm="\x1b[2J"), "short printable name"),
        (rewrite(license="x" * 1000), "license is .*at most 200"),
        (rewrite(versions={"torch": 2}), r"versions\.torch is 2: .* string"),
        (rewrite(metrics={"a": [[[[[[[[[1]]]]]]]]]}), "metrics is .* inside one another"),
        (rewrite(k_max=-1), "k_max is -1: .* 1"),
        (rewrite(knowledge=["a", "a"]), r'knowledge is \["a", "a"\]: .* different names'),
        (rewrite(knowledge=[1]), r"knowledge\[0\] is 1: .* string"),
        (rewrite(instances=[3]), r"instances\[0\] is 3: .* object"),
        (rewrite(metrics=None), "metrics is null: .* object"),
        (rewrite(sizes={"width": 9}), "does not fit policy.json: for 'actor.0.bias' it has"),
        (rewrite(sha256="0" * 64), "not the file that policy.json was saved with"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(saved: Path, change: Callable[[Fields], Fields], message: str) -> None:
    path = saved / "policy.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(InputError, match=message) as caught:
        load(saved)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "3", "\udcff", "NaN", '{"format": 1e999}', '{"format": ' + "1" * 400 + "}",
        '{"format": 1' + "1" * 5000 + "}", "[" * 100_000, " " * 2_000_000,
    ],
)  # fmt: skip
def test_what_is_no_card_is_refused(saved: Path, text: str) -> None:
    (saved / "policy.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"policy\.json"):
        load(saved)


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_in_place_of_the_weights_is_refused_and_not_run(saved: Path, tmp_path: Path, protocol: int) -> None:
    (saved / "policy.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "boom"), protocol))
    with pytest.raises(InputError, match="is a pickle, which can hold programs: ackd never executes files"):
        load(saved)
    assert not (tmp_path / "boom").exists()


def test_an_archive_in_place_of_the_weights_is_refused(saved: Path) -> None:
    torch.save(random_network().state_dict(), saved / "policy.safetensors")
    with pytest.raises(InputError, match="is a zip archive"):
        load(saved)


def test_a_run_stands_for_its_policy(saved: Path, tmp_path: Path) -> None:
    saved.rename(tmp_path / "policy")
    assert load(tmp_path).card == load(tmp_path / "policy").card


def test_what_is_no_folder_of_a_policy_is_refused(saved: Path, tmp_path: Path) -> None:
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data", "{}")
    with pytest.raises(InputError, match="is a file; stable-baselines3's zip is never read"):
        load(archive)
    with pytest.raises(InputError, match="is not there"):
        load(tmp_path / "nowhere")
    (saved / "policy.safetensors").unlink()
    with pytest.raises(InputError, match=r"policy\.safetensors is missing"):
        load(saved)


def replace_weights(folder: Path, data: bytes) -> None:
    """Other weights, with a card that vouches for them."""
    (folder / "policy.safetensors").write_bytes(data)
    fields = json.loads((folder / "policy.json").read_text()) | {"sha256": hashlib.sha256(data).hexdigest()}
    (folder / "policy.json").write_text(json.dumps(fields))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(saved: Path, value: float) -> None:
    tensors = random_network().state_dict()
    tensors["actor.2.bias"][0] = value
    replace_weights(saved, safetensors.torch.save(tensors))
    with pytest.raises(InputError, match=r"NaN or infinity in actor\.2\.bias"):
        load(saved)


def test_sizes_are_checked_before_memory_is_taken(saved: Path) -> None:
    """A header that promises a terabyte, and one that is itself a terabyte long."""
    header = json.dumps({"actor.0.bias": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}).encode()
    for data in (struct.pack("<Q", len(header)) + header, struct.pack("<Q", 1 << 40) + b"{"):
        replace_weights(saved, data)
        with pytest.raises(InputError, match=r"does not fit|not a safetensors file"):
            load(saved)


def test_files_larger_than_any_policy_are_refused_unread(saved: Path) -> None:
    with (saved / "policy.safetensors").open("r+b") as file:
        file.truncate(1 << 40)  # takes no space
    with pytest.raises(InputError, match="has more than"):
        load(saved)


def test_a_file_that_cannot_be_read_is_one_sentence(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    for place in ("open", "is_file"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, place, forbidden)
            with pytest.raises(InputError, match="cannot be read"):
                load(saved)


def test_metadata_beside_the_tensors_is_refused(saved: Path) -> None:
    replace_weights(saved, safetensors.torch.save(random_network().state_dict(), {"note": "x"}))
    with pytest.raises(InputError, match="__metadata__"):
        load(saved)


def test_the_model_card_says_what_the_json_says(saved: Path) -> None:
    text = (saved / "README.md").read_text()
    card: Any = ModelCard(text)
    body, data = card.text, card.data
    tags = ["ackd", "knowledge-distillation", "reinforcement-learning", "a2c"]
    assert (data.license, data.library_name, data.tags) == ("apache-2.0", "ackd", tags)
    parts = ("# small", "hidden, attention, logits", "| return | 0.9 |", '"seed": 3', "4 episodes, 1,000.0 GFLOPs")
    for part in (
        *parts,
        "--policy small",
        f"schema {SCHEMA}",
        "| license | Apache-2.0 |",
        f"torch {torch.__version__}",
    ):
        assert part in body
    assert card_text(load(saved).card, load(saved).network) == text
    assert "## Weights" not in text


def body_of(folder: Path, network: Actor) -> str:
    save(folder, network, name="small", algorithm="cem", knowledge=("logits", "hidden"), k_max=4)
    return (folder / "README.md").read_text()


def test_the_card_of_a_schedule_shows_its_weights(tmp_path: Path) -> None:
    schedule = Schedule.of({"labels": [0.25, 1, 4], "logits": [0, 0.5, 8], "hidden": [2, 1, 0.1]})
    table = [
        "| progress | 0 % | 50 % | 100 % |",
        "|---|---|---|---|",
        "| labels | 0.25 | 1 | 4 |",
        "| logits | off | 0.5 | 8 |",
        "| hidden | 2 | 1 | off |",
        "| attention | 1 | 1 | 1 |",
        "| relation | 1 | 1 | 1 |",
    ]
    assert "\n".join(table) in body_of(tmp_path / "schedule", schedule)
    guarded = body_of(tmp_path / "rule", ProbeRule(3, schedule.values))
    assert "\n".join(table) in guarded
    assert "If the teacher is overtaken, only the labels from the second decision on" in guarded
    network = ResidualNetwork(len(GLOBALS), len(FEATURES), 8, 3, schedule.values)
    still = body_of(tmp_path / "still", network)
    assert "\n".join(table) in still
    assert "changes nothing" in still
    with torch.no_grad():
        network.gate.weight[0, 0] = 1.0
    assert "by a factor from 0.5 to 2" in body_of(tmp_path / "residual", network)


@given(
    metrics=st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.floats(allow_nan=False) | st.text(),
                                                    lambda part: st.lists(part) | st.dictionaries(st.text(), part))),
    instances=st.lists(st.dictionaries(st.text(), st.text()), max_size=25),
)  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_in_a_card_reaches_the_terminal(saved: Path, metrics: Fields, instances: list[Fields]) -> None:
    policy = load(saved)
    text = card_text(replace(policy.card, metrics=metrics, instances=tuple(instances)), policy.network)
    assert text.replace("\n", "").isprintable()
    text.encode()


def test_half_precision_is_refused(saved: Path) -> None:
    replace_weights(saved, safetensors.torch.save({n: t.half() for n, t in random_network().state_dict().items()}))
    with pytest.raises(InputError, match=r"'F16'.*'F32'"):
        load(saved)


@given(data=st.data(), vouched=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_a_damaged_file_is_refused_or_harmless(saved: Path, data: st.DataObject, vouched: bool) -> None:
    """Flipped or missing bytes anywhere: an `InputError`, or a policy that still acts; with a true hash, never that."""
    name = data.draw(st.sampled_from(["policy.json", "policy.safetensors"]))
    good = {each: (saved / each).read_bytes() for each in ("policy.json", "policy.safetensors")}
    content = bytearray(good[name])
    # Half of the time near the beginning, where the structure is.
    limit = data.draw(st.sampled_from([min(600, len(content)), len(content)])) - 1
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, limit))]
    else:
        content[data.draw(st.integers(0, limit))] ^= data.draw(st.integers(1, 255))
    try:
        (saved / name).write_bytes(bytes(content))
        if name == "policy.safetensors" and vouched:
            replace_weights(saved, bytes(content))
        try:
            actions, _ = load(saved).predict(observe(0, 2, 8))
        except InputError:
            return
        assert name == "policy.json" or vouched
        assert actions.shape == (2, 8)
    finally:
        for each, original in good.items():
            (saved / each).write_bytes(original)
