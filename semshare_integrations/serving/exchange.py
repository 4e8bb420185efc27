"""What is known of one request while it is answered, and the line that the log has of it."""

from __future__ import annotations

import logging
import re
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from semshare_core import ReuseReport
from semshare_integrations.serving.keys import Caller

LOG = logging.getLogger("semshare.serving")

_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


@dataclass
class Exchange:
    """One request and its response.

    Attributes:
        id: in the header ``x-request-id`` and in the log; the client may choose it.
        method, path: what was asked for.
        caller: who asked; None until the key was checked.
        status: of the response; 499: the client left before it began.
        failure: the code of the error, if there was one.
        finish_reason: why the answer ended.
        reports: of the answers.
        trace: the headers that place it in the client's trace.
        closing: what is closed when the exchange ends, however it ends.
    """

    id: str
    method: str
    path: str
    caller: Caller | None = None
    status: int = 0
    failure: str = ""
    finish_reason: str = ""
    reports: list[ReuseReport] = field(default_factory=list)
    trace: dict[str, str] = field(default_factory=dict)
    closing: AsyncExitStack = field(default_factory=AsyncExitStack)
    began: float = field(default_factory=time.perf_counter)
    arrived_at: float = field(default_factory=time.time)

    def seconds_before(self, report: ReuseReport) -> float:
        """From when the request came until the engine had it: its body, its wait, its schema, earlier answers of it."""
        return max(0.0, report.arrived_at - self.arrived_at)

    @classmethod
    def of(cls, method: str, path: str, headers: Headers) -> Exchange:
        """A new exchange. An id that might forge the log is not taken."""
        wanted = headers.get("x-request-id", "")
        name = wanted if _ID.fullmatch(wanted) else f"req_{uuid4().hex}"
        trace = {header: headers[header] for header in ("traceparent", "tracestate") if header in headers}
        return cls(name, method, path, trace=trace)

    def log(self) -> None:
        """One line: who, what, how it ended, and why it was served so. Neither prompts nor keys nor quoted text."""
        who = self.caller.name if self.caller is not None else "nobody"
        ms = 1e3 * (time.perf_counter() - self.began)
        said = [f"id={self.id} caller={who} {self.method} {self.path} status={self.status} ms={ms:.0f}"]
        if self.failure:
            said.append(f"error={self.failure}")
        if self.finish_reason:
            said.append(f"finish={self.finish_reason}")
        said += [
            f"outcome={report.outcome} prompt={report.prompt_tokens} cached={report.lossless_prefix_tokens} "
            f"computed={report.recomputed_tokens} generated={report.generated_tokens} ttft_ms={report.ttft_ms:.0f} "
            f"reason={report.reason!r}"
            for report in self.reports
        ]
        LOG.log(logging.WARNING if self.status >= 500 else logging.INFO, "%s", " ".join(said))


def exchange_of(connection: HTTPConnection) -> Exchange:
    """The exchange that a request belongs to."""
    exchange = connection.scope["state"]["exchange"]
    assert isinstance(exchange, Exchange)
    return exchange
