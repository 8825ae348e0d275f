"""What a processor can compute, as data: precisions, the one `auto` takes and why, FlashAttention 2, peak speeds.

Sources: NVIDIA's CUDA programming guide (arithmetic by compute capability) and the data sheets of the cards (dense, no
sparsity; for GeForce with float32 accumulation); FlashAttention 2's README (Ampere and newer).
"""

from collections.abc import Mapping
from dataclasses import dataclass

PRECISIONS = ("fp32", "fp16", "bf16", "fp8")


@dataclass(frozen=True)
class Capability:
    """Of all processors of one kind. `lacks`: what it has not, in words that follow its name."""

    precisions: tuple[str, ...]
    auto: str
    why: str  # why `auto` is what it is
    flash_attention_2: bool
    lacks: Mapping[str, str]


_NO_FP8 = {"fp8": "has no FP8 units: they came with sm89"}
_VOLTA = Capability(
    ("fp32", "fp16"), "fp16", "has no bf16", False, {"bf16": "has no bf16: it came with sm80", **_NO_FP8}
)
_AMPERE = Capability(("fp32", "fp16", "bf16"), "bf16", "has bf16, which needs no loss scaling", True, _NO_FP8)
_HOPPER = Capability(PRECISIONS, "bf16", "has bf16; FP8 must be asked for", True, {})
_BEFORE = Capability(
    ("fp32",), "fp32", "has no tensor cores", False,
    {"fp16": "has no tensor cores: they came with sm70", "bf16": "has no bf16: it came with sm80", **_NO_FP8},
)  # fmt: skip

CPU = Capability(
    ("fp32", "fp16", "bf16"), "fp32", "computes 16 bits slower than 32 unless it has AMX or AVX-512", False,
    {"fp8": "has no FP8 units"},
)  # fmt: skip
BY_COMPUTE_CAPABILITY = {
    (7, 0): _VOLTA,  # V100
    (7, 2): _VOLTA,  # Xavier
    (7, 5): _VOLTA,  # T4, RTX 20
    (8, 0): _AMPERE,  # A100
    (8, 6): _AMPERE,  # A10, RTX 30
    (8, 7): _AMPERE,  # Orin
    (8, 9): _HOPPER,  # L4, L40S, RTX 40
    (9, 0): _HOPPER,  # H100, H200
    (10, 0): _HOPPER,  # B200
    (10, 3): _HOPPER,  # B300
    (12, 0): _HOPPER,  # RTX 50
}

# Of a card whose name has all words: TFLOP/s dense, by precision. The first that fits is taken.
PEAK_TFLOPS: tuple[tuple[tuple[str, ...], Mapping[str, float]], ...] = (
    (("V100", "PCIE"), {"fp32": 14, "fp16": 112}),
    (("V100",), {"fp32": 15.7, "fp16": 125}),
    (("T4",), {"fp32": 8.1, "fp16": 65}),
    (("A100",), {"fp32": 19.5, "fp16": 312, "bf16": 312}),
    (("A800",), {"fp32": 19.5, "fp16": 312, "bf16": 312}),
    (("A30",), {"fp32": 10.3, "fp16": 165, "bf16": 165}),
    (("A10G",), {"fp32": 31.5, "fp16": 70, "bf16": 70}),
    (("A10",), {"fp32": 31.2, "fp16": 125, "bf16": 125}),
    (("A40",), {"fp32": 37.4, "fp16": 149.7, "bf16": 149.7}),
    (("RTX", "3090"), {"fp32": 35.6, "fp16": 71, "bf16": 71}),
    (("L40S",), {"fp32": 91.6, "fp16": 362, "bf16": 362, "fp8": 733}),
    (("L40",), {"fp32": 90.5, "fp16": 181, "bf16": 181, "fp8": 362}),
    (("L4",), {"fp32": 30.3, "fp16": 121, "bf16": 121, "fp8": 242}),
    (("RTX", "4090"), {"fp32": 82.6, "fp16": 165.2, "bf16": 165.2, "fp8": 330.3}),
    (("H100", "PCIe"), {"fp32": 51, "fp16": 756, "bf16": 756, "fp8": 1513}),
    (("H100", "NVL"), {"fp32": 60, "fp16": 835, "bf16": 835, "fp8": 1671}),
    (("H100",), {"fp32": 67, "fp16": 989, "bf16": 989, "fp8": 1979}),
    (("H800",), {"fp32": 67, "fp16": 989, "bf16": 989, "fp8": 1979}),
    (("H200", "NVL"), {"fp32": 60, "fp16": 835, "bf16": 835, "fp8": 1671}),
    (("H200",), {"fp32": 67, "fp16": 989, "bf16": 989, "fp8": 1979}),
    (("B200",), {"fp32": 75, "fp16": 2250, "bf16": 2250, "fp8": 4500}),
)


@dataclass(frozen=True)
class Processor:
    """One device as its driver names it. compute_capability: (major, minor); None for a CPU."""

    name: str
    compute_capability: tuple[int, int] | None = None

    @property
    def capability(self) -> Capability:
        """A card that is newer than the table has at least what the newest before it has."""
        if self.compute_capability is None:
            return CPU
        older = [version for version in BY_COMPUTE_CAPABILITY if version <= self.compute_capability]
        return BY_COMPUTE_CAPABILITY[max(older)] if older else _BEFORE

    @property
    def peak_flops_per_second(self) -> Mapping[str, float]:
        """By precision; empty for a processor that the table does not know."""
        said = self.name.upper().replace("-", " ").split()
        for words, peaks in PEAK_TFLOPS:
            if self.compute_capability and all(word.upper() in said for word in words):
                return {precision: tera * 1e12 for precision, tera in peaks.items()}
        return {}

    def __str__(self) -> str:
        if self.compute_capability is None:
            return self.name
        return f"{self.name} (sm{''.join(map(str, self.compute_capability))})"


def why_not(processor: Processor, precision: str) -> str | None:
    """Why the processor cannot compute in `precision`, with what it has; None where it can."""
    capability = processor.capability
    if precision in capability.precisions:
        return None
    return f"{processor} {capability.lacks[precision]}. It has {', '.join(capability.precisions)}"
