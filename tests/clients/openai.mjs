// OpenAI's client for JavaScript against the server whose address is given; prints what it got as JSON.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is the capital of France?" }];
const found = {};

found.models = (await client.models.list()).data.map((model) => model.id);

const chat = await client.chat.completions.create({ model: "smollm2", messages, temperature: 0, max_tokens: 24 });
found.chat = chat.choices[0].message.content;
found.usage = chat.usage;

const stream = await client.chat.completions.create({
  model: "smollm2", messages, temperature: 0, max_tokens: 24, stream: true, stream_options: { include_usage: true },
});
found.streamed = "";
for await (const chunk of stream) {
  found.streamed += chunk.choices[0]?.delta?.content ?? "";
  if (chunk.usage) found.streamed_usage = chunk.usage;
}

const completion = await client.completions.create({
  model: "smollm2", prompt: "Seoul is the capital of", temperature: 0, max_tokens: 4, logprobs: 1,
});
found.completion = completion.choices[0].text;
found.logprobs = completion.choices[0].logprobs.token_logprobs.length;

const tools = [{
  type: "function",
  function: {
    name: "get_weather", description: "Get the current weather of a city",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
}];
const asked = [{ role: "user", content: "What is the weather like in Paris?" }];
const runner = client.chat.completions.stream({
  model: "smollm2", messages: asked, tools, tool_choice: "required", parallel_tool_calls: false, temperature: 0,
});
const called = await runner.finalChatCompletion();
found.call = called.choices[0].message.tool_calls[0].function;

const form = await client.chat.completions.create({
  model: "smollm2", messages, temperature: 0, max_tokens: 60,
  response_format: {
    type: "json_schema",
    json_schema: { name: "city", schema: { type: "object", properties: { city: { enum: ["Paris", "Rome"] } }, required: ["city"] } },
  },
});
found.form = JSON.parse(form.choices[0].message.content);

try {
  await client.chat.completions.create({ model: "none", messages });
} catch (problem) {
  found.error = { kind: problem.constructor.name, status: problem.status, code: problem.code };
}
console.log(JSON.stringify(found));
