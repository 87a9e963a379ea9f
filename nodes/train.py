"""Train Nested Encoder (experimental)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..nested_attn_core.errors import NestedAttentionError
from ..nested_attn_core.pictures import check_pictures
from .checks import checked
from .host.graph_training import Wishes, path_for, save_trained, train_in_graph
from .host.memory import LoadedEncoder
from .sockets import NestedEncoder, folded, schema

RARE = ("learning_rate", "tokens", "width", "depth", "token_weight", "gradient_checkpointing")

LossMap = io.Custom("LOSS_MAP")


class TrainNestedEncoder(io.ComfyNode):
    """Pictures and captions to an encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NestedAttentionTrainEncoder",
            display_name="Train Nested Encoder",
            description=(
                "Trains an encoder for one kind of subject on a batch of pictures with captions. "
                "For a few pictures, or to go on from an encoder; for whole data sets use the "
                "training command (docs/training.md)."
            ),
            search_aliases=["train", "finetune", "personalization", "dreambooth"],
            is_experimental=True,
            inputs=folded(_inputs(), *RARE),
            outputs=[
                NestedEncoder.Output(
                    "trained",
                    display_name="encoder",
                    tooltip="The trained encoder, for Encode Subject.",
                ),
                LossMap.Output(
                    "loss_map",
                    display_name="loss_map",
                    tooltip="The loss of each step, for Plot Loss Graph.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        clip_vision: Any,
        images: Tensor,
        captions: str,
        class_word: str,
        steps: int,
        batch_size: int,
        learning_rate: float,
        tokens: int,
        width: int,
        depth: int,
        token_weight: float,
        seed: int,
        gradient_checkpointing: bool,
        subjects: str = "",
        save_as: str = "",
        encoder: LoadedEncoder | None = None,
        masks: Tensor | None = None,
    ) -> io.NodeOutput:
        if not class_word.strip():
            raise NestedAttentionError(
                "The class word is empty; write what the subjects are, for example cat."
            )
        check_pictures(images, "batch of pictures")
        path = path_for(save_as.strip()) if save_as.strip() else None
        count = len(images)
        names = _lines(subjects) or [f"picture {number}" for number in range(count)]
        trained, losses = train_in_graph(
            model,
            clip,
            vae,
            clip_vision,
            images,
            _for_each(_lines(captions), count),
            _for_each(names, count),
            masks,
            Wishes(
                class_word.strip(),
                steps,
                batch_size,
                learning_rate,
                seed % 2**31,
                tokens,
                width,
                depth,
                token_weight,
                gradient_checkpointing,
                encoder,
            ),
        )
        if path is not None:
            save_trained(trained, path)
        return io.NodeOutput(trained, {"loss": losses})


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _for_each(lines: list[str], count: int) -> list[str]:
    """One line serves for all pictures."""
    return lines * count if len(lines) == 1 else lines


def _inputs() -> list[Any]:
    return [
        io.Model.Input(
            "model",
            tooltip="The base to train for, of the SD1.5, SD2 or SDXL family. It is not changed.",
        ),
        io.Clip.Input("clip", tooltip="The text encoder of the same model."),
        io.Vae.Input("vae", tooltip="The VAE of the same model."),
        io.ClipVision.Input(
            "clip_vision",
            tooltip="The image model that reads the pictures. Encode Subject needs the same one "
            "later.",
        ),
        io.Image.Input("images", tooltip="The pictures to learn from, a batch of one size."),
        io.String.Input(
            "captions",
            default="a photo of <subject>",
            multiline=True,
            tooltip="What each picture shows: one line for each, or one for all. Write <subject>, "
            "or the class word, where the subject is.",
        ),
        io.String.Input(
            "class_word",
            default="person",
            tooltip="What the subjects are, in one word that the text encoder knows.",
        ),
        io.Int.Input(
            "steps",
            default=500,
            min=1,
            max=1000000,
            tooltip="How many steps to train. A few hundred show whether it learns; a good encoder "
            "takes many more.",
        ),
        io.Int.Input(
            "batch_size",
            default=4,
            min=1,
            max=1024,
            tooltip="How many pictures are in a step. More is steadier and takes more memory.",
        ),
        io.Float.Input(
            "learning_rate",
            default=0.0001,
            min=0.0000001,
            max=1.0,
            step=0.0000001,
            tooltip="The highest learning rate; it rises at the start and falls in the second "
            "half.",
        ),
        io.Int.Input(
            "tokens",
            default=64,
            min=1,
            max=4096,
            tooltip="How many nested tokens a reference becomes. More keep more detail and cost "
            "more time.",
        ),
        io.Int.Input(
            "width",
            default=768,
            min=64,
            max=4096,
            step=64,
            tooltip="Inner width of the resampler, a multiple of 64. Wider learns more and takes "
            "more memory.",
        ),
        io.Int.Input(
            "depth",
            default=4,
            min=1,
            max=32,
            tooltip="How many layers the resampler has. More learn more and take more memory.",
        ),
        io.Float.Input(
            "token_weight",
            default=1.0,
            min=0.05,
            max=64.0,
            step=0.05,
            tooltip="Multiplies the odds of the subject's word in the attention, while it is "
            "trained and in every image later. 1 leaves them.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            tooltip="Decides everything that is drawn by lot; the same seed trains the same "
            "encoder.",
        ),
        io.Boolean.Input(
            "gradient_checkpointing",
            default=True,
            tooltip="Saves memory and makes a step slower by a third. Switch it off where memory "
            "suffices.",
        ),
        io.String.Input(
            "subjects",
            default="",
            multiline=True,
            optional=True,
            tooltip="Who is in each picture, one name a line; pictures with the same name show the "
            "same subject. Empty: each shows another one; a single line: all show the same one.",
        ),
        io.String.Input(
            "save_as",
            default="",
            optional=True,
            tooltip="Name of the file in models/nested_attention to save the encoder to. Empty "
            "saves nothing.",
        ),
        NestedEncoder.Input(
            "encoder",
            optional=True,
            tooltip="An encoder to go on from; tokens, width and depth are then its own.",
        ),
        io.Mask.Input(
            "masks",
            optional=True,
            tooltip="Where the subjects are, one mask for each picture. These places count more in "
            "the loss, and references may lose their background.",
        ),
    ]
