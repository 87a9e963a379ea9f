"""A private, real ComfyUI server with this pack in its custom_nodes, driven over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pack import ROOT

PACK_FOLDER = "nested-attention"
NOT_PART_OF_THE_PACK = shutil.ignore_patterns(
    ".local", ".git", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis"
)


class HostError(Exception):
    """The server did not start, refused a workflow or failed in one; the text says which."""


class HostServer:
    """`with HostServer(host, python, base) as server:` starts the host, and always stops it.

    base: a folder for this server alone; its models, input, output, user and custom_nodes lie
    there, so that nothing of a user's install is read or written.
    copy: put a copy of the pack in custom_nodes instead of a link.
    pack: False starts the host without the pack.
    more: further arguments for the host.
    """

    def __init__(
        self,
        host: Path,
        python: Path,
        base: Path,
        *,
        cpu: bool = True,
        copy: bool = False,
        pack: bool = True,
        patience: float = 600.0,
        more: Sequence[str] = (),
    ) -> None:
        self.host, self.python, self.base = host, python, base
        self.cpu, self.copy, self.pack, self.patience = cpu, copy, pack, patience
        self.more = tuple(more)
        self.log = base / "server.log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> HostServer:
        for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        if self.pack:
            place_pack(self.base / "custom_nodes" / PACK_FOLDER, self.copy)
        self.port = free_port()
        try:
            self._start()
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        command = [
            *(str(self.python), str(self.host / "main.py"), "--base-directory", str(self.base)),
            *("--listen", "127.0.0.1", "--port", str(self.port), "--disable-auto-launch"),
            *("--disable-api-nodes", "--database-url", "sqlite:///:memory:"),
        ]
        if self.cpu:
            command.append("--cpu")
        command.extend(self.more)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.base,
                # Spinning OpenMP threads on busy cores make these small jobs many times slower.
                env={"OMP_NUM_THREADS": "1", **os.environ, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _wait_until_up(self) -> None:
        give_up = time.monotonic() + self.patience
        while time.monotonic() < give_up:
            self._check_alive()
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.2)
        raise HostError(
            f"ComfyUI did not answer within {self.patience:.0f} s; the end of its log:\n"
            + self.log_tail()
        )

    def _check_alive(self) -> None:
        if self._process is None or self._process.poll() is not None:
            raise HostError(f"ComfyUI ended by itself; the end of its log:\n{self.log_tail()}")

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def pid(self) -> int:
        """Of the running server."""
        self._check_alive()
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Ends the server as a power cut would: nothing in it can answer."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def ended(self, patience: float = 60.0) -> None:
        """Waits for a server that ends by itself."""
        process, self._process = self._process, None
        if process is not None:
            process.wait(patience)

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def log_tail(self, lines: int = 15) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])

    def request(self, route: str, body: bytes | None = None, kind: str = "application/json"):
        """(status, bytes) of a GET, or of a POST where there is a body."""
        query = urllib.request.Request(f"http://127.0.0.1:{self.port}{route}", data=body)
        query.add_header("Content-Type", kind)
        try:
            with urllib.request.urlopen(query, timeout=300) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def get(self, route: str) -> Any:
        """The JSON behind a route."""
        status, body = self.request(route)
        if status != 200:
            raise HostError(f"ComfyUI answered {status} to {route}.")
        return json.loads(body)

    def upload(self, image: Path, name: str | None = None) -> str:
        """Puts an image among the host's inputs; returns the name that Load Image takes."""
        boundary = uuid.uuid4().hex
        head = (
            f"--{boundary}\r\nContent-Disposition: form-data; "
            f'name="image"; filename="{name or image.name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        body = head.encode() + image.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        status, answer = self.request(
            "/upload/image", body, f"multipart/form-data; boundary={boundary}"
        )
        if status != 200:
            raise HostError(f"ComfyUI answered {status} to the upload of {image.name}.")
        return json.loads(answer)["name"]

    def queue(self, graph: dict[str, Any]) -> str:
        """Queues a workflow in API form; returns its id, or raises what the host has against it."""
        status, answer = self.request("/prompt", json.dumps({"prompt": graph}).encode())
        content = json.loads(answer)
        if status != 200:
            raise HostError(refusal(content))
        return content["prompt_id"]

    def interrupt(self) -> None:
        self.request("/interrupt", b"{}")

    def finished(self, job: str) -> dict[str, Any] | None:
        """The history entry of a job that has ended, else None."""
        self._check_alive()
        return self.get(f"/history/{job}").get(job)

    def wait(self, job: str, tick: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """The history entry of a job once it has ended, however it ended."""
        while (entry := self.finished(job)) is None:
            tick()
            time.sleep(0.1)
        return entry

    def run(self, graph: dict[str, Any], tick: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Queues a workflow and returns its history entry; raises the node's own message."""
        entry = self.wait(self.queue(graph), tick)
        if entry["status"]["status_str"] != "success":
            raise HostError(failure(entry))
        return entry

    def images(self, entry: dict[str, Any], node: str) -> list[bytes]:
        """The files that a Save Image node wrote in a job."""
        files = []
        for image in entry["outputs"].get(node, {}).get("images", []):
            status, body = self.request("/view?" + urllib.parse.urlencode(image))
            if status != 200:
                raise HostError(f"ComfyUI answered {status} for the image {image['filename']}.")
            files.append(body)
        return files


def place_pack(folder: Path, copy: bool) -> None:
    """The pack as `folder` in a custom_nodes: a link, or a copy where links are not allowed."""
    if folder.exists():
        return
    if not copy:
        try:
            folder.symlink_to(ROOT, target_is_directory=True)
            return
        except OSError:
            pass
    shutil.copytree(ROOT, folder, ignore=NOT_PART_OF_THE_PACK)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def refusal(answer: dict[str, Any]) -> str:
    """What the host has against a workflow, as its nodes say it."""
    details = [
        f"{node['class_type']}: {error['details'] or error['message']}"
        for node in answer.get("node_errors", {}).values()
        for error in node["errors"]
    ]
    return "\n".join(details) or answer.get("error", {}).get("message", "refused without a reason")


def failure(entry: dict[str, Any]) -> str:
    """The message of the node at which a job stopped."""
    for event, data in entry["status"]["messages"]:
        if event == "execution_error":
            return f"{data['node_type']}: {data['exception_message'].strip()}"
        if event == "execution_interrupted":
            return f"{data['node_type']}: interrupted"
    return "the job failed without a message"


def node_of(graph: dict[str, Any], kind: str, title: str | None = None) -> str:
    """The id of the only node of a kind (and of a title, where several share the kind)."""
    found = [
        key
        for key, node in graph.items()
        if node["class_type"] == kind
        and (title is None or node.get("_meta", {}).get("title") == title)
    ]
    if len(found) != 1:
        raise KeyError(f"{len(found)} nodes {kind!r} titled {title!r}, expected one")
    return found[0]
