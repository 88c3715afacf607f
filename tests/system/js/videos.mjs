// What programs do with the official `openai` package, a scenario a run:
//
//   node videos.mjs SCENARIO '{"its": "arguments"}'
//
// OPENAI_BASE_URL and OPENAI_API_KEY say where, as for any program that uses the package. What
// the scenario found is printed as JSON; whatever it throws ends the run with status 1.

import OpenAI, { AzureOpenAI, toFile } from "openai";
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { setTimeout as pause } from "node:timers/promises";

const client = new OpenAI();

async function polled(id) {
  for (;;) {
    const { data, response } = await client.videos.retrieve(id).withResponse();
    if (data.status === "completed" || data.status === "failed") return data;
    await pause(Number(response.headers.get("openai-poll-after-ms")));
  }
}

async function digest(response) {
  const hash = createHash("sha256");
  let bytes = 0;
  for await (const chunk of response.body) {
    hash.update(chunk);
    bytes += chunk.length;
  }
  const { headers } = response;
  return {
    bytes,
    sha256: hash.digest("hex"),
    type: headers.get("content-type"),
    length: Number(headers.get("content-length")),
  };
}

// The error of a call that has to fail, by the package's own class.
async function refusal(call) {
  try {
    await call;
  } catch (error) {
    const name = error.constructor.name;
    assert(error instanceof OpenAI.APIError && error instanceof OpenAI[name], error);
    const { status, code, param, type, requestID, message } = error;
    return { name, status, code, param, type, requestID, message };
  }
  throw new Error("the call was answered");
}

const PICTURE = { type: "image/png" };
const UPLOADS = {
  file: async (path) => new File([await readFile(path)], "cat.png", PICTURE),
  stream: (path) => createReadStream(path),
  buffer: async (path) => toFile(await readFile(path), "cat.png", PICTURE),
  response: async (path) =>
    new Response(await readFile(path), { headers: { "content-type": PICTURE.type } }),
  data_url: async (path) => ({
    image_url: `data:image/png;base64,${(await readFile(path)).toString("base64")}`,
  }),
};

