"""Read the body of a request: quickly, whatever stands in it, and without holding up the other requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError, from_json
from starlette.requests import Request

from semshare_integrations.serving.errors import RequestError
from semshare_integrations.serving.in_full import in_full
from semshare_integrations.serving.server import server_of

_MOST_VALUES = 1_000_000  # in one body. Python needs half a second for so many, in which nobody else is answered
_SMALL = 64 * 1024  # bytes that are read at once

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A JSON object whose numbers are numbers, and whose fields are known."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        """Refuses the first unknown field: pydantic would list them all, which may be a million."""
        if isinstance(given, dict) and cls.model_config.get("extra") == "forbid":
            for name in given:
                if name not in cls.model_fields:
                    raise PydanticCustomError("unknown_field", "{field}", {"field": name})
        return given


def _text_or_objects(given: Any) -> Any:
    """Refuses at the first mistake: pydantic would list one for each element and each branch of the union."""
    if isinstance(given, str) or (isinstance(given, list) and all(isinstance(each, dict) for each in given)):
        return given
    raise PydanticCustomError("text_or_objects_type", "Input should be a text or a list of objects")


def _texts(given: Any) -> Any:
    if isinstance(given, str) or (isinstance(given, list) and all(isinstance(each, str) for each in given)):
        return given
    raise PydanticCustomError("texts_type", "Input should be a text or a list of texts")


def _few(most: int) -> Callable[[Any], Any]:
    """Refuses a list or object of more than ``most`` before each of its elements is looked at."""

    def check(given: Any) -> Any:
        if isinstance(given, list | dict) and len(given) > most:
            raise PydanticCustomError(
                "too_many", "{count} are too many: at most {most}", {"count": len(given), "most": most}
            )
        return given

    return check


TextOrObjects = Annotated[str | list[dict[str, Any]], BeforeValidator(_text_or_objects)]
Stops = Annotated[str | list[str], BeforeValidator(_texts), BeforeValidator(_few(64))]
Biases = Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(_few(1024))]
Tokens = Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_few(64))]
Objects = Annotated[list[dict[str, Any]], FailFast()]


async def parsed(request: Request, model: type[Model]) -> Model:
    """The body of ``request``.

    A large one is read in a thread, one at a time: together they would take all of the machine's memory.

    Raises:
        RequestError: it is not JSON, lacks a field, has an unknown one, or one of the wrong type.
    """
    body = await request.body()
    if len(body) <= _SMALL:
        return parse(body, model)
    async with server_of(request).parsing:
        return await in_full(asyncio.ensure_future(asyncio.to_thread(parse, body, model)))


def parse(body: bytes, model: type[Model]) -> Model:
    """What ``body`` says. Raises :class:`RequestError`."""
    if body.count(b",") > _MOST_VALUES:
        raise invalid(f"The body of your request has more than {_MOST_VALUES} values.", None, "request_too_large")
    try:
        content = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(f"We could not parse the JSON body of your request: {error}.", None, "invalid_json") from None
    if not isinstance(content, dict):
        raise invalid("The body of your request must be a JSON object.", None, "invalid_json")
    try:
        return model.model_validate({name: value for name, value in content.items() if value is not None})
    except ValidationError as error:
        raise _mistake(error) from None


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> RequestError:
    """A request that is refused."""
    return RequestError(message, code=code, param=param)


def _mistake(error: ValidationError) -> RequestError:
    """The first mistake, in OpenAI's words."""
    first = error.errors(include_url=False)[0]
    kind, place = first["type"], [part for part in first["loc"] if not _is_branch(part)]
    if kind == "unknown_field":
        place.append(first["ctx"]["field"])
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")[:256]
    if kind == "unknown_field":
        return invalid(f"Unknown parameter: '{param}'.", param, "unknown_parameter")
    if kind == "missing":
        return invalid(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")
    if kind.endswith(("_type", "_parsing")):
        return invalid(f"Invalid type for '{param}': {first['msg']}.", param, "invalid_type")
    return invalid(f"Invalid value for '{param}': {first['msg'].removeprefix('Value error, ')}.", param)


def _is_branch(part: int | str) -> bool:
    """Whether pydantic names a branch of a union here, and no field."""
    return isinstance(part, str) and (part in ("str", "int", "function-wrap") or "[" in part)
