"""The training's settings: one TOML file, typed, each setting with the description that the
documentation prints (docs/training.md)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MINIATURE = "miniature"


class Section(BaseModel):
    """A table of the file: no unknown keys, no conversions that could hide a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class BaseSection(Section):
    """The frozen text-to-image model."""

    checkpoint: str = Field(
        min_length=1,
        description="The base model: a file's name in ComfyUI's models/checkpoints, a path, or "
        '"miniature" for the one that ships.',
    )


class BackboneSection(Section):
    """The frozen image model whose features the encoder reads."""

    clip_vision: str = Field(
        min_length=1,
        description="The image model: a file's name in ComfyUI's models/clip_vision, a path, or "
        '"miniature" for the one that ships. The graph must use the same file.',
    )


class EncoderSection(Section):
    """The sizes of what trains. The defaults are a guess at the paper's, for SD1.5 and SDXL."""

    tokens: int = Field(
        default=1024, ge=1, le=65536, description="Nested tokens that a reference picture becomes."
    )
    width: int = Field(default=1280, ge=1, le=65536, description="Inner width of the resampler.")
    depth: int = Field(default=4, ge=1, le=256, description="Layers of the resampler.")
    heads: int = Field(
        default=20, ge=1, le=65536, description="Attention heads; they divide the width."
    )
    ff_mult: int = Field(
        default=4, ge=1, le=256, description="Width of a feed-forward layer, in widths."
    )
    initialise: Literal["text", "random"] = Field(
        default="text",
        description='Start of the nested projections: "text" copies each site\'s own to_k and '
        'to_v, "random" does not.',
    )
    resume_from: str = Field(
        default="",
        description="An encoder's file to start from instead, of the same sizes and the same base.",
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> EncoderSection:
        if self.width % self.heads:
            raise ValueError(
                f"encoder.heads is {self.heads}, which does not divide encoder.width "
                f"({self.width}); choose heads that do"
            )
        return self


class MethodSection(Section):
    """How the subject enters the base."""

    name: str = Field(
        default="nested",
        min_length=1,
        description='The method: "nested" is the paper\'s; the others are baselines to compare '
        "with.",
    )
    train_placeholder: bool = Field(
        default=False,
        description="Also train the embedding that the text encoders read for a subject; it starts "
        "from the class word's own. Slower: captions are encoded anew in every step.",
    )
    norm: Literal["text", "none"] = Field(
        default="text",
        description='Length of the nested value: "text" ties it to the text value that it '
        'replaces, "none" leaves it free.',
    )
    norm_factor: float = Field(
        default=2.0,
        ge=0,
        description='With norm "text": the nested value\'s length in text values.',
    )
    token_weight: float = Field(
        default=1.0,
        gt=0,
        description="What multiplies the odds of the subject's token in the attention.",
    )


class DataSection(Section):
    """The pictures, their captions, and who is in them."""

    source: Literal["folder", "jsonl", "webdataset", "miniature"] = Field(
        default="folder",
        description='Form of the data set: "folder" of pictures with a .txt beside each, "jsonl" '
        'with a line for each picture, "webdataset" shards, or the "miniature" world.',
    )
    path: str = Field(
        min_length=1,
        description="The folder, the .jsonl file, or the shards (a folder, or a pattern such as "
        "shards/{0000..0199}.tar).",
    )
    identity: Literal["folder", "field", "picture"] = Field(
        default="folder",
        description='Who is in a picture: the name of its "folder", the "field" identity of its '
        'record, or every "picture" a subject of its own.',
    )
    caption: str = Field(
        default="",
        description="Caption of the pictures that have none, for example "
        '"a photo of <subject>"; empty means that each needs its own.',
    )
    size: int = Field(
        default=0,
        ge=0,
        le=8192,
        description="Edge of the training pictures in pixels; 0 takes the base's own.",
    )
    fit: Literal["crop", "pad"] = Field(
        default="crop",
        description="What happens where a picture has another shape: the middle is cut out, or a "
        "grey border is added.",
    )
    buckets: bool = Field(
        default=False,
        description="Sort pictures by shape into sizes of equal area instead, and make each batch "
        "of one size; only the rest is cut or padded.",
    )
    smallest: int = Field(
        default=64,
        ge=1,
        description="Pictures with a shorter edge (in pixels) are reported by --check and left "
        "out.",
    )
    augment: Literal["single", "always", "never"] = Field(
        default="single",
        description="Whether references are augmented (cropped, mirrored, recoloured, without "
        'background where there is a mask): only where a subject has a "single" picture, "always" '
        'or "never".',
    )
    variants: int = Field(
        default=4,
        ge=1,
        le=1024,
        description="Augmented versions of a reference that are drawn from.",
    )
    mask_background: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of augmented references whose background is removed, where there is a "
        "mask.",
    )
    held_out: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the subjects that are kept out of training, for the sample sheets.",
    )
    cache: tuple[Literal["latents", "vision", "text"], ...] = Field(
        default=("latents", "vision", "text"),
        strict=False,  # a file has lists where a frozen model has tuples
        description="What is computed once and kept on the disk; the rest is computed for each "
        "batch.",
    )
    cache_folder: str = Field(
        default="", description="Where that is kept; empty means a folder cache in run.folder."
    )
    threads: int = Field(
        default=2,
        ge=0,
        le=256,
        description="Threads that read pictures ahead; 0 reads in the loop itself.",
    )

    @model_validator(mode="after")
    def _identity_can_be_known(self) -> DataSection:
        if self.identity == "field" and self.source == "folder":
            raise ValueError(
                'data.identity is "field", and a folder of pictures has no fields; put each '
                'subject into a folder of its own (identity = "folder") or list the pictures in a '
                '.jsonl file (source = "jsonl")'
            )
        return self


