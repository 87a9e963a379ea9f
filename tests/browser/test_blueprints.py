"""The blueprints of the pack: one node that stands for a subject, found by search."""

from __future__ import annotations

import pytest

from driving import first_reference
from pack import ROOT

BLUEPRINTS = sorted(path.stem for path in (ROOT / "subgraphs").glob("*.json"))


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_blueprint_is_found_placed_and_runs(editor, name):
    editor.search(name).filter(has_text=name).first.click()
    editor.loaded()
    (blueprint,) = editor.page.evaluate("app.graph.nodes.map(n => n.id)")
    editor.page.evaluate("id => app.graph.getNodeById(id).pos = [0, 0]", blueprint)
    sockets = editor.page.evaluate(
        "id => app.graph.getNodeById(id).inputs.filter(i => i.type === 'IMAGE').map(i => i.name)",
        blueprint,
    )
    loader = editor.add("NestedAttentionLoadMiniature", at=(-400, 0))
    for output, slot in enumerate(("model", "clip")):
        editor.connect(loader, output, blueprint, slot)
    editor.connect(loader, 3, blueprint, "clip_vision")
    for number, (slot, domain) in enumerate(zip(sockets, ("person", "kitten"), strict=False)):
        picture = editor.add("LoadImage", at=(-400, 180 + 370 * number))
        uploaded = editor.server.upload(first_reference(domain), f"{domain}.png")
        editor.set_value(picture, "image", uploaded)
        editor.connect(picture, 0, blueprint, slot)
    save = sampled(editor, loader, blueprint)
    assert editor.faults() == []
    editor.page.evaluate("app.canvas.deselectAll()")
    assert editor.run() == "execution_success"
    editor.look_at()
    editor.page.wait_for_function(
        "id => app.graph.getNodeById(id).imgs?.[0]?.naturalWidth === 128", arg=save
    )
    editor.shot(f"blueprint-{len(sockets)}")


def sampled(editor, loader: int, blueprint: int) -> int:
    """Sampler, decoder and Save Image behind a blueprint; the id of the last."""
    negative = editor.add("CLIPTextEncode", at=(500, 0))
    latent = editor.add("EmptyLatentImage", at=(500, 300))
    sampler = editor.add("KSampler", at=(970, 0))
    decode, save = editor.add("VAEDecode", at=(970, 340)), editor.add("SaveImage", at=(1320, 0))
    for widget, value in (("width", 128), ("height", 128)):
        editor.set_value(latent, widget, value)
    for widget, value in (("steps", 6), ("cfg", 3.0)):
        editor.set_value(sampler, widget, value)
    editor.connect(blueprint, 1, negative, "clip")
    editor.connect(blueprint, 0, sampler, "model")
    editor.connect(blueprint, 2, sampler, "positive")
    editor.connect(negative, 0, sampler, "negative")
    editor.connect(latent, 0, sampler, "latent_image")
    editor.connect(sampler, 0, decode, "samples")
    editor.connect(loader, 2, decode, "vae")
    editor.connect(decode, 0, save, "images")
    return save
