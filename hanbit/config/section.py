"""The base of every recipe section: frozen, strict, unknown keys refused."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Auto = Literal["auto"]
Count = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """`strict`: "4" is not 4 and 1 is not true; what YAML 1.2 read is what we get."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False)
