"""A journey of litellm through its two providers that speak to this server."""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # its own list of prices, not the network's

import litellm

base = f"{sys.argv[1]}/v1"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
report = {}
for provider in ("mistral", "openai"):
    common = {"model": f"{provider}/default", "api_base": base, "api_key": "none", "num_retries": 0}
    user = [{"role": "user", "content": "Weather in Oslo?"}]
    answer = litellm.completion(messages=user, max_tokens=8, **common)
    stream = litellm.completion(messages=user, max_tokens=8, stream=True, **common)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    called = litellm.completion(messages=user, tools=TOOLS, tool_choice="required", max_tokens=64, **common)
    try:
        litellm.completion(messages=[{"role": "user", "content": "word " * 40_000}], **common)
        too_long = None
    except Exception as error:
        too_long = type(error).__name__
    report[provider] = {
        "text": answer.choices[0].message.content,
        "streamed": streamed,
        "tool": called.choices[0].message.tool_calls[0].function.name,
        "too_long": too_long,
    }
reasoned = litellm.completion(
    model="mistral/magistral-medium-latest", messages=user, max_tokens=8, api_base=base, api_key="none",
    reasoning_effort="high", num_retries=0,
)  # fmt: skip
report["reasoning"] = reasoned.choices[0].message.content
print(json.dumps(report))
