"""The workflows of CI: actions that exist, commands and files that are here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

import dev
from message_texts import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# Major versions that their makers keep; another one is added after looking it up.
KNOWN = {
    "actions/checkout@v4",
    "actions/setup-python@v5",
    "actions/setup-node@v4",
    "actions/cache@v4",
    "actions/upload-artifact@v4",
    "actions/download-artifact@v4",
    "Comfy-Org/publish-node-action@v1",
}


def content(path: Any) -> dict[Any, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(workflow: dict[Any, Any]) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job.get("steps", [])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_only_actions_that_exist_are_used(path):
    workflow = content(path)
    assert {step["uses"] for step in steps(workflow) if "uses" in step} <= KNOWN
    for job in workflow["jobs"].values():
        called = job.get("uses")
        assert called is None or (ROOT / called).is_file()
        assert called is not None or job["timeout-minutes"] <= 90


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_the_commands_and_files_of_a_workflow_are_here(path):
    text = "\n".join(step.get("run", "") for step in steps(content(path)))
    assert set(re.findall(r"dev\.py ([\w-]+)", text)) <= set(dev.COMMANDS)
    named = re.findall(r"(?<![\w/.])(?:\.ci|commands|requirements|tests)/[\w./-]*\w", text)
    assert named and [name for name in named if not (ROOT / name).exists()] == []


def test_publishing_waits_for_the_checks_and_the_tests():
    # YAML reads the key `on` as true.
    workflow = content(ROOT / ".github" / "workflows" / "publish.yml")
    assert workflow[True] == {"push": {"tags": ["v*"]}}
    jobs = workflow["jobs"]
    assert jobs["tests"]["needs"] == "check" and jobs["publish"]["needs"] == "tests"
    order = [step.get("uses") or step["run"] for step in jobs["publish"]["steps"]]
    (check,) = (index for index, step in enumerate(order) if "release_check.py" in step)
    assert check < order.index("Comfy-Org/publish-node-action@v1")
    assert workflow["permissions"] == {"contents": "read"}


def test_ci_runs_the_oldest_and_newer_hosts_on_every_system():
    jobs = content(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    assert any(step.get("run") == ".ci/run" for step in jobs["pinned"]["steps"])
    assert {"stable", "master"} <= set(jobs["hosts"]["strategy"]["matrix"]["host"])
    systems = jobs["systems"]["strategy"]["matrix"]["system"]
    assert {"macos-latest", "windows-latest"} <= set(systems)
