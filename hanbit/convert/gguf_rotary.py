"""How a GGUF file stretches its rotary angles: a linear factor in its keys, or Llama 3's rule as a ready tensor.

llama.cpp's converter does not keep the parameters of Llama 3's rule, only what it makes of them: `rope_freqs.weight`,
a divisor for each frequency. The parameters of the published models are tried; divisors of another origin are refused.
"""

import numpy as np
import torch

from hanbit.common.errors import FormatError
from hanbit.config.model import LlamaConfig, RotaryScaling
from hanbit.convert.gguf_metadata import Metadata
from hanbit.formats.gguf.file import GGUFFile
from hanbit.models.layers.rotary import frequencies_of

FREQUENCIES = "rope_freqs.weight"
ROTARY_KEYS = {
    "rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.scaling.finetuned",
}  # fmt: skip
_LLAMA3_FACTORS = (8.0, 32.0)  # Llama 3.1 and 3.3; Llama 3.2


def scaling_of(
    file: GGUFFile, metadata: Metadata, name: str, head_dim: int, base: float, context: int
) -> RotaryScaling | None:
    """Raises FormatError on a stretch that is not built."""
    kind = metadata.text(f"{name}.rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise metadata.refuse(f"{name}.rope.scaling.type", "is not read from GGUF files; none and linear are")
    if FREQUENCIES in file.places:
        if kind != "none":
            raise FormatError(f"{file.path} has both {FREQUENCIES} and {name}.rope.scaling.type={kind}")
        return _llama3(file, head_dim, base, context)
    if kind == "none":
        return None
    return RotaryScaling(kind="linear", factor=float(metadata.number(f"{name}.rope.scaling.factor")))


def _llama3(file: GGUFFile, head_dim: int, base: float, context: int) -> RotaryScaling | None:
    if file.places[FREQUENCIES].shape != (head_dim // 2,):
        raise FormatError(f"{file.path}: {FREQUENCIES} must have {head_dim // 2} numbers, half of a head's width")
    found = file.numbers(FREQUENCIES)
    if np.all(found == 1.0):
        return None
    for factor in _LLAMA3_FACTORS:
        scaling = RotaryScaling(kind="llama3", factor=factor, original_context=8192)
        if np.allclose(found, _divisors(scaling, head_dim, base, context), rtol=1e-4, atol=0):
            return scaling
    raise FormatError(f"{file.path}: {FREQUENCIES} is not the stretch of Llama 3.1, 3.2 or 3.3; no other is known here")


def _divisors(scaling: RotaryScaling, head_dim: int, base: float, context: int) -> np.ndarray:
    plain = LlamaConfig(
        family="llama", layers=1, hidden=head_dim, heads=1, head_dim=head_dim, context=context, rotary_base=float(base)
    )
    stretched = plain.model_copy(update={"rotary_scaling": scaling})
    device = torch.device("cpu")
    return (frequencies_of(plain, device)[0] / frequencies_of(stretched, device)[0]).numpy()
