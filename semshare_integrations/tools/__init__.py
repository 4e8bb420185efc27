"""Tool calls of local models, for every framework: how a template writes them, and how decoding is constrained to them.

No framework is needed. Tools are OpenAI's function schemas; messages are mappings as chat templates take them.
"""

from semshare_integrations.tools.call_format import CallFormat
from semshare_integrations.tools.constraint import Constraint, constraint, prepare
from semshare_integrations.tools.grammar import Grammar, json_grammar, reply_grammar
from semshare_integrations.tools.learn_form import call_format
from semshare_integrations.tools.reply import Reply, ToolCall, parse_reply

__all__ = [
    "CallFormat",
    "Constraint",
    "Grammar",
    "Reply",
    "ToolCall",
    "call_format",
    "constraint",
    "json_grammar",
    "parse_reply",
    "prepare",
    "reply_grammar",
]
