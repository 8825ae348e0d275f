"""What people see who start ranks by torchrun itself."""

import subprocess
import sys
from pathlib import Path

from tests.train.recipes import tiny_run


def test_a_missing_file_that_every_rank_misses_is_said_once(tmp_path: Path) -> None:
    settings = [*tiny_run(tmp_path), f"data.train=[{tmp_path}/tokens,{tmp_path}/nowhere]"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "hanbit", "train", "llama/base", *settings], capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "error: " in line and "nowhere" in line]
    assert len(said) == 1
    assert not said[0].startswith("[rank 1]")
