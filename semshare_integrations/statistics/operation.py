"""The kinds of calls, under OpenTelemetry's names."""

from typing import Literal

Operation = Literal["text_completion", "chat"]
