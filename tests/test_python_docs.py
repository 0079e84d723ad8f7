"""The Python of README and pages of docs runs as it is written, on small models and data and with fewer steps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from ackd import models, tasks

ROOT = Path(__file__).parents[1]
CLASSES = ["negative", "positive"]
PAGES = ["README.md", "docs/python.md", "docs/first_hour.md", "docs/agents.md", "docs/balancer.md"]
FEWER = (
    (r"epochs=[2346]", "epochs=1"),
    (r"sentence-transformers/all-MiniLM-L6-v2", "runs/teacher/model"),  # as there is no hub
    (r'steps(=|": )\d+', r"steps\g<1>4"),
    (r"reward_every=200", "reward_every=4"),
    (r"decision_interval=20", "decision_interval=1"),
    (r'student_layers": 3, "steps', 'student_layers": 2, "decision_interval": 1, "batch_size": 8, "steps'),
    (r"\*\*setting, decision_interval=1", r"**setting"),
    (r"episodes=64, students=16", "episodes=8, students=4"),
    (r"episodes=32", "episodes=4"),
    (r"32 \* 4", "4 * 4"),
    (r"num_train_epochs=\d", "max_steps=2, use_cpu=True, dataloader_pin_memory=False, disable_tqdm=True"),
    (r"\b8 \* 4", "2 * 4"),
    (r"n_steps=4, episodes=8", "n_steps=4, episodes=2"),
    (r"seeds=5", "seeds=2"),
)


def blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetDict:
    """A folder with what the documents name: a run with a teacher, GLUE in the hub's layout, a file of texts."""
    tokenizer = tasks.embedded_tokenizer("polarity")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.from_config(models.small_config(len(tokenizer), 2, layers=3, width=16, heads=2))()
    model.config.id2label = dict(enumerate(CLASSES))
    models.save_model(tmp_path / "runs" / "teacher" / "model", model, tokenizer)
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=CLASSES), "idx": Value("int32")})
    data = DatasetDict()
    (tmp_path / "glue" / "sst2").mkdir(parents=True)
    for split, count in (("train", 160), ("validation", 40)):
        rows = tasks.embedded.generate("polarity", split)
        columns = {"sentence": rows.texts[0][:count], "label": rows.labels[:count], "idx": range(count)}
        data[split] = Dataset.from_dict({name: list(some) for name, some in columns.items()}, features=features)
        data[split].to_parquet(str(tmp_path / "glue" / "sst2" / f"{split}.parquet"))
    data["validation"].rename_column("sentence", "text").to_csv(str(tmp_path / "new.csv"))
    data["train"].rename_column("sentence", "text").to_csv(str(tmp_path / "reviews.csv"))
    monkeypatch.chdir(tmp_path)

    def load_dataset(*names: str, data_files: str | None = None) -> DatasetDict:
        if data_files is None:
            return data
        return DatasetDict(train=Dataset.from_csv(data_files, cache_dir=str(tmp_path / "cache")))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return data


@pytest.mark.parametrize("name", PAGES)
def test_every_block_runs(name: str, workplace: DatasetDict, capsys: pytest.CaptureFixture[str]) -> None:
    found = blocks(ROOT / name)
    assert found
    if name == "docs/balancer.md":
        pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
        elsewhere = re.compile(r"ackd\.loops\.(lightning|modelopt)")  # whole scripts, which tests/loops runs
        found = [block for block in found if not elsewhere.search(block)]
    known: dict[str, Any] = {}
    if name == "README.md":  # which leaves loading them to the reader
        folder = Path("runs/teacher/model")
        known = {"data": workplace, "model": models.load_model(folder), "tokenizer": models.load_tokenizer(folder)}
    if name == "docs/agents.md":
        known = {
            "setting": {"teacher": "runs/teacher", "task": "sst2", "data": "glue", "student_layers": 2, "steps": 4}
        }
        known["setting"] |= {"decision_interval": 1, "choice": "weights", "batch_size": 8}
    for number, block in enumerate(found, 1):
        for long, short in FEWER:
            block = re.sub(long, short, block)
        exec(compile(block, f"{name}, block {number}", "exec"), known)
    if name == "docs/agents.md":
        assert known["policy"].predict
        return
    if name == "docs/balancer.md":
        assert (known["balancer"].steps_done, known["loss"].balancer.steps_done) == (4, 2)
        return
    assert (Path("student") / "model.safetensors").is_file()
    if name != "docs/first_hour.md":  # which compares no policies
        assert "| labels |" in capsys.readouterr().out
