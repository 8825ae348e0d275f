"""Floor 5: models of other formats to model folders, each with a proof.

For notebooks `hanbit.convert` is the verb, too: Python sets that name to this room as soon as anything of it is
imported, so the room can be called.
"""

import sys
from types import ModuleType
from typing import Any


class _CallableRoom(ModuleType):
    def __call__(self, source: Any, target: Any, **options: Any) -> Any:
        """`hanbit.convert.convert.convert`: a model folder out of another format."""
        from hanbit.convert.convert import convert

        return convert(source, target, **options)


sys.modules[__name__].__class__ = _CallableRoom
