// Clips that are done: play, look at what they are, ask for the same from a shell or Python.

import { attempt, call, element, json, media, say } from "./api.js";

const list = document.getElementById("clip-list");
const shown = new Set();

export async function showGallery() {
  const { data } = await json("v1/videos?limit=50");
  const clips = data.filter((job) => job.status === "completed");
  for (const job of clips.toReversed()) if (!shown.has(job.id)) await add(job);
  if (!clips.length) say("no clip is done yet");
}

async function add(job) {
  shown.add(job.id);
  const pictures = job.outputs.some((output) => output.variant === "thumbnail");
  const video = element("video", { controls: "", playsinline: "", preload: "none" });
  if (pictures) video.poster = await media(job.id, "thumbnail");
  const load = element("button", { type: "button", onclick: () => attempt(async () => {
    video.src = await media(job.id);
    load.remove();
    await video.play();
  }) }, "Load and play");
  const facts = [job.size, `${Number(job.seconds).toFixed(2)} s`, `${job.fps} fps`, job.task, `seed ${job.seed}`, job.lora].filter(Boolean);
  const card = element("li", {}, video, load, element("p", {}, job.prompt), element("small", {}, facts.join(" · ")), element("div", { class: "row" },
    element("button", { type: "button", onclick: () => copy(curl(job)) }, "Copy as curl"),
    element("button", { type: "button", onclick: () => copy(python(job)) }, "Copy as Python"),
    element("button", { type: "button", onclick: () => attempt(async () => {
      await call(`v1/videos/${job.id}`, { method: "DELETE" });
      card.remove();
    }) }, "Delete")));
  list.prepend(card);
}

function copy(text) {
  return attempt(async () => {
    await navigator.clipboard.writeText(text);
    say("copied");
  });
}

/** What a request needs besides files, which are the sender's. */
function asked(job) {
  const fields = { prompt: job.prompt, seconds: job.seconds, size: job.size, seed: job.seed };
  if (job.lora) fields.lora = job.lora;
  return fields;
}

export function curl(job) {
  const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
  const fields = Object.entries(asked(job)).map(([name, value]) => `--form-string ${quoted(`${name}=${value}`)}`);
  return `curl -s ${new URL("v1/videos", document.baseURI)} ${fields.join(" ")} -H "Authorization: Bearer $KEY"`;
}

export function python(job) {
  const { prompt, seconds, size, ...more } = asked(job);
  const given = [`prompt=${JSON.stringify(prompt)}`, `seconds=${JSON.stringify(seconds)}`, `size=${JSON.stringify(size)}`, `extra_body=${JSON.stringify(more)}`];
  const base = new URL("v1", document.baseURI);
  return `import openai\n\nclient = openai.OpenAI(base_url="${base}", api_key="none")\nvideo = client.videos.create_and_poll(${given.join(", ")})\nclient.videos.download_content(video.id).write_to_file("clip.mp4")\n`;
}
