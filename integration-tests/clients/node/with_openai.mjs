// OpenAI's client for Node.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { all, asked, refusal, tell } from "./report.mjs";

const client = new OpenAI({ baseURL: `${asked.base}/v1`, apiKey: "none", maxRetries: 0 });
const user = (content) => [{ role: "user", content }];
const greedy = { model: asked.model, temperature: 0, max_tokens: asked.max_tokens };
const chatOf = (content, fields) => client.chat.completions.create({ ...greedy, messages: user(content), ...fields });
const counted = (usage) => [usage.prompt_tokens, usage.completion_tokens];
const named = (call) => [call.function.name, call.function.arguments];

await tell("openai", {
  async chat() {
    const answer = await chatOf(asked.story);
    return { text: answer.choices[0].message.content, usage: counted(answer.usage) };
  },
  async chat_stream() {
    const chunks = await all(await chatOf(asked.story, { stream: true, stream_options: { include_usage: true } }));
    const pieces = chunks.map((chunk) => chunk.choices[0]?.delta.content).filter(Boolean);
    return { pieces, usage: counted(chunks.at(-1).usage) };
  },
  async tool_call() {
    const answer = await chatOf(asked.weather, { tools: [asked.tool] });
    return named(answer.choices[0].message.tool_calls[0]);
  },
  async streamed_tool_call() {
    const asking = { ...greedy, messages: user(asked.weather), tools: [asked.tool] };
    const answer = await client.chat.completions.stream(asking).finalChatCompletion();
    return named(answer.choices[0].message.tool_calls[0]);
  },
  async parsed() {
    const person = z.object({ name: z.string(), age: z.number().int() });
    const wanted = { max_tokens: 400, response_format: zodResponseFormat(person, "person") };
    const answer = await client.chat.completions.parse({ ...greedy, messages: user(asked.story), ...wanted });
    return person.safeParse(answer.choices[0].message.parsed).success;
  },
  async completion() {
    return (await client.completions.create({ ...greedy, prompt: asked.prompt })).choices[0].text;
  },
  async completion_stream() {
    const chunks = await all(await client.completions.create({ ...greedy, prompt: asked.prompt, stream: true }));
    return chunks.map((chunk) => chunk.choices[0].text);
  },
  async models() {
    return (await all(client.models.list())).map((model) => model.id);
  },
  too_long: () => refusal(() => chatOf(asked.too_long)),
  unknown_route: () => refusal(() => client.responses.create({ model: asked.model, input: "hi" })),
});
