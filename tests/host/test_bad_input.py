"""What a user reads when something cannot be used: one sentence, with what to do."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from .conftest import World, randomise, tiny_vision, write_encoder

IMAGE = torch.rand(1, 48, 40, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def encoders(host: Any) -> Path:
    """The host's folder of encoder files."""
    import folder_paths

    return Path(folder_paths.get_folder_paths("nested_attention")[-1])


@pytest.fixture
def loaded(host: Any, encoders: Path) -> Any:
    """Loads a file of given bytes by the Load node."""
    written: list[Path] = []

    def load(name: str, content: bytes | Callable[[Path], Any]) -> Any:
        path = encoders / name
        written.append(path)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content)
        return host.NODE_CLASS_MAPPINGS["NestedAttentionLoadEncoder"].execute(name).result[0]

    yield load
    for path in written:
        path.unlink(missing_ok=True)


def sentence(error: Any) -> str:
    """The message, which must be one sentence without a path of this machine."""
    text = str(error.value)
    assert re.fullmatch(r"[^\n]+\.", text) and ". " not in text.replace("e.g. ", "")
    assert not re.search(r"[/\\](work|root|home|tmp|Users)[/\\]", text)
    return text


def tensors(**shapes: tuple[int, ...]) -> Callable[[Path], None]:
    return lambda path: safetensors.torch.save_file(
        {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}, path
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (tensors(image_proj__latents=(1, 4, 8), ip_adapter__1__to_k_ip=(8, 8)), "an IP-Adapter"),
        (tensors(lora_unet_x__lora_down__weight=(4, 8)), "a LoRA"),
        (tensors(model__diffusion_model__x=(4,), first_stage_model__y=(4,)), "a full checkpoint"),
        (tensors(unheard__of=(4,)), "of no kind known"),
        (b"", "is empty"),
        (b"\x10\x00", "cut short"),
        (pickle.dumps({"weights": [1, 2]}), "pickle"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"\x00" * 64, "no safetensors file"),
    ],
)
def test_files_that_are_no_encoder(loaded: Any, content: Any, says: str) -> None:
    with pytest.raises(ValueError) as error:
        loaded("bad.safetensors", content)
    assert says in sentence(error) and '"bad.safetensors"' in sentence(error)


def test_a_pickle_of_torch_is_never_opened(loaded: Any) -> None:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'exit 1'\ntR.")

    with pytest.raises(ValueError) as error:
        loaded("bad.bin", write)
    assert "pickle" in sentence(error)


def test_a_truncated_encoder(loaded: Any, sd15: World) -> None:
    def write(path: Path) -> None:
        write_encoder(path, sd15.model.model.diffusion_model, sd15.vision, "sd15")
        path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(ValueError) as error:
        loaded("short.safetensors", write)
    assert "cut short" in sentence(error)


def test_a_whole_encoder_loads(loaded: Any, sd15: World) -> None:
    encoder = loaded(
        "good.safetensors",
        lambda path: write_encoder(
            path, sd15.model.model.diffusion_model, sd15.vision, "sd15", seed=9
        ),
    )
    assert encoder.info.base_family == "sd15" and encoder.label == "good.safetensors"
    assert encoder.fingerprint != sd15.encoder.fingerprint


def test_a_file_that_is_gone(host: Any) -> None:
    with pytest.raises(ValueError) as error:
        host.NODE_CLASS_MAPPINGS["NestedAttentionLoadEncoder"].execute("gone.safetensors")
    assert '"gone.safetensors"' in sentence(error)


@pytest.mark.parametrize("families", [("sd15", "sdxl"), ("sdxl", "sd15")])
def test_an_encoder_of_another_family(worlds: Any, families: tuple[str, str]) -> None:
    mine, other = map(worlds, families)
    with pytest.raises(ValueError) as error:
        mine.apply(other.subject())
    assert "another base model" in sentence(error)
    assert "16 cross-attention" in sentence(error) and "70 cross-attention" in sentence(error)


def test_a_model_without_cross_attention(sd15: World) -> None:
    model = sd15.model.clone()
    model.add_object_patch("diffusion_model", torch.nn.Linear(2, 2))
    with pytest.raises(ValueError) as error:
        sd15.apply(sd15.subject(), model=model)
    assert "no cross-attention" in sentence(error)


def encode(host: Any, world: World, image: Any = IMAGE, name: str = "anna", **options: Any) -> Any:
    node = host.NODE_CLASS_MAPPINGS["NestedAttentionEncodeSubject"]
    vision = options.pop("vision", world.vision)
    return node.execute(world.encoder, vision, image, name, **options).result[0]


def test_good_images_make_a_subject(host: Any, sd15: World) -> None:
    one, two = encode(host, sd15), encode(host, sd15, torch.cat([IMAGE, IMAGE.flip(1)]))
    assert one.tokens.shape == (6, 24) and two.tokens.shape == (12, 24)
    assert (two.tokens[:6] - one.tokens).abs().max() < 1e-5
    assert one.class_word == "person" and one.name == "anna"
    alpha = torch.cat([IMAGE, torch.ones(1, 48, 40, 1)], dim=-1)
    assert torch.equal(encode(host, sd15, alpha).tokens, one.tokens)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (None, "no reference image"),
        (torch.zeros(0, 64, 64, 3), "no reference image"),
        (torch.full((1, 64, 64, 3), float("nan")), "NaN"),
        (torch.zeros(1, 1, 1, 3), "1 x 1 pixels"),
        (torch.zeros(1, 64, 1, 3), "1 x 64 pixels"),
        (torch.zeros(1, 64, 64, 1), "1 channels"),
    ],
    ids=["none", "empty batch", "NaN", "1 pixel", "1 pixel wide", "grey"],
)
def test_images_that_show_nothing(host: Any, sd15: World, image: Any, says: str) -> None:
    with pytest.raises(ValueError) as error:
        encode(host, sd15, image)
    assert says in sentence(error)


