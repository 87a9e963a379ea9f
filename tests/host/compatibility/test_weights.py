"""What changes weights, and how attention is computed: LoRA, merges, hypernetworks, compilers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import comfy.lora
import pytest
import safetensors.torch
import torch
from comfy.ldm.modules import attention as host_attention

from ..conftest import World, build, differs, randomise
from .conftest import PROMPT, Apply, Graph, Lab, Node, Small

WEIGHTS, RUNTIME = "LoRA, merges, hypernetworks", "Attention and compilation"


@pytest.fixture(scope="module", autouse=True)
def files(small: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A LoRA of both models and a hypernetwork, in folders that the host's loaders read."""
    import folder_paths

    folder = tmp_path_factory.mktemp("files")
    known = folder_paths.folder_names_and_paths
    before = {kind: known[kind] for kind in ("loras", "hypernetworks")}
    for kind, (_, extensions) in before.items():
        (folder / kind).mkdir()
        known[kind] = ([str(folder / kind)], extensions)
    safetensors.torch.save_file(lora(small), folder / "loras" / "test.safetensors")
    torch.save(hypernetwork(), folder / "hypernetworks" / "test.pt")
    yield
    known.update(before)


def lora(world: World) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    names = {
        **comfy.lora.model_lora_keys_unet(world.model.model, {}),
        **comfy.lora.model_lora_keys_clip(world.clip.cond_stage_model, {}),
    }
    weights = {**world.model.model.state_dict(), **world.clip.cond_stage_model.state_dict()}
    pairs = {}
    for name, target in names.items():
        weight = weights.get(target)
        kind = name.startswith(("lora_unet_", "lora_te_"))
        if kind and weight is not None and weight.ndim == 2 and ("attn" in name):
            up, down = (torch.randn(n, 2, generator=generator) * 0.3 for n in weight.shape)
            pairs |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down.T.contiguous()}
    assert any("lora_te_" in name for name in pairs) and any("attn2" in name for name in pairs)
    return pairs


def hypernetwork() -> dict[Any, Any]:
    generator = torch.Generator().manual_seed(12)

    def layer(width: int) -> dict[str, torch.Tensor]:
        weight = torch.randn(width, width, generator=generator) * 0.1
        return {"linear.0.weight": weight, "linear.0.bias": torch.zeros(width)}

    return {width: [layer(width), layer(width)] for width in (32, 64, 128)}


def in_order(order: str, with_model: Any = None, with_clip: Any = None) -> Any:
    """A graph in which nodes change the model and the clip, before or after ours."""

    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        def changed(model: Any, clip: Any) -> tuple[Any, Any]:
            model = with_model(graph, model) if with_model else model
            return model, with_clip(graph, clip) if with_clip else clip

        if order == "before":
            model, clip = apply(*changed(graph.model, graph.clip))
        else:
            model, clip = changed(*apply(graph.model, graph.clip))
        return graph.image(model, clip, text)

    return graph


def compared(lab: Lab, pictures: dict[Any, Any], name: str, order: str, **changes: Any) -> None:
    acting, pictures[name] = lab.compare(
        in_order(order, **changes), pictures.get(name), without=lab.bare
    )
    assert not differs(acting, pictures.setdefault(f"{name}, acting", acting))


ORDERS = pytest.mark.parametrize("order", ["before", "after"])


@pytest.mark.compatibility(WEIGHTS, "LoraLoader (model and CLIP), before and after")
@ORDERS
def test_a_lora_of_both(lab: Lab, pictures: dict[Any, Any], order: str) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        def loaded(model: Any, clip: Any) -> tuple[Any, Any]:
            node = graph("LoraLoader", model=model, clip=clip, lora_name="test.safetensors")
            return node[0], node[1]

        if order == "before":
            model, clip = apply(*loaded(graph.model, graph.clip))
        else:
            model, clip = loaded(*apply(graph.model, graph.clip))
        return graph.image(model, clip, text)

    acting, pictures["lora"] = lab.compare(graph, pictures.get("lora"), without=lab.bare)
    assert not differs(acting, pictures.setdefault("lora, acting", acting))


@pytest.mark.compatibility(WEIGHTS, "LoraLoaderModelOnly, before and after")
@ORDERS
def test_a_lora_of_the_model(lab: Lab, pictures: dict[Any, Any], order: str) -> None:
    def loaded(graph: Graph, model: Any) -> Node:
        return graph("LoraLoaderModelOnly", model=model, lora_name="test.safetensors")

    compared(lab, pictures, "model lora", order, with_model=loaded)


