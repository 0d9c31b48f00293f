// What the `openai` package for Node can do with a server's files and vector stores: one line per capability.
//
//     OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sk-... node openai_node_storage.mjs
//
// prints `ok NAME` or `failed NAME: why`, and ends with 1 when anything failed. It deletes what it creates.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import OpenAI, { toFile } from "openai";

const client = new OpenAI({ timeout: 300_000 });
// Contents of one project are stored once: each run has its own.
const RUN = randomBytes(4).toString("hex");
const PUMP = `# Pump\n\nThe red pump moves water out of the well. Run ${RUN}.`;
const CAT = `# Cat\n\nA cat sleeps all day on the warm windowsill. Run ${RUN}.`;
const POLL = { pollIntervalMs: 300 };

const named = (name, text) => toFile(Buffer.from(text), name);

async function withFile(content, use) {
  const file = await client.files.create({ file: await content, purpose: "assistants" });
  try {
    await use(file);
  } finally {
    await client.files.delete(file.id);
  }
}

// The store and the files in it are deleted.
async function withStore(use) {
  const store = await client.vectorStores.create({ name: `node ${RUN}` });
  try {
    await use(store);
  } finally {
    const files = [];
    for await (const file of client.vectorStores.files.list(store.id)) files.push(file.id);
    await client.vectorStores.delete(store.id);
    for (const file of files) await client.files.delete(file);
  }
}

async function files_create() {
  await withFile(named("pump.md", PUMP), async (file) => {
    assert.deepEqual([file.object, file.bytes, file.filename], ["file", PUMP.length, "pump.md"]);
    assert.equal((await client.files.retrieve(file.id)).id, file.id);
    assert.equal(await (await client.files.content(file.id)).text(), PUMP);
    const ids = [];
    for await (const each of client.files.list({ purpose: "assistants", limit: 1 })) ids.push(each.id);
    assert.ok(ids.includes(file.id));
  });
}

async function files_stream() {
  const folder = await mkdtemp(join(tmpdir(), "node-"));
  const text = `${RUN} `.repeat(40_000);
  try {
    await writeFile(join(folder, "long.txt"), text);
    await withFile(createReadStream(join(folder, "long.txt")), async (file) => {
      assert.equal(file.filename, "long.txt");
      let bytes = 0;
      for await (const part of (await client.files.content(file.id)).body) bytes += part.length;
      assert.equal(bytes, text.length);
    });
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function uploads() {
  const upload = await client.uploads.create({ bytes: 8, filename: "a.txt", mime_type: "text/plain", purpose: "assistants" });
  const part_ids = [];
  for (const text of ["abcd", "efgh"])
    part_ids.push((await client.uploads.parts.create(upload.id, { data: await named("part", text) })).id);
  const done = await client.uploads.complete(upload.id, { part_ids });
  assert.equal(done.status, "completed");
  assert.equal(await (await client.files.content(done.file.id)).text(), "abcdefgh");
  await client.files.delete(done.file.id);
}

async function store_files() {
  await withStore(async (store) => {
    const added = await client.vectorStores.files.uploadAndPoll(store.id, await named("pump.md", PUMP), POLL);
    assert.equal(added.status, "completed", JSON.stringify(added.last_error));
    assert.equal((await client.vectorStores.retrieve(store.id)).file_counts.completed, 1);
    const parts = [];
    for await (const part of client.vectorStores.files.content(added.id, { vector_store_id: store.id })) parts.push(part.text);
    assert.match(parts.join(""), /red pump/);
  });
}

async function batches_and_search() {
  await withStore(async (store) => {
    const files = [await named("pump.md", PUMP), await named("cat.md", CAT)];
    const batch = await client.vectorStores.fileBatches.uploadAndPoll(store.id, { files }, POLL);
    assert.deepEqual([batch.status, batch.file_counts.completed], ["completed", 2]);
    const found = [];
    for await (const each of client.vectorStores.search(store.id, { query: "sleeping animals" })) found.push(each);
    assert.deepEqual(found.map((each) => each.filename), ["cat.md", "pump.md"]);
    assert.match(found[0].content[0].text, /windowsill/);
    const asked = { query: "What is a pump?", rewrite_query: true, max_num_results: 1 };
    assert.equal((await client.vectorStores.search(store.id, asked)).data[0].filename, "pump.md");
  });
}

async function unknown_ids() {
  await refused(client.files.retrieve("file-unknown"));
  await refused(client.vectorStores.retrieve("vs_unknown"));
  await refused(client.vectorStores.search("vs_unknown", { query: "pump" }));
}

async function refused(promise) {
  const error = await promise.then(
    () => assert.fail("was answered instead of refused"),
    (reason) => reason,
  );
  assert.ok(error instanceof OpenAI.NotFoundError, String(error));
  assert.ok(error.requestID, "no x-request-id");
}

const CAPABILITIES = [
  [files_create, files_stream, uploads, store_files, batches_and_search, unknown_ids],
];

for (const capability of CAPABILITIES.flat()) {
  try {
    await capability();
    console.log(`ok ${capability.name}`);
  } catch (error) {
    process.exitCode = 1;
    console.log(`failed ${capability.name}: ${String(error).replaceAll("\n", " ")}`);
  }
}
