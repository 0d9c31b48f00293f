// What the `openai` package for Node can do with a server: one line per capability.
//
//     OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sk-... node openai_node.mjs
//
// prints `ok NAME`, `failed NAME: why` or `skipped NAME: why`, and ends with 1 when anything failed. More variables:
//
//     OPENAI_MODEL, OPENAI_EMBEDDING_MODEL        other models than the platform's own two
//     OPENAI_RESTRICTED_KEY                       a key that may not chat
//     OPENAI_LIMITED_BASE_URL, OPENAI_LIMITED_KEY a server and a key that is allowed one request a minute

import assert from "node:assert/strict";
import OpenAI from "openai";

const { env } = process;
const MODEL = env.OPENAI_MODEL ?? "smollm2-135m-instruct";
const EMBEDDING_MODEL = env.OPENAI_EMBEDDING_MODEL ?? "all-minilm-l6-v2";
const CAPITAL = [{ role: "user", content: "What is the capital of France?" }];
const WEATHER = [{ role: "user", content: "What is the weather in Paris?" }];
const LONG = [{ role: "user", content: "Count from 1 to 1000, one number a line." }];
const CITY = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const PERSON = {
  type: "object",
  properties: { name: { type: "string" }, age: { type: "integer" } },
  required: ["name", "age"],
  additionalProperties: false,
};
const TOOLS = ["get_weather", "get_time"].map((name) => ({
  type: "function",
  function: { name, strict: true, parameters: CITY },
}));
const CANCEL_MS = 15_000;

class Skipped extends Error {}

const client = new OpenAI({ timeout: 300_000 });
const ask = (fields) => client.chat.completions.create({ model: MODEL, messages: CAPITAL, temperature: 0, ...fields });

async function models_list() {
  const ids = [];
  for await (const model of client.models.list()) {
    assert.equal(model.object, "model");
    ids.push(model.id);
  }
  assert.ok(ids.includes(MODEL) && ids.includes(EMBEDDING_MODEL), `only ${ids} are listed`);
}

async function models_retrieve() {
  assert.equal((await client.models.retrieve(MODEL)).id, MODEL);
}

async function chat() {
  const answer = await ask({});
  assert.match(answer.choices[0].message.content, /Paris/);
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
}

async function completions() {
  const fields = { model: MODEL, prompt: "The capital of France is", temperature: 0, max_tokens: 1 };
  assert.match((await client.completions.create(fields)).choices[0].text, /Paris/);
}

async function stream() {
  const chunks = await collected(await ask({ stream: true }));
  assert.match(chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join(""), /Paris/);
  assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
  assert.ok(chunks.every((chunk) => !chunk.usage), "usage was sent though nobody asked for it");
}

async function stream_usage() {
  const chunks = await collected(await ask({ stream: true, stream_options: { include_usage: true } }));
  const last = chunks.pop();
  assert.ok(chunks.every((chunk) => !chunk.usage), "usage was sent before the last chunk");
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.total_tokens, (await ask({})).usage.total_tokens);
}

async function stream_events() {
  const runner = client.chat.completions.stream({ model: MODEL, messages: CAPITAL, temperature: 0 });
  let text = "";
  runner.on("content", (delta) => (text += delta));
  assert.equal(await runner.finalContent(), text);
  assert.match(text, /Paris/);
}

async function stream_cancel() {
  const answer = await ask({ messages: LONG, max_tokens: 1500, ignore_eos: true, stream: true });
  let seen = 0;
  for await (const _ of answer) if (++seen === 5) break; // leaving the loop closes the connection
  const deadline = Date.now() + CANCEL_MS;
  while ((await client.models.retrieve(MODEL)).serving?.requests_running) {
    assert.ok(Date.now() < deadline, `the engine still works ${CANCEL_MS} ms after the stream was closed`);
    await new Promise((done) => setTimeout(done, 200));
  }
  assert.ok((await ask({ max_tokens: 1 })).choices.length);
}

async function collected(answer) {
  const chunks = [];
  for await (const chunk of answer) chunks.push(chunk);
  return chunks;
}

async function tools_required() {
  const answer = await ask({ messages: WEATHER, tools: TOOLS.slice(0, 1), tool_choice: "required" });
  assert.equal(answer.choices[0].finish_reason, "tool_calls");
  isWeatherInParis(answer.choices[0].message.tool_calls[0].function);
}

async function tools_named() {
  const tool_choice = { type: "function", function: { name: "get_weather" } };
  const answer = await ask({ messages: WEATHER, tools: TOOLS, tool_choice });
  isWeatherInParis(answer.choices[0].message.tool_calls[0].function);
}

async function tools_stream() {
  const answer = await ask({ messages: WEATHER, tools: TOOLS.slice(0, 1), tool_choice: "required", stream: true });
  const calls = (await collected(answer)).flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []);
  const text = calls.map((call) => call.function.arguments ?? "").join("");
  isWeatherInParis({ name: calls[0].function.name, arguments: text });
}

function isWeatherInParis(called) {
  assert.equal(called.name, "get_weather");
  assert.deepEqual(JSON.parse(called.arguments), { city: "Paris" });
}

