"""The real server under many runs, interruptions, unloading, and kill -9."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from driving import Graph, changed, forget, new_server, prepared, upload_references
from host_server import HostServer, node_of
from probe import PROBE
from reliability import LONG, TIMES, record

pytestmark = pytest.mark.reliability

RUNS = 10 * TIMES
WARM = 20 if LONG else 6
SEEDS = (1, 2, 3)
# What the allocator of the system and the host keep for themselves; one model's weights are more.
SLACK = 8e6
LOADER, SAMPLER = "NestedAttentionLoadMiniature", "KSampler"


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostServer]:
    """A server of these tests' own, as they kill it."""
    base = tmp_path_factory.mktemp("busy")
    (base / "custom_nodes" / "probe").mkdir(parents=True)
    (base / "custom_nodes" / "probe" / "__init__.py").write_text(PROBE)
    with new_server(base) as running:
        yield running


@pytest.fixture(scope="module")
def graphs(busy: HostServer) -> dict[str, Graph]:
    """Mixed workflows, each with a Save Image."""
    references = upload_references(busy)
    one, two = (prepared(f"{name}.json", references) for name in ("one_subject", "two_subjects"))
    watched = copy.deepcopy(one)
    model = node_of(one, "NestedAttentionApply")
    watched |= {
        "w": _node("NestedAttentionWatch", model=[model, 0]),
        "m": _node(
            "NestedAttentionMaps", recorder=["w", 1], steps="all", layers="all",
            image=one[node_of(one, "SaveImage")]["inputs"]["images"],
        ),
        "p": _node("PreviewImage", images=["m", 2]),
    }  # fmt: skip
    watched[node_of(one, SAMPLER)]["inputs"]["model"] = ["w", 0]
    saving = copy.deepcopy(one)
    subject = [node_of(one, "NestedAttentionEncodeSubject"), 0]
    saving["s"] = _node("NestedAttentionSaveSubject", subject=subject, filename="kept")
    weak = changed(two, "NestedAttentionApply", strength=0.5)
    return {"one": one, "two": two, "watched": watched, "saving": saving, "weak": weak}


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def pixels(server: HostServer, graph: Graph, entry: dict[str, Any]) -> np.ndarray | None:
    """The image of a job; None if the host had it all in its cache, or it was interrupted."""
    files = server.images(entry, node_of(graph, "SaveImage"))
    return np.asarray(Image.open(io.BytesIO(files[0])).convert("RGB")) if files else None


@dataclass
class State:
    """Of a server that has forgotten its last graph and unloaded its models."""

    rss: int
    handles: int
    ours: dict[str, int]
    tensors: int
    bytes: int
    others: list[str]

    @classmethod
    def of(cls, server: HostServer) -> State:
        forget(server)
        free(server, unload_models=True, free_memory=True)
        time.sleep(1)  # the host frees when its queue wakes up
        forget(server)
        process: Any = psutil.Process(server.pid)
        handles = process.num_handles() if os.name == "nt" else process.num_fds()
        found = server.get("/probe/counts")
        # Neither outputs nor previews, which the graphs ask for, nor what was saved.
        places = ("models", "input", "user")
        others = sorted(
            path.name
            for place in places
            for path in (server.base / place).rglob("*")
            if path.is_file() and not path.match("kept*.safetensors") and path.suffix != ".log"
        )
        return cls(process.memory_info().rss, handles, **found, others=others)


def free(server: HostServer, **what: bool) -> None:
    server.request("/free", json.dumps(what).encode())


@dataclass
class Chance:
    """Jobs with what happens beside them, by lot."""

    server: HostServer
    graphs: dict[str, Graph]
    alone: dict[tuple[str, int], np.ndarray]
    lots: random.Random
    counts: Counter[str] = field(default_factory=Counter)

    def job(self) -> None:
        name, seed = self.lots.choice(sorted(self.alone))
        graph = changed(self.graphs[name], SAMPLER, seed=seed)
        act = self.lots.choice(
            ["none"] * 4 + ["interrupt"] * 2 + ["again", "unload", "free", "bad"]
        )
        self.counts[act] += 1
        if act == "bad":
            bad = changed(graph, SAMPLER, seed=seed)
            for node in bad.values():
                if "text" in node["inputs"]:
                    node["inputs"]["text"] = "a <nobody>"
            entry = self.server.wait(self.server.queue(bad))
            assert entry["status"]["status_str"] == "error"
            return
        if act in ("unload", "free"):
            free(self.server, unload_models=True, free_memory=act == "free")
        jobs = [self.server.queue(graph)]
        if act == "again":
            jobs.append(self.server.queue(graph))
        if act == "interrupt":
            time.sleep(self.lots.random())
            self.server.interrupt()
        for job in jobs:
            self._check(name, seed, graph, self.server.wait(job), act)

    def _check(self, name: str, seed: int, graph: Graph, entry: dict[str, Any], act: str) -> None:
        events = [event for event, _ in entry["status"]["messages"]]
        if "execution_interrupted" in events:
            assert act == "interrupt"
            self.counts["interrupted"] += 1
            return
        assert "execution_success" in events, entry["status"]
        image = pixels(self.server, graph, entry)
        if image is not None:
            assert np.array_equal(image, self.alone[name, seed]), (name, seed, act)
            self.counts["compared"] += 1