const SCENARIOS = {
  async life({ wanted }) {
    const { data: made, response } = await client.videos.create(wanted).withResponse();
    const ended = await polled(made.id);
    const file = await digest(await client.videos.downloadContent(made.id));
    return { made, adjusted: response.headers.get("reelway-adjusted"), ended, file };
  },

  async ended({ wanted }) {
    return await polled((await client.videos.create(wanted)).id);
  },

  async pages({ query }) {
    const ids = [];
    for await (const video of client.videos.list(query)) ids.push(video.id);
    const pages = [];
    for await (const page of (await client.videos.list(query)).iterPages()) {
      pages.push(page.data.map((video) => video.id));
    }
    return { ids, pages };
  },

  async remove({ id }) {
    const { data, response } = await client.videos.delete(id).withResponse();
    return {
      told: data,
      cancel: response.headers.get("reelway-cancel"),
      afterwards: await refusal(client.videos.retrieve(id)),
    };
  },

  async variants({ id, variants }) {
    const files = {};
    for (const variant of variants) {
      files[variant] = (await digest(await client.videos.downloadContent(id, { variant }))).type;
    }
    return files;
  },

  async uploads({ model, path }) {
    const ids = {};
    for (const [way, open] of Object.entries(UPLOADS)) {
      const wanted = { model, prompt: "a cat", input_reference: await open(path) };
      ids[way] = (await client.videos.create(wanted)).id;
    }
    return ids;
  },

  async derive({ id, path }) {
    const prompt = "a dog";
    return {
      remix: await client.videos.remix(id, { prompt }),
      edit: await client.videos.edit({ prompt, video: { id } }),
      edit_of_file: await client.videos.edit({ prompt, video: createReadStream(path) }),
      extend: await client.videos.extend({ prompt, seconds: "8", video: { id } }),
    };
  },

  async refusals({ id }) {
    const { videos } = client;
    const stranger = new OpenAI({ apiKey: "sk-proj-of-somebody-else" }).videos;
    const prompt = "a cat";
    return {
      prompt: await refusal(videos.create({ prompt: "" })),
      seconds: await refusal(videos.create({ prompt, seconds: "soon" })),
      model: await refusal(videos.create({ prompt, model: "no-such" })),
      moderation: await refusal(videos.create({ prompt: "a forbidden-prompt" })),
      missing: await refusal(videos.retrieve("video_none")),
      variant: await refusal(videos.downloadContent(id, { variant: "poster" })),
      path: await refusal(client.get("/no/such/path")),
      key: await refusal(stranger.create({ prompt })),
      download_key: await refusal(stranger.downloadContent(id)),
    };
  },

  // `options` are the package's own: timeout, maxRetries.
  async create({ wanted, options = {} }) {
    const another = client.withOptions(options);
    assert.equal(another.maxRetries, options.maxRetries ?? 2);
    return await another.videos.create(wanted);
  },

  async create_from_file({ wanted, path }) {
    return await client.videos.create({ ...wanted, input_reference: await UPLOADS.file(path) });
  },

  // The package never repeats a stream by itself: its program does, under a key of its own.
  async create_from_stream({ wanted, path, key }) {
    const create = () =>
      client.videos.create(
        { ...wanted, input_reference: createReadStream(path) },
        { headers: { "Idempotency-Key": key } },
      );
    return { first: await refusal(create()), second: await create() };
  },

  async refused({ wanted, options }) {
    return await refusal(client.withOptions(options).videos.create(wanted));
  },

  async same_key({ wanted, key }) {
    const options = { headers: { "Idempotency-Key": key } };
    const first = await client.videos.create(wanted, options);
    const { data, response } = await client.videos.create(wanted, options).withResponse();
    const other = await refusal(client.videos.create({ ...wanted, prompt: "a dog" }, options));
    const replayed = response.headers.get("idempotent-replayed");
    return { first: first.id, again: data.id, replayed, other };
  },

  // Reads `enough` bytes and leaves.
  async abort({ id, enough }) {
    const controller = new AbortController();
    const response = await client.videos.downloadContent(id, {}, { signal: controller.signal });
    let bytes = 0;
    try {
      for await (const chunk of response.body) {
        bytes += chunk.length;
        if (bytes >= enough) controller.abort();
      }
    } catch (error) {
      return { bytes, name: error.name };
    }
    throw new Error("it ended");
  },

  // A file that cannot be finished: what was read of it, and how reading ended.
  async cut({ id }) {
    const response = await client.videos.downloadContent(id);
    let bytes = 0;
    try {
      for await (const chunk of response.body) bytes += chunk.length;
    } catch (error) {
      return { bytes, name: error.name };
    }
    throw new Error(`it ended well after ${bytes} bytes`);
  },

  async events({ wanted }) {
    const made = await client.videos.create(wanted);
    const seen = [];
    for await (const video of await client.get(`/videos/${made.id}/events`, { stream: true })) {
      seen.push([video.id === made.id, video.status]);
    }
    return seen;
  },

  async quote({ wanted }) {
    return await client.post("/videos", { body: wanted, query: { dry_run: 1 } });
  },

  async models() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    return { ids, one: await client.models.retrieve(ids[0]) };
  },

  // An Azure client's key goes into `api-key`.
  async azure({ wanted }) {
    const { OPENAI_BASE_URL: baseURL, OPENAI_API_KEY: apiKey } = process.env;
    const azure = new AzureOpenAI({ baseURL, apiKey, apiVersion: "preview" });
    return await azure.videos.create(wanted);
  },

  // The package asks a function for the key at each request.
  async rotated({ keys, wanted }) {
    const rotating = new OpenAI({ apiKey: async () => keys.shift() });
    const first = await refusal(rotating.videos.create(wanted));
    return { first, second: await rotating.videos.create(wanted) };
  },

  // `wrong` are bodies and headers that were changed on the way.
  async webhook({ body, headers, secret, wrong }) {
    const event = await client.webhooks.unwrap(body, headers, secret);
    for (const changed of wrong) {
      const given = { body, headers, secret, ...changed };
      await assert.rejects(
        client.webhooks.unwrap(given.body, given.headers, given.secret),
        OpenAI.InvalidWebhookSignatureError,
      );
    }
    return event;
  },
};

const [name, given] = process.argv.slice(2);
console.log(JSON.stringify(await SCENARIOS[name](JSON.parse(given))));
