"""What must be on a socket before a node works with it.

The host checks the types of links alone. A loader may still give nothing (a checkpoint without a
text encoder does), and the API takes any value in place of a link.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..nested_attn_core.errors import NestedAttentionError
from ..nested_attn_core.subject import Subject, Subjects
from .host.memory import LoadedEncoder
from .host.watching import Watcher


def _has(*names: str) -> Callable[[Any], bool]:
    return lambda value: all(hasattr(value, name) for name in names)


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


_SUBJECT = (_is(Subject, Subjects), "a subject, from Encode Subject or Load Subject")
_MASK = (_is(Tensor), "a MASK, or nothing")
# By the name of the input, a number at its end left out: the check, and what the message asks for.
_NEEDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (
        _has("clone", "model_options", "get_model_object"),
        "a MODEL, for example from Load Checkpoint",
    ),
    "clip": (
        _has("clone", "tokenizer", "patcher"),
        "a CLIP, for example from Load Checkpoint (a file without a text encoder gives none; use "
        "Load CLIP then)",
    ),
    "vae": (
        _has("encode", "first_stage_model"),
        "a VAE, for example from Load Checkpoint (a file without a VAE gives none; use Load VAE "
        "then)",
    ),
    "clip_vision": (
        _has("encode_image", "model", "image_size"),
        "a CLIP_VISION, from Load CLIP Vision",
    ),
    "encoder": (_is(LoadedEncoder), "an encoder, from Load Nested Encoder"),
    "subject": _SUBJECT,
    "join": _SUBJECT,
    "recorder": (_is(Watcher), "a recorder, from Watch Attention"),
    "mask": _MASK,
    "crop_mask": _MASK,
    "masks": _MASK,
}


def checked(execute: Callable[..., Any]) -> Callable[..., Any]:
    """A node's execute that refuses, in one sentence, what is of no use on its sockets."""
    defaults = {
        name: parameter.default for name, parameter in inspect.signature(execute).parameters.items()
    }

    @functools.wraps(execute)
    def checking(cls: Any, *args: Any, **kwargs: Any) -> Any:
        unknown = ", ".join(f'"{name}"' for name in kwargs if name not in defaults)
        if unknown:
            # The host passes on every link, also one to an input that the node does not have.
            raise NestedAttentionError(
                f"This node has no input {unknown}; take the link out, or update the pack if the "
                "workflow was made with a newer version."
            )
        given = {**dict(zip([*defaults][1:], args, strict=False)), **kwargs}
        for name, value in given.items():
            check, wanted = _NEEDS.get(re.sub(r"_\d+$", "", name), (None, ""))
            left_out = value is None and defaults.get(name) is None
            if check is not None and not left_out and not check(value):
                raise NestedAttentionError(
                    f'Nothing that can be used comes in at "{name}"; connect {wanted}.'
                )
        return execute(cls, *args, **kwargs)

    return checking
