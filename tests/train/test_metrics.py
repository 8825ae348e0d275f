"""`metrics.jsonl` after a kill, and after somebody else wrote into it."""

import json
from pathlib import Path

from hanbit.common.run_folder import RunFolder
from hanbit.train.metrics import Metrics, read_metrics

ROWS = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 3, "loss": 1.0}]
NO_ROWS = [b"[1,2]", b'{"a":1}', b'{"step":"x"}', b'{"step":null}', b"7", b'"\xff"', b"[" * 100_000, b'{"step": 9, "lo']


def test_lines_that_are_no_rows_do_not_stop_a_resume(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    good = [json.dumps(row).encode() for row in ROWS]
    folder.metrics.write_bytes(b"\n".join([good[0], *NO_ROWS[:4], good[1], *NO_ROWS[4:7], good[2], NO_ROWS[7]]))
    assert read_metrics(folder.metrics) == ROWS
    metrics = Metrics(folder, resumed_step=2)
    metrics.write(step=3, loss=1.25)
    metrics.close()
    assert [json.loads(line) for line in folder.metrics.read_text().splitlines()] == [
        *ROWS[:2],
        {"step": 3, "loss": 1.25},
    ]
