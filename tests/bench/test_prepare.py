"""The measurement runs, does the same work three times, and says so in a table."""

import re
from pathlib import Path

from hanbit.bench.prepare import measure, table, write_corpus
from hanbit.tokenizers import train


def test_contestants_agree_on_the_tokens_and_the_table_has_their_ratios(tmp_path: Path) -> None:
    texts = write_corpus(tmp_path / "c.jsonl", 0.1).read_text().splitlines()
    train.save(train.train(texts, 400), tmp_path)
    contestants = measure(str(tmp_path), rounds=2, megabytes=0.2)
    assert [len(contestant.tokens_per_second) for contestant in contestants] == [2, 2, 2]
    lines = table(contestants).splitlines()
    assert re.search(r"prepare +\d+\.\d\d .* 1\.00 x", lines[1])
    assert len(lines) == 4
