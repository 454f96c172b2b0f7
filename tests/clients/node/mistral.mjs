// A journey of Mistral's own JavaScript client.
import { Mistral } from "@mistralai/mistralai";

const client = new Mistral({ serverURL: process.argv[2], apiKey: "none" });
const user = (content) => [{ role: "user", content }];
const report = {};

const models = await client.models.list();
report.models = { hasDefault: models.data.some((model) => model.id === "default"), names: models.data.every((model) => model.name === model.id) };

const chat = await client.chat.complete({ model: "mistral-small-latest", messages: user("Hello"), maxTokens: 8 });
report.chat = { isText: typeof chat.choices[0].message.content === "string" };

let streamed = "";
for await (const event of await client.chat.stream({ model: "default", messages: user("A story"), maxTokens: 12 }))
  streamed += event.data.choices[0]?.delta?.content ?? "";
report.stream = { isText: streamed.length > 0 };

const tools = [{ type: "function", function: { name: "get_weather", parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } } }];
const called = await client.chat.complete({ model: "default", messages: user("Weather in Oslo?"), tools, toolChoice: "any", maxTokens: 64, temperature: 0 });
report.tool = { name: called.choices[0].message.toolCalls?.[0]?.function.name };

const reasoned = await client.chat.complete({ model: "default", messages: user("Hello"), maxTokens: 8, promptMode: "reasoning" });
report.reasoning = { isText: typeof reasoned.choices[0].message.content === "string" };

const fim = await client.fim.complete({ model: "default", prompt: "def f(", suffix: "return x", maxTokens: 8 });
report.fim = { isText: typeof fim.choices[0].message.content === "string" };

const embeddings = await client.embeddings.create({ model: "mistral-embed", inputs: ["wind", "sea"] });
report.embeddings = { count: embeddings.data.length };

try {
  await client.chat.complete({ model: "default", messages: [], maxTokens: 8 });
} catch (error) {
  report.invalid = { name: error.name, status: error.statusCode, detail: (error.body ?? "").includes("detail") };
}
console.log(JSON.stringify(report));
