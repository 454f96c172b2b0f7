// A journey of the AI SDK through each of its three providers that speak to this server.
import { createMistral } from "@ai-sdk/mistral";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = `${process.argv[2]}/v1`;
const openai = createOpenAI({ baseURL, apiKey: "none" });
const providers = {
  responses: openai("default"),
  chat: openai.chat("default"),
  compatible: createOpenAICompatible({ name: "tramontane", baseURL, supportsStructuredOutputs: true })("default"),
  mistral: createMistral({ baseURL, apiKey: "none" })("default"),
};
const getWeather = tool({ description: "The weather in a city", inputSchema: z.object({ city: z.string() }) });
const report = {};
for (const [name, model] of Object.entries(providers)) {
  const settings = { model, maxRetries: 0, maxOutputTokens: 64 };
  const first = await generateText({ ...settings, maxOutputTokens: 12, prompt: "Hello" });
  const messages = [{ role: "user", content: "Hello" }, ...first.response.messages, { role: "user", content: "And then?" }];
  const second = await generateText({ ...settings, maxOutputTokens: 12, messages });
  let streamed = "";
  for await (const text of streamText({ ...settings, maxOutputTokens: 12, prompt: "A story" }).textStream) streamed += text;
  const called = await generateText({ ...settings, prompt: "Weather in Oslo?", tools: { getWeather }, toolChoice: "required", temperature: 0 });
  const { object } = await generateObject({ ...settings, prompt: "Anna is 12", schema: z.object({ age: z.number().int() }) });
  let message = null;
  try {
    await generateText({ ...settings, prompt: "word ".repeat(40000) });
  } catch (error) {
    message = error.message;
  }
  report[name] = {
    hasText: first.text.length > 0 || first.finishReason === "stop",
    second: typeof second.text,
    streamed: streamed.length > 0,
    tool: called.toolCalls[0]?.toolName,
    toolKeys: Object.keys(called.toolCalls[0]?.input ?? {}),
    isInteger: Number.isInteger(object.age),
    message,
  };
}
console.log(JSON.stringify(report));
