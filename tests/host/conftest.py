"""The real host in this process, with tiny random models of real block layouts."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import compatibility
from commands.pack import ROOT, start_host

start_host(cpu=True)
# As the host's main.py does; later, comfy/utils.py would answer to this name.
importlib.import_module("utils.install_util")
torch.set_num_threads(1)

import comfy.clip_vision  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.sd1_clip  # noqa: E402
import comfy.sdxl_clip  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.supported_models_base  # noqa: E402
import folder_paths  # noqa: E402
from comfy.patcher_extension import WrappersMP  # noqa: E402

# For a type checker `nodes` is the pack's own package.
host_nodes: Any = importlib.import_module("nodes")

L_CONFIG = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 128,
}
G_CONFIG = {**L_CONFIG, "hidden_size": 96, "intermediate_size": 192}
VISION_CONFIG = {
    "model_type": "clip_vision_model",
    "attention_dropout": 0.0,
    "hidden_act": "quick_gelu",
    "hidden_size": 48,
    "image_size": 32,
    "intermediate_size": 96,
    "layer_norm_eps": 1e-5,
    "num_attention_heads": 4,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "patch_size": 8,
    "projection_dim": 32,
}
UNET = {
    "image_size": 32,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_checkpoint": False,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}


class TinyL(comfy.sd1_clip.SD1ClipModel):
    """CLIP L of width 64."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        options = {**(model_options or {}), "clip_l_model_config": L_CONFIG}
        super().__init__(device=device, dtype=dtype, model_options=options)


class TinyLG(comfy.sdxl_clip.SDXLClipModel):
    """The two encoders of SDXL, of width 64 and 96."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        configs = {"clip_l_model_config": L_CONFIG, "clip_g_model_config": G_CONFIG}
        super().__init__(
            device=device, dtype=dtype, model_options={**(model_options or {}), **configs}
        )


class TinySD15(comfy.supported_models.SD15):
    """Thin SD1.5: all of its 16 cross-attention sites."""

    unet_config = {
        **UNET,
        "context_dim": 64,
        "adm_in_channels": None,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1] * 9 + [0] * 3,
        "transformer_depth_middle": 1,
        "use_linear_in_transformer": False,
    }
    unet_extra_config = {"num_heads": 4, "num_head_channels": -1}
    text = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, TinyL)


class TinySDXL(comfy.supported_models.SDXL):
    """Thin SDXL: all of its 70 cross-attention sites."""

    unet_config = {
        **UNET,
        "num_classes": "sequential",
        "context_dim": 160,
        "adm_in_channels": 96 + 1536,
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "use_linear_in_transformer": True,
    }
    unet_extra_config = {"num_heads": -1, "num_head_channels": 16}
    text = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, TinyLG)


FAMILIES: dict[str, Any] = {"sd15": TinySD15, "sdxl": TinySDXL}
PACK = str(ROOT)


def pack(name: str) -> ModuleType:
    """A module of the pack, in the copy that the host loaded."""
    return importlib.import_module(f"{PACK.replace('.', '_x_')}.{name}")


def running(results: list[Any]) -> Iterator[Callable[..., Any]]:
    """Yields what runs a graph in the host's own executor, whose caches last until the end: it
    gives the last of what a sink put into `results`, and the executor."""
    server = importlib.import_module("server")
    execution: Any = importlib.import_module("execution")
    loop = asyncio.new_event_loop()
    executor = execution.PromptExecutor(
        server.PromptServer(loop),
        cache_type=execution.CacheType.CLASSIC,
        cache_args={"lru": 0, "ram": 0},
    )

    def run(graph: dict[str, Any]) -> tuple[Any, Any]:
        results.clear()
        valid = loop.run_until_complete(execution.validate_prompt("id", graph, None))
        assert valid[0], valid
        loop.run_until_complete(executor.execute_async(graph, "id", {}, valid[2]))
        return (results[-1] if results else None), executor

    yield run
    loop.close()


def randomise(module: torch.nn.Module, seed: int, std: float = 0.08) -> None:
    """Weights with which signals neither vanish nor explode: all norm gains are 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            norm = isinstance(part, (torch.nn.GroupNorm, torch.nn.LayerNorm))
            for name, parameter in part.named_parameters(recurse=False):
                if norm and name == "weight":
                    parameter.fill_(1.0)
                elif parameter.ndim < 2:
                    parameter.zero_()
                else:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


