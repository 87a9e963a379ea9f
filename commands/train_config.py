"""Trains a nested encoder as a settings file describes it."""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import pack


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="dev.py train",
        description="Trains a nested encoder as a settings file describes it; docs/training.md "
        "explains every setting. A run that was stopped goes on with the same command.",
    )
    made.add_argument("config", type=Path, help="the settings, a .toml file")
    made.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="settings that differ from the file's",
    )
    made.add_argument("--check", action="store_true", help="only look through the data set")
    made.add_argument(
        "--export", action="store_true", help="only write the encoder of the last saved state"
    )
    made.add_argument("--cpu", action="store_true", help="train on the CPU")
    return made


def main(words: list[str]) -> int:
    """0 after a training, 1 where it cannot be, 130 where it was stopped."""
    arguments = parser().parse_args(words)
    try:
        return _main(arguments, words)
    except ValueError as error:
        if type(error).__module__.startswith(pack.PACKAGE):
            print(error, file=sys.stderr)
            return 1
        raise
    except FileNotFoundError as error:
        if error.errno is not None:
            raise
        print(error, file=sys.stderr)  # of pack.host_path: no ComfyUI
        return 1
    except KeyboardInterrupt:
        print("Stopped; run the same command again to go on.", file=sys.stderr)
        return 130


def _main(arguments: argparse.Namespace, words: list[str]) -> int:
    config = pack.module("nested_attn_core.training.config_file").load_config(
        arguments.config, arguments.set
    )
    if arguments.check:
        from train_check import check

        return check(config)
    start_host(arguments.cpu)
    session = pack.module("nodes.host.session")
    home = arguments.config.resolve().parent
    training = session.Session(config, command(words), home, latents_of(config), arguments.cpu)
    logs(training.workers.is_first)
    if arguments.export:
        training.export()
        return 0
    signal.signal(signal.SIGINT, lambda *_: training.stop())
    signal.signal(signal.SIGTERM, lambda *_: training.stop())
    complete = training.run()
    training.workers.close()
    if not complete:
        print("Stopped, and saved; run the same command again to go on.", file=sys.stderr)
    code = 0 if complete else 130
    if training.workers.count > 1:
        pack.module("nested_attn_core.training.accelerated").leave(code)
    return code


def start_host(cpu: bool) -> None:
    """The host, with the fastest attention that has a backward pass."""
    import importlib

    pack.start_host(cpu or None)
    importlib.import_module("comfy.cli_args").args.use_pytorch_cross_attention = True
    import torch

    from stages.common import threads

    torch.set_num_threads(threads())


def command(words: list[str]) -> str:
    """What to type for the same training, for the encoder's card: files of the pack by their place
    in it, whoever's folder that is."""

    def shown(word: str) -> str:
        path = Path(word)
        inside = path.is_absolute() and path.is_relative_to(pack.ROOT)
        return path.relative_to(pack.ROOT).as_posix() if inside else word

    return shlex.join(["dev.py", "train", *map(shown, words)])


def logs(first: bool) -> None:
    """The pack's messages on the standard output; of the other processes, only warnings."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("nested_attention")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if first else logging.WARNING)
    logger.propagate = False


def latents_of(config: Any) -> Any:
    """The linear code that the miniature's base was trained on; its autoencoder only comes close to
    it, and is slow."""
    from stages import shipped
    from stages.base import known_code
    from stages.common import core

    if config.base.checkpoint != "miniature" or config.data.source != "miniature":
        return None
    code = known_code() or shipped.code()
    if code is None:
        return None
    sizes = core("training.miniature.config")
    patches = core("training.miniature.latents").PatchCode.of(code, sizes.PATCH)
    parts = list(patches.state().values())
    fingerprint = core("fingerprint").content_fingerprint(["patch code", *parts])
    return fingerprint, lambda images: patches.encode(images.movedim(-1, 1) * 2 - 1)
