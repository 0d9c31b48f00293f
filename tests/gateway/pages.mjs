// What a page of somebody's application does: OpenAI's SDK, in the browser, at a platform of another origin.
import OpenAI, { APIConnectionError } from "/openai/index.mjs";

const { platform, key, model } = Object.fromEntries(new URLSearchParams(location.search));
const options = { baseURL: `${platform}/v1`, maxRetries: 0, dangerouslyAllowBrowser: true };
const client = new OpenAI({ ...options, apiKey: key });
const messages = [{ role: "user", content: "say it" }];
const found = {};

async function tried(name, work) {
  try {
    found[name] = await work();
  } catch (error) {
    const unheard = error instanceof APIConnectionError;
    found[name] = { unheard, status: error.status ?? null, code: error.code ?? null, request: error.requestID ?? null };
  }
}

await tried("list", async () => {
  const ids = [];
  for await (const each of client.models.list()) ids.push(each.id);
  return ids;
});
await tried("chat", async () => {
  const { data, response } = await client.chat.completions.create({ model, messages, max_tokens: 3 }).withResponse();
  return { text: data.choices[0].message.content, request: response.headers.get("x-request-id") };
});
await tried("stream", async () => {
  let chunks = 0;
  for await (const chunk of await client.chat.completions.create({ model, messages, max_tokens: 3, stream: true })) {
    chunks += chunk.choices.length;
  }
  return chunks;
});
await tried("wrong key", () => new OpenAI({ ...options, apiKey: "sk-wrong" }).models.list());
await tried("unknown model", () => client.chat.completions.create({ model: "unknown", messages }));
await tried("unknown path", () => client.get("/no/such/path"));
await tried("delete", () => client.models.delete("unknown"));
document.body.textContent = JSON.stringify(found);
document.title = "done";
