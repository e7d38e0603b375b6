"""Base class of the settings sections, markers of single settings, and validators that use a registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from hoser_kd.common.errors import ConfigError
from hoser_kd.common.registry import Registry
from hoser_kd.config.messages import explain

LARGEST = 1e30
"""Largest absolute value of a setting: float32 still computes with it."""
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-4, 1e4
"""Range of temperatures: logits divided by them stay finite in float32."""
Temperature = Annotated[float, Field(ge=MIN_TEMPERATURE, le=MAX_TEMPERATURE)]
"""Type of settings that divide logits."""


class Section(BaseModel):
    """Base class of sections: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
    example: ClassVar[str] = ""
    """The section as YAML in error messages."""
    smallest: ClassVar[float] = 1e-30
    """Smallest absolute value of numbers other than 0."""

    def __init__(self, /, **values: Any) -> None:
        """Validate the values. Raises ConfigError with the key, the value and the closest known key."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError("\n".join(explain(error, type(self), type(self).__name__))) from None

    # without this mark, pydantic calls __init__ for subsections too, and their errors would lack the outer key
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject true and false for numbers; pydantic would accept them as 1 and 0."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if _contains_bool(value) and _allows_number(annotation):
            raise ValueError("must be a number, not true or false (YAML also reads yes, no, on and off as these)")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _numbers_are_meant(cls, value: Any) -> Any:
        """Reject numbers that overflow or vanish in computation, such as 1e-320 and 1e300."""
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and number and not cls.smallest <= abs(number) <= LARGEST:
                raise ValueError(f"{number:g} is too {'large' if abs(number) > 1 else 'close to 0'} to compute with")
        return value


def _contains_bool(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_contains_bool, value)))


def _allows_number(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(_allows_number, get_args(annotation)))


EXECUTION_ONLY = "execution_only"
"""Key that marks settings which control execution only; versions of results exclude them."""


def execution_only_fields(model: type[BaseModel]) -> frozenset[str]:
    """Return the names of settings in a section that never change a result; subsections are not included."""
    return frozenset(
        name
        for name, field in model.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get(EXECUTION_ONLY)
    )


def registered_in(registry: Registry[Any]) -> Callable[[str], str]:
    """Return a validator for a setting that names a variant; the registry is loaded on validation, not on import."""

    def known(name: str) -> str:
        try:
            registry[name]
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return name

    return known