async function json_schema() {
  const answer = await ask({
    messages: [{ role: "user", content: "John is 30 years old. Write his name and age as a JSON object." }],
    response_format: { type: "json_schema", json_schema: { name: "person", strict: true, schema: PERSON } },
  });
  assert.deepEqual(JSON.parse(answer.choices[0].message.content), { name: "John", age: 30 });
}

async function logprobs() {
  const { message, logprobs } = (await ask({ max_tokens: 4, logprobs: true, top_logprobs: 3 })).choices[0];
  assert.equal(logprobs.content.length, 4);
  assert.ok(logprobs.content.every((token) => token.top_logprobs.length === 3 && token.logprob <= 0));
  assert.equal(logprobs.content.map((token) => token.token).join(""), message.content);
}

async function embeddings_float() {
  const input = ["a cat", "a kitten", "the stock market"];
  const answer = await client.embeddings.create({ model: EMBEDDING_MODEL, input, encoding_format: "float" });
  const [cat, kitten, market] = answer.data.map((item) => item.embedding);
  assert.ok(dot(cat, kitten) > dot(cat, market) + 0.2);
}

// The package asks for base64 when nobody names a format, and decodes it.
async function embeddings_base64() {
  const named = await client.embeddings.create({ model: EMBEDDING_MODEL, input: "a cat", encoding_format: "base64" });
  assert.equal(typeof named.data[0].embedding, "string");
  const bytes = Buffer.from(named.data[0].embedding, "base64");
  const numbers = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  const unnamed = (await client.embeddings.create({ model: EMBEDDING_MODEL, input: "a cat" })).data[0].embedding;
  assert.equal(unnamed.length, numbers.length);
  assert.ok(dot(numbers, unnamed) > 0.999);
}

function dot(one, other) {
  return one.reduce((sum, value, index) => sum + value * other[index], 0);
}

async function request_id() {
  const answer = await ask({ max_tokens: 1 });
  assert.ok(answer._request_id, "no x-request-id");
  const { request_id } = await client.models.list().withResponse();
  assert.ok(request_id && request_id !== answer._request_id);
}

async function wrong_key() {
  const unauthorized = client.withOptions({ apiKey: "sk-wrong" });
  await refused(unauthorized.models.list(), OpenAI.AuthenticationError, 401, "invalid_api_key");
}

async function restricted_key() {
  if (!env.OPENAI_RESTRICTED_KEY) throw new Skipped("OPENAI_RESTRICTED_KEY is not set");
  const weak = client.withOptions({ apiKey: env.OPENAI_RESTRICTED_KEY });
  const asked = weak.chat.completions.create({ model: MODEL, messages: CAPITAL });
  await refused(asked, OpenAI.PermissionDeniedError, 403);
}

async function unknown_model() {
  await refused(ask({ model: "no-such-model" }), OpenAI.NotFoundError, 404, "model_not_found");
  await refused(client.models.retrieve("no-such-model"), OpenAI.NotFoundError, 404, "model_not_found");
}

async function unknown_url() {
  await refused(client.get("/no-such-url"), OpenAI.NotFoundError, 404, "unknown_url");
}

async function unknown_url_request_id() {
  assert.ok((await refused(client.get("/no-such-url"), OpenAI.NotFoundError, 404)).requestID, "no x-request-id");
}

async function bad_request() {
  for (const [param, value] of Object.entries({ temperature: 9, messages: [], tool_choice: "perhaps", n: 0 })) {
    const error = await refused(ask({ [param]: value }), OpenAI.BadRequestError, 400);
    assert.equal(error.param, param);
    assert.ok(error.requestID, "no x-request-id");
  }
}

async function rate_limit() {
  const { OPENAI_LIMITED_BASE_URL: baseURL, OPENAI_LIMITED_KEY: apiKey } = env;
  if (!baseURL || !apiKey) throw new Skipped("OPENAI_LIMITED_BASE_URL and OPENAI_LIMITED_KEY are not set");
  const limited = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
  const asked = () => limited.chat.completions.create({ model: "no-such-model", messages: CAPITAL });
  await refused(asked(), OpenAI.NotFoundError, 404);
  const error = await refused(asked(), OpenAI.RateLimitError, 429, "rate_limit_exceeded");
  assert.ok(Number(error.headers.get("retry-after")) > 0);
}

// The error, once it is known to be the right one.
async function refused(promise, kind, status, code) {
  const error = await promise.then(
    () => assert.fail(`was answered instead of refused with ${status}`),
    (reason) => reason,
  );
  assert.equal(error.constructor.name, kind.name, String(error));
  assert.equal(error.status, status);
  if (code) assert.equal(error.code, code);
  return error;
}

const CAPABILITIES = [
  [models_list, models_retrieve, chat, completions, stream, stream_usage, stream_events, stream_cancel],
  [tools_required, tools_named, tools_stream, json_schema, logprobs, embeddings_float, embeddings_base64],
  [request_id, wrong_key, restricted_key, unknown_model, unknown_url, unknown_url_request_id, bad_request, rate_limit],
];

for (const capability of CAPABILITIES.flat()) {
  try {
    await capability();
    console.log(`ok ${capability.name}`);
  } catch (error) {
    const skipped = error instanceof Skipped;
    if (!skipped) process.exitCode = 1;
    console.log(`${skipped ? "skipped" : "failed"} ${capability.name}: ${String(error).replaceAll("\n", " ")}`);
  }
}