@dataclass
class World:
    """A tiny MODEL, CLIP and CLIP_VISION of one family, with an encoder that fits them."""

    family: str
    model: Any
    clip: Any
    vision: Any
    encoder: Any

    def subject(self, name: str = "anna", seed: int = 0, class_word: str = "person", **settings):
        """A subject with random tokens."""
        generator = torch.Generator().manual_seed(seed)
        return pack("nested_attn_core.subject").Subject(
            name=name,
            tokens=torch.randn(6, 24, generator=generator),
            class_word=class_word,
            domain=class_word,
            encoder=self.encoder,
            encoder_fingerprint=self.encoder.fingerprint,
            **settings,
        )

    def apply(
        self, subject: Any, model: Any = None, clip: Any = None, strength=1.0, **settings: Any
    ) -> tuple[Any, Any]:
        """(MODEL, CLIP) of the Apply node."""
        node = host_nodes.NODE_CLASS_MAPPINGS["NestedAttentionApply"]
        return node.execute(
            model or self.model, clip or self.clip, subject, strength, **settings
        ).result

    def encode(self, text: str, clip=None):
        """What the host's own CLIP Text Encode makes of a prompt."""
        return host_nodes.CLIPTextEncode().encode(clip or self.clip, text)[0]

    def sample(self, positive, negative, model=None, steps=2, cfg=4.0, batch=1, size=(16, 16)):
        """A latent (batch, 4, *size) by the host's sampler."""
        latent = torch.zeros(batch, 4, *size)
        noise = comfy.sample.prepare_noise(latent, 1)
        return comfy.sample.sample(
            model or self.model,
            noise,
            steps,
            cfg,
            "euler",
            "normal",
            positive,
            negative,
            latent,
            disable_pbar=True,
            seed=1,
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Records the tests of docs/compatibility.md, and compares the page after all of them."""
    plugins = config.pluginmanager.get_plugins()
    if not any(isinstance(plugin, compatibility.Recorder) for plugin in plugins):
        config.pluginmanager.register(compatibility.Recorder())
    items.sort(key=lambda item: item.path.name == "test_page.py")


@pytest.fixture(scope="session", autouse=True)
def host(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The host's module `nodes`, with this pack loaded as a custom node."""
    # Previews are files.
    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("previews")))
    assert asyncio.run(host_nodes.load_custom_node(PACK)), "the host could not load the pack"
    return host_nodes


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    """The host runs its nodes so."""
    with torch.inference_mode():
        yield


@pytest.fixture
def gradients(no_gradients: None) -> Iterator[None]:
    """A training is no node: gradients are on."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@pytest.fixture(scope="session")
def worlds(host: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], World]:
    """The world of a family, built once."""
    built: dict[str, World] = {}
    folder = tmp_path_factory.mktemp("encoders")

    def world(family: str) -> World:
        if family not in built:
            # Training needs ordinary tensors.
            with torch.inference_mode(False), torch.no_grad():
                built[family] = build(family, FAMILIES[family], folder)
        return built[family]

    return world


@pytest.fixture(params=sorted(FAMILIES))
def world(request: pytest.FixtureRequest, worlds: Callable[[str], World]) -> World:
    """Each family in turn."""
    return worlds(request.param)


@pytest.fixture
def sd15(worlds: Callable[[str], World]) -> World:
    """Where one family is enough."""
    return worlds("sd15")


def counted(model: Any) -> tuple[Any, list[int]]:
    """A clone of a model, and a list that grows by the batch size of each of its calls."""
    clone, calls = model.clone(), []

    def count(executor, x, *args, **kwargs):
        calls.append(len(x))
        return executor(x, *args, **kwargs)

    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "count", count)
    return clone, calls


def differs(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two images differ by more than rounding could explain."""
    return bool((left - right).abs().max() > 1e-3 * left.std())


def build(family: str, kind: Any, folder: Path) -> World:
    """The world of a base family, with a diffusion model of a host's model class `kind`."""
    config = kind(dict(kind.unet_config))
    config.set_inference_dtype(torch.float32, None)
    base = config.get_model({}, "", device="cpu")
    randomise(base.diffusion_model, 1)
    clip = comfy.sd.CLIP(kind.text)
    randomise(clip.cond_stage_model, 2)
    vision = tiny_vision(folder, 3)
    path = folder / f"{family}.safetensors"
    write_encoder(path, base.diffusion_model, vision, family)
    return World(
        family,
        comfy.model_patcher.ModelPatcher(
            base,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        ),
        clip,
        vision,
        pack("nodes.host.memory").load(path, path.name),
    )


def tiny_vision(folder: Path, seed: int) -> Any:
    """A CLIP_VISION of width 48 that looks at 32 x 32 pixels."""
    path = folder / "vision.json"
    path.write_text(json.dumps(VISION_CONFIG))
    vision = comfy.clip_vision.ClipVisionModel(str(path))
    randomise(vision.model, seed)
    return vision


def write_encoder(path: Path, diffusion_model: Any, vision: Any, family: str, seed=4) -> None:
    """The file of a random encoder for a model."""
    encoder_module = pack("nested_attn_core.encoder")
    checkpoint = pack("nested_attn_core.checkpoint")
    config = encoder_module.EncoderConfig(
        feature_dim=48,
        tokens=6,
        token_dim=24,
        width=32,
        depth=1,
        heads=2,
        head_dim=16,
        ff_mult=2,
        sites=pack("nodes.host.sites").discover_sites(diffusion_model),
    )
    encoder = encoder_module.NestedEncoder(config)
    randomise(encoder, seed, std=0.3)
    weights_fingerprint = pack("nested_attn_core.fingerprint").weights_fingerprint
    info = checkpoint.EncoderInfo(
        base_family=family,
        config=config,
        backbone=checkpoint.Backbone(
            "the tiny vision model", weights_fingerprint(vision.model.state_dict()), 32
        ),
        domain="person",
        class_word="person",
    )
    checkpoint.save_encoder(path, encoder, info)
