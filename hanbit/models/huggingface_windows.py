"""Layers of two kinds in Hugging Face's words: `layer_types`, a pattern that repeats, or neither."""

from typing import Any

from hanbit.common.errors import ModelError
from hanbit.config.model import MixedWindowConfig
from hanbit.models.huggingface import wanted

_FULL, _SLIDING = "full_attention", "sliding_attention"


def windows_from(config: dict[str, Any], window: int | None, full_every: int) -> dict[str, Any]:
    """`sliding_window` and `full_every` of a config; full_every: of a file without `layer_types`.

    Raises ModelError on an order of layers that does not repeat, which is not built.
    """
    layers, types = wanted(config, "num_hidden_layers", int), wanted(config, "layer_types", list, None)
    if types is None:
        if full_every < 2:
            raise ModelError(f"config.json: sliding_window_pattern={full_every} must be 2 or more")
        return {"sliding_window": window, "full_every": full_every}
    if len(types) != layers or any(one not in (_FULL, _SLIDING) for one in types):
        raise ModelError(f"config.json: layer_types must be {layers} of {_FULL} and {_SLIDING}")
    if _SLIDING not in types:
        return {"sliding_window": None}
    if window is None:
        raise ModelError(f"config.json: layer_types has {_SLIDING}, and sliding_window is null")
    every = types.index(_FULL) + 1 if _FULL in types else max(layers + 1, 2)
    if any((one == _FULL) != ((layer + 1) % every == 0) for layer, one in enumerate(types)):
        raise ModelError(f"config.json: layer_types does not repeat every {every} layers, which is not built in hanbit")
    return {"sliding_window": window, "full_every": every}


def windows_to(config: MixedWindowConfig) -> dict[str, Any]:
    """Keys of config.json."""
    types = [_FULL if config.is_full(layer) else _SLIDING for layer in range(config.layers)]
    return {"sliding_window": config.sliding_window, "layer_types": types}
