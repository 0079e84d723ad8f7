"""`ackd report`, on run folders written by hand."""

from __future__ import annotations

import csv
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

import ackd
from ackd.cli import main
from ackd.experiments.evaluation import COLUMNS
from ackd.reporting import comparison, pictures
from ackd.reporting.html_report import Table, page
from ackd.reporting.statistics import stratified_bootstrap

FIXED = ["episode", "seed", "decision", "steps_done", "selection", "reward", "improvement", "cost", "bonus"]
FIXED += ["reward_loss", "reward_score", "label_loss", "grad_norm", "learning_rate", "flops", "flops_share", "error"]
TYPES = ("logits", "hidden")
EVIL = '<script>alert("1")</script>'
TAGS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "figure", "figcaption", "img"}
TAGS |= {"table", "thead", "tbody", "tr", "th", "td", "details", "summary", "wbr"}
LEDGER = {"seconds": {"student": 3.0, "agent": 1.0}, "flops": {"student": 3e12, "agent": 0.0}, "steps": 40}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coarse pictures and few resamples: what is drawn is the same."""
    monkeypatch.setattr(pictures, "DPI", 60)
    few = functools.partial(stratified_bootstrap, resamples=20)
    monkeypatch.setattr(comparison, "stratified_bootstrap", few)


def write_decisions(
    path: Path, episodes: int, *, seeds: list[int] | None = None, fixed: bool = False, ends: bool = False
) -> None:
    """Four phases of 10 steps an episode; logits in every one, hidden in the first two of every other episode.

    Args:
        path: of decisions.csv.
        episodes: how many.
        seeds: of theirs; their numbers if None.
        fixed: no columns for types, as the first version had it.
        ends: the reward split is measured at the end alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [*FIXED, "select/labels", *(f"{what}/{name}" for what in ("select", "loss") for name in TYPES)]
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, columns[: len(FIXED)] if fixed else columns, extrasaction="ignore")
        rows.writeheader()
        for episode in range(episodes):
            for place in range(4):
                hidden = place < 2 and episode % 2 == 0
                row: dict[str, Any] = dict.fromkeys(FIXED, 0.1)
                row |= {
                    "episode": episode,
                    "seed": seeds[episode] if seeds else episode,
                    "decision": place,
                    "error": "",
                }
                row |= {"steps_done": 10 * place + 10, "selection": "logits+hidden" if hidden else "logits"}
                row |= {"label_loss": 1 / (place + 1), "select/labels": 4.0, "select/logits": 1.0}
                row |= {"select/hidden": 0.5 * hidden}
                row |= {"loss/logits": 2.0 / (place + 1), "loss/hidden": 30.0 if hidden else ""}
                measured = place == 3 if ends else place % 2
                row |= {"reward_loss": 0.5 if measured else "", "reward_score": 0.8 if measured else ""}
                rows.writerow(row)


