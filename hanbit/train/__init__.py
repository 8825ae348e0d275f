"""Floor 5: the loop, its numbers, stopping and resuming.

For notebooks `hanbit.train` is the verb, too: Python sets that name to this room as soon as anything of it is
imported, so the room can be called.
"""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any


class _CallableRoom(ModuleType):
    def __call__(self, source: Any, overrides: Sequence[str] = ()) -> Any:
        """`hanbit.train.run.train`: train by a recipe, with `section.key=value` overrides."""
        from hanbit.train.run import train

        return train(source, overrides)


sys.modules[__name__].__class__ = _CallableRoom
