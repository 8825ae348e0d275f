"""The proof that kill -9 at any moment costs nothing but the steps since the last checkpoint.

A run of 2 tensor x 2 pipeline processes is killed at random moments, sometimes all its processes, sometimes one
rank, and started again with the same command, until it ends. Its final parameters must be bitwise those of a run
that nobody disturbed.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hanbit.bench.exactness import write_tokens
from hanbit.bench.group import free_port
from hanbit.checkpoint.layout import found_steps
from hanbit.checkpoint.load import Reader, newest_checkpoint
from hanbit.common.errors import LaunchError

STEPS = 40
RECIPE = """\
name: kills
model: {family: llama, layers: 4, hidden: 64, heads: 4, key_value_heads: 2, inner: 176, vocabulary: 513, context: 64,
        tied: true}
data: {train: TOKENS, split: 0.01}
parallel: {tensor: 2, pipeline: 2}
batch: {micro_batch: 2, global_batch: 8, sequence_length: 32}
training: {steps: 40, device: cpu}
optimizer: {learning_rate: 3e-3}
checkpoint: {every_steps: 2}
validation: {every_steps: 10, batches: 1}
"""


@dataclass(frozen=True)
class Outcome:
    kills: int
    runs: int  # disturbed runs that came to their end
    equal: int  # of them, with bitwise the undisturbed parameters
    killed_steps: tuple[int, ...]  # the newest checkpoint's step when each kill came; -1: none yet


def prove(kills: int, folder: Path, seed: int = 0, say: Callable[[str], None] = lambda text: None) -> Outcome:
    """Disturb runs in `folder` until `kills` kills were dealt and the last run has ended."""
    write_tokens(folder)
    (folder / "recipe.yaml").write_text(RECIPE.replace("TOKENS", str(folder / "tokens")))
    began = time.monotonic()
    wanted = _finish(folder, "undisturbed")
    duration = time.monotonic() - began
    say(f"undisturbed run: {duration:.0f} s, parameters {wanted[:12]}")
    moments = random.Random(seed)
    killed_steps: list[int] = []
    runs = equal = 0
    while len(killed_steps) < kills:
        shutil.rmtree(folder / "disturbed", ignore_errors=True)
        while len(killed_steps) < kills and _kill_once(folder, moments, duration):
            killed_steps.append(_newest_step(folder / "disturbed"))
            say(f"kill {len(killed_steps)} of {kills}, newest checkpoint: step {killed_steps[-1]}")
        found = _finish(folder, "disturbed")
        runs, equal = runs + 1, equal + (found == wanted)
        say(f"run {runs} ended, parameters {found[:12]}: {'equal' if found == wanted else 'DIFFERENT'}")
    return Outcome(len(killed_steps), runs, equal, tuple(killed_steps))


def _command(folder: Path, name: str) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "4", "--master-addr", "127.0.0.1"]
    train = ["-m", "hanbit", "train", str(folder / "recipe.yaml"), f"runs={folder}", f"name={name}"]
    return [sys.executable, *launcher, "--master-port", str(free_port()), *train]


def _start(folder: Path, name: str) -> subprocess.Popen[bytes]:
    """In a process group of its own, so that a kill reaches every process at once."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(folder / f"{name}.log", "ab") as log:
        return subprocess.Popen(_command(folder, name), stdout=log, stderr=log, env=environment, start_new_session=True)


def _finish(folder: Path, name: str) -> str:
    """Run to the end; the hash of all parameters."""
    if _start(folder, name).wait() != 0:
        raise LaunchError(f"the run failed:\n{(folder / f'{name}.log').read_text()[-3000:]}")
    return parameters_hash(folder / name / "checkpoints")


def _kill_once(folder: Path, moments: random.Random, duration: float) -> bool:
    """Start the run and kill it at a random moment; False if it ended before."""
    run = _start(folder, "disturbed")
    try:
        run.wait(timeout=moments.uniform(0.05, 1.0) * duration)
        return False
    except subprocess.TimeoutExpired:
        pass
    ranks = _children(run.pid)
    if moments.random() < 0.5 and ranks:
        os.kill(moments.choice(ranks), signal.SIGKILL)  # torchrun ends the others
        run.wait(timeout=60)
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    _wait_for_group_to_end(run.pid)
    return True


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


def _wait_for_group_to_end(group: int) -> None:
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)


def _newest_step(run: Path) -> int:
    return next(iter(found_steps(run / "checkpoints")), -1)


def parameters_hash(checkpoints: Path) -> str:
    """SHA-256 over every parameter and moment of the newest whole checkpoint, by name, whatever the layout."""
    newest = newest_checkpoint(checkpoints, rank=0, world_size=1)
    assert newest is not None, f"{checkpoints} is empty"
    reader = Reader(newest)
    digest = hashlib.sha256()
    for name in sorted(reader.index):
        digest.update(name.encode())
        digest.update(reader.whole(name).numpy().tobytes())
    return digest.hexdigest()
