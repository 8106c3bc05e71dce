"""Hugging Face's Swin, Swin v2 and their kin: the forward of a layer, which pads, shifts, cuts and attends.

Layers take tokens [B, L, C] and (height, width). Query, key and value have layers of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ... import ops
from .attend import blank, blank_is_hidden, continuous_table, cosine_scale, noise, padded
from .redirect import DROPS, Family, dropping, fall_back, hooked

_WEIGHTS = "its attention weights are asked for"


def _swin(layer: nn.Module, hidden_states: Tensor, input_dimensions, always_partition: bool = False, **kwargs):
    attn = layer.attention
    if not always_partition:
        layer.set_shift_and_window_size(input_dimensions)
    projections = attn.q_proj, attn.k_proj, attn.v_proj
    config = attn.config
    reason = (
        hooked(attn, "relative_position_bias")
        or (attn.training and attn.attention_dropout and DROPS)
        or ((kwargs.get("output_attentions") or config.output_attentions) and _WEIGHTS)
        or _unknown_interface(config)
        or _shrunk(layer, attn.relative_position_bias.window_size)
        or blank_is_hidden(input_dimensions, _window(layer), *projections)
    )
    if reason:
        return fall_back(layer, "forward", reason, hidden_states, input_dimensions, always_partition, **kwargs)
    x = _map(layer.layernorm_before(hidden_states), input_dimensions)
    table = attn.relative_position_bias.relative_position_bias_table
    x = _attend(layer, x, projections, table, num_heads=attn.num_attention_heads, scale=attn.scaling)
    x = layer.dropout(attn.o_proj(x)).flatten(1, 2)
    hidden_states = hidden_states + layer.drop_path(x)
    return hidden_states + layer.dropout(layer.mlp(layer.layernorm_after(hidden_states))), None


def _swinv2(layer: nn.Module, hidden_states: Tensor, input_dimensions, output_attentions: bool | None = False):
    attn = layer.attention.self
    if reason := _nested_obstacle(layer, input_dimensions, output_attentions):
        return fall_back(layer, "forward", reason, hidden_states, input_dimensions, output_attentions)
    heads = attn.num_attention_heads
    table = continuous_table(attn.continuous_position_bias_mlp, attn.relative_coords_table, heads)
    scores = {
        "num_heads": heads,
        "cosine_scale": cosine_scale(attn.logit_scale),
        "mask_value": -200.0,  # the mask is added twice
    }
    x = _nested(layer, _map(hidden_states, input_dimensions), table, scores).flatten(1, 2)
    hidden_states = hidden_states + layer.drop_path(layer.layernorm_before(x))
    x = layer.layernorm_after(layer.output(layer.intermediate(hidden_states)))
    return (hidden_states + layer.drop_path(x),)


def _nested_swin(
    layer: nn.Module, hidden_states: Tensor, input_dimensions, output_attentions=False, always_partition=False
):
    """Swin as its kin still have it, with the module tree that Swin v2 has."""
    attn = layer.attention.self
    if hasattr(layer, "set_shift_and_window_size") and not always_partition:
        layer.set_shift_and_window_size(input_dimensions)
    if reason := _nested_obstacle(layer, input_dimensions, output_attentions):
        rest = (always_partition,) if hasattr(layer, "set_shift_and_window_size") else ()
        return fall_back(layer, "forward", reason, hidden_states, input_dimensions, output_attentions, *rest)
    x = _map(layer.layernorm_before(hidden_states), input_dimensions)
    scores = {"num_heads": attn.num_attention_heads}
    x = _nested(layer, x, attn.relative_position_bias_table, scores).flatten(1, 2)
    hidden_states = hidden_states + layer.drop_path(x)
    x = layer.output(layer.intermediate(layer.layernorm_after(hidden_states)))
    return (hidden_states + x,)


def _nested(layer: nn.Module, x: Tensor, table: Tensor, scores: dict) -> Tensor:
    attn, output = layer.attention.self, layer.attention.output
    x = _attend(layer, x, (attn.query, attn.key, attn.value), table, **scores)
    return output.dropout(output.dense(x))


def _nested_obstacle(layer: nn.Module, size: tuple[int, int], output_attentions: bool | None) -> str | None:
    attn = layer.attention.self
    return (
        hooked(layer.attention, "self", "output")
        or hooked(attn, "dropout")
        or dropping(attn.dropout)
        or (_WEIGHTS if output_attentions else None)
        or _shrunk(layer, attn.window_size)
        or blank_is_hidden(size, _window(layer), attn.query, attn.key, attn.value)
    )


def _attend(layer: nn.Module, x: Tensor, projections: tuple[nn.Module, ...], table: Tensor, **scores) -> Tensor:
    window, shift = _window(layer), int(layer.shift_size)
    pads = torch.cat([blank(part, x) for part in projections[1:]]) if padded(x.shape[1:3], window) else None
    return ops.window_attention(
        torch.cat([part(x) for part in projections], -1),
        table,
        window_size=window,
        shift_size=(shift, shift),
        pad_kv=pads,
        **scores,
    )


def _map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    return tokens.unflatten(1, tuple(size))


def _window(layer: nn.Module) -> tuple[int, int]:
    return int(layer.window_size), int(layer.window_size)


def _shrunk(layer: nn.Module, window: tuple[int, int]) -> str | None:
    """Why the original fails, which it shall do in its own words; or None."""
    return None if _window(layer) == tuple(window) else "its window has shrunk, and its bias is for the larger one"


def _unknown_interface(config) -> str | None:
    name = config._attn_implementation
    return None if name in (None, "eager", "sdpa") else f"attn_implementation is {name!r}"


def _example(layer: nn.Module) -> tuple:
    """An odd map; where the layer has an argument for it, with the window as it is."""
    height, width = 2 * layer.window_size - 1, 2 * layer.window_size + 1
    weight = layer.layernorm_before.weight
    return noise((1, height * width, len(weight)), weight), (height, width)


_MODULES = "transformers.models"
FAMILIES = {
    f"{_MODULES}.swin.modeling_swin.SwinLayer": Family("Hugging Face Swin", "forward", _swin, _example),
    f"{_MODULES}.swinv2.modeling_swinv2.Swinv2Layer": Family("Hugging Face Swin v2", "forward", _swinv2, _example),
    f"{_MODULES}.donut.modeling_donut_swin.DonutSwinLayer": Family(
        "Hugging Face Donut Swin", "forward", _nested_swin, _example
    ),
    f"{_MODULES}.maskformer.modeling_maskformer_swin.MaskFormerSwinLayer": Family(
        "Hugging Face MaskFormer Swin", "forward", _nested_swin, _example
    ),
    f"{_MODULES}.clap.modeling_clap.ClapAudioLayer": Family(
        "Hugging Face Clap Swin", "forward", _nested_swin, _example
    ),
    f"{_MODULES}.swin2sr.modeling_swin2sr.Swin2SRLayer": Family("Hugging Face Swin2SR", "forward", _swinv2, _example),
}