def test_another_image_model(host: Any, sd15: World, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        encode(host, sd15, vision=tiny_vision(tmp_path, seed=77))
    assert "another model" in sentence(error) and "the tiny vision model" in sentence(error)


def test_crop_masks(host: Any, sd15: World) -> None:
    whole = encode(host, sd15)
    mask = torch.zeros(1, 48, 40)
    mask[:, 4:36, 2:20] = 1
    cropped = encode(host, sd15, crop_mask=mask)
    by_hand = encode(host, sd15, IMAGE[:, 4:36, 0:32])
    assert torch.equal(cropped.tokens, by_hand.tokens)
    assert not torch.equal(cropped.tokens, whole.tokens)
    for bad, says in (
        (torch.zeros(1, 48, 40), "empty"),
        (torch.ones(1, 64, 64), "on the reference image itself"),
        (torch.nn.functional.pad(torch.ones(1, 3, 3), (0, 37, 0, 45)), "3 x 3 pixels"),
    ):
        with pytest.raises(ValueError) as error:
            encode(host, sd15, crop_mask=bad)
        assert says in sentence(error)


@pytest.mark.parametrize("name", ["", "anna smith", "a:b", "<>"])
def test_names_that_no_prompt_could_hold(host: Any, sd15: World, name: str) -> None:
    with pytest.raises(ValueError) as error:
        encode(host, sd15, name=name)
    assert "cannot be a subject's name" in sentence(error)
    assert encode(host, sd15, name="<anna> ").name == "anna"


def test_one_name_for_two_subjects(host: Any, sd15: World) -> None:
    combine = host.NODE_CLASS_MAPPINGS["NestedAttentionCombineSubjects"]
    anna, other = sd15.subject(), sd15.subject("Anna", seed=3)
    with pytest.raises(ValueError) as error:
        combine.execute(subject_1=anna, subject_2=other)
    assert "<anna>" in sentence(error)
    with pytest.raises(ValueError) as error:
        sd15.apply(other, *sd15.apply(anna))
    assert "<anna>" in sentence(error)
    rex, tom = sd15.subject("rex", seed=2), sd15.subject("tom", seed=4)
    pair = combine.execute(subject_1=anna, subject_2=rex).result[0]
    three = combine.execute(subject_1=pair, subject_2=tom, subject_4=None).result[0]
    assert three.names == ("anna", "rex", "tom")


def test_a_name_that_no_subject_has(world: World) -> None:
    _, clip = world.apply(world.subject())
    with pytest.raises(ValueError) as error:
        world.encode("<ann> on a beach", clip)
    assert "<ann>" in sentence(error) and "<anna>" in sentence(error)


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_prompt(host: Any, sd15: World, text: str) -> None:
    _, clip = sd15.apply(sd15.subject())
    with pytest.raises(ValueError) as error:
        host.NODE_CLASS_MAPPINGS["NestedAttentionPrompt"].execute(clip, text)
    assert "The prompt is empty" in sentence(error)
    # Stock text encode takes it, as a negative prompt.
    assert torch.equal(sd15.encode(text, clip)[0][0], sd15.encode(text)[0][0])


def test_settings_out_of_range(sd15: World) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"start_percent": 0.8, "end_percent": 0.2}, "the start first"),
        ({"strength": float("nan")}, "finite"),
        ({"token_weight": 0.0}, "above 0"),
        ({"mask": torch.full((1, 8, 8), float("inf"))}, "NaN or infinite"),
    ]
    for settings, says in cases:
        with pytest.raises(ValueError) as error:
            sd15.apply(sd15.subject(), **settings)
        assert says in sentence(error)


@pytest.mark.parametrize(("start", "end"), [([0], [1]), ([], [1])], ids=["letters", "no start"])
def test_a_tokenizer_of_another_kind(sd15: World, start: list[int], end: list[int]) -> None:
    """Where the subject cannot be found in the tokens, nothing is bound by guess."""

    class Letters:
        def tokenize_with_weights(self, text: str, *_: Any, **__: Any) -> Any:
            ids = [*start, *map(ord, text), *end]
            return {"l": [[(token, 1.0) for token in ids]]}

    clip = sd15.clip.clone()
    clip.tokenizer = Letters()
    _, bound = sd15.apply(sd15.subject(), clip=clip)
    assert bound.tokenize("plain") == clip.tokenize("plain")
    with pytest.raises(ValueError) as error:
        bound.tokenize("a <anna>")
    assert "SD1.5 or SDXL" in sentence(error)


def test_an_encoder_with_damaged_numbers(loaded: Any, sd15: World, tmp_path: Path) -> None:
    def write(path: Path) -> None:
        write_encoder(path, sd15.model.model.diffusion_model, sd15.vision, "sd15")
        state = safetensors.torch.load_file(path)
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata()
        name = next(iter(state))
        state[name] = torch.full_like(state[name], float("nan"))
        safetensors.torch.save_file(state, path, metadata)

    with pytest.raises(ValueError) as error:
        loaded("nan.safetensors", write)
    assert "NaN" in sentence(error)


def test_randomise_gives_sane_outputs(world: World) -> None:
    """The equalities of this folder would hold for any model whose output is constant."""
    probe = torch.nn.Linear(4, 4)
    randomise(probe, 1)
    assert probe.weight.std() > 0
    out = world.sample(world.encode("a person"), world.encode("blurry"))
    other = world.sample(world.encode("a dog"), world.encode("blurry"))
    assert torch.isfinite(out).all() and out.std() > 0.1
    assert (out - other).abs().max() > 1e-3 * out.std()
