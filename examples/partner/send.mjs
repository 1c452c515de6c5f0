// Push a file of results, or ask what became of it.
//
//     node send.mjs URL ID [FILE TYPE]
//
// The secret is in WEBHOOK_SECRET. Node 18 or newer, and nothing else.

import { createHmac } from "node:crypto";
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

const AGAIN = [408, 409, 429, 500, 502, 503, 504];
const TRIES = 8;

// Sign exactly the bytes that are sent: of a compressed file, the compressed ones.
function sign(secret, id, timestamp, body) {
  const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  const mac = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body);
  return `v1,${mac.digest("base64")}`;
}

// With `media` it is a POST, else a GET.
async function send(url, secret, id, body = "", media = undefined) {
  for (let triesLeft = TRIES - 1; ; triesLeft--) {
    const timestamp = Math.floor(Date.now() / 1000); // of this attempt; the id stays
    const headers = {
      "webhook-id": id,
      "webhook-timestamp": String(timestamp),
      "webhook-signature": sign(secret, id, timestamp, body),
      ...media,
    };
    let waitS = 5;
    try {
      const answer = await fetch(url, media ? { method: "POST", headers, body } : { headers });
      const text = await answer.text();
      if (!AGAIN.includes(answer.status) || !triesLeft) return [answer.status, text];
      waitS = Number(answer.headers.get("retry-after") ?? waitS);
    } catch (error) {
      if (!triesLeft) throw error; // no answer: it may have arrived all the same
    }
    await sleep(waitS * 1000);
  }
}

const [url, id, path, type] = process.argv.slice(2);
let body, media;
if (path) {
  body = await readFile(path);
  media = { "content-type": type };
  if (path.endsWith(".gz")) media["content-encoding"] = "gzip";
}
const [status, text] = await send(url, process.env.WEBHOOK_SECRET, id, body, media);
console.log(text);
if (status >= 300) {
  console.error(`refused: ${status}`);
  process.exitCode = 1;
}
