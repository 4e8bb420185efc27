"""Errors as OpenAI's and Anthropic's clients read them: which status, which code, and whether to try again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from semshare_core.errors import (
    CallCancelledError,
    CallTimeoutError,
    ConfigError,
    DeviceMemoryError,
    NumericalError,
    PromptError,
    PromptTooLongError,
    SemShareError,
)

CLIENT_CLOSED = 499
"""Nobody gets this status: the client has left. It stands in the log and in the metrics."""

NO_RETRY = {"x-should-retry": "false"}
"""OpenAI's clients would repeat the request, which would fail again."""

_ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


@dataclass
class RequestError(SemShareError):
    """A request that is not answered.

    Attributes:
        message: what was wrong, and what to do.
        status: of HTTP.
        kind: OpenAI's ``type``; ``code`` and ``param`` are OpenAI's, too.
        headers: of the response.
    """

    message: str
    status: int = 400
    kind: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def openai(self) -> dict[str, Any]:
        """The body, as OpenAI writes it."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def anthropic(self) -> dict[str, Any]:
        """The body, as Anthropic writes it."""
        return {"type": "error", "error": {"type": _ANTHROPIC.get(self.status, "api_error"), "message": self.message}}

    def body(self, path: str) -> dict[str, Any]:
        """The body for a request of ``path``."""
        return self.anthropic() if path.startswith("/v1/messages") else self.openai()


def request_error(error: BaseException) -> RequestError:
    """What a client is told of ``error``. Of an error that nobody expected, nothing but that it happened."""
    if isinstance(error, RequestError):
        return error
    message = str(error)
    if isinstance(error, PromptTooLongError):
        return RequestError(message, code="context_length_exceeded", param="messages")
    if isinstance(error, PromptError | ConfigError):
        return RequestError(message, code="invalid_value")
    if isinstance(error, CallTimeoutError):
        return RequestError(message, 504, "server_error", "timeout", headers=NO_RETRY)
    if isinstance(error, CallCancelledError):
        return RequestError(message, CLIENT_CLOSED, "server_error", "cancelled", headers=NO_RETRY)
    if isinstance(error, DeviceMemoryError):
        return RequestError(message, 503, "server_error", "out_of_memory", headers=NO_RETRY)
    if isinstance(error, NumericalError):
        return RequestError(message, 500, "server_error", "not_numbers", headers=NO_RETRY)
    return RequestError(
        f"the server failed with a {type(error).__name__}; its log says more. Nothing of the request was kept.",
        500,
        "server_error",
        "internal_error",
        headers=NO_RETRY,
    )
