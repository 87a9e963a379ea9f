"""The settings of a training: what is read, and what is said of mistakes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from nested_attn_core.training.config import TrainingConfig
from nested_attn_core.training.config_file import (
    ConfigError,
    expected,
    load_config,
    parse_config,
    settings,
)
from toy_pictures import CONFIG

ROOT = Path(__file__).resolve().parents[2]


def with_setting(key: str, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(CONFIG)
    section, _, name = key.partition(".")
    if name:
        data.setdefault(section, {})[name] = value
    else:
        data[section] = value
    return data


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("run.step", 3, 'there is no setting run.step; perhaps "steps" is meant.'),
        ("runn", {}, 'there is no section [runn]; perhaps "run" is meant.'),
        ("quux", {}, "there is no section [quux]; sections are [base], [backbone], [encoder], "),
        ("run.rate", 1e-4, "there is no setting run.rate; it belongs into [optimiser]."),
        ("optimiser.lr", 1e-4, "there is no setting optimiser.lr; [optimiser] has name, rate, "),
        ("run", 3, "run is 3; write it as a section [run] with its own settings."),
        ("run.steps", 0, "run.steps is 0; it must be a whole number of at least 1."),
        ("run.steps", "7", 'run.steps is "7"; it must be a whole number of at least 1.'),
        ("run.steps", 1.5, "run.steps is 1.5; it must be a whole number of at least 1."),
        ("run.steps", True, "run.steps is true; it must be a whole number of at least 1."),
        ("run.compile", 1, "run.compile is 1; it must be true or false."),
        ("run.ema", 1, "run.ema is 1; it must be a number of at least 0 and below 1."),
        ("optimiser.rate", float("nan"), "it must be a number above 0 and at most 1."),
        ("objective.min_snr", float("inf"), "it must be a number of at least 0."),
        ("objective.sigma", "log", 'it must be "uniform" or "logit-normal".'),
        ("data.cache", ["latent"], 'it must be a list of "latents", "vision" or "text".'),
        ("data.cache", "text", 'it must be a list of "latents", "vision" or "text".'),
        ("samples.prompts", [1], "it must be a list of texts."),
        ("data.path", "", "data.path is \"\"; it must be a text that is not empty."),
        ("output.name", "a/b", 'it must be a text of letters, digits, "_", "-" and ".".'),
        ("encoder.heads", 7, "encoder.heads is 7, which does not divide encoder.width (1280)"),
        ("run.accumulate", 3, "run.batch is 4, which run.accumulate (3) does not divide"),
        ("objective.drop_image", 0.99, "drop_image are more than 1 together"),
        ("data.identity", "field", "a folder of pictures has no fields"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(key, value, message):
    with pytest.raises(ConfigError) as raised:
        parse_config(with_setting(key, value), "x.toml")
    text = str(raised.value)
    assert message in text
    assert text.startswith("x.toml: ") and text.endswith(".") and "\n" not in text


def test_what_is_missing_is_named():
    data = copy.deepcopy(CONFIG)
    del data["data"]["path"]
    with pytest.raises(ConfigError, match=r"data\.path is missing; give a text that is not empty"):
        parse_config(data)
    with pytest.raises(ConfigError, match=r"\[base\] is missing.*\(and 4 more\)"):
        parse_config({})


@hypothesis_settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
        max_leaves=4,
    ),
    st.sampled_from([key for key, _ in settings()] + list(TrainingConfig.model_fields)),
)
def test_no_value_of_a_setting_breaks_the_reading(value, key):
    try:
        parse_config(with_setting(key, value))
    except ConfigError as error:
        assert str(error).endswith(".")


def test_every_setting_is_described_and_its_values_too():
    for key, field in settings():
        assert (field.description or "").endswith("."), key
        assert expected(field), key
        assert len(key.split(".")) == 2


def test_defaults_hold_what_their_settings_allow():
    read = parse_config(CONFIG)
    assert parse_config(read.to_dict()) == read


def test_a_file_is_read_with_paths_beside_it(tmp_path):
    path = tmp_path / "cats.toml"
    path.write_text(
        '[base]\ncheckpoint = "sd.safetensors"\n[backbone]\nclip_vision = "v.safetensors"\n'
        '[data]\npath = "../pictures"\n[run]\nsteps = 3\n[output]\nname = "cats"\ndomain = "cat"\n',
        encoding="utf-8",
    )
    read = load_config(path)
    assert read.data.path == str(tmp_path.parent / "pictures")
    assert read.run.folder == str(tmp_path / "runs" / "cats")
    assert read.data.cache_folder == str(tmp_path / "runs" / "cats" / "cache")
    assert read.output.folder == read.run.folder
    assert read.class_word == "cat"
    # A name of the host's stays a name, unless there is such a file here.
    assert read.base.checkpoint == "sd.safetensors"
    (tmp_path / "sd.safetensors").touch()
    assert load_config(path).base.checkpoint == str(tmp_path / "sd.safetensors")


def test_settings_of_the_command_line_win(tmp_path):
    path = tmp_path / "cats.toml"
    path.write_text((ROOT / "configs" / "sd15.toml").read_text(encoding="utf-8"), encoding="utf-8")
    read = load_config(
        path, ["run.steps=7", "output.name=tom", 'data.cache=["text"]', "run.compile = true"]
    )
    assert (read.run.steps, read.output.name, read.run.compile) == (7, "tom", True)
    assert read.data.cache == ("text",)
    with pytest.raises(ConfigError, match="run.steps=100"):
        load_config(path, ["steps=7"])
    with pytest.raises(ConfigError, match="run.steps is"):
        load_config(path, ["run.steps=many"])


def test_files_that_cannot_be_read_are_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match="There is no file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[run\nsteps = 3", encoding="utf-8")
    with pytest.raises(ConfigError, match="bad.toml is not valid TOML"):
        load_config(tmp_path / "bad.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "bytes.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.toml")), ids=lambda p: p.stem)
def test_the_presets_are_valid(path):
    read = load_config(path)
    assert read.run.batch % read.run.accumulate == 0
    if path.parent.name == "miniature":
        assert read.output.name == read.output.domain == path.stem
        # Monsters are trained as a user would, from a folder of pictures.
        assert read.data.source == ("folder" if path.stem == "monster" else "miniature")
