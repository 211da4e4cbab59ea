"""Chat: messages to prompts, in Python and in the graph."""

from gpt_keras.chat.compiled import CompiledTemplate
from gpt_keras.chat.compiler import compile_for, compile_template
from gpt_keras.chat.json_graph import parse_messages, parse_spans, parse_strings
from gpt_keras.chat.template import render, render_segments, token_variables

__all__ = [
    "CompiledTemplate",
    "compile_for",
    "compile_template",
    "parse_messages",
    "parse_spans",
    "parse_strings",
    "render",
    "render_segments",
    "token_variables",
]
