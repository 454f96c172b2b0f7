"""Chat templates in Jinja for other programs (transformers, llama.cpp), written into what we export.

Ours are never rendered by us: `chat.py` places control tokens by id. A template can only build text; on a vocabulary
that adds a space after each control token (sentencepiece) it yields the same ids, which the tests hold it to.
Messages are taken as they come: neighbouring messages of one role are not merged, as text templates cannot.
"""

from __future__ import annotations

from collections.abc import Mapping

_PLACES = """\
{{- bos_token }}
{%- set ns = namespace(first=-1, last=-1, system='') %}
{%- for message in messages %}
{%- if message['role'] == 'user' %}
{%- if ns.first < 0 %}{%- set ns.first = loop.index0 %}{%- endif %}
{%- set ns.last = loop.index0 %}
{%- elif message['role'] == 'system' %}
{%- set ns.system = ns.system + message['content'] + '\\n\\n' %}
{%- endif %}
{%- endfor %}
"""

_TOOLS = """\
{%- if tools is defined and tools and loop.index0 == ns.@PLACE@ %}
{{- '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}
{%- endif %}
"""

_LIST_CALLS = """\
{%- if message['tool_calls'] is defined and message['tool_calls'] %}
{{- '[TOOL_CALLS][' }}
{%- for call in message['tool_calls'] %}
{%- set arguments = call['function']['arguments'] %}
{{- '{"name": ' + call['function']['name'] | tojson + ', "arguments": ' }}
{{- arguments if arguments is string else arguments | tojson }}
{{- ', "id": ' + call['id'] | tojson + '}' }}
{{- ', ' if not loop.last else ']' }}
{%- endfor %}
{%- endif %}
"""

_NAMED_CALLS = """\
{%- if message['tool_calls'] is defined and message['tool_calls'] %}
{%- for call in message['tool_calls'] %}
{%- set arguments = call['function']['arguments'] %}
{{- '[TOOL_CALLS]' + call['function']['name']@CALL_ID@ + '[ARGS]' }}
{{- arguments if arguments is string else arguments | tojson }}
{%- endfor %}
{%- endif %}
"""

_BODY = """\
{%- for message in messages %}
{%- if message['role'] == 'user' %}
@TOOLS@\
{{- '[INST]' + @USER@ + '[/INST]' }}
{%- elif message['role'] == 'assistant' %}
{%- if message['content'] is defined and message['content'] %}
{{- message['content'] }}
{%- endif %}
@CALLS@\
{%- if not (loop.last and message['prefix'] is defined and message['prefix']) %}
{{- eos_token }}
{%- endif %}
{%- elif message['role'] == 'tool' %}
{{- '[TOOL_RESULTS]' + @RESULT@ + '[/TOOL_RESULTS]' }}
{%- elif message['role'] == 'system' %}
@SYSTEM@\
{%- else %}
{{- raise_exception('role ' + message['role'] + ' is not known') }}
{%- endif %}
{%- endfor %}
"""

_SYSTEM_IN_USER = "(ns.system if loop.index0 == ns.last else '') + message['content']"
_SYSTEM_IN_PLACE = "{{- '[SYSTEM_PROMPT]' + message['content'] + '[/SYSTEM_PROMPT]' }}\n"


def _template(*, tools: str, user: str, calls: str, result: str, system: str) -> str:
    body = _BODY.replace("@TOOLS@", tools).replace("@USER@", user).replace("@CALLS@", calls)
    return _PLACES + body.replace("@RESULT@", result).replace("@SYSTEM@", system)


_V3 = _template(
    tools=_TOOLS.replace("@PLACE@", "last"),
    user=_SYSTEM_IN_USER,
    calls=_LIST_CALLS,
    result=(
        """'{"content": ' + message['content'] | tojson"""
        """ + ', "call_id": ' + message['tool_call_id'] | tojson + '}'"""
    ),
    system="",
)
_V7 = _template(
    tools=_TOOLS.replace("@PLACE@", "last"),
    user="message['content']",
    calls=_LIST_CALLS,
    result="message['tool_call_id'] + '[TOOL_CONTENT]' + message['content']",
    system=_SYSTEM_IN_PLACE,
)
_V11 = _V7.replace(_LIST_CALLS, _NAMED_CALLS.replace("@CALL_ID@", " + '[CALL_ID]' + call['id']"))
_V13 = _template(
    tools=_TOOLS.replace("@PLACE@", "first"),
    user="message['content']",
    calls=_NAMED_CALLS.replace("@CALL_ID@", ""),
    result="message['content']",
    system=_SYSTEM_IN_PLACE,
)
_TEXT_MARKS = """\
{%- for message in messages %}
{%- if message['role'] == 'user' %}
{{- @BOS@'[INST] ' + (@SYSTEM@ if loop.index0 == ns.first else '') + message['content'] + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}
{{- ' ' + message['content'] + @EOS@ }}
{%- endif %}
{%- endfor %}
"""
_V1 = _PLACES + _TEXT_MARKS.replace("@BOS@", "").replace("@SYSTEM@", "ns.system").replace("@EOS@", "eos_token")
_LLAMA2 = _PLACES.replace("{{- bos_token }}\n", "") + _TEXT_MARKS.replace("@BOS@", "bos_token + ").replace(
    "@SYSTEM@", r"('<<SYS>>\n' + ns.system[:-2] + '\n<</SYS>>\n\n' if ns.system else '')"
).replace("@EOS@", "' ' + eos_token")

TEMPLATES: Mapping[str, str] = {"v1": _V1, "v3": _V3, "v7": _V7, "v11": _V11, "v13": _V13, "llama2": _LLAMA2}
"""Template by name of the chat format. v2 has none: its tool results cannot be told apart in text."""