class ObjectiveSection(Section):
    """What is minimised. The prediction type and the noise schedule come from the base."""

    sigma: Literal["uniform", "logit-normal"] = Field(
        default="uniform",
        description='How noise levels are drawn: "uniform" over the schedule, or "logit-normal", '
        "which favours its middle.",
    )
    sigma_shift: float = Field(
        default=0.0, description='With "logit-normal": its mean; above 0 leans to noisy levels.'
    )
    sigma_scale: float = Field(
        default=1.0, gt=0, description='With "logit-normal": its standard deviation.'
    )
    min_snr: float = Field(
        default=0.0,
        ge=0,
        description="Gamma of Min-SNR weighting, 5 is usual; 0 weighs all noise levels alike.",
    )
    drop_text: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of examples whose caption is the subject alone.",
    )
    drop_image: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of examples whose reference is blank (image features of 0).",
    )
    mask_weight: float = Field(
        default=0.0,
        ge=0,
        description="Extra weight of the loss on the subject, where there is a mask: 1 counts it "
        "twice.",
    )
    identity_weight: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the identity loss: distance between embeddings of the predicted and "
        "the target picture; 0 switches it off.",
    )
    identity_embedder: str = Field(
        default="backbone",
        min_length=1,
        description='What embeds for it: "backbone", or "module:function" of your own.',
    )
    identity_max_noise: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of the noise schedule, from its clean end, in which it is taken: where "
        "there is more noise, a predicted picture is too vague.",
    )


class OptimiserSection(Section):
    """How the weights move."""

    name: Literal["adamw", "adamw8bit", "muon"] = Field(
        default="adamw",
        description='"adamw8bit" needs bitsandbytes and saves memory; "muon" needs PyTorch 2.9 and '
        "took half of AdamW's steps for the miniature's backbone.",
    )
    rate: float = Field(default=1e-4, gt=0, le=1, description="Highest learning rate.")
    warmup: int = Field(default=100, ge=0, description="Steps over which the rate rises.")
    decay_share: float = Field(
        default=0.5, ge=0, le=1, description="Last share of the steps, over which the rate falls."
    )
    weight_decay: float = Field(default=0.01, ge=0, description="Weight decay.")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's first moment.")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="AdamW's second moment.")
    clip: float = Field(default=1.0, gt=0, description="Largest norm of the gradient.")


