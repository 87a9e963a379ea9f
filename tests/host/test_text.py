"""Names in prompts: which tokens they become, where they stand, and what is said about them."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from .conftest import World, differs, pack

BEACH = " and a very long list of small things" * 12


def slots(conditioning: Any) -> list[tuple[int, int, int]]:
    return pack("nodes.host.carrier").slots_of(conditioning[0][1])


def words(world: World, clip: Any, text: str, stream: str = "l") -> list[str]:
    """The words of the tokens that stand for subjects."""
    vocabulary = clip.tokenizer.clip_l.inv_vocab
    subject_token = pack("nodes.host.mentions").SubjectToken
    return [
        vocabulary[int(entry[0])].removesuffix("</w>")
        for chunk in clip.tokenize(text)[stream]
        for entry in chunk
        if isinstance(entry[0], subject_token)
    ]


@pytest.mark.parametrize(
    ("text", "plain", "rows"),
    [
        ("<anna>", "person", [1]),
        ("a photo of <anna> on a beach", "a photo of person on a beach", [4]),
        ("a (<anna>:1.2), smiling", "a (person:1.2), smiling", [2]),
        ("((<anna>)) and (a <ANNA>:0.5)", "((person)) and (a person:0.5)", [1, 4]),
        ("<anna>'s dog, <anna>.", "person's dog, person.", [1, 5]),
        ("x<anna>y", "x person y", [2]),
        ("<anna><anna>", "person person", [1, 2]),
        ("a" + BEACH + " with <anna>", "a" + BEACH + " with person", [77 + 24]),
        ("two words <anna>\nand a line", "two words person\nand a line", [3]),
        ("sks <anna> ohwx hta", "sks person ohwx hta", [2]),
        ("\\(<anna>\\) <3", "\\(person\\) <3", [2]),
        ("<lora:anna:1> <anna>", "<lora:anna:1> person", [9]),
    ],
)
def test_a_name_reads_as_the_class_word(
    world: World, text: str, plain: str, rows: list[int]
) -> None:
    _, clip = world.apply(world.subject())
    bound, stock = world.encode(text, clip), world.encode(plain)
    assert torch.equal(bound[0][0], stock[0][0])
    assert torch.equal(bound[0][1]["pooled_output"], stock[0][1]["pooled_output"])
    length = stock[0][0].shape[1]
    subject = pack("nodes.host.text").subject_id(world.subject())
    assert slots(bound) == [(subject, row, length) for row in rows]
    for stream, chunks in world.clip.tokenize(plain).items():
        flat = [entry[0] for chunk in chunks for entry in chunk]
        assert {clip.tokenizer.clip_l.inv_vocab[flat[row]] for row in rows} == {"person</w>"}
        assert words(world, clip, text, stream) == ["person"] * len(rows)
    assert "model_conds" not in stock[0][1]


def test_a_class_word_of_several_pieces_binds_each_of_them(world: World) -> None:
    word = "axolotl kitten"
    _, clip = world.apply(world.subject(class_word=word))
    bound, stock = world.encode("my <anna> sleeps", clip), world.encode(f"my {word} sleeps")
    assert torch.equal(bound[0][0], stock[0][0])
    pieces = words(world, clip, "my <anna> sleeps")
    assert "".join(pieces) == "axolotlkitten" and len(pieces) > 2
    assert [row for _, row, _ in slots(bound)] == list(range(2, 2 + len(pieces)))


def test_several_pieces_change_the_image_as_one_subject(sd15: World) -> None:
    model, clip = sd15.apply(sd15.subject(class_word="axolotl kitten"))
    negative = sd15.encode("blurry")
    named = sd15.sample(sd15.encode("my <anna> sleeps", clip), negative, model)
    plain = sd15.sample(sd15.encode("my axolotl kitten sleeps"), negative)
    assert differs(named, plain)


def test_a_textual_inversion_beside_a_name_moves_it(
    sd15: World, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    rows = torch.randn(2, 64)
    safetensors.torch.save_file({"emb_params": rows}, tmp_path / "style.safetensors")
    monkeypatch.setattr(sd15.clip.tokenizer.clip_l, "embedding_directory", [str(tmp_path)])
    monkeypatch.setattr(sd15.clip.tokenizer.clip_l, "embedding_size", 64)
    _, clip = sd15.apply(sd15.subject())
    bound = sd15.encode("a embedding:style <anna>", clip)
    stock = sd15.encode("a embedding:style person")
    assert torch.equal(bound[0][0], stock[0][0])
    assert differs(stock[0][0], sd15.encode("a person")[0][0])
    assert [row for _, row, _ in slots(bound)] == [4]


def test_weights_act_on_the_named_token(world: World) -> None:
    _, clip = world.apply(world.subject())
    weighted, even = world.encode("(<anna>:1.5)", clip)[0][0], world.encode("<anna>", clip)[0][0]
    assert differs(weighted[:, 1], even[:, 1])
    assert torch.equal(weighted[:, 2:], even[:, 2:])


def test_the_clip_that_came_in_knows_no_names(world: World) -> None:
    _, clip = world.apply(world.subject())
    assert "model_conds" in world.encode("<anna>", clip)[0][1]
    assert "model_conds" not in world.encode("<anna>")[0][1]
    assert differs(world.encode("<anna>")[0][0], world.encode("<anna>", clip)[0][0])


def test_clip_skip_and_clones_keep_the_names(world: World) -> None:
    _, clip = world.apply(world.subject())
    skipped = clip.clone()
    skipped.clip_layer(-3)
    stock = world.clip.clone()
    stock.clip_layer(-3)
    bound = world.encode("a <anna>", skipped)
    assert torch.equal(bound[0][0], world.encode("a person", stock)[0][0])
    assert differs(bound[0][0], world.encode("a <anna>", clip)[0][0])
    assert len(slots(bound)) == 1


def test_a_second_apply_on_the_clip_knows_both_names(world: World) -> None:
    anna, rex = world.subject(), world.subject("rex", seed=5, class_word="dog")
    _, clip = world.apply(rex, *world.apply(anna))
    bound = world.encode("<rex> with <anna>", clip)
    identity = pack("nodes.host.text").subject_id
    assert [subject for subject, _, _ in slots(bound)] == [identity(rex), identity(anna)]
    assert torch.equal(bound[0][0], world.encode("dog with person")[0][0])


def test_sdxl_prompts_that_differ_go_by_the_larger_encoder(
    worlds: Any, host: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from comfy_extras.nodes_clip_sdxl import CLIPTextEncodeSDXL

    world = worlds("sdxl")
    _, clip = world.apply(world.subject())

    def encode(text_g: str, text_l: str) -> list[int]:
        out: Any = CLIPTextEncodeSDXL.execute(clip, 64, 64, 0, 0, 64, 64, text_g, text_l)
        return [row for _, row, _ in slots(out.result[0])]

    with caplog.at_level(logging.WARNING, "nested_attention"):
        assert encode("a <anna>", "a <anna>") == [2]
        assert not caplog.records
        assert encode("a big <anna>", "a <anna>") == [3]
        assert "CLIP G" in caplog.text
        assert encode("a person", "a <anna>") == [2]


def test_nested_prompt_reports_what_it_binds(world: World, host: Any) -> None:
    anna, rex = world.subject(), world.subject("rex", seed=5, class_word="axolotl")
    subjects = pack("nested_attn_core.subject").Subjects.of(anna, rex)
    model, clip = world.apply(subjects)
    node = host.NODE_CLASS_MAPPINGS["NestedAttentionPrompt"]
    out = node.execute(clip, "a (<anna>:1.3) and <Anna>")
    conditioning, report = out.result
    assert report.splitlines() == [
        '- anna: reads as "person", rows 2 (weight 1.3), 4 of the context',
        "- rex: not named in this prompt",
    ]
    assert out.ui.as_dict() == {"text": (report,)}
    stock = world.encode("a (<anna>:1.3) and <Anna>", clip)
    assert torch.equal(conditioning[0][0], stock[0][0]) and slots(conditioning) == slots(stock)
    assert "knows no subject" in node.execute(world.clip, "a person").result[1]


def test_a_subject_that_no_prompt_names_is_warned_of_once_a_run(
    sd15: World, caplog: pytest.LogCaptureFixture
) -> None:
    anna, rex = sd15.subject(), sd15.subject("rex", seed=5, class_word="dog")
    model, clip = sd15.apply(rex, *sd15.apply(anna))
    negative = sd15.encode("blurry", clip)

    def warnings(text: str, model_used: Any = model) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "nested_attention"):
            sd15.sample(sd15.encode(text, clip), negative, model_used, steps=3)
        return [record.getMessage() for record in caplog.records]

    assert warnings("<anna> and <rex>") == []
    assert warnings("<anna> and a dog") == [
        "No prompt names the subject <rex>; write <rex> where it should appear (where prompts are "
        "joined, in conditioning_to)."
    ]
    (both,) = warnings("a person and a dog")
    assert "<anna>, <rex>" in both
    only_anna, _ = sd15.apply(anna)
    (strange,) = warnings("<anna> and <rex>", only_anna)
    assert "this model was not given" in strange


def test_sites_that_another_pack_took_over_are_warned_of(
    sd15: World, caplog: pytest.LogCaptureFixture
) -> None:
    from comfy.ldm.modules.attention import optimized_attention

    model, clip = sd15.apply(sd15.subject())
    positive, negative = sd15.encode("<anna>", clip), sd15.encode("blurry", clip)
    with caplog.at_level(logging.WARNING, "nested_attention"):
        sd15.sample(positive, negative, model)
        assert not caplog.records
        model.set_model_attn2_replace(
            lambda q, k, v, extra: optimized_attention(q, k, v, extra["n_heads"]), "middle", 0, 0
        )
        sd15.sample(positive, negative, model)
    assert "15 of 16" in caplog.text and "middle.0.0" in caplog.text
