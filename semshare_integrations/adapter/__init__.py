"""The common part of the frameworks' models: settings, the engine behind them, and calls.

It needs no framework. Messages are mappings as chat templates take them; tools are OpenAI's function schemas.
"""

from semshare_integrations.adapter.chat_call import ChatCall, which_tool
from semshare_integrations.adapter.fields import EngineFields, token_usage
from semshare_integrations.adapter.in_thread import in_thread
from semshare_integrations.adapter.source import EngineSource
from semshare_integrations.adapter.tool_fields import ToolFields

__all__ = ["ChatCall", "EngineFields", "EngineSource", "ToolFields", "in_thread", "token_usage", "which_tool"]
