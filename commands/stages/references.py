"""Draws the pictures that ship with the pack: references of held-out subjects, and photos of others
at one side of a scene, with room to put a subject in."""

from __future__ import annotations

import argparse

from .common import MODELS, core, log

COUNT, SIZE = 8, 192
# Domain, row among the held-out subjects, side: none of the references' subjects.
PHOTOS = (
    ("person", 26, "left"),
    ("person", 21, "right"),
    ("kitten", 20, "left"),
    ("robot", 26, "left"),
)


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
    folder = MODELS / "references" / "photo"
    folder.mkdir(parents=True, exist_ok=True)
    for number, (domain, row, side) in enumerate(PHOTOS):
        who = identities.identities(domain, held_out=True)[row]
        picture = scenes.render(
            (who,), f"photo {row - 20} {who.key}", style="", place=f"on the {side}"
        )
        picture.image.save(folder / f"{number + 1}.png", optimize=True)
        log(f"photo {number + 1}: {picture.caption}")
