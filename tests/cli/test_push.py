"""`ackd push`, and policies of the hub as --policy, against a stand-in of the hub."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ackd.agents.schedule import Schedule
from ackd.agents.store import CARD, README, WEIGHTS, load, save
from ackd.cli import main
from ackd.errors import InputError
from ackd.experiments.pushing import MODEL, TOKENIZER, push
from tests.hub import STRANGER, Client, StandIn, client_of, serving

SHORT = ["--student-layers", "1", "--max-examples", "200", "--reward-examples", "40", "--steps", "8"]
SHORT += ["--decision-interval", "2", "--lr", "5e-4", "--batch-size", "8", "--knowledge", "logits", "hidden", "--quiet"]
POLICY = {CARD, WEIGHTS, README}


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with serving(lfs=True) as made:
        yield made


@pytest.fixture(scope="module")
def client(server: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """It uploads large files as git-lfs does; without that `huggingface_hub` takes Xet, which no stand-in is for."""
    with client_of(server, tmp_path_factory.mktemp("home"), HF_HUB_DISABLE_XET="1") as made:
        yield made


def saved(folder: Path, labels: float = 0.25) -> Path:
    schedule = Schedule.of({"labels": [labels, 4.0], "logits": [0.0, 1.0], "hidden": [2.0, 1.0]})
    save(folder, schedule, name="learned", algorithm="cem", knowledge=("logits", "hidden"), k_max=8)
    return folder


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("policies") / "learned")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, teacher: Path, policy: Path) -> Path:
    """A run under the policy's folder."""
    run = tmp_path_factory.mktemp("runs") / "run"
    assert main(distill(teacher, policy, run)) == 0
    return run


def distill(teacher: Path, policy: object, run: Path, *more: str) -> list[str]:
    arguments = ["distill", "--task", "polarity", "--teacher", str(teacher), *SHORT, *more]
    return [*arguments, "--policy", str(policy), "--output", str(run)]


def decisions(run: Path) -> list[dict[str, str]]:
    with (run / "decisions.csv").open() as file:
        return list(csv.DictReader(file))


def of(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text())


@pytest.fixture(scope="module")
def pushed(server: StandIn, client: Client, policy: Path) -> str:
    """The policy on the hub."""
    code, out, err = client.ackd("push", policy, "me/learned")
    assert (code, err) == (0, "")
    assert out == f"url:     {server.endpoint}/me/learned\nuse it:  --policy hf:me/learned\n"
    return "me/learned"


def test_of_a_policy_go_weights_json_and_card(server: StandIn, pushed: str, policy: Path) -> None:
    files = server.repositories[pushed].files
    assert set(files) == {*POLICY, ".gitattributes"}
    for name in (CARD, WEIGHTS):
        assert files[name] == (policy / name).read_bytes()
    assert files[README].startswith(b"---\nlibrary_name: ackd\nlicense: apache-2.0\n")


def test_of_a_run_goes_its_student_and_nothing_else(
    server: StandIn, client: Client, student: Path, teacher: Path
) -> None:
    server.asked.clear()
    code, out, _ = client.ackd("push", student, "me/student", "--private")
    assert code == 0
    line = 'transformers.pipeline("text-classification", model="me/student")("A text.")'
    assert out == f"url:     {server.endpoint}/me/student\nuse it:  {line}\n"
    repository = server.repositories["me/student"]
    assert repository.private
    files = {name: data for name, data in repository.files.items() if name != ".gitattributes"}
    assert set(files) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
    for name, data in files.items():
        assert data == (student / "student" / name).read_bytes()
        assert str(teacher).encode() not in data
        assert str(student).encode() not in data
    assert json.loads(files["config.json"])["id2label"] == {"0": "negative", "1": "positive"}
    assert any(method == "PUT" for method, _ in server.asked)  # by git-lfs
    answers = client.call(answers_of, "me/student")
    assert answers == client.call(answers_of, str(student / "student"))


def answers_of(model: str) -> Any:
    from transformers import pipeline

    return pipeline("text-classification", model=model)(["good bad", "not good"])


def test_every_file_that_a_student_is_saved_as_is_known(student: Path) -> None:
    names = {path.name for path in (student / "student").iterdir()}
    assert names - {*MODEL, *TOKENIZER} <= {"seen.json", "projections.safetensors", "weighting.safetensors"}


