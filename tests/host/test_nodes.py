"""How the nodes present themselves to the host, and what the host keeps for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import World, differs, pack, write_encoder

NODES = (
    "NestedAttentionLoadEncoder",
    "NestedAttentionEncodeSubject",
    "NestedAttentionCombineSubjects",
    "NestedAttentionApply",
    "NestedAttentionPrompt",
    "NestedAttentionLoadMiniature",
    "NestedAttentionTrainEncoder",
    "NestedAttentionSaveSubject",
    "NestedAttentionLoadSubject",
    "NestedAttentionSubjectSettings",
    "NestedAttentionWatch",
    "NestedAttentionMaps",
    "NestedAttentionCropFaces",
    "NestedAttentionSeparate",
    "NestedAttentionExamplePicture",
)


@pytest.mark.parametrize("node_id", NODES)
def test_every_node_explains_itself(host: Any, node_id: str) -> None:
    schema = host.NODE_CLASS_MAPPINGS[node_id].GET_SCHEMA()
    assert schema.category == "nested attention"
    assert schema.display_name == host.NODE_DISPLAY_NAME_MAPPINGS[node_id]
    assert schema.description and schema.outputs
    for part in [*schema.inputs, *schema.outputs]:
        assert part.tooltip and part.tooltip.endswith("."), part
    info = host.NODE_CLASS_MAPPINGS[node_id].GET_NODE_INFO_V1()
    assert len(info["output"]) == len(info["output_tooltips"])


def test_the_host_has_exactly_these_nodes_of_the_pack(host: Any) -> None:
    assert {name for name in host.NODE_CLASS_MAPPINGS if name.startswith("NestedAttention")} == set(
        NODES
    )


def test_schema_fields_that_a_host_lacks_are_left_out(host: Any, monkeypatch: Any) -> None:
    sockets = pack("nodes.sockets")
    made = sockets.schema(node_id="X", search_aliases=["a"], of_the_future=True)
    assert made.node_id == "X" and made.category == "nested attention"
    assert not hasattr(made, "of_the_future")


def test_encoder_files_are_listed_from_the_users_folders(
    host: Any, sd15: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import folder_paths

    files = pack("nodes.host.files")
    shipped = tmp_path / "shipped"
    mine = tmp_path / "mine"
    shipped.mkdir()
    mine.mkdir()
    entry = folder_paths.folder_names_and_paths["nested_attention"]
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "nested_attention", ([str(mine), *entry[0]], set())
    )
    monkeypatch.setattr(files, "_PACK_MODELS", shipped)
    files.register_folder()
    paths, extensions = folder_paths.folder_names_and_paths["nested_attention"]
    assert paths[0] == str(mine) and ".safetensors" in extensions
    assert Path(paths[-1]).is_dir()

    unet = sd15.model.model.diffusion_model
    write_encoder(mine / "mine.safetensors", unet, sd15.vision, "sd15")
    write_encoder(shipped / "person.safetensors", unet, sd15.vision, "sd15")
    (shipped / "miniature.safetensors").write_bytes(b"no encoder")
    (mine / "notes.txt").write_text("no model")
    (mine / "cut-off.safetensors").touch()
    names = files.encoder_names()
    assert "mine.safetensors" in names and names[-1] == "(shipped) person.safetensors"
    assert not [word for word in ("miniature", "notes", "cut-off") if word in " ".join(names)]
    assert files.encoder_path("mine.safetensors") == mine / "mine.safetensors"
    assert files.encoder_path(names[-1]) == shipped / "person.safetensors"


def test_the_host_loads_and_unloads_the_encoder(sd15: World) -> None:
    import comfy.model_management as management

    held = [loaded.model for loaded in management.current_loaded_models]
    features = torch.randn(1, 17, 48, generator=torch.Generator().manual_seed(0))
    tokens = sd15.encoder.tokens(features)
    assert sd15.encoder.patcher in [loaded.model for loaded in management.current_loaded_models]
    management.unload_all_models()
    assert sd15.encoder.patcher not in [m.model for m in management.current_loaded_models]
    assert torch.equal(sd15.encoder.tokens(features), tokens)
    del held


def test_weights_in_half_precision_work_on_full_precision_images(
    sd15: World, tmp_path: Path
) -> None:
    checkpoint = pack("nested_attn_core.checkpoint")
    half = tmp_path / "half.safetensors"
    checkpoint.save_encoder(half, sd15.encoder.patcher.model, sd15.encoder.info, torch.float16)
    encoder = pack("nodes.host.memory").load(half, half.name)
    assert {p.dtype for p in encoder.patcher.model.parameters()} == {torch.float16}
    features = torch.randn(1, 17, 48, generator=torch.Generator().manual_seed(0))
    full, low = sd15.encoder.tokens(features), encoder.tokens(features)
    assert low.dtype == torch.float32
    assert (full - low).abs().max() < 0.02 * full.std() and not torch.equal(full, low)
    key, value = encoder.keys_values(low[0], torch.device("cpu"), torch.bfloat16)["middle.0.0"]
    assert key.shape == value.shape == (1, 6, 128) and key.dtype == torch.bfloat16


def test_projections_of_the_base_start_an_encoder(world: World) -> None:
    sites = pack("nodes.host.sites")
    unet = world.model.model.diffusion_model
    weights = sites.site_projections(unet)
    found = sites.discover_sites(unet)
    assert list(weights) == [site.name for site in found]
    context = {"sd15": 64, "sdxl": 160}[world.family]
    assert all(part.shape == (site.width, context) for site in found for part in weights[site.name])


def test_gradients_reach_the_nested_keys_through_the_patch(sd15: World) -> None:
    """What training does: the same patches, a plan of its own, the bare UNet."""
    patch, attention = pack("nodes.host.patch"), pack("nested_attn_core.attention")
    with torch.inference_mode(False), torch.enable_grad():
        unet = sd15.model.model.diffusion_model
        sites = pack("nodes.host.sites").discover_sites(unet)
        keys = {s.name: torch.randn(2, 3, s.width, requires_grad=True) for s in sites}
        subjects = {
            s.name: [
                attention.SiteSubject(keys[s.name], keys[s.name] * 2, torch.tensor([[1], [3]]))
            ]
            for s in sites
        }
        options = {
            "patches_replace": {"attn2": {s.key: patch.NestedPatch(s.name) for s in sites}},
            patch.PLAN: patch.NestedPlan(2, subjects),
        }
        latent, context = torch.randn(2, 4, 16, 16), torch.randn(2, 77, 64)
        time = torch.tensor([5.0, 6.0])
        out = unet(latent, time, context, transformer_options=options)
        plain = unet(latent, time, context, transformer_options={})
        assert differs(out.detach(), plain.detach())
        out.square().mean().backward()
        assert all(key.grad is not None and key.grad.abs().max() > 0 for key in keys.values())


def test_what_is_trained_is_what_runs(world: World) -> None:
    """One model call of a run, and the same by the path that training takes."""
    from comfy.patcher_extension import WrappersMP

    subject = world.subject()
    model, clip = world.apply(subject)
    seen: list[tuple[Any, ...]] = []

    def look(executor: Any, x: Any, time: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
        out = executor(x, time, context, *args, **kwargs)
        seen.append((x, time, context, args[0], out))
        return out

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "look", look)
    world.sample(world.encode("my <anna>", clip), world.encode(""), model, steps=1, cfg=1.0)
    x, time, context, labels, out = seen[0]

    attention = pack("nested_attn_core.attention")
    unet = model.model.diffusion_model
    made = subject.encoder.patcher.model.keys_values(subject.tokens[None])
    subjects = {
        site: [attention.SiteSubject(k, v, torch.tensor([[2]]))] for site, (k, v) in made.items()
    }
    patch = pack("nodes.host.patch")
    options = {
        "patches_replace": {
            "attn2": {
                site.key: patch.NestedPatch(site.name)
                for site in pack("nodes.host.sites").discover_sites(unet)
            }
        },
        patch.PLAN: patch.NestedPlan(1, subjects),
    }
    trained = unet(x, time, context, labels, transformer_options=options)
    plain = unet(x, time, context, labels, transformer_options={})
    assert torch.equal(trained, out)
    assert differs(trained, plain)


def test_a_patch_leaves_rows_alone_that_it_cannot_tell_apart(
    sd15: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Another pack enlarges the batch inside attention: base result, and one warning."""
    patch, attention = pack("nodes.host.patch"), pack("nested_attn_core.attention")
    key = torch.randn(1, 3, 8)
    subject = attention.SiteSubject(key, key, torch.tensor([[1], [1]]))
    plan = patch.NestedPlan(2, {"middle.0.0": [subject]})
    site = patch.NestedPatch("middle.0.0")

    def run(rows: int, plan_used: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(rows)
        q, k, v = (torch.randn(rows, n, 8, generator=generator) for n in (5, 7, 7))
        return site(q, k, v, {"n_heads": 2, patch.PLAN: plan_used})

    assert torch.equal(run(4, plan), run(4, None)) and torch.equal(run(4, plan), run(4, None))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert differs(run(2, plan), run(2, None))


def test_a_patch_forwards_what_the_host_asks_of_the_one_below() -> None:
    patch = pack("nodes.host.patch")

    class Below:
        def __init__(self) -> None:
            self.device, self.cleaned = None, False

        def __call__(self, q: Any, k: Any, v: Any, extra: Any) -> Any:
            assert patch.PLAN not in extra
            return q

        def to(self, device: Any) -> Any:
            moved = Below()
            moved.device = device
            return moved

        def models(self) -> list[str]:
            return ["model"]

        def cleanup(self) -> None:
            self.cleaned = True

    below = Below()
    on_top = patch.NestedPatch("input.1.0", below)
    assert on_top.to("cpu").previous.device == "cpu" and below.device is None
    assert on_top.models() == ["model"] and patch.NestedPatch("x").models() == []
    on_top.cleanup()
    patch.NestedPatch("x").cleanup()
    assert below.cleaned
    alone = patch.NestedPatch("x")
    assert alone.to(torch.float16) is alone
    q = torch.ones(1, 2, 4)
    assert on_top(q, q, q, {"n_heads": 1, patch.PLAN: None}) is q
