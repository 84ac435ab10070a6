"""Validate the inputs of a model. B batch, T words, R regions, F features of a region, H width of the text."""

from __future__ import annotations

from torch import Tensor


def check_inputs(
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    image_feat: Tensor | None,
    image_loc: Tensor | None,
    task_ids: Tensor | None,
    *,
    features: int,
    longest: int,
    task_tokens: bool,
) -> None:
    """Raise ValueError if inputs do not match the model or each other. The message says what was expected.

    `features` is the size of a region's vector, `longest` the maximum number of word pieces, and `task_tokens` whether
    the model takes task_ids.
    """
    words = input_ids if inputs_embeds is None else inputs_embeds
    if words is None or (input_ids is not None and inputs_embeds is not None):
        raise ValueError("give either input_ids or inputs_embeds")
    check_image(image_feat, image_loc, features=features)
    check_text(words, task_ids, longest=longest, task_tokens=task_tokens)


def check_image(image_feat: Tensor | None, image_loc: Tensor | None, *, features: int) -> None:
    """Raise ValueError if image inputs are missing, or their shapes do not match the model or each other."""
    if image_feat is None or image_loc is None:
        raise ValueError("give image_feat [B, R, features] and image_loc [B, R, 5]")
    if image_feat.dim() != 3 or image_feat.shape[-1] != features:
        raise ValueError(f"image_feat {tuple(image_feat.shape)}: expected [B, R, {features}]")
    if image_loc.shape != (*image_feat.shape[:2], 5):
        raise ValueError(f"image_loc {tuple(image_loc.shape)}: expected {(*image_feat.shape[:2], 5)}")


def check_text(words: Tensor, task_ids: Tensor | None, *, longest: int, task_tokens: bool) -> None:
    """Raise ValueError if a text (ids or embeddings) is too long, or task_ids do not match the model."""
    if words.shape[1] > longest:
        raise ValueError(f"a text of {words.shape[1]} word pieces: the model has {longest} positions; truncate it")
    if task_tokens != (task_ids is not None):
        raise ValueError(
            "this model has task tokens: give task_ids [B, 1]"
            if task_ids is None
            else "task_ids: this model has no task tokens (task_specific_tokens)"
        )


def check_labels(
    words: Tensor | None,
    image_feat: Tensor | None,
    masked_lm_labels: Tensor | None,
    image_label: Tensor | None,
    image_target: Tensor | None,
    *,
    targets: int,
    pairing: str,
) -> None:
    """Raise ValueError if the shapes of labels do not match the inputs.

    `words` are ids [B, T] or embeddings [B, T, H]; `targets` is the number of outputs of the masked-region head.
    """
    given = [label for label in (masked_lm_labels, image_label, image_target) if label is not None]
    if given and pairing != "rows":
        raise ValueError("labels of words and regions require pairing 'rows': label the pairs that you form")
    require_positions(masked_lm_labels, words, "masked_lm_labels")
    if image_feat is None:
        return
    regions = image_feat[:, 1:]  # the global region has no label
    require_positions(image_label, regions, "image_label")
    expected = (*regions.shape[:2], targets)
    if image_target is not None and image_target.shape != expected:
        raise ValueError(f"image_target {tuple(image_target.shape)}: expected {expected}")


def require_positions(wanted: Tensor | None, states: Tensor | None, name: str) -> None:
    """Raise ValueError if a tensor [B, L] does not have the shape of its stream [B, L, ...]."""
    if wanted is not None and states is not None and wanted.shape != states.shape[:2]:
        raise ValueError(f"{name} {tuple(wanted.shape)}: expected {tuple(states.shape[:2])}")
