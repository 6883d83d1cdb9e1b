// The AI SDK behind the gateway: npm install ai @ai-sdk/openai-compatible, then
// node examples/integrations/ai-sdk.mjs [question] [base URL]

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { streamText } from "ai";

const [question = "How do I bake bread?", baseURL = "http://127.0.0.1:8000/assistant/v1"] = process.argv.slice(2);

const guarded = createOpenAICompatible({
  name: "streamward",
  baseURL, // of a guarded model: the service's address and the upstream's name
  apiKey: process.env.STREAMWARD_KEY ?? "none",
});

const result = streamText({
  model: guarded("smollm2-135m-instruct"),
  prompt: question,
  maxOutputTokens: 60,
  onError: () => {}, // told below
});

for await (const part of result.fullStream) {
  if (part.type === "text-delta") process.stdout.write(part.text);
  if (part.type === "finish") console.log(`\n[${part.finishReason}]`); // content-filter: the guard cut the answer here
  if (part.type === "error") {
    // A prompt that the guard blocks is answered 400 with the code content_filter.
    const { error } = JSON.parse(part.error.responseBody ?? "{}");
    console.log(`[refused with ${part.error.statusCode}: ${error?.code}]`);
  }
}
