"""Runs of every kind whose bits a redesign may not change.

    python -m tests.golden.runs check [NAME...]     makes the runs again and compares them with frozen.json
    python -m tests.golden.runs freeze [NAME...]    makes them, and writes what they left

A frozen run is a digest of each file that it leaves: weights, decisions, tables, policies, results and counts, without
what differs from one execution to the next, such as seconds. Bits depend on the processor and on the versions of the
packages (`made_here`), so each set of frozen runs says where it was made, and is compared nowhere else.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification

from ackd.agents.learner import LEARNERS
from ackd.cli import main as ackd
from ackd.presets import METHODS

FROZEN = Path(__file__).with_name("frozen.json")
PACKAGES = ("torch", "transformers", "stable-baselines3", "numpy")
# what a run says of this execution, this installation or this machine
FLEETING = {"seconds", "versions", "version", "python", "platform", "threads", "started", "pid", "sha256", "time"}
DIGESTED = {".safetensors", ".csv", ".json", ".jsonl", ".bin"}
LEFT_OUT = {"config.json", "comparison.json"}  # what was typed, and what an answer takes on this machine
TEACHER, OTHER = "teacher", "other"  # folders of what all runs are given
SMALL = "--student-layers 2 --max-examples 100 --reward-examples 64 --batch-size 8 --lr 1e-3"
SHORT = f"--task polarity --teacher {{teacher}} {SMALL} --steps 6 --decision-interval 1"
PAIR = f"--task polarity --teacher {{teacher}} {{other}} {SMALL} --steps 6 --decision-interval 2"
TOGETHER = tuple(name for name in LEARNERS if name != "ksm")  # learn from students side by side
TWO = ("dynamickd-teacher", "kd-average", "rl-kd", "mtkd-rl")  # presets of two teachers
TEXT = "The old farm had a horse and a hen. Every morning the horse ran to the gate. The hen slept by the fire.\n\n"
GPT = {"model_type": "gpt2", "n_positions": 32, "n_layer": 1, "n_embd": 16, "n_head": 2}
LM = "--corpus {given}/text.txt --max-length 33 --lr 3e-3 --batch-size 8"


def _preset(name: str) -> list[str]:
    if name == "reffakd":
        return [f"distill --preset reffakd --task polarity --student {{teacher}}/model {SMALL} --steps 6"]
    if name == "ksm":
        return [f"train --preset ksm {SHORT} --episodes 2"]
    return [f"distill --preset {name} {PAIR if name in TWO else SHORT}"]


# of each run its commands, one after the other; the last one's folder is what counts
RUNS: Mapping[str, Sequence[str]] = {
    **{f"distill-{name}": [f"distill {SHORT} --policy {name}"] for name in ("labels", "all", "scheduled", "magnitude")},
    "distill-default": [f"distill {SHORT} --policy default"],
    "distill-refined": [f"distill {SHORT} --policy default --refine"],
    # without what depends on times
    "distill-cached": [f"distill {SHORT} --cache {{folder}}/cache --cache-reads all"] * 2,
    "distill-budget": [f"distill {SHORT} --policy all --flops-budget 0.8"],
    **{f"preset-{name}": _preset(name) for name in METHODS},
    **{
        f"train-{name}": [f"train --agent {name} {SHORT} --episodes 4 --students 2"]
        for name in LEARNERS
        if name != "ksm"
    },
    "train-alone": [f"train --agent ppo {SHORT} --episodes 2"],
    "train-two-workers": [f"train --agent a2c {SHORT} --episodes 4 --workers 2 --backend subproc"],
    "evaluate": [
        f"evaluate --tasks polarity --teachers {{teacher}} {SMALL} --steps 6 --decision-interval 2 --seeds 2 "
        "--policies labels all preset:kd default"
    ],
    "evaluate-two-workers": [
        f"evaluate --tasks polarity --teachers {{teacher}} {SMALL} --steps 6 --decision-interval 2 --seeds 2 "
        "--policies labels all --workers 2 --backend subproc"
    ],
    "tune": [
        f"tune --task polarity --teacher {{teacher}} {SMALL} --steps 6 --temperature 1 4 --kd-weight 0.1 --seeds 1"
    ],
    "finetune": ["finetune --task tally --max-examples 100 --reward-examples 64 --epochs 1 --lr 1e-3 --batch-size 8"],
    "federate": [
        f"federate --task polarity --teacher {{teacher}} {SMALL} --clients 2 --rounds 1 --local-steps 2 --own-steps 2 "
        "--distil-steps 2 --public-examples 24"
    ],
    "mutual": [
        "mutual --task polarity --students {teacher}/model {other}/model --max-examples 100 --reward-examples 64 "
        "--batch-size 8 --lr 1e-3 --steps 6"
    ],
    "pretrain": [f"pretrain {LM} --student {{given}}/gpt.json --vocabulary 280 --steps 4"],
}


def made_here() -> dict[str, str]:
    """What the bits depend on."""
    return {"arithmetic": arithmetic(), **{name: version(name) for name in PACKAGES}}


def arithmetic() -> str:
    """A digest of what this processor computes: the weights of a small model after four steps, without our code.

    Processors of one instruction set differ too, since libraries also choose by the model and the size of its caches.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 100}
        model = BertForSequenceClassification(BertConfig(num_attention_heads=4, **sizes)).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(4):
            loss = model(torch.randint(100, (8, 20)), labels=torch.randint(2, (8,))).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    digest = hashlib.sha256(loss.detach().numpy().tobytes())
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()[:16]


