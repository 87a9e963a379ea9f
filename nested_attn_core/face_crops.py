"""Pictures to square crops of their faces: which faces, and what to do where there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import NestedAttentionError
from .face_geometry import FFHQ_MARGIN, Face, Square, covered, cut, share_outside, square_around

ERROR, LARGEST, ALL, SKIP, KEEP = "error", "largest", "all", "skip", "keep"
SEVERAL_FACES = (LARGEST, ALL, ERROR)
NO_FACE = (ERROR, SKIP, KEEP)
SMALLEST, MOST, STEP = 64, 2048, 8
MOST_MARGIN = 2.0

Detector = Callable[[Tensor], Sequence[Face]]


@dataclass(frozen=True)
class CropWishes:
    """What to crop; raises NestedAttentionError for values out of range.

    several: one of SEVERAL_FACES; none: one of NO_FACE; margin: times the face's size, at each
    side; size: of the crops, in pixels.
    """

    several: str = LARGEST
    none: str = ERROR
    margin: float = FFHQ_MARGIN
    align: bool = True
    size: int = 512

    def __post_init__(self) -> None:
        for name, value, options in (
            ("several_faces", self.several, SEVERAL_FACES),
            ("no_face", self.none, NO_FACE),
        ):
            if value not in options:
                raise NestedAttentionError(
                    f'{name} is "{value}"; choose {", ".join(options[:-1])} or {options[-1]}.'
                )
        if not 0 <= self.margin <= MOST_MARGIN:
            raise NestedAttentionError(
                f"The margin is {self.margin:g}; choose a number from 0 to {MOST_MARGIN:g}."
            )
        if self.size % STEP or not SMALLEST <= self.size <= MOST:
            raise NestedAttentionError(
                f"The size is {self.size} pixels; choose a multiple of {STEP} from {SMALLEST} to "
                f"{MOST}."
            )


@dataclass(frozen=True)
class FaceCrops:
    """Crops (N, size, size, 3), 0 to 1; masks (N, H, W), 1 where a crop lies in its picture; how
    many of them are of faces; a line about each, and about each picture that was left out."""

    images: Tensor
    masks: Tensor
    faces: int
    report: str


def crop_faces(images: Tensor, detect: Detector, wishes: CropWishes, border: float) -> FaceCrops:
    """Crops of pictures (B, H, W, 3), 0 to 1: picture by picture, faces from left to right.

    `border` is the value of what lies outside of a picture. Raises NestedAttentionError, in one
    sentence that names the picture, where the wishes say that it is an error.
    """
    height, width = (int(length) for length in images.shape[1:3])
    crops, masks, lines, found = [], [], [], 0
    for number, image in enumerate(images, 1):
        which = f"picture {number} of {len(images)}" if len(images) > 1 else "the picture"
        faces = _chosen(detect(image), wishes, which)
        found += len(faces)
        squares = [(square_around(face, wishes.margin, wishes.align), face) for face in faces]
        if not faces and wishes.none == KEEP:
            whole = Square((width / 2, height / 2), (max(width, height) / 2, 0.0))
            squares = [(whole, None)]
        lines += [f"{which}: {_line(part, face, (height, width))}" for part, face in squares]
        if not squares:
            lines.append(f"{which}: no face, left out")
        crops += [cut(image, part, wishes.size, border) for part, _ in squares]
        masks += [covered(part, height, width) for part, _ in squares]
    if not crops:
        raise NestedAttentionError(
            f"No face was found in {'any picture' if len(images) > 1 else 'the picture'}, and "
            f'pictures without a face are left out; use others, or choose "{KEEP}" for no_face.'
        )
    return FaceCrops(torch.stack(crops), torch.stack(masks), found, "\n".join(lines))


def _chosen(faces: Sequence[Face], wishes: CropWishes, which: str) -> list[Face]:
    if not faces and wishes.none == ERROR:
        raise NestedAttentionError(
            f"{_capital(which)} shows no face that the detector finds; use one that shows the face "
            "upright and larger, mark the face in Encode Subject's crop_mask instead, or choose "
            f'"{SKIP}" or "{KEEP}" for no_face.'
        )
    if len(faces) > 1 and wishes.several == ERROR:
        raise NestedAttentionError(
            f'{_capital(which)} shows {len(faces)} faces; choose "{LARGEST}" or "{ALL}" for '
            "several_faces, or use a picture of one person."
        )
    if wishes.several == ALL:
        return sorted(faces, key=lambda face: face.box[0] + face.box[2] / 2)
    return sorted(faces, key=lambda face: face.area)[-1:]


def _line(square: Square, face: Face | None, size: tuple[int, int]) -> str:
    outside = share_outside(square, *size)
    added = f", {outside:.0%} of it grey border" if outside >= 0.005 else ""
    if face is None:
        return f"no face, the whole picture{added}"
    turned = f" turned by {square.degrees:.1f} degrees" if abs(square.degrees) >= 0.05 else ""
    return (
        f"a face of {face.box[2]:.0f} x {face.box[3]:.0f} pixels (score {face.score:.2f}), from a "
        f"square of {square.side:.0f} pixels{turned}{added}"
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
