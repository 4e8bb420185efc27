"""What was asked of a model, under OpenTelemetry's names."""

from typing import Literal

Operation = Literal["text_completion", "chat"]
