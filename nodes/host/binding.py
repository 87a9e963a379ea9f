"""Subjects on a model: a patch on every site, and the wrappers that tell it what to do.

All of it sits on a clone through the host's public calls. What a run needs beside that lives in
the run's own options and goes with it, also when the run is interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ...nested_attn_core.errors import NestedAttentionError
from ...nested_attn_core.projections import Site
from ...nested_attn_core.separation import Separation
from ...nested_attn_core.subject import Subject, Subjects
from .carrier import LATENT, REGION, SLOTS, fill, settled, slots_of
from .families import base_family, refuse_refiner
from .patch import PLAN, WATCH, NestedPatch
from .run import (
    RUN,
    Place,
    Run,
    RunPlan,
    Window,
    acts,
    always,
    in_range,
    presences,
    warn_of_unnamed,
)
from .separating import bounded_self_attention, separation_of
from .sites import discover_sites, site_groups
from .text import subject_id

KEY = "nested_attention"


class Binding:
    """The subjects of one model, and the three wrappers through which they act."""

    def __init__(self, subjects: Subjects, sites: tuple[Site, ...], groups: Mapping[str, str]):
        self.subjects = subjects
        self._groups = groups
        self._by_id = {subject_id(subject): subject for subject in subjects}
        self._sites = tuple(site.name for site in sites)
        self._keys = tuple(site.key for site in sites)
        self._masked = any(subject.mask is not None for subject in subjects)

    def install(self, model: Any) -> None:
        """Puts the wrappers on a host model in place of those of an earlier binding."""
        for kind, wrapper in (
            (WrappersMP.OUTER_SAMPLE, self.outer_sample),
            (WrappersMP.CALC_COND_BATCH, self.calc_cond_batch),
            (WrappersMP.APPLY_MODEL, self.apply_model),
        ):
            model.remove_wrappers_with_key(kind, KEY)
            model.add_wrapper_with_key(kind, KEY, wrapper)

    def outer_sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Around a whole run: nested keys and values are made, and are gone after it."""
        guider = executor.class_obj
        guider.conds = {
            name: [settled(cond) for cond in conds] for name, conds in guider.conds.items()
        }
        named = {
            slot[0] for conds in guider.conds.values() for cond in conds for slot in slots_of(cond)
        }
        warn_of_unnamed(self._by_id, named)
        run = self._run(guider.model_patcher.model, guider.model_patcher.load_device)
        options = guider.model_options["transformer_options"]
        options[RUN] = run
        try:
            run.prepare(named)
            result = executor(*args, **kwargs)
            run.warn_of_missing_sites(self._sites)
            return result
        finally:
            options.pop(RUN, None)
            run.close()

    def calc_cond_batch(
        self, executor: Any, model: Any, conds: Any, x: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Around one step: every condition carries slots, so that none runs apart."""
        options = args[1] if len(args) > 1 else kwargs.get("model_options", {})
        given = options.get("transformer_options", {})
        placed = self._masked or WATCH in given or separation_of(given) is not None
        latent = (len(x), int(x.shape[-2]), int(x.shape[-1])) if placed else None
        return executor(model, fill(conds, latent), x, *args, **kwargs)

    def apply_model(
        self,
        executor: Any,
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: Any = None,
        c_crossattn: torch.Tensor | None = None,
        control: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Around one model call: slots become a plan that the patches read."""
        slots, region = kwargs.pop(SLOTS, None), kwargs.pop(REGION, None)
        latent = kwargs.pop(LATENT, None)
        options = _above_block_patches(dict(transformer_options or {}))
        if slots is not None and c_crossattn is not None:
            found = self._present(executor.class_obj, t, slots, c_crossattn.shape[1])
            if found:
                run = options.get(RUN) or self._run(executor.class_obj, x.device)
                run.acted = True
                if WATCH in options:
                    options[WATCH].step(float(t.flatten()[0]), options.get("sample_sigmas"))
                chunks = len(options.get("cond_or_uncond", (0,)))
                place = _place(x, region, latent, chunks)
                separation = self._separation(executor.class_obj, t, options)
                claims = None if separation is None else run.claims(separation, found, place)
                options[PLAN] = RunPlan(run, found, place, claims)
                if claims is not None and claims.settings.bounded:
                    options = bounded_self_attention(options, self._keys)
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def _present(self, model: Any, t: torch.Tensor, slots: torch.Tensor, length: int) -> list[Any]:
        found = [p for p in presences(self._by_id, slots, length) if acts(p.subject)]
        if all(always(p.subject) for p in found):
            return found
        sigma = float(t.flatten()[0])
        return [p for p in found if in_range(p.subject, sigma, model.model_sampling)]

    def _separation(
        self, model: Any, t: torch.Tensor, options: Mapping[str, Any]
    ) -> Separation | None:
        """How subjects are kept apart in this step, if they are."""
        separation = separation_of(options)
        if separation is None:
            return None
        sigma = float(t.flatten()[0])
        acts = always(separation) or in_range(separation, sigma, model.model_sampling)
        return separation if acts else None

    def _run(self, model: Any, device: torch.device) -> Run:
        return Run(self._by_id, device, sampling_dtype(model), self._groups)


def bind_model(model: Any, subjects: Subjects) -> Any:
    """A clone of the host's MODEL that knows ``subjects``, beside those it knew.

    Raises NestedAttentionError where an encoder was made for another model, where no subject can
    act in the model, or where two subjects have one name.
    """
    refuse_refiner(model)
    bound = model.clone()
    diffusion_model = bound.get_model_object("diffusion_model")
    sites = discover_sites(diffusion_model)
    for subject in subjects:
        _check_fits(subject, sites, base_family(model))
    subjects = Subjects.of(bound_subjects(bound), subjects)
    Binding(subjects, sites, site_groups(diffusion_model)).install(bound)
    replaced = bound.model_options["transformer_options"].get("patches_replace", {})
    for site in sites:
        previous = replaced.get("attn2", {}).get(site.key)
        if not isinstance(previous, NestedPatch):
            bound.set_model_attn2_replace(NestedPatch(site.name, previous), *site.key)
    bound.remove_callbacks_with_key(CallbacksMP.ON_CLONE, KEY)
    bound.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, _own_patches)
    return bound


