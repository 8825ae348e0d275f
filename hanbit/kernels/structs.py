"""The structs of native/*.h as ctypes sees them. Pointers are addresses: whoever fills one keeps its memory alive."""

import ctypes

Address = ctypes.c_void_p
Count = ctypes.c_int64


class Linear(ctypes.Structure):
    """weight [out, in]; bias [out] or None."""

    _fields_ = [("weight", Address), ("bias", Address), ("inputs", Count), ("outputs", Count)]


class Layer(ctypes.Structure):
    """Of HanbitLayer: `projection` and `gate_up` are matrices side by side, `window` 0 is all earlier tokens."""

    _fields_ = [
        ("attention_norm", Address),
        ("projection", Linear),
        ("query_norm", Address),
        ("key_norm", Address),
        ("output", Linear),
        ("mlp_norm", Address),
        ("gate_up", Linear),
        ("down", Linear),
        ("keys", Address),
        ("values", Address),
        ("scale", ctypes.c_float),
        ("window", Count),
    ]


class Decoder(ctypes.Structure):
    """Of HanbitDecoder."""

    _fields_ = [
        *((name, Count) for name in ("num_layers", "hidden", "heads", "key_value_heads", "head_dim", "inner")),
        ("capacity", Count),
        ("epsilon", ctypes.c_float),
        ("rotated", Count),
        ("cosines", Address),
        ("sines", Address),
        ("embedding", Address),
        ("layers", ctypes.POINTER(Layer)),
        ("norm", Address),
        ("head", Linear),
    ]
