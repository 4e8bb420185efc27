"""What the frameworks' models have in common: their settings, the engine behind them, and one question with its answer.

Framework-free: messages are the mappings that chat templates take, tools are OpenAI's function schemas.
"""

from semshare_integrations.adapter.fields import EngineFields, token_usage
from semshare_integrations.adapter.in_thread import in_thread
from semshare_integrations.adapter.source import EngineSource
from semshare_integrations.adapter.tool_fields import ToolFields
from semshare_integrations.adapter.turn import Turn, which_tool

__all__ = ["EngineFields", "EngineSource", "ToolFields", "Turn", "in_thread", "token_usage", "which_tool"]
