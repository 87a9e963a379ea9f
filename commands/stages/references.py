"""Draws the reference pictures that ship with the pack, of held-out subjects."""

from __future__ import annotations

import argparse

from .common import MODELS, core, log

COUNT, SIZE = 8, 192


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__


def run(arguments: argparse.Namespace) -> None:
    identities, scenes = core("training.miniature.identities"), core("training.miniature.scenes")
    for domain in identities.DOMAINS:
        folder = MODELS / "references" / domain
        folder.mkdir(parents=True, exist_ok=True)
        for number, who in enumerate(identities.identities(domain, held_out=True)[:COUNT]):
            picture = scenes.render((who,), f"shipped {who.key}", SIZE, style="", place="")
            picture.image.save(folder / f"{number + 1}.png")
            log(f"{domain} {number + 1}: {scenes.describe(who)}")