def write_run(path: Path, command: str, settings: dict[str, Any], result: dict[str, Any] | None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    config = {"command": command, "settings": settings, "versions": {"ackd": "0.1.0"}}
    (path / "config.json").write_text(json.dumps(config))
    if result is not None:
        (path / "result.json").write_text(json.dumps(result))
        (path / "ledger.json").write_text(json.dumps(LEDGER))
    return path


def write_training(path: Path, command: str = "train", episodes: int = 9, **changed: Any) -> Path:
    """A whole run of train (eight episodes and one after) or distill."""
    settings = {
        "task": "polarity",
        "steps": 40,
        "episodes": 8,
        "seed": 0,
        "teacher": [EVIL],
        "cache": None,
        "reward": "gap",
    }
    result = {"task": "polarity", "dev_score": 91.5, "dev_scores": {"validation": {"f1": 90.25}}, "error": ""}
    write_run(path, command, settings | changed, result)
    write_decisions(path / "decisions.csv", episodes, seeds=[*range(episodes - 1), 0])
    return path


def write_evaluation(path: Path, tasks: tuple[str, ...] = ("sst2", "mrpc")) -> Path:
    policies = ("labels", "all", "lookahead", "runs/train/policy", EVIL)
    cells = [
        {"task": task, "policy": policy, "seed": seed, "metric": "accuracy", "dev_score": 70 + 3 * place + seed}
        | {"teacher_score": 90, "reward": 0.1 * place, "flops_share": 0.6 + 0.1 * place, "steps": 40, "seconds": 2.5}
        for task in tasks
        for place, policy in enumerate(policies)
        for seed in range(3)
    ]
    write_run(path, "evaluate", {"tasks": list(tasks), "steps": 40}, {"task": list(tasks), "cells": cells})
    with (path / "table.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, COLUMNS)
        rows.writeheader()
        rows.writerows(cells)
    for task in tasks:
        for policy in ("labels", "runs_train_policy"):
            write_decisions(path / task / policy / "decisions.csv", 3)
    return path


class Page(HTMLParser):
    """Which tags a page has, with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def check_page(path: Path, pictures: int) -> Page:
    """That a page needs nothing beside it and says of each picture what it shows."""
    page = Page(path)
    assert {tag for tag, _ in page.tags} <= TAGS
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == pictures
    for image in images:
        assert (image["src"] or "").startswith("data:image/png;base64,iVBOR")
        assert len(image["alt"] or "") > 20
        assert "nan" not in (image["alt"] or "").replace("finance", "")
    text = re.sub(r'src="data:[^"]*"', "", path.read_text(encoding="utf-8"))
    assert "src=" not in text
    assert "href" not in text
    assert "http" not in text
    assert "url(" not in text
    return page


def check_pngs(folder: Path, *names: str) -> None:
    assert sorted(path.stem for path in folder.iterdir()) == sorted(names)
    for path in folder.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_training_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_training(tmp_path / "run")
    before = {path: path.read_bytes() for path in run.iterdir()}
    assert main(["report", str(run)]) == 0
    said = capsys.readouterr()
    check_pngs(run / "report", "rewards", "selections", "losses", "reward_split", "costs")
    page = check_page(run / "report.html", pictures=5)
    assert said.out.splitlines() == [str(run / "report" / f"{name}.png") for name in (
        "rewards", "selections", "losses", "reward_split", "costs")] + [str(run / "report.html")]  # fmt: skip
    assert EVIL in page.text
    assert "<script" not in (run / "report.html").read_text()
    for words in ("ackd train: polarity", "91.5", "validation: f1", "90.25", "0.1.0", "last 5", "not given"):
        assert words in page.text
    (alt,) = (tag["alt"] for name, tag in page.tags if name == "img" and "Return" in (tag["alt"] or ""))
    assert alt == "Return over 8 episodes: the running mean ends at 0.400; that of the trained policy is 0.400."
    assert "unfinished" not in page.text
    assert before.items() <= {path: path.read_bytes() for path in run.iterdir() if path.is_file()}.items()
    assert main(["report", str(run)]) == 0  # over the old one


def test_a_distillation_is_reported_elsewhere(tmp_path: Path) -> None:
    run = write_training(tmp_path / "run", "distill", episodes=1)
    before = sorted(run.rglob("*"))
    assert main(["report", str(run), "--output", str(tmp_path / "new" / "place")]) == 0
    assert sorted(run.rglob("*")) == before
    check_pngs(tmp_path / "new/place/report", "rewards", "selections", "losses", "reward_split", "costs")
    page = check_page(tmp_path / "new/place/report.html", pictures=5)
    alts = " ".join(tag["alt"] or "" for name, tag in page.tags if name == "img")
    assert "Mean weight: labels 4.00, logits 1.00, hidden 0.25." in alts
    assert "time: student 75%, agent 25%; FLOPs: student 100%, agent 0%." in alts


@pytest.mark.parametrize("command", ["train", "distill"])
def test_what_is_written_beside_the_axes_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    drawn: list[Figure] = []
    png = pictures.png

    def noted(figure: Figure) -> bytes:
        drawn.append(figure)
        return png(figure)

    monkeypatch.setattr(pictures, "png", noted)
    assert (
        main(["report", str(write_training(tmp_path / "run", command, episodes=9 if command == "train" else 1))]) == 0
    )
    said = [axes.get_title(loc="left") for figure in drawn for axes in figure.axes]
    assert ("last quarter (2 episodes)" in said) == (command == "train")
    for figure in drawn:
        figure.draw_without_rendering()
        for axes in figure.axes:
            label = axes.yaxis.label.get_window_extent()
            assert figure.bbox.y0 <= label.y0, label
            assert label.y1 <= figure.bbox.y1


def test_a_training_measured_at_the_ends_shows_them(tmp_path: Path) -> None:
    run = write_training(tmp_path / "run")
    write_decisions(run / "decisions.csv", 9, seeds=[*range(8), 0], ends=True)
    assert main(["report", str(run)]) == 0
    alts = [tag["alt"] or "" for name, tag in check_page(run / "report.html", pictures=5).tags if name == "img"]
    assert any("at the end of 8 episodes; the last score is 0.800; that of the trained" in alt for alt in alts)
    assert any(alt.startswith("labels: from 1 to 0.25 of it; logits: from 2 to 0.25") for alt in alts)


def test_decisions_of_an_earlier_version_are_reported(tmp_path: Path) -> None:
    run = write_training(tmp_path / "run")
    write_decisions(run / "decisions.csv", 9, fixed=True)
    assert main(["report", str(run)]) == 0
    check_pngs(run / "report", "rewards", "selections", "losses", "reward_split", "costs")


def test_an_evaluation_is_reported(tmp_path: Path) -> None:
    run = write_evaluation(tmp_path / "run")
    assert main(["report", str(run)]) == 0
    names = [
        "scores",
        "pareto",
        "aggregate",
        "profiles",
        "improvement",
        "oracle",
        "selections-1",
        "selections-2",
        "costs",
    ]
    check_pngs(run / "report", *names)
    page = check_page(run / "report.html", pictures=9)
    text = (run / "report.html").read_text()
    row = '<tr><th scope="row">sst2</th><td>labels</td><td>accuracy</td><td class="figure">71.00 (70.00 to 72.00)</td>'
    assert row in text
    assert '<th scope="row">sst2</th><td>train</td>' in text  # runs/train/policy
    assert EVIL in page.text
    assert "<script" not in text
    alts = [tag["alt"] or "" for name, tag in page.tags if name == "img"]
    assert any("all -3 [-3, -3]" in alt for alt in alts)  # the gap to the oracle


def test_a_page_opens_without_a_network_in_light_and_in_dark(tmp_path: Path) -> None:
    """Nothing in it names a place to load from; attributes, styles and what browsers fetch by themselves included."""
    run = write_evaluation(tmp_path / "run")
    assert main(["report", str(run)]) == 0
    page = check_page(run / "report.html", pictures=9)
    loading = {"src", "srcset", "href", "xlink:href", "data", "poster", "action", "background", "style", "onload"}
    for tag, attributes in page.tags:
        named = loading & attributes.keys()
        assert named <= {"src"}, tag
        assert all((attributes[name] or "").startswith("data:image/png;base64,") for name in named)
    (style,) = re.findall(r"<style>(.*?)</style>", (run / "report.html").read_text(), re.DOTALL)
    assert not re.findall(r"url|@import|@font-face|expression|//", style)
    assert "@media (prefers-color-scheme: dark)" in style
    assert "color-scheme: light dark" in style


def test_names_break_after_signs_and_numbers_do_not() -> None:
    rule = "hidden+attention,labels:0.25,then,all"
    table = Table("Policies", [("sst2", rule, "88.50 (88.20 to 88.90)", "a <b>, c", "runs/some_agent")], "abcde")
    text = page("t", [], Table("", []), [], [table])
    assert "<td>hidden+<wbr>attention,<wbr>labels:0.25,<wbr>then,<wbr>all</td>" in text
    assert '<td class="figure">88.50 (88.20 to 88.90)</td>' in text
    assert "<td>a &lt;b&gt;, c</td>" in text
    assert "<td>runs/<wbr>some_<wbr>agent</td>" in text


def test_an_agent_is_called_by_its_name(tmp_path: Path) -> None:
    run = write_training(tmp_path / "run", agent="cem", policy_name="policy")
    reported = ackd.report(run)
    assert (reported.page, reported.note) == (run / "report.html", "")
    alts = " ".join(tag["alt"] or "" for name, tag in Page(reported.page).tags if name == "img")
    assert "that of the trained cem is 0.400" in alts
    write_training(tmp_path / "other", agent="cem", policy_name="mine")
    assert "that of the trained mine is" in ackd.report(tmp_path / "other", output=tmp_path / "o").page.read_text()


def test_a_killed_evaluation_shows_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_evaluation(tmp_path / "run")
    (run / "result.json").unlink()
    (run / "ledger.json").unlink()
    lines = (run / "table.csv").read_bytes().splitlines(keepends=True)
    (run / "table.csv").write_bytes(b"".join(lines[:18]) + b"mrpc,labels,2,accu")
    (run / "mrpc" / "labels" / "decisions.csv").write_text("")
    assert main(["report", str(run)]) == 0
    assert "This run is unfinished" in capsys.readouterr().out
    page = check_page(run / "report.html", pictures=8)
    assert "This run is unfinished" in page.text
    assert "mrpc is left out of what is taken over tasks" in page.text
    assert not (run / "report" / "costs.png").exists()


def test_a_killed_training_shows_what_there_is(tmp_path: Path) -> None:
    run = write_training(tmp_path / "run", episodes=1)
    (run / "result.json").unlink()
    (run / "ledger.json").unlink()
    lines = (run / "decisions.csv").read_bytes().splitlines(keepends=True)
    (run / "decisions.csv").write_bytes(b"".join(lines[:2]) + lines[2][:30])
    assert main(["report", str(run)]) == 0
    check_pngs(run / "report", "selections", "losses")  # no episode is over, and nothing was measured
    assert "This run is unfinished" in check_page(run / "report.html", pictures=2).text


def test_a_diverged_training_says_so(tmp_path: Path) -> None:
    run = write_training(tmp_path / "run", "distill", episodes=1)
    (run / "result.json").write_text(json.dumps({"error": "divergence", "dev_score": None}))
    text = (run / "decisions.csv").read_text().splitlines()
    fields = text[1].split(",")
    fields[FIXED.index("label_loss")], fields[FIXED.index("error")] = "nan", "divergence"
    (run / "decisions.csv").write_text("\n".join([text[0], ",".join(fields)]) + "\n")
    assert main(["report", str(run)]) == 0
    assert "diverged" in Page(run / "report.html").text


@pytest.mark.parametrize("write", [write_training, write_evaluation])
def test_a_number_of_steps_that_no_run_has_is_not_believed(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    run = write(tmp_path / "run")
    config = json.loads((run / "config.json").read_bytes())
    config["settings"]["steps"] = 10**400
    (run / "config.json").write_text(json.dumps(config))
    assert main(["report", str(run)]) == 0


def test_one_seed_and_diverged_cells_are_reported(tmp_path: Path) -> None:
    run = write_evaluation(tmp_path / "run", ("sst2",))
    rows = list(csv.reader((run / "table.csv").read_text().splitlines()))
    kept = [rows[0], *(row for row in rows[1:] if row[2] == "0")]
    kept[2][4], kept[2][-1] = "", "divergence"  # all
    with (run / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(kept)
    assert main(["report", str(run)]) == 0
    page = Page(run / "report.html")
    assert "all is left out of what is taken over tasks: a training of it diverged." in page.text
    assert not (run / "report" / "improvement.png").exists()


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        written = csv.DictWriter(file, list(rows[0]))
        written.writeheader()
        written.writerows(rows)


def write_tuning(path: Path) -> Path:
    """Two temperatures and three weights; one pair diverged, and the control is not in the grid."""
    write_run(path, "tune", {"task": "polarity"}, {"dev_score": 80.0})
    cells = [(tau, weight) for tau in (2.0, 8.0) for weight in (0.1, 0.5, 1.0)]
    rows = [
        {"temperature": t, "kd_weight": w, "reward_score": 70 + t + w, "reward_loss": 0.5, "note": ""} for t, w in cells
    ]
    rows[2] |= {"reward_score": "", "reward_loss": ""}
    rows[5]["note"] = "best"
    control = {"temperature": 1, "kd_weight": 0.5, "reward_score": 99, "reward_loss": 0.1}
    write_rows(path / "table.csv", [*rows, control | {"note": "untuned, not in the grid"}])
    return path


def write_federation(path: Path) -> Path:
    starts = {"distilled": {"rounds_to_target": 1, "exchanges_to_target": 2, "dev_score": 81.5, "gain": 3.25}}
    write_run(path, "federate", {"task": "polarity", "target": 80.0}, {"starts": {"initial": {}, **starts}})
    rows = [
        {"start": start, "round": k, "score": 70 + 5 * k + k * (start == "distilled"), "loss": 1 / (k + 1), "bytes": k}
        for start in ("initial", "distilled")
        for k in range(4)
    ]
    write_rows(path / "table.csv", rows)
    return path


def write_mutual(path: Path) -> Path:
    students = [{"student": EVIL, "reward_score": 80.0, "dev_score": 79.0}] * 2
    write_run(path, "mutual", {"task": "polarity"}, {"students": students, "dev_score": 79.0})
    rows = [
        {"step": 20 * k, "student": peer, "label_loss": peer / k, "peer_loss": 0.1 * k, "accuracy": 0.5}
        for k in range(1, 5)
        for peer in (1, 2)
    ]
    write_rows(path / "curve.csv", rows)
    return path


def write_pretraining(path: Path, *, teacher: bool) -> Path:
    write_run(path, "pretrain", {"corpus": "novel.txt"}, {"dev_loss": 2.25})
    rows: list[dict[str, Any]] = [
        {"step": 20 * k, "loss": 4 / k, "lm_loss": 5 / k, "kd_loss": 3 / k if teacher else "nan", "grad_norm": 1.0}
        | {"accuracy": 0.1 * k}
        for k in range(1, 5)
    ]
    write_rows(path / "curve.csv", rows)
    return path


@pytest.mark.parametrize(
    ("make", "pictures", "words"),
    [
        (write_tuning, ["grid", "costs"], ["The best is 79.00 at temperature 8 and weight 1.", "not in the grid"]),
        (write_federation, ["rounds", "costs"], ["the scores end at initial 85.00, distilled 88.00", "81.50", "3.25"]),
        (write_mutual, ["losses", "costs"], ["student 1 0.25, student 2 0.5", EVIL]),
        (
            functools.partial(write_pretraining, teacher=True),
            ["losses", "costs"],
            ["from 5 to 1.25; 2.25 on held-out text"],
        ),
        (functools.partial(write_pretraining, teacher=False), ["losses", "costs"], ["ackd pretrain: novel.txt"]),
    ],
)
def test_methods_that_decide_nothing_have_pictures_too(
    tmp_path: Path, make: Callable[[Path], Path], pictures: list[str], words: list[str]
) -> None:
    run = make(tmp_path / "run")
    assert main(["report", str(run)]) == 0
    assert {path.stem for path in (run / "report").iterdir()} == set(pictures)
    page = Page(run / "report.html")
    said = page.text + " ".join(str(own.get("alt")) for tag, own in page.tags if tag == "img")
    for word in words:
        assert word in said
    assert {tag for tag, _ in page.tags} <= TAGS


@pytest.mark.parametrize(
    ("command", "name"),
    [("tune", "table.csv"), ("federate", "table.csv"), ("mutual", "curve.csv"), ("pretrain", "curve.csv")],
)
def test_what_such_a_run_has_not_come_to_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    run = write_run(tmp_path / "run", command, {}, None)
    for content, words in {
        "": "has come to nothing yet",
        "step\n1\n": f"{name}, line 1: no column",
        "\udcff": "not UTF-8 text",
    }.items():
        (run / name).write_bytes((content + "\n" * bool(content)).encode(errors="surrogateescape"))
        assert main(["report", str(run)]) == 2
        assert words in capsys.readouterr().err
    assert not (run / "report.html").exists()


def write_config(path: Path, content: str) -> None:
    path.mkdir()
    (path / "config.json").write_text(content)


def append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line)


def nest(path: Path, deep: str) -> None:
    """Something deep beside what the file says."""
    path.write_text(json.dumps(json.loads(path.read_bytes()))[:-1] + f', "deep": {deep}}}')


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path, "there is no folder {run}: name the folder of a run"),
        (lambda path: path.mkdir(), "the folder {run} holds no run: name the --output of ackd train, distill or evalu"),
        (lambda path: write_config(path, '{"model_type": "bert"}'), "the folder {run} holds no run: "),
        (lambda path: write_config(path, "{"), "{run}/config.json is damaged"),
        (
            lambda path: write_run(path, "finetune", {}, {}),
            "{run} is a run of ackd finetune, of which there is nothing to draw: ",
        ),
        (
            lambda path: write_run(path, "cache", {}, {}),
            "{run} is a run of ackd cache, of which there is nothing to draw: ",
        ),
        (lambda path: write_run(path, "train", {}, None), "{run} holds no decisions: there is nothing to report"),
        (lambda path: write_run(path, "evaluate", {}, None), "{run} holds no student that was trained to its end: "),
        *(
            (
                lambda path, name=name, deep=deep: nest(write_training(path) / f"{name}.json", deep),
                "{run}/" + name + ".json is damaged ",
            )
            for name in ("config", "result", "ledger")
            for deep in ("[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900)
        ),
        (
            lambda path: nest(write_training(path, "train") / "result.json", '1, "dev_score": "abc"'),
            '{run}/result.json is damaged (dev_score is "abc": it should be a valid number): run it again',
        ),
        (
            lambda path: nest(write_training(path, "train") / "result.json", '1, "dev_scores": {"dev": {"f1": []}}'),
            "{run}/result.json is damaged (dev.f1 is []: it should be a valid number): run it again",
        ),
        (lambda path: append(write_training(path) / "decisions.csv", "junk\n"), "{run}/decisions.csv, line 38: "),
        (
            lambda path: append(write_training(path) / "decisions.csv", f"0,0,0,{'9' * 400}{',0' * 18}\n"),
            'steps_done is "99999',
        ),
        (lambda path: append(write_evaluation(path) / "table.csv", "junk\n"), "{run}/table.csv, line 32: "),
    ],
)
def test_what_cannot_be_reported_gets_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], object], words: str
) -> None:
    run = tmp_path / "run"
    make(run)
    assert main(["report", str(run), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ackd: ")
    assert said.count("\n") == 1
    assert words.format(run=run) in said
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_training(tmp_path / "run")
    (tmp_path / "file").write_text("")
    assert main(["report", str(run), "--output", str(tmp_path / "file")]) == 2
    assert f"cannot be written to {tmp_path / 'file'} (" in capsys.readouterr().err


def test_nothing_outside_the_run_is_read(tmp_path: Path) -> None:
    run = write_evaluation(tmp_path / "run", ("../outside",))
    (tmp_path / "outside" / "labels" / "decisions.csv").write_text("no decisions file\n")
    assert main(["report", str(run)]) == 0
    assert not (run / "report" / "selections-1.png").exists()


def test_matplotlib_is_loaded_for_a_report_alone() -> None:
    code = "import sys; import ackd.cli; print(any(name.startswith('matplotlib') for name in sys.modules))"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert printed.stdout == "False\n"