def test_a_student_under_a_policy_of_the_hub_is_that_under_its_folder(
    server: StandIn, client: Client, policy: Path, teacher: Path, student: Path, tmp_path: Path
) -> None:
    pushed = "me/moving"
    assert client.ackd("push", policy, pushed)[0] == 0
    repository = server.repositories[pushed]
    first, run = repository.branches["main"], tmp_path / "run"
    assert client.ackd(*distill(teacher, f"hf:{pushed}", run))[0] == 0
    assert decisions(run) == decisions(student)
    assert of(run, "result.json")["dev_scores"] == of(student, "result.json")["dev_scores"]
    weights = [(one / "student" / "model.safetensors").read_bytes() for one in (run, student)]
    assert weights[0] == weights[1]
    name = f"hf:{pushed}@{first}"
    assert of(run, "config.json")["settings"]["policy"] == of(run, "result.json")["policy"] == name
    assert f"| policy | {name} |" in (run / "student" / "README.md").read_text()

    repository.branches["v1"] = first
    changed = saved(tmp_path / "changed", labels=2.0)
    assert client.ackd("push", changed, pushed)[0] == 0
    assert repository.branches["main"] != first
    for again in (f"hf:{pushed}", name, f"hf:{pushed}@v1", f"hf:{pushed}@main"):
        code, out, _ = client.ackd(*distill(teacher, again, run, "--resume"))
        assert (code, out) == (0, f"the run in {run} is finished: nothing is left to resume\n")
    (run / "result.json").unlink()
    assert client.ackd(*distill(teacher, f"hf:{pushed}", run, "--resume"))[0] == 0
    assert decisions(run) == decisions(student)
    assert of(run, "result.json")["policy"] == name

    newer = repository.branches["main"]
    code, _, err = client.ackd(*distill(teacher, f"hf:{pushed}@{newer}", run, "--resume"))
    assert code == 2
    assert f" has policy 'hf:{pushed}" in err
    assert f", and now it is 'hf:{pushed}@{newer}'" in err
    assert client.ackd(*distill(teacher, f"hf:{pushed}", tmp_path / "newer"))[0] == 0
    assert decisions(tmp_path / "newer") != decisions(student)


def test_a_policy_of_the_hub_is_refined(
    client: Client, pushed: str, policy: Path, teacher: Path, tmp_path: Path
) -> None:
    for name, given in (("hub", f"hf:{pushed}"), ("folder", policy)):
        code, out, _ = client.ackd(*distill(teacher, given, tmp_path / name, "--refine"))
        assert code == 0
        assert "refined over" in out
    assert decisions(tmp_path / "hub") == decisions(tmp_path / "folder")
    assert (tmp_path / "hub" / "policy" / WEIGHTS).is_file()


def test_policies_of_the_hub_stand_in_a_table(
    server: StandIn, client: Client, pushed: str, policy: Path, teacher: Path, tmp_path: Path
) -> None:
    commit = server.repositories[pushed].branches["main"]
    arguments = ["evaluate", "--tasks", "polarity", "--teachers", str(teacher), *SHORT, "--seeds", "1"]
    arguments += ["--output", str(tmp_path / "table"), "--policies", str(policy), f"agent=hf:{pushed}"]
    code, out, _ = client.ackd(*arguments)
    assert code == 0
    name = f"hf:{pushed}@{commit}"
    assert f"policy:  agent is {name}\n" in out
    server.repositories[pushed].add({"other": b""})
    code, _, _ = client.ackd(*arguments, f"hf:{pushed}", f"mean=replay:hf:{pushed}", "--resume")
    assert code == 0
    assert of(tmp_path / "table", "config.json")["settings"]["policies"][1:] == [
        f"agent={name}",
        name,
        f"mean=replay:{name}",
    ]
    cells = of(tmp_path / "table", "result.json")["cells"]
    assert [cell["policy"] for cell in cells] == [str(policy), "agent", name, "mean"]
    rows = [{key: value for key, value in cell.items() if key not in ("policy", "seconds")} for cell in cells]
    assert rows[0] == rows[1] == rows[2]
    server.repositories[pushed].branches["main"] = commit


def in_python(name: str, folder: str, teacher: str, place: str) -> dict[str, Any]:
    """What the same comes to from Python."""
    import ackd
    from ackd.agents import load

    policy = load(f"hf:{name}")
    ackd.push(policy, "me/object")
    config: Any = {"student_layers": 1, "steps": 4, "max_examples": 100, "reward_examples": 40}
    found: dict[str, Any] = {"results": []}
    for one in (f"hf:{name}", policy, folder):
        trainer = ackd.DistillationTrainer(
            teacher=teacher,
            task="polarity",
            policy=one,
            args=ackd.DistillationConfig(**config, knowledge=("logits", "hidden")),
            quiet=True,
        )
        found["results"].append(dict(trainer.train().result))
    pushed = ackd.push(trainer, "me/trained", revision="dev")
    trainer.save(place)
    return {**found, "url": pushed.url, "use": pushed.use, "commit": pushed.commit}


