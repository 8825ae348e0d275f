"""What decoding reads is counted by hand beside the bench, and memory that is read gives its own exclusive or."""

from pathlib import Path

import numpy as np
import pytest

from hanbit.bench.bandwidth import Measured, Plan, measure
from hanbit.common.errors import ConfigError, GenerationError
from hanbit.engine.llm import LLM
from hanbit.kernels.library import native
from tests.engine.folders import write_folder


@pytest.mark.parametrize("count", [1, 7, 8, 1 << 17, (1 << 18) + 5])
@pytest.mark.parametrize("threads", [1, 3])
def test_all_of_the_memory_is_read(count: int, threads: int) -> None:
    kernels = native()
    assert kernels is not None
    numbers = np.random.default_rng(count).integers(0, 2**63, count, np.uint64)
    found = kernels.library.hanbit_read(numbers.ctypes.data, count, threads)
    assert found == int(np.bitwise_xor.reduce(numbers))


@pytest.mark.parametrize("name", ["llama", "llama tied, one key head, base 500000"])
def test_a_token_reads_the_weights_of_every_product_and_what_is_before_it(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path, name)
    found = measure(Plan(tmp_path, prompt_tokens=8, new_tokens=4, rounds=2), lambda _: None)
    config = LLM(tmp_path).config
    head_dim = config.head_dim
    assert isinstance(head_dim, int)
    heads, shared = config.heads, config.key_value_heads
    layer = config.hidden * (heads + 2 * shared) * head_dim + heads * head_dim * config.hidden
    layer += 3 * config.hidden * config.inner
    cached = 10 * 2 * config.layers * shared * head_dim
    assert found.token_bytes == 4 * (config.layers * layer + config.vocabulary * config.hidden + cached)
    assert len(found.seconds) == len(found.rates) == 2
    assert min(*found.seconds, *found.rates) > 0


def test_the_share_is_bytes_over_time_over_rate() -> None:
    facts = Measured(10_000_000, [0.001, 0.002, 0.004], [20e9, 20e9, 20e9]).facts()
    assert facts["percent"] == 25.0
    assert (facts["lowest"], facts["highest"]) == (12.5, 50.0)
    assert facts["decode_gigabytes_per_second"] == 5.0


def test_what_gives_no_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--new-tokens 1 must be at least 2"):
        measure(Plan(tmp_path, new_tokens=1), lambda _: None)
    with pytest.raises(ConfigError, match="--rounds 0 must be at least 1"):
        measure(Plan(tmp_path, rounds=0), lambda _: None)
    write_folder(tmp_path, "llama")
    context = LLM(tmp_path).context
    with pytest.raises(GenerationError, match=f"longer than the context of {context}"):
        measure(Plan(tmp_path, prompt_tokens=context - 4, new_tokens=20), lambda _: None)
