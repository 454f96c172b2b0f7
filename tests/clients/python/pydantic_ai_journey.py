"""A journey of Pydantic AI: Mistral's and OpenAI's models, text and typed output."""

import asyncio
import json
import sys

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.mistral import MistralModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.mistral import MistralProvider
from pydantic_ai.providers.openai import OpenAIProvider

url = sys.argv[1]


class City(BaseModel):
    size: int


async def journey(model):
    settings = {"max_tokens": 64, "temperature": 0}
    agent = Agent(model, instructions="Be brief.", model_settings=settings)
    first = await agent.run("Hello")
    second = await agent.run("And then?", message_history=first.all_messages())
    async with agent.run_stream("A story") as stream:
        streamed = await stream.get_output()
    found = {"first": type(first.output).__name__, "second": type(second.output).__name__, "streamed": bool(streamed)}
    if not isinstance(model, MistralModel):
        typed = await Agent(model, output_type=NativeOutput(City), model_settings=settings).run("How big is Oslo?")
        found["size"] = isinstance(typed.output.size, int)
    return found


async def main():
    openai = OpenAIProvider(base_url=f"{url}/v1", api_key="none")
    mistral = MistralProvider(api_key="none", base_url=url)
    models = {
        "mistral": MistralModel("default", provider=mistral),
        "chat": OpenAIChatModel("default", provider=openai),
        "responses": OpenAIResponsesModel("default", provider=openai),
    }
    print(json.dumps({name: await journey(model) for name, model in models.items()}))


asyncio.run(main())