@pytest.mark.compatibility(WEIGHTS, "HypernetworkLoader, before and after")
@ORDERS
def test_a_hypernetwork(
    lab: Lab, pictures: dict[Any, Any], order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its file is of the old kind, with numbers as keys, which the host reads only where it trusts.
    monkeypatch.setattr("comfy.utils.ALWAYS_SAFE_LOAD", False, raising=False)

    def loaded(graph: Graph, model: Any) -> Node:
        return graph("HypernetworkLoader", model=model, hypernetwork_name="test.pt")

    compared(lab, pictures, "hypernetwork", order, with_model=loaded)


@pytest.mark.compatibility(WEIGHTS, "CLIPSetLastLayer (clip skip), before and after")
@ORDERS
def test_clip_skip(lab: Lab, pictures: dict[Any, Any], order: str) -> None:
    def skipped(graph: Graph, clip: Any) -> Node:
        return graph("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-2)

    compared(lab, pictures, "clip skip", order, with_clip=skipped)


@pytest.mark.compatibility(WEIGHTS, "CLIPAttentionMultiply, before and after")
@ORDERS
def test_clip_attention(lab: Lab, pictures: dict[Any, Any], order: str) -> None:
    def multiplied(graph: Graph, clip: Any) -> Node:
        return graph("CLIPAttentionMultiply", clip=clip, q=1.5)

    compared(lab, pictures, "clip attention", order, with_clip=multiplied)


@pytest.fixture(scope="module")
def second(small: World, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A MODEL of the same layout with other weights."""
    with torch.inference_mode(False), torch.no_grad():
        model = build("sd15", Small, tmp_path_factory.mktemp("second")).model
        randomise(model.model.diffusion_model, 21)
    return model


@pytest.mark.compatibility(
    WEIGHTS, "ModelMergeSimple, ModelMergeAdd: before Apply, or with its MODEL as model1"
)
@pytest.mark.parametrize("kind", ["ModelMergeSimple", "ModelMergeAdd"])
@pytest.mark.parametrize("where", ["before", "as model1"])
def test_merged_models(
    lab: Lab, pictures: dict[Any, Any], second: Any, where: str, kind: str
) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        other = graph.value(second)
        ratio = {"ratio": 0.5} if kind == "ModelMergeSimple" else {}
        model, clip = graph.model, graph.clip
        if where == "before":
            model, clip = apply(graph(kind, model1=model, model2=other, **ratio), clip)
        else:
            model, clip = apply(model, clip)
            model = graph(kind, model1=model, model2=other, **ratio)
        return graph.image(model, clip, text)

    acting, pictures[kind] = lab.compare(graph, pictures.get(kind), without=lab.bare)
    assert not differs(acting, pictures.setdefault((kind, "acting"), acting))


@pytest.mark.compatibility(
    WEIGHTS,
    "ModelMergeSimple with the MODEL of Apply as model2",
    "cannot work: the log says that this model was not given the subject",
    note="the host keeps the patches of model1 only; connect it there, or apply after the merge",
)
def test_a_merge_that_drops_the_subject(
    lab: Lab, second: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.value(second), graph.clip)
        model = graph("ModelMergeSimple", model1=graph.model, model2=model, ratio=0.5)
        return graph.image(model, clip, text)

    plain = lab.run(graph)
    with caplog.at_level(logging.WARNING, "nested_attention"):
        latent = lab.run(graph, lab.on, PROMPT)
    # The host runs positive and negative apart, as one of them carries a condition more.
    assert not differs(latent, plain)
    (said,) = {record.getMessage() for record in caplog.records}
    assert said.startswith("A prompt names a subject that this model was not given; connect the")


@pytest.mark.compatibility(
    WEIGHTS,
    "a sampler whose MODEL comes from the loader and whose CLIP comes from Apply",
    "cannot work: the log says that this model was not given the subject",
)
def test_a_model_from_the_loader(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        _, clip = apply(graph.model, graph.clip)
        return graph.image(graph.model, clip, text)

    with caplog.at_level(logging.WARNING, "nested_attention"):
        latent = lab.run(graph, lab.on, PROMPT)
    assert not differs(latent, lab.bare)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("A prompt names a subject that this model was not given; connect the")


@pytest.mark.compatibility(RUNTIME, "the host's optimized_attention_override, before and after")
@ORDERS
def test_an_attention_override(lab: Lab, pictures: dict[Any, Any], order: str) -> None:
    calls: list[int] = []

    def override(attention: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(1)
        return attention(*args, **kwargs) * 0.9

    def overridden(graph: Graph, model: Any) -> Node:
        def patch(model: Any) -> Any:
            clone = model.clone()
            options = clone.model_options["transformer_options"]
            options["optimized_attention_override"] = override
            return clone

        return graph("TestPatch", model=model, patch=graph.value(patch))

    compared(lab, pictures, "override", order, with_model=overridden)
    # 10 sites and as many self-attentions, 2 steps, in each of the graphs.
    assert calls and len(calls) % 40 == 0


@pytest.mark.compatibility(RUNTIME, "scaled dot product attention in place of the host's default")
def test_another_attention_function(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_attention.optimized_attention is not host_attention.attention_pytorch
    monkeypatch.setattr(host_attention, "optimized_attention", host_attention.attention_pytorch)

    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        return graph.image(model, clip, text)

    lab.compare(graph)


@pytest.mark.compatibility(
    RUNTIME,
    "torch.compile in the host's way (set_torch_compile_wrapper, which TorchCompileModel uses)",
    note="here one transformer block, traced and run as it is, as a whole model takes minutes",
)
def test_a_compiled_model(lab: Lab) -> None:
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    torch.compiler.reset()
    calls: list[int] = []

    def count(module: Any, inputs: Any) -> Any:
        calls.append(1)
        return module.forward

    backend: Any = count

    def compiled(model: Any) -> Any:
        clone = model.clone()
        block = "diffusion_model.middle_block.1.transformer_blocks.0"
        set_torch_compile_wrapper(model=clone, backend=backend, keys=[block])
        return clone

    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        model = graph("TestPatch", model=model, patch=graph.value(compiled))
        return graph.image(model, clip, text)

    plain = lab.run(graph)
    assert calls and not differs(plain, lab.bare)
    acting = lab.run(graph, lab.on, PROMPT)
    torch.compiler.reset()

    def eager(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        return graph.image(model, clip, text)

    assert differs(acting, plain)
    assert not differs(acting, lab.run(eager, lab.on, PROMPT))
