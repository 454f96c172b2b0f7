// A journey of OpenAI's own client: chat, stream, forced tool call, schema, embeddings, responses, errors.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const weather = {
  type: "function",
  function: { name: "get_weather", parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } },
};
const user = (content) => [{ role: "user", content }];
const report = {};

const chat = await client.chat.completions.create({ model: "default", messages: user("Hello"), max_tokens: 8 });
report.chat = { finish: chat.choices[0].finish_reason, isText: typeof chat.choices[0].message.content === "string" };

const whole = await client.chat.completions.create({ model: "default", messages: user("A story"), max_tokens: 24, seed: 1, temperature: 1 });
const stream = await client.chat.completions.create({ model: "default", messages: user("A story"), max_tokens: 24, seed: 1, temperature: 1, stream: true });
let streamed = "";
for await (const chunk of stream) streamed += chunk.choices[0]?.delta?.content ?? "";
report.stream = { isWhole: streamed === whole.choices[0].message.content };

const called = await client.chat.completions.create({
  model: "default", messages: user("Weather in Oslo?"), tools: [weather], tool_choice: "required", max_tokens: 64, temperature: 0,
});
const call = called.choices[0].message.tool_calls[0].function;
report.tool = { name: call.name, keys: Object.keys(JSON.parse(call.arguments)) };

const cut = await client.chat.completions.create({
  model: "default", messages: user("Weather"), tools: [weather], tool_choice: "required", max_tokens: 6, temperature: 0,
});
report.cut = { content: cut.choices[0].message.content, finish: cut.choices[0].finish_reason };

const schema = { type: "object", properties: { name: { type: "string", maxLength: 8 }, age: { type: "integer" } }, required: ["name", "age"], additionalProperties: false };
const structured = await client.chat.completions.create({
  model: "default", messages: user("Anna is 12"), max_tokens: 64, response_format: { type: "json_schema", json_schema: { name: "person", schema, strict: true } },
});
report.schema = { keys: Object.keys(JSON.parse(structured.choices[0].message.content)) };

const embeddings = await client.embeddings.create({ model: "default", input: ["wind", "sea"], encoding_format: "float" });
report.embeddings = { count: embeddings.data.length, dims: embeddings.data[0].embedding.length };

const first = await client.responses.create({ model: "default", input: "Hello", max_output_tokens: 8 });
const second = await client.responses.create({ model: "default", input: "And then?", previous_response_id: first.id, max_output_tokens: 8 });
const kept = await client.responses.retrieve(first.id);
report.responses = { goesOn: second.previous_response_id === first.id, isKept: kept.output_text === first.output_text };

const failure = async (work) => { try { await work(); return null; } catch (error) { return { status: error.status, code: error.code, message: error.message }; } };
report.unknownModel = await failure(() => client.chat.completions.create({ model: "none-such", messages: user("x") }));
report.tooLong = await failure(() => client.chat.completions.create({ model: "default", messages: user("word ".repeat(40000)) }));

console.log(JSON.stringify(report));