def given(folder: Path) -> dict[str, str]:
    """What all runs are given: two teachers, a text and a model's sizes."""
    (folder / "text.txt").write_text(TEXT * 40, encoding="utf-8")
    (folder / "gpt.json").write_text(json.dumps(GPT), encoding="utf-8")
    for name, seed in ((TEACHER, 0), (OTHER, 1)):
        _run(f"finetune --task polarity --max-examples 300 --epochs 1 --lr 1e-3 --seed {seed}", folder / name)
    return {"given": str(folder), TEACHER: str(folder / TEACHER), OTHER: str(folder / OTHER)}


def made(name: str, indices: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The digests of what a run leaves in `folder`."""
    for number, command in enumerate(RUNS[name]):
        _run(command.format(**indices, folder=folder), folder / str(number))
    return digests(folder / str(len(RUNS[name]) - 1), {**indices, "folder": str(folder)})


def digests(folder: Path, indices: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of each file of a run, the first 16 digits of the SHA-256 of what does not differ between executions."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix not in DIGESTED or "checkpoint" in path.parts or path.name in LEFT_OUT:
            continue
        data = path.read_bytes()
        if path.suffix == ".json":
            text = json.dumps(_lasting(json.loads(data)), sort_keys=True)
            for name, place in (indices or {}).items():
                text = text.replace(place, f"<{name}>")
            data = text.encode()
        elif path.suffix == ".csv":
            data = _lasting_columns(data)
        found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()[:16]
    return found


def differences(frozen: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What is no longer as it was, in words."""
    return [
        f"{name} is {'missing' if name not in now else 'new' if name not in frozen else 'not the same'}"
        for name in sorted(frozen.keys() | now.keys())
        if frozen.get(name) != now.get(name)
    ]


def _lasting_columns(table: bytes) -> bytes:
    rows = list(csv.reader(table.decode().splitlines()))
    kept = [place for place, name in enumerate(rows[0] if rows else []) if name not in FLEETING]
    if not rows or len(kept) == len(rows[0]):
        return table
    return "\n".join(",".join(row[place] for place in kept) for row in rows).encode()


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lasting(one) for name, one in value.items() if name not in FLEETING}
    return [_lasting(one) for one in value] if isinstance(value, list) else value


def _run(command: str, output: Path) -> None:
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            failed = ackd([*command.split(), "--output", str(output)])
        except SystemExit as error:  # of words that it does not know
            failed = int(error.code or 0)
    if failed:
        raise SystemExit(f"ackd {command}\n{said.getvalue()[-2000:]}")


def _each(names: Iterable[str]) -> Iterable[tuple[str, dict[str, str]]]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "given").mkdir()
        indices = given(folder / "given")
        for name in names:
            began = time.monotonic()
            yield name, made(name, indices, folder / name)
            print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "freeze"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"instead of all: {', '.join(RUNS)}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if unknown := set(options.names) - set(RUNS):
        parser.error(f"no run is called {', '.join(sorted(unknown))}")
    kept = json.loads(FROZEN.read_text(encoding="utf-8")) if FROZEN.exists() else {"made": {}, "runs": {}}
    if options.what == "check" and kept["made"] != made_here():
        print(f"frozen on {kept['made']}, and this is {made_here()}: bits cannot be compared")
        return 0
    changed = 0
    for name, found in _each(options.names or RUNS):
        if options.what == "freeze":
            kept = {"made": made_here(), "runs": {**kept["runs"], name: found}}
            FROZEN.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            continue
        for difference in differences(kept["runs"].get(name, {}), found):
            changed += 1
            print(f"{name}: {difference}", flush=True)
    return int(changed > 0)


if __name__ == "__main__":
    sys.exit(main())
