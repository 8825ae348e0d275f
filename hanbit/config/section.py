"""The base of every recipe section: frozen, strict, unknown keys refused."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Auto = Literal["auto"]


class Section(BaseModel):
    """`strict`: "4" is not 4 and 1 is not true; what YAML 1.2 read is what we get."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())
