// The Hub's inference client for Node.
import { InferenceClient } from "@huggingface/inference";
import { all, asked, refusal, tell } from "./report.mjs";

const client = new InferenceClient("none", { endpointUrl: asked.base });
const user = (content) => [{ role: "user", content }];
const greedy = { model: asked.model, temperature: 0, max_tokens: asked.max_tokens };
const texts = (inputs) => client.textGeneration({ inputs, parameters: { max_new_tokens: asked.max_tokens, temperature: 0 } });

await tell("@huggingface/inference", {
  async chat() {
    const { choices, usage } = await client.chatCompletion({ ...greedy, messages: user(asked.story) });
    return { text: choices[0].message.content, usage: [usage.prompt_tokens, usage.completion_tokens] };
  },
  async chat_stream() {
    const chunks = await all(client.chatCompletionStream({ ...greedy, messages: user(asked.story) }));
    return chunks.map((chunk) => chunk.choices[0]?.delta.content).filter(Boolean);
  },
  async tool_call() {
    const answer = await client.chatCompletion({ ...greedy, messages: user(asked.weather), tools: [asked.tool] });
    const call = answer.choices[0].message.tool_calls[0].function;
    return [call.name, call.arguments];
  },
  async text_generation() {
    return (await texts(asked.prompt)).generated_text;
  },
  too_long: () => refusal(() => client.chatCompletion({ ...greedy, messages: user(asked.too_long) })),
});
