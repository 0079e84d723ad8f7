"""`ackd policies`, and names of the store as --policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import ackd  # noqa: F401  # registers the environments
from ackd.agents import LearnedPolicy, SetNetwork, SetWeights, library, save
from ackd.agents.policy import Policy
from ackd.agents.rules import Rule
from ackd.cli import main
from ackd.envs.distillation import DistillationEnv
from ackd.errors import InputError
from ackd.experiments.episodes import folder_of
from ackd.experiments.policies import arm
from ackd.mdp.observations import FEATURES, GLOBALS


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, nothing that comes with the package, and the current folder at hand."""
    monkeypatch.setattr(library, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setenv("ACKD_POLICIES", "home")
    monkeypatch.chdir(tmp_path)
    return Path("home")


def saved(folder: str, kind: type[SetNetwork] = SetNetwork, **card: Any) -> str:
    about: dict[str, Any] = {
        "name": "small",
        "algorithm": "a2c",
        "knowledge": ("logits", "hidden", "attention", "fsp", "embeddings"),
        "k_max": 8,
        "instances": [{"task": "sst2", "seed": 1}, {"task": "sst2", "seed": 2}, {"task": "mrpc"}],
        "metrics": {"episodes": 8, "reward": 0.91, "dev": {"validation": {"accuracy": 0.885}}},
        "cost": {"episodes": 8, "student_steps": 2560, "flops": 2.5e12, "seconds": 61.3},
    }
    save(folder, kind(len(GLOBALS), len(FEATURES), 4), **(about | card))
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["policies", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_an_empty_store_says_how_to_fill_it(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert out == "there are no policies yet: `ackd policies import RUN --name NAME` puts one into home\n"


def test_the_list_is_a_table(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    saved("shipped/default", name="default")
    saved("home/bare", name="bare", instances=[], metrics={}, cost={}, knowledge=("logits",), algorithm="ppo")
    saved(
        "home/other", name="other", metrics={"regret": 0.25, "note": "x"}, instances=[{"task": "\x1b[2J"}, {"task": 3}]
    )
    (home / "empty").mkdir()
    (home / "Bad\x1b[2J").mkdir()
    code, out, _ = run(capsys, "list")
    assert code == 0
    head, default, bad, bare, empty, other = out.splitlines()
    assert head.split() == ["name", "where", "algorithm", "knowledge", "trained", "on", "score", "cost"]
    knowledge, cost = "logits, hidden, attention +2", "8 episodes, 2,560 student steps, 2,500.0 GFLOPs, 61 s"
    assert split(default) == ["default", "shipped", "a2c", knowledge, "sst2, mrpc", "reward 0.91, dev 88.5%", cost]
    assert split(bad)[:2] == [r"'Bad\x1b[2J'", "yours"]
    assert "damaged: " in bad
    assert split(bare) == ["bare", "yours", "ppo", "logits", "-", "-", "-"]
    assert split(empty) == ["empty", "yours", "damaged: home/empty is no saved policy: policy.json is missing"]
    assert split(other)[4:6] == [r"'\x1b[2J'", "regret 0.25"]
    assert all(line.isprintable() for line in out.splitlines())
    assert len({line.index("a2c") if "a2c" in line else line.index("ppo") for line in (default, bare, other)}) == 1


def split(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_a_policy_goes_out_and_comes_in_under_another_name(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert run(capsys, "import", saved("run/policy"))[:2] == (0, "policy:  home/small\nuse it:  --policy small\n")
    assert run(capsys, "export", "small", "x.safetensors")[:2] == (0, "policy:  x.safetensors\n")
    assert run(capsys, "import", "x.safetensors", "--name", "mine")[0] == 0
    assert (home / "mine" / "policy.safetensors").read_bytes() == Path("run/policy/policy.safetensors").read_bytes()
    code, out, _ = run(capsys, "show", "mine")
    assert code == 0
    assert out == (home / "mine" / "README.md").read_text()
    (home / "mine" / "README.md").write_text("edited")
    assert run(capsys, "show", "mine")[1] == out
    saved("mine")  # a folder comes before a name, and a run will do
    own = run(capsys, "show", "mine")[1]
    assert own != out
    for place in ("run", "run/policy", "./run/"):
        assert run(capsys, "show", place)[1] == own
        assert run(capsys, "export", place, "run.safetensors", "--overwrite")[0] == 0
    assert run(capsys, "import", "run.safetensors", "--name", "again")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "smal"], "unknown policy 'smal': did you mean 'small'? (known: small)"),
        (["show", "broken"], "unknown policy"),
        (["show", "./none"], "none is not there: give the folder that holds policy.json"),
        (["import", "run"], "you have a policy 'small' already"),
        (["import", "run", "--name", "../x"], "'../x' cannot be a policy's name"),
        (["import", "run", "--name", "all"], "'all' is a rule or a knowledge type"),
        (["import", "none"], "none is not there"),
        (["import", "pickle.safetensors"], "pickle.safetensors is a pickle"),
        (["export", "small", "there.safetensors"], "there.safetensors is there already"),
        (["export", "small", "x.zip"], "x.zip: an exported policy is a safetensors file"),
        (["export", "other", "x.safetensors"], "unknown policy 'other'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    saved("run/policy")
    assert run(capsys, "import", "run")[0] == 0
    Path("there.safetensors").touch()
    Path("pickle.safetensors").write_bytes(b"\x80\x04.")
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("ackd: ")
    assert err.count("\n") == 1
    assert message in err


def policy_of(name: str, env: DistillationEnv) -> Policy:
    return arm(name, env.knowledge).make(env, 0)


@pytest.fixture(scope="module")
def env() -> DistillationEnv:
    made = gym.make("ACKD/Tiny-v0").unwrapped
    assert isinstance(made, DistillationEnv)
    return made


def test_a_policy_is_a_rule_a_folder_a_run_or_a_name(env: DistillationEnv) -> None:
    for folder in ("run/policy", "all", env.knowledge[0]):
        saved(folder)
    assert isinstance(policy_of("all", env), Rule)  # and not the folder
    assert isinstance(policy_of(env.knowledge[0], env), Rule)
    assert isinstance(policy_of("+".join(env.knowledge), env), Rule)
    for name in ("run", "run/policy", "./all"):
        assert isinstance(policy_of(name, env), LearnedPolicy)
    library.import_("run", "mine")
    policy = policy_of("mine", env)
    assert isinstance(policy, LearnedPolicy)
    assert folder_of("mine", env.knowledge) == library.find("mine")
    observation, _ = env.reset(seed=0)
    assert env.action_space.contains(policy.predict(observation, deterministic=True)[0])
    with pytest.raises(InputError, match=r"unknown policy 'mina': did you mean 'mine'\? \(known: .*all.*mine.*random"):
        policy_of("mina", env)
    with pytest.raises(InputError, match="unknown knowledge type 'nothing'"):
        policy_of("logits+nothing", env)


def test_a_policy_of_another_action_space_brings_it(env: DistillationEnv) -> None:
    saved("soft", SetWeights)
    soft = arm("soft", env.knowledge)
    weighing = env.variant(**soft.settings)
    observation, _ = weighing.reset(seed=0)
    actions, _ = soft.make(weighing, 0).predict(observation)
    assert weighing.action_space.contains(actions)
    assert not env.action_space.contains(actions)
    assert json.loads(Path("soft/policy.json").read_text())["choice"] == "weights"
