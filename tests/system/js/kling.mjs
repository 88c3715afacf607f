// Kling's own way in, in plain Node: a JWT made by node:crypto, fetch, and a download that is hashed
// as it comes and taken up again where it broke.
//
//   node kling.mjs BASE ACCESS_KEY SECRET_KEY '{"the": "request"}'

import { createHash, createHmac } from "node:crypto";

const [base, accessKey, secretKey, wanted] = process.argv.slice(2);
const encoded = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

function bearer() {
  const now = Math.floor(Date.now() / 1000);
  const claims = { iss: accessKey, exp: now + 1800, nbf: now - 5 };
  const text = `${encoded({ alg: "HS256", typ: "JWT" })}.${encoded(claims)}`;
  return `Bearer ${text}.${createHmac("sha256", secretKey).update(text).digest("base64url")}`;
}

async function call(path, body) {
  const reply = await fetch(`${base}/v1/videos/text2video${path}`, {
    method: body ? "POST" : "GET",
    headers: { Authorization: bearer(), "Content-Type": "application/json" },
    body,
  });
  const { code, message, data } = await reply.json();
  if (code !== 0) throw new Error(`${code}: ${message}`);
  return data;
}

let task = await call("", wanted);
while (task.task_status === "submitted" || task.task_status === "processing") {
  task = await call(`/${task.task_id}?wait=30`);
}
const [{ url }] = task.task_result.videos;
const hash = createHash("sha256");
let bytes = 0;
let requests = 0;
let etag = "";
for (let whole = false; !whole; ) {
  const headers = bytes ? { Range: `bytes=${bytes}-`, "If-Range": etag } : {};
  const file = await fetch(url, { headers });
  requests += 1;
  if (file.status !== (bytes ? 206 : 200)) throw new Error(`HTTP ${file.status}`);
  etag = file.headers.get("etag");
  try {
    for await (const chunk of file.body) {
      hash.update(chunk);
      bytes += chunk.length;
    }
    whole = true;
  } catch (error) {
    if (requests === 3) throw error;
  }
}
const told = { status: task.task_status, bytes, requests, sha256: hash.digest("hex") };
console.log(JSON.stringify(told));
