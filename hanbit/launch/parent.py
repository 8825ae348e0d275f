"""A process that must not outlive the one that started it: ranks of torchrun, torchrun of the launcher.

torchrun puts each rank into a session of its own, so that no signal to a group reaches them all; and a rank without its
torchrun waits for lost peers for minutes, holding the run folder. On Linux the kernel ends it instead (prctl(2),
PR_SET_PDEATHSIG); elsewhere nothing is done.
"""

import ctypes
import os
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1


def end_with_parent(number: signal.Signals, parent: int | None = None) -> None:
    """The kernel sends us `number` as soon as the thread that started this process is gone. Inherited by no child.

    `parent`: its process number, where it is known; if that one is gone already, we end here.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, int(number))
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def is_rank_of_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ
