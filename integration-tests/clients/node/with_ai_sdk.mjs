// Vercel's AI SDK with its provider for servers that speak OpenAI's API.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, jsonSchema, streamText, tool } from "ai";
import { all, asked, refusal, tell } from "./report.mjs";

const provider = createOpenAICompatible({
  name: "ribbon",
  baseURL: `${asked.base}/v1`,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const greedy = { temperature: 0, maxOutputTokens: asked.max_tokens, maxRetries: 0 };
const story = { ...greedy, model: provider(asked.model), prompt: asked.story };
const weather = {
  ...greedy,
  model: provider(asked.model),
  prompt: asked.weather,
  tools: { [asked.tool_name]: tool({ description: asked.tool_description, inputSchema: jsonSchema(asked.tool_parameters) }) },
};
const counted = (usage) => [usage.inputTokens, usage.outputTokens];

await tell("ai", {
  async text() {
    const answer = await generateText(story);
    return { text: answer.text, usage: counted(answer.usage), finish_reason: answer.finishReason };
  },
  async stream() {
    const answer = streamText(story);
    const pieces = await all(answer.textStream);
    return { pieces, usage: counted(await answer.usage) };
  },
  async tool_call() {
    const [call] = (await generateText(weather)).toolCalls;
    return [call.toolName, call.input];
  },
  async streamed_tool_call() {
    const [call] = await streamText(weather).toolCalls;
    return [call.toolName, call.input];
  },
  async object() {
    const answer = await generateObject({ ...story, schema: jsonSchema(asked.schema), maxOutputTokens: 200 });
    return answer.object;
  },
  async completion() {
    const model = provider.completionModel(asked.model);
    return (await generateText({ ...greedy, model, prompt: asked.prompt })).text;
  },
  too_long: () => refusal(() => generateText({ ...story, prompt: asked.too_long })),
});
