"""A journey of LangChain's Mistral package."""

import json
import sys

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_mistralai import ChatMistralAI
from pydantic import BaseModel

model = ChatMistralAI(
    endpoint=f"{sys.argv[1]}/v1", api_key="none", model_name="default", max_tokens=64, temperature=0, max_retries=0
)


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"Rain in {city}."


class Person(BaseModel):
    name: str
    age: int


called = model.bind_tools([get_weather], tool_choice="any").invoke("Weather in Oslo?")
[call] = called.tool_calls
history = [
    HumanMessage("Weather in Oslo?"),
    called,
    ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"], name=call["name"]),
]
closing = model.invoke(history)
person = model.with_structured_output(Person, method="json_schema").invoke("Anna is 12 years old.")
print(
    json.dumps(
        {
            "text": isinstance(model.invoke("Hello"), AIMessage),
            "streamed": "".join(str(chunk.content) for chunk in model.stream("A story")),
            "tool": call["name"],
            "keys": sorted(call["args"]),
            "closing": isinstance(closing, AIMessage) and not closing.tool_calls,
            "age": person.age,
        }
    )
)