class RunSection(Section):
    """How long, how large, how safe."""

    steps: int = Field(ge=1, description="Steps of the optimiser.")
    batch: int = Field(
        default=8,
        ge=1,
        description="Examples in a step, over all processes and accumulated parts together.",
    )
    accumulate: int = Field(
        default=1, ge=1, description="Parts into which each process cuts its share of a batch."
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="Numbers of the frozen base; what trains is kept in fp32."
    )
    checkpointing: bool = Field(
        default=False,
        description="Compute activations again in the backward pass: slower, less memory.",
    )
    compile: bool = Field(default=False, description="torch.compile for the base.")
    ema: float = Field(
        default=0.99,
        ge=0,
        lt=1,
        description="Averaging of the weights that are written; 0 switches it off.",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="Everything drawn by lot follows from it."
    )
    deterministic: bool = Field(
        default=False,
        description="Only deterministic kernels: a resumed run is the same bit for bit.",
    )
    save_every: int = Field(default=500, ge=1, description="Steps between saved states.")
    keep: int = Field(default=2, ge=1, description="Saved states that are kept.")
    sample_every: int = Field(
        default=0, ge=0, description="Steps between sample sheets; 0 makes one at the end only."
    )
    tensorboard: bool = Field(
        default=False,
        description="Write TensorBoard logs into the run's folder (needs tensorboard).",
    )
    folder: str = Field(
        default="",
        description="Where states, cache and sheets lie; empty means runs/NAME beside the file.",
    )


class SamplesSection(Section):
    """The sample sheets."""

    prompts: tuple[str, ...] = Field(
        default=(
            "a photo of <subject>",
            "a photo of <subject> on a beach",
            "a drawing of <subject>",
        ),
        strict=False,
        description="Prompts of the sheets; <subject> stands for the subject.",
    )
    subjects: int = Field(default=4, ge=1, le=64, description="Subjects on a sheet.")
    steps: int = Field(default=20, ge=1, description="Steps of the sampler.")
    guidance: float = Field(default=5.0, ge=0, description="Classifier-free guidance.")


class OutputSection(Section):
    """The encoder's file."""

    name: str = Field(
        min_length=1,
        pattern=r"^[\w.-]+$",
        description="Its name, without .safetensors.",
    )
    domain: str = Field(min_length=1, description="What it was trained on, for example cat.")
    class_word: str = Field(
        default="",
        description="The word that the text encoders read in place of a subject's name; empty "
        "means the domain.",
    )
    folder: str = Field(default="", description="Where it is written; empty means run.folder.")
    licence: str = Field(default="", description="Licence of the weights, for the model card.")


class TrainingConfig(Section):
    """A training, from the data to the encoder's file."""

    base: BaseSection
    backbone: BackboneSection
    encoder: EncoderSection = EncoderSection()
    method: MethodSection = MethodSection()
    data: DataSection
    objective: ObjectiveSection = ObjectiveSection()
    optimiser: OptimiserSection = OptimiserSection()
    run: RunSection
    samples: SamplesSection = SamplesSection()
    output: OutputSection

    @model_validator(mode="after")
    def _parts_divide(self) -> TrainingConfig:
        if self.run.batch % self.run.accumulate:
            raise ValueError(
                f"run.batch is {self.run.batch}, which run.accumulate ({self.run.accumulate}) does "
                "not divide; choose numbers that fit"
            )
        if self.objective.drop_text + self.objective.drop_image > 1:
            raise ValueError(
                "objective.drop_text and objective.drop_image are more than 1 together; they are "
                "shares of the examples, so lower them"
            )
        return self

    @property
    def class_word(self) -> str:
        return self.output.class_word or self.output.domain

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for the encoder's card and for saved states."""
        return self.model_dump(mode="json")

    def located(self, beside: Path) -> TrainingConfig:
        """The same with every path absolute; relative ones count from the folder `beside`."""

        def place(text: str) -> str:
            return os.path.normpath(beside / Path(text).expanduser())

        def file(text: str) -> str:
            """A name in the host's folders stays a name."""
            return place(text) if text and Path(place(text)).is_file() else text

        folder = place(self.run.folder or f"runs/{self.output.name}")
        data = {"path": place(self.data.path)}
        data["cache_folder"] = (
            place(self.data.cache_folder) if self.data.cache_folder else str(Path(folder, "cache"))
        )
        output = place(self.output.folder) if self.output.folder else folder
        return self.model_copy(
            update={
                "base": self.base.model_copy(update={"checkpoint": file(self.base.checkpoint)}),
                "backbone": self.backbone.model_copy(
                    update={"clip_vision": file(self.backbone.clip_vision)}
                ),
                "encoder": self.encoder.model_copy(
                    update={"resume_from": file(self.encoder.resume_from)}
                ),
                "run": self.run.model_copy(update={"folder": folder}),
                "data": self.data.model_copy(update=data),
                "output": self.output.model_copy(update={"folder": output}),
            }
        )
