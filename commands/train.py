"""Trains a nested encoder from a settings file (.toml), or the shipped miniature, stage by stage.

Everything resumes where it was stopped.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

# So that it also runs as a module: python -m commands.train
sys.path.insert(0, str(Path(__file__).resolve().parent))
# Large batches are allocated and freed every step; keep their pages instead of giving them back.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

STAGES = {
    "miniature": "all stages, one after another",
    "data": "draw the training pictures",
    "base": "the text-to-image model",
    "autoencoder": "the autoencoder that turns latents into pictures",
    "backbone": "the image backbone in CLIP vision layout",
    "ruler": "the attribute network that measures identity (it only scores)",
    "compare": "the methods that nested attention is compared with",
    "references": "the reference pictures that ship, of held-out subjects",
    "export": "collect the trained weights into models/",
}


def main() -> int:
    if any(word.endswith(".toml") for word in sys.argv[1:]):
        from train_config import main as train_from_file

        return train_from_file(sys.argv[1:])
    parser = argparse.ArgumentParser(prog="dev.py train", description=__doc__)
    commands = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    chosen = sys.argv[1] if len(sys.argv) > 1 else ""
    for name, text in STAGES.items():
        child = commands.add_parser(name, help=text, description=text)
        if name == chosen:
            importlib.import_module(f"stages.{name}").add_arguments(child)
    arguments = parser.parse_args()
    import pack

    pack.start_host()
    host_arguments = importlib.import_module("comfy.cli_args").args
    # The fastest attention on a CPU that has a backward pass.
    host_arguments.use_pytorch_cross_attention = True
    import torch

    from stages.common import threads

    torch.set_num_threads(threads())
    importlib.import_module(f"stages.{arguments.stage}").run(arguments)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
