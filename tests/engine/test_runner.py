"""Logits of prompts read in chunks and of tokens fed one by one, against transformers reading everything at once."""

from pathlib import Path

import pytest
import torch

from hanbit.checkpoint.model_folder import load_model
from hanbit.engine.fuse import fuse
from tests.engine.conftest import Folder
from tests.engine.feeding import Rows
from tests.engine.folders import VOCABULARY, theirs_of
from tests.models.shapes import CONFIGS


def runner_of(folder: Path, rows: int) -> Rows:
    return Rows(fuse(load_model(folder)), rows, 64)


def fed(ours: Rows, row: int, tokens: list[int], chunk: int) -> torch.Tensor:
    """Logits after the last token."""
    for start in range(0, len(tokens), chunk):
        logits = ours.prefill(row, tokens, start, min(start + chunk, len(tokens)))
        assert (logits is None) == (start + chunk < len(tokens))
    assert logits is not None
    return logits


def logits_of_theirs(folder: Path, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return theirs_of(folder)(torch.tensor([tokens])).logits[0]


def tokens_of(length: int) -> list[int]:
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(9)).tolist()


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral window", "qwen3 bias, tied"])
@pytest.mark.parametrize("length", [11, 15, 33])  # the last chunk of 5 has 1, 5 and 3 tokens
def test_a_prompt_in_chunks_has_the_logits_of_a_whole_one(name: str, length: int, folder_of: Folder) -> None:
    tokens = tokens_of(length)
    found = fed(runner_of(folder_of(name), 2), 1, tokens, 5)
    torch.testing.assert_close(found, logits_of_theirs(folder_of(name), tokens)[-1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_of_different_lengths_have_the_logits_of_their_own_prompt(name: str, folder_of: Folder) -> None:
    tokens = tokens_of(40)
    ours, wanted = runner_of(folder_of(name), 3), logits_of_theirs(folder_of(name), tokens)
    lengths = [4, 30, 12]
    for row, length in enumerate(lengths):
        fed(ours, row, tokens[:length], 64)
    for step in range(8):
        places = [length + step for length in lengths]
        found = ours.decode([tokens[place] for place in places], places)
        torch.testing.assert_close(found, wanted[places], rtol=0, atol=1e-4)
