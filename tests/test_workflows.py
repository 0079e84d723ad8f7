"""Workflows, issue templates and the citation are whole, and what they name is there."""

from __future__ import annotations

import configparser
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in read(path)["jobs"].values():
        yield from job["steps"]


def test_there_are_workflows_for_checks_docs_and_releases() -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "docs", "release"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_whole(path: Path) -> None:
    workflow = read(path)
    assert workflow["name"] == path.stem
    assert True in workflow or "on" in workflow  # YAML 1.1 reads the bare word as true
    assert workflow["permissions"] == {"contents": "read"}  # jobs ask for more by themselves
    for name, job in workflow["jobs"].items():
        assert job["runs-on"], name
        assert set(job.get("needs", "").split()) <= set(workflow["jobs"])
    for step in steps(path):
        assert ("uses" in step) != ("run" in step)
        assert re.fullmatch(r"[\w-]+/[\w/-]+@[\w./-]+", step.get("uses", "a/b@v1"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_workflow_runs_is_there(path: Path) -> None:
    for step in steps(path):
        said = step.get("run", "")
        for target in re.findall(r"\bmake ([\w-]+)", said):
            subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)
        for named in re.findall(r"(?:^|\s)(\.ci/\w+|\w+\.(?:cfg|txt))", said):
            assert (ROOT / named).is_file(), named
        for pattern in step.get("with", {}).get("cache-dependency-path", "").split():
            assert (ROOT / pattern).is_file(), pattern


def test_checks_run_on_every_python_that_the_package_names() -> None:
    named = re.findall(r"Python :: (3\.\d+)", setup()["metadata"]["classifiers"])
    (job,) = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == named
    assert setup()["options"]["python_requires"] == f">={named[0]}"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_an_issue_template_is_whole(path: Path) -> None:
    template = read(path)
    if path.stem == "config":
        assert set(template) <= {"blank_issues_enabled", "contact_links"}
        return
    assert template["name"]
    assert template["description"]
    ids = [field["id"] for field in template["body"]]
    assert len(set(ids)) == len(ids)
    assert all(field["type"] in ("textarea", "input") and field["attributes"]["label"] for field in template["body"])


def test_the_citation_is_of_this_version() -> None:
    citation, metadata = read(ROOT / "CITATION.cff"), setup()["metadata"]
    assert citation["version"] == metadata["version"]
    assert citation["license"] == metadata["license"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": metadata.get("author", "ACKD developers")}]