def test_many_runs_with_interruptions(busy: HostServer, graphs: dict[str, Graph]) -> None:
    names = list(graphs) if LONG else ["one", "watched", "saving"]
    seeds = SEEDS if LONG else SEEDS[:1]
    alone = {}
    for name in names:
        for seed in seeds:
            graph = changed(graphs[name], SAMPLER, seed=seed)
            alone[name, seed] = pixels(busy, graph, busy.run(graph))
    assert all(image is not None and image.std() > 10 for image in alone.values())
    chance = Chance(busy, graphs, alone, random.Random(8))
    began = time.monotonic()
    for _ in range(WARM):
        chance.job()
    before = State.of(busy)
    for _ in range(RUNS - WARM):
        chance.job()
    after = State.of(busy)
    assert chance.counts["compared"] >= RUNS // 4
    assert after.ours == before.ours
    assert after.tensors == before.tensors and after.bytes == before.bytes
    assert after.handles <= before.handles + 2
    assert after.others == before.others
    assert after.rss - before.rss < SLACK + 0.05 * before.rss
    record(
        "many runs",
        **{"runs": RUNS, "seconds": round(time.monotonic() - began), **chance.counts},
        memory_after_the_first_MB=round(before.rss / 1e6, 1),
        memory_at_the_end_MB=round(after.rss / 1e6, 1),
        growth_of_open_files=after.handles - before.handles,
        growth_of_objects=sum(after.ours.values()) - sum(before.ours.values()),
        growth_of_tensors=after.tensors - before.tensors,
        first=WARM,
    )


def listed(server: HostServer) -> list[str]:
    node = server.get("/object_info/NestedAttentionLoadSubject")["NestedAttentionLoadSubject"]
    kind, options = node["input"]["required"]["subject_name"]
    return kind if isinstance(kind, list) else options["options"]


@pytest.mark.parametrize("moment", range(3 if LONG else 1))
def test_a_killed_server_comes_back_the_same(
    busy: HostServer, graphs: dict[str, Graph], moment: int
) -> None:
    graph = changed(graphs["two"], SAMPLER, seed=7 + moment)
    before = pixels(busy, graph, busy.run(graph))
    steps = 3000
    job = busy.queue(changed(graph, SAMPLER, steps=steps))
    while f"/{steps} [" not in busy.log_text():
        assert busy.finished(job) is None
        time.sleep(0.05)
    time.sleep(random.Random(moment).random())
    busy.kill()
    busy.__enter__()  # the fixture stops it
    after = pixels(busy, graph, busy.run(graph))
    assert before is not None and after is not None and np.array_equal(before, after)
    record("kill -9 while sampling", restarts=moment + 1, images_equal=moment + 1)


# The unfinished file is cleared away, written, and moved to its place.
@pytest.mark.parametrize("event", ["os.remove", "os.rename"] if LONG else ["os.rename"])
def test_a_subject_that_was_being_saved(
    busy: HostServer, graphs: dict[str, Graph], event: str
) -> None:
    folder = busy.base / "models" / "nested_subjects"
    name = f"cut_{event.replace('.', '_')}"
    graph = copy.deepcopy(graphs["saving"])
    graph["s"]["inputs"]["filename"] = name
    busy.get(f"/probe/die/{event}")
    busy.queue(graph)
    busy.ended()
    left = {path.name: path.stat().st_size for path in folder.glob(f"{name}*")}
    assert left[f"{name}.safetensors"] == 0, left
    if event == "os.rename":  # as if the write itself had been cut
        (part,) = folder.glob(f"{name}.safetensors.*.part")
        part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    busy.__enter__()
    assert not [entry for entry in listed(busy) if entry.startswith(name)]
    loading = _loading(graph, f"{name}.safetensors")
    entry = busy.wait(busy.queue(loading))
    (error,) = [data for event, data in entry["status"]["messages"] if event == "execution_error"]
    assert "is empty (0 bytes)" in error["exception_message"]
    entry = busy.run(graph)
    assert f"{name}_2.safetensors" in listed(busy)
    busy.run(_loading(graph, f"{name}_2.safetensors"))
    record("kill -9 while a subject is saved", moments=2 if event == "os.rename" and LONG else 1)


def _loading(graph: Graph, file: str) -> Graph:
    """The graph with a saved subject in place of its encoded one."""
    loading = {key: node for key, node in copy.deepcopy(graph).items() if key != "s"}
    encode = node_of(loading, "NestedAttentionEncodeSubject")
    loading[encode] = _node(
        "NestedAttentionLoadSubject",
        encoder=loading[encode]["inputs"]["encoder"],
        subject_name=file,
        name=graph[encode]["inputs"]["name"],
    )
    return loading