def test_python_pushes_and_takes_policies_as_well(
    server: StandIn, client: Client, pushed: str, policy: Path, teacher: Path, tmp_path: Path
) -> None:
    found = client.call(in_python, pushed, str(policy), str(teacher), str(tmp_path / "saved"))
    files = server.repositories["me/object"].files
    assert set(files) == {*POLICY, ".gitattributes"}
    for name in (CARD, WEIGHTS):
        (tmp_path / name).write_bytes(files[name])
    ours, theirs = (load(folder).network.state_dict() for folder in (policy, tmp_path))
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    commit = server.repositories[pushed].branches["main"]
    assert [one["policy"] for one in found["results"]] == [f"hf:{pushed}@{commit}", "learned", str(policy)]
    assert len({json.dumps(one["dev_scores"]) for one in found["results"]}) == 1
    trained = server.repositories["me/trained"]
    assert set(trained.files) == {".gitattributes"}
    assert trained.branches["dev"] == found["commit"]
    there = trained.commits[found["commit"]]
    assert there["model.safetensors"] == (tmp_path / "saved" / "model.safetensors").read_bytes()
    assert "README.md" in there
    assert "seen.json" not in there
    assert found["url"] == f"{server.endpoint}/me/trained"
    assert 'model="me/trained", revision="dev"' in found["use"]


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["{policy}", "me/x"], {"HF_TOKEN": ""}, "no token for http://127.0.0.1:"),
        (["{policy}", "me/x"], {"HF_TOKEN": "wrong"}, "does not accept your token: log in"),
        (["{policy}", "me/x"], {"HF_TOKEN": STRANGER}, "your token cannot write to me/x on http://127.0.0.1:"),
        (["{policy}", "me/learned"], {"HF_TOKEN": STRANGER}, "your token cannot write to me/learned on http://"),
        (
            ["{policy}", "me/x"],
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
            "http://127.0.0.1:9 cannot be reached for me/x (",
        ),
        (["{policy}", "x"], {}, '"x" names no repository of the hub: write USER/REPO'),
        (["{policy}", "me/x y"], {}, "names no repository of the hub"),
        (["{policy}", "https://huggingface.co/me/x"], {}, "names no repository of the hub"),
        (["{policy}", "me/x", "--revision", "a b"], {}, "names no repository of the hub"),
        (["{policy}", "me/x", "--revision", "a" * 40], {}, "is a commit, and commits do not change"),
        (["{policy}", "me/learned", "--private"], {}, "/me/learned exists already and is public"),
        (["{place}/none", "me/x"], {}, "none': give a finished run"),
        (["nonsense", "me/x"], {}, "unknown policy 'nonsense'"),
        (["{place}", "me/x"], {}, "holds no student and no policy: give a finished run"),
        (["{place}/both", "me/x"], {}, "/both holds student and policy: name "),
        (["{place}/begun", "me/x"], {}, "/begun is not finished: finish it with --resume"),
        (["{place}/begun/student", "me/x"], {}, "/begun is not finished: finish it with --resume"),
        (["{place}/damaged", "me/x"], {}, "/damaged/policy.safetensors is a pickle"),
    ],
)
def test_what_cannot_be_pushed_is_one_sentence(
    client: Client,
    server: StandIn,
    pushed: str,
    policy: Path,
    student: Path,
    tmp_path: Path,
    arguments: list[str],
    environment: dict[str, str],
    words: str,
) -> None:
    shutil.copytree(student, tmp_path / "begun")
    (tmp_path / "begun" / "result.json").unlink()
    shutil.copytree(student, tmp_path / "both")
    shutil.copytree(policy, tmp_path / "both" / "policy")
    shutil.copytree(policy, tmp_path / "damaged")
    (tmp_path / "damaged" / WEIGHTS).write_bytes(b"\x80\x04.")
    before = dict(server.repositories[pushed].branches)
    given = [one.format(policy=policy, place=tmp_path) for one in arguments]
    code, out, err = client.ackd("push", *given, **environment)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("ackd: ")
    assert words in err
    assert server.repositories[pushed].branches == before
    assert "me/x" not in server.repositories


@pytest.mark.parametrize("given", [object(), "", 3, None, {}])
def test_what_is_no_student_and_no_policy_is_told(given: object) -> None:
    with pytest.raises(InputError, match="give a finished run, the folder of a student or policy, or a policy's name"):
        push(given, "me/x")
