"""A user's first minutes: choose, queue, watch, change, stop, read an error."""

from __future__ import annotations

import io
import json
import urllib.parse

import pytest
from PIL import Image

from driving import first_reference, forget
from pack import ROOT

ENCODER, ENCODE = "NestedAttentionLoadEncoder", "NestedAttentionEncodeSubject"
APPLY, PROMPT = "NestedAttentionApply", "NestedAttentionPrompt"
STEPS = 6
SIZES = "id => app.graph.getNodeById(id).imgs?.map(i => [i.naturalWidth, i.naturalHeight])"
# What the editor shows as text on a node while it runs and after it.
TEXT = """id => app.graph.getNodeById(id).widgets
  .find(w => w.name === '$$node-text-preview')?.value"""


@pytest.fixture
def one(editor):
    """The workflow of one subject with a picture of one, sampled in few steps."""
    forget(editor.server)
    editor.load(json.loads((ROOT / "workflows" / "one_subject.json").read_text(encoding="utf-8")))
    with_picture(editor)
    editor.set_value(editor.node("KSampler"), "steps", STEPS)
    return editor


def with_picture(editor) -> int:
    """A Load Image in place of Example Picture, with an uploaded picture; its id."""
    example = editor.node("NestedAttentionExamplePicture")
    editor.page.evaluate("id => app.graph.remove(app.graph.getNodeById(id))", example)
    loader = editor.add("LoadImage", at=(400, 110))
    editor.connect(loader, 0, editor.node(ENCODE), "image")
    editor.click_widget(loader, "upload", chooses=first_reference("person"))
    # Until then the node shows the first picture of its list.
    editor.page.wait_for_function(
        """([id, stem]) => {
            const node = app.graph.getNodeById(id)
            const name = node.widgets.find(widget => widget.name == "image").value
            const shown = node.imgs?.[0]
            return name.startsWith(stem) && shown?.naturalWidth > 0 &&
                decodeURIComponent(shown.src.replaceAll("+", " ")).includes(name)
        }""",
        arg=[loader, first_reference("person").stem],
    )
    return loader


def saved_picture(editor) -> bytes:
    """What Save Image of the latest run wrote, as the page was told of it."""
    save = editor.node("SaveImage")
    (told,) = [e["detail"] for e in editor.heard("executed") if int(e["detail"]["node"]) == save]
    (image,) = told["output"]["images"]
    status, content = editor.server.request("/view?" + urllib.parse.urlencode(image))
    assert status == 200
    return content


def test_an_upload_becomes_the_picture_of_load_image(editor):
    editor.load(json.loads((ROOT / "workflows" / "one_subject.json").read_text(encoding="utf-8")))
    loader = with_picture(editor)
    chosen = editor.value(loader, "image")
    assert (editor.server.base / "input" / chosen).read_bytes() == (
        first_reference("person").read_bytes()
    )
    editor.shot("upload", around=[loader])


def test_a_file_is_chosen_from_the_list_of_encoders(one):
    loader = one.node(ENCODER)
    one.click_widget(loader, "encoder_name")
    one.page.locator(".litecontextmenu").wait_for()
    one.shot("choose-encoder")
    one.page.locator(".litecontextmenu .litemenu-entry", has_text="kitten").first.click()
    assert one.value(loader, "encoder_name") == "(shipped) kitten.safetensors"


def test_a_run_shows_its_progress_and_its_picture(one):
    assert one.run() == "execution_success"
    sampler, save = one.node("KSampler"), one.node("SaveImage")
    shown = [dict(event["shown"]).get(sampler, 0) for event in one.heard("progress_state")]
    assert any(0 < progress < 1 for progress in shown)
    one.look_at()  # the editor loads the pictures of nodes that it draws
    for node in (save, one.node(ENCODE)):
        one.page.wait_for_function(f"id => ({SIZES})(id)?.length === 1", arg=node)
        assert one.page.evaluate(SIZES, node) == [[128, 128]]
    assert one.overlaps() == []
    one.shot("ran")


def test_the_nodes_say_what_they_bound_and_hold(one):
    assert one.run() == "execution_success"
    prompt, apply = one.node(PROMPT), one.node(APPLY)
    one.page.wait_for_function(f"ids => ids.every({TEXT})", arg=[prompt, apply])
    bound, held = (one.page.evaluate(TEXT, node) for node in (prompt, apply))
    assert bound.startswith('anna: reads as "person"')
    assert "cross-attention sites patched" in held and "anna: " in held and " MB" in held
    one.shot("text-on-nodes", around=[apply, prompt])


def test_a_picture_that_was_saved_opens_its_workflow_again(one):
    one.write(one.node(PROMPT), "text", "a <anna> sad in a blue shirt, forest")
    assert one.run() == "execution_success"
    content = saved_picture(one)
    assert Image.open(io.BytesIO(content)).size == (128, 128)
    one.page.evaluate("app.graph.clear()")
    one.drop("made.png", content, "image/png")
    assert one.faults() == []
    assert one.value(one.node(PROMPT), "text") == "a <anna> sad in a blue shirt, forest"
    one.shot("dropped-png")


def test_moving_the_strength_only_samples_again(one):
    assert one.run() == "execution_success"
    before = saved_picture(one)
    apply = one.node(APPLY)
    one.click_widget(apply, "strength", across=0.02)  # the arrow that makes it less
    assert one.value(apply, "strength") < 1
    one.shot("strength")
    assert one.run() == "execution_success"
    (event,) = one.heard("execution_cached")
    kept = {int(node) for node in event["detail"]["nodes"]}
    upstream = {"NestedAttentionLoadMiniature", ENCODER, "LoadImage", ENCODE, "EmptyLatentImage"}
    assert kept >= {one.node(kind) for kind in upstream}
    assert not kept & {apply, one.node("KSampler"), one.node("SaveImage")}
    assert saved_picture(one) != before


def test_a_run_is_stopped_by_its_button_and_another_runs_after_it(one):
    sampler = one.node("KSampler")
    one.set_value(sampler, "steps", 3000)
    one.queue()
    one.page.wait_for_function(
        "id => window.heard.some(e => e.shown.some(([node, part]) => node === id && part > 0))",
        arg=sampler,
    )
    one.look_at()
    one.shot("progress")
    one.page.get_by_role("button", name="Cancel current run").click()
    assert one.wait_for("execution_success", "execution_interrupted")["kind"] == (
        "execution_interrupted"
    )
    one.set_value(sampler, "steps", STEPS)
    assert one.run() == "execution_success"


def test_an_error_stands_at_the_node_it_belongs_to(one):
    prompt = one.node(PROMPT)
    one.write(prompt, "text", "a <bob> in a red shirt, beach")
    assert one.run() == "execution_error"
    dialog = one.page.locator(".comfy-error-report")
    dialog.get_by_text("The prompt names <bob>, which no subject has").first.wait_for()
    one.shot("error")
    one.page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    marked = one.page.evaluate(
        "() => app.graph.nodes.filter(n => n.strokeStyles.executionError?.call(n)).map(n => n.id)"
    )
    assert marked == [prompt]
    one.shot("error-node", around=[prompt])