def bound_subjects(model: Any) -> Subjects:
    """The subjects that a host MODEL knows."""
    bindings = model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)
    return bindings[0].__self__.subjects if bindings else Subjects()


def sampling_dtype(model: Any) -> torch.dtype:
    """In which a host model's attention computes, and nested keys and values are held."""
    return getattr(model, "manual_cast_dtype", None) or model.get_dtype()


def _own_patches(model: Any, clone: Any) -> None:
    """Gives a clone patches of its own, so that what is added to them stays with the clone."""
    replaced = clone.model_options["transformer_options"].get("patches_replace", {})
    for key, patch in list(replaced.get("attn2", {}).items()):
        if isinstance(patch, NestedPatch):
            clone.set_model_attn2_replace(patch.copy(), *key)


def _above_block_patches(options: dict[str, Any]) -> dict[str, Any]:
    """Options in which our patches call those that another pack put on a whole block.

    The host asks for a replacement of the site first, and would then never call the block's.
    """
    replaced = options.get("patches_replace", {}).get("attn2", {})
    blocks = {key: patch for key, patch in replaced.items() if len(key) == 2}
    if not blocks:
        return options
    attn2 = {
        key: patch.over(blocks[key[:2]])
        if isinstance(patch, NestedPatch) and patch.previous is None and key[:2] in blocks
        else patch
        for key, patch in replaced.items()
    }
    return {**options, "patches_replace": {**options["patches_replace"], "attn2": attn2}}


def _place(
    x: torch.Tensor, region: torch.Tensor | None, latent: torch.Tensor | None, chunks: int
) -> Place:
    size = (int(x.shape[-2]), int(x.shape[-1]))
    # What another extension made of the call may have no place in the image.
    if region is None or latent is None or (len(region), *region.shape[-2:]) != (len(x), *size):
        return Place.whole(size, len(x), max(len(x) // max(chunks, 1), 1))
    rows = zip(
        region[:, 0, :, 0].tolist(),
        region[:, 1, 0, :].tolist(),
        region[:, 2, 0, 0].tolist(),
        strict=True,
    )
    height, width = latent[0].tolist()
    return Place(
        (height, width), tuple(Window(tuple(ys), tuple(xs), image) for ys, xs, image in rows)
    )


def _check_fits(subject: Subject, sites: tuple[Site, ...], family: str) -> None:
    info = subject.encoder.info
    needed = {site.name: site.width for site in info.config.sites}
    found = {site.name: site.width for site in sites}
    if needed != found or info.base_family != family:
        raise NestedAttentionError(
            f"The encoder {subject.encoder.label} of <{subject.name}> was made for another base "
            f"model ({_described(info.base_family, needed)}) than this one "
            f"({_described(family, found)}); load an encoder of this model's family."
        )


def _described(family: str, sites: Mapping[str, int]) -> str:
    widths = "/".join(str(width) for width in sorted(set(sites.values())))
    return f"{family}, {len(sites)} cross-attention sites of width {widths}"
