"""What all tables of a recipe share: strictness, mistakes in our own words, types of more than one table. Imports pydantic alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, WrapValidator
from pydantic_core import PydanticCustomError, ValidationError


class Table(BaseModel):
    """One TOML table: unknown settings are refused, "3" is not 3, nothing changes afterwards."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
        serialize_by_alias=True,
    )


def mistake(message: str) -> PydanticCustomError:
    """What a validator raises, in our own words."""
    # The message goes through a format string: braces of the user's own must stay what they are.
    return PydanticCustomError("mistake", "{message}", {"message": message})


def needs(what: str) -> WrapValidator:
    """One message for a union, where pydantic would give one for each member."""

    def validate(value: object, handler: Callable[[object], object]) -> object:
        try:
            return handler(value)
        except ValidationError as error:
            raise mistake(f"needs {what}") from error

    return WrapValidator(validate)


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Text = Annotated[str, Field(min_length=1)]
FolderName = Annotated[str, Field(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*$")]
Layer = Annotated[int, Field(ge=0)]
Layers = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[tuple[Layer, ...], Field(strict=False, min_length=1)],
    needs("a number of layers (from 1), or a list of teacher layers as [0, 2, 4] (from 0)"),
]
ConfigValue = Annotated[
    bool
    | int
    | float
    | str
    | Annotated[tuple[int, ...], Field(strict=False)]
    | Annotated[tuple[str, ...], Field(strict=False)],
    needs("a number, a text, true or false, or a list of whole numbers or texts"),
]
