// A guarded model's answer with nothing but fetch: node examples/integrations/fetch.mjs [question] [base URL]
// Works in browsers and in Deno, Bun and Node 18 or later. The gateway sends text only after the guard has released it.

const [question = "How do I bake bread?", baseURL = "http://127.0.0.1:8000/assistant/v1"] = process.argv.slice(2);

const response = await fetch(`${baseURL}/chat/completions`, {
  method: "POST",
  headers: {
    "Content-Type": "application/json",
    Authorization: `Bearer ${process.env.STREAMWARD_KEY ?? "none"}`,
  },
  body: JSON.stringify({
    model: "smollm2-135m-instruct",
    stream: true,
    max_tokens: 60,
    messages: [{ role: "user", content: question }],
  }),
});

if (!response.ok) {
  const { error } = await response.json(); // a prompt that the guard blocks: 400 with the code content_filter
  console.log(`[refused with ${response.status}: ${error.code}]`);
  process.exit();
}

let buffered = "";
for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
  buffered += text;
  const lines = buffered.split("\n");
  buffered = lines.pop();
  for (const line of lines) {
    if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
    const chunk = JSON.parse(line.slice("data: ".length));
    if (chunk.error) console.log(`\n[failed: ${chunk.error.code}]`);
    for (const { delta, finish_reason } of chunk.choices ?? []) {
      process.stdout.write(delta.content ?? "");
      if (finish_reason) console.log(`\n[${finish_reason}]`); // content_filter: the guard cut the answer here
    }
  }
}
