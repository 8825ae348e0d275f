"""The table of processors against what NVIDIA's documents say of cards, by the names that drivers report."""

import pytest

from hanbit.common.capability import BY_COMPUTE_CAPABILITY, CPU, PRECISIONS, Processor, why_not

# Name as torch.cuda.get_device_name says it, compute capability, precisions, `auto`, FlashAttention 2, TFLOP/s at auto
CARDS = [
    ("Tesla V100-SXM2-16GB", (7, 0), "fp32 fp16", "fp16", False, 125),
    ("Tesla V100-PCIE-32GB", (7, 0), "fp32 fp16", "fp16", False, 112),
    ("Tesla T4", (7, 5), "fp32 fp16", "fp16", False, 65),
    ("NVIDIA A100-SXM4-80GB", (8, 0), "fp32 fp16 bf16", "bf16", True, 312),
    ("NVIDIA A100 80GB PCIe", (8, 0), "fp32 fp16 bf16", "bf16", True, 312),
    ("NVIDIA A10G", (8, 6), "fp32 fp16 bf16", "bf16", True, 70),
    ("NVIDIA A10", (8, 6), "fp32 fp16 bf16", "bf16", True, 125),
    ("NVIDIA L4", (8, 9), "fp32 fp16 bf16 fp8", "bf16", True, 121),
    ("NVIDIA L40S", (8, 9), "fp32 fp16 bf16 fp8", "bf16", True, 362),
    ("NVIDIA GeForce RTX 4090", (8, 9), "fp32 fp16 bf16 fp8", "bf16", True, 165.2),
    ("NVIDIA H100 80GB HBM3", (9, 0), "fp32 fp16 bf16 fp8", "bf16", True, 989),
    ("NVIDIA H100 PCIe", (9, 0), "fp32 fp16 bf16 fp8", "bf16", True, 756),
    ("NVIDIA H200", (9, 0), "fp32 fp16 bf16 fp8", "bf16", True, 989),
]


@pytest.mark.parametrize(("name", "version", "precisions", "auto", "flash", "tera"), CARDS)
def test_a_card_has_what_its_data_sheet_says(
    name: str, version: tuple[int, int], precisions: str, auto: str, flash: bool, tera: float
) -> None:
    card = Processor(name, version)
    found = card.capability
    assert (found.precisions, found.auto, found.flash_attention_2) == (tuple(precisions.split()), auto, flash)
    assert card.peak_flops_per_second[auto] == tera * 1e12
    assert set(card.peak_flops_per_second) == set(found.precisions)


def test_a_refusal_says_why_and_what_there_is() -> None:
    assert why_not(Processor("Tesla T4", (7, 5)), "bf16") == (
        "Tesla T4 (sm75) has no bf16: it came with sm80. It has fp32, fp16"
    )
    assert why_not(Processor("NVIDIA A100-SXM4-80GB", (8, 0)), "fp8") == (
        "NVIDIA A100-SXM4-80GB (sm80) has no FP8 units: they came with sm89. It has fp32, fp16, bf16"
    )
    assert why_not(Processor("NVIDIA H200", (9, 0)), "fp8") is None


def test_cards_between_and_beyond_the_table_have_what_older_ones_have() -> None:
    assert Processor("GTX 1080", (6, 1)).capability.precisions == ("fp32",)
    assert Processor("Later", (13, 0)).capability == BY_COMPUTE_CAPABILITY[(12, 0)]
    assert Processor("Between", (8, 8)).capability == BY_COMPUTE_CAPABILITY[(8, 0)]


def test_every_lack_has_its_words_and_auto_is_among_what_there_is() -> None:
    for capability in [CPU, Processor("GTX 1080", (6, 1)).capability, *BY_COMPUTE_CAPABILITY.values()]:
        assert set(capability.precisions) | set(capability.lacks) == set(PRECISIONS)
        assert not set(capability.precisions) & set(capability.lacks)
        assert capability.auto in capability.precisions


def test_a_cpu_has_no_known_peak_whatever_its_name() -> None:
    assert Processor("T4 lookalike CPU").peak_flops_per_second == {}
    assert why_not(Processor("CPU"), "fp8") == "CPU has no FP8 units. It has fp32, fp16, bf16"
