"""`dev.py fetch-weights` against a server of our own on this machine, through huggingface_hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from commands.pack import ROOT

REPOSITORY = "orpatashnik/NestedAttentionEncoder"
ENCODER, IMAGES = "personalization_encoder/model.safetensors", "image_encoder/model.safetensors"
FILES = {ENCODER: bytes(range(256)) * 40, IMAGES: b"image model" * 50}
NAMES = {
    ENCODER: "nested_attention/nested_attention_person_sdxl.safetensors",
    IMAGES: "clip_vision/nested_attention_image_encoder.safetensors",
}


class Hub(ThreadingHTTPServer):
    """Answers as the hub does: the list of files, and their bytes or a part of them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.ranges: list[str | None] = []
        self.sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, *words: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.split("/resolve/main/")[-1].split("?")[0]
        if self.path.startswith(f"/api/models/{REPOSITORY}"):
            self.answer(200, json.dumps(self.info()).encode())
        elif name in FILES:
            asked = self.headers.get("Range")
            self.server.ranges.append(asked)
            start = int(re.findall(r"\d+", asked)[0]) if asked else 0
            self.answer(206 if asked else 200, FILES[name][start:])
        else:
            self.answer(404, b"")

    def info(self) -> dict:
        files = [
            {
                "rfilename": name,
                "size": len(data),
                "lfs": {"size": len(data), "sha256": self.server.sha256[name], "pointerSize": 1},
            }
            for name, data in FILES.items()
        ]
        extra = {"rfilename": "README.md", "size": 3}
        return {"id": REPOSITORY, "siblings": [*files, extra], "cardData": {"license": "mit"}}

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[Hub]:
    served = Hub()
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()


def fetch(address: str, models: Path, *words: str, typed: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "commands" / "fetch_weights.py"), "--models", str(models)]
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run(
        [*command, *words],
        env=environment,
        input=typed,
        capture_output=True,
        text=True,
        check=False,
    )


def test_both_files_go_to_their_folders_and_are_not_fetched_again(hub, tmp_path):
    done = fetch(hub.address, tmp_path, "--yes")
    assert done.returncode == 0, done.stderr
    assert "licence: mit" in done.stdout
    for name, place in NAMES.items():
        assert (tmp_path / place).read_bytes() == FILES[name]
    again = fetch(hub.address, tmp_path, "--yes")
    assert again.returncode == 0 and again.stdout.count("is there already") == 2
    assert hub.ranges == [None, None]
    assert not list(tmp_path.rglob("*.part"))


def test_nothing_is_fetched_without_a_yes(hub, tmp_path):
    for typed in ("", "n\n"):
        done = fetch(hub.address, tmp_path, typed=typed)
        assert done.returncode == 1 and "Nothing was downloaded." in done.stdout
    assert hub.ranges == [] and not list(tmp_path.rglob("*.safetensors"))
    assert fetch(hub.address, tmp_path, typed="y\n").returncode == 0


def test_a_stopped_download_goes_on(hub, tmp_path):
    target = tmp_path / NAMES[ENCODER]
    target.parent.mkdir(parents=True)
    target.with_name(target.name + ".part").write_bytes(FILES[ENCODER][:1000])
    assert fetch(hub.address, tmp_path, "--yes").returncode == 0
    assert hub.ranges[0] == "bytes=1000-"
    assert target.read_bytes() == FILES[ENCODER]


def test_a_file_with_another_hash_never_gets_its_name(hub, tmp_path):
    hub.sha256[ENCODER] = "0" * 64
    done = fetch(hub.address, tmp_path, "--yes")
    assert done.returncode == 1 and "not what the hub says" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.safetensors*"))


def test_no_network_is_one_sentence(tmp_path):
    done = fetch("http://127.0.0.1:9", tmp_path, "--yes")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "cannot be downloaded" in done.stderr and "docs/weights.md" in done.stderr
