// What is asked and not over: progress as it comes, place in the queue, an end on request.

import { attempt, element, events, json, media, say, send } from "./api.js";

const list = document.getElementById("job-list");
const watched = new Map();

export async function showJobs() {
  const { data } = await json("v1/videos?limit=50");
  for (const job of data.toReversed()) if (job.status === "queued" || job.status === "in_progress") watch(job);
  if (!list.children.length) say("no job is open");
}

/** Follow a job in the list until it is over. */
export function watch(job) {
  if (watched.has(job.id)) return;
  const bar = element("progress", { max: "100", value: String(job.progress), "aria-label": "Progress" });
  const told = element("small", {}, describe(job));
  const end = element("button", { type: "button", onclick: () => attempt(() => send(`v1/videos/${job.id}/cancel`, {})) }, "Cancel");
  const picture = element("img", { alt: "How it stands", hidden: "" });
  const card = element("li", {}, element("p", {}, job.prompt), picture, bar, told, end);
  list.prepend(card);
  watched.set(job.id, card);
  attempt(() => follow(job, bar, told, end, picture));
}

async function follow(job, bar, told, end, picture) {
  let seen = null;
  for await (const event of events(job.id)) {
    bar.value = event.progress;
    const now = event.status === "queued" || event.status === "in_progress" ? await json(`v1/videos/${job.id}`) : event;
    told.textContent = describe({ ...now, ...event });
    if (now.preview && now.preview !== seen) {
      seen = now.preview;
      URL.revokeObjectURL(picture.src);
      picture.src = await media(job.id, "preview");
      picture.hidden = false;
    }
  }
  const done = await json(`v1/videos/${job.id}`);
  told.textContent = done.error ? `${done.state}: ${done.error.message}` : "completed: it is in the gallery";
  end.remove();
  watched.delete(job.id);
  say(done.error ? done.error.message : "a clip is done");
}

function describe(job) {
  const place = job.queue_position ? `, ${job.queue_position} ahead` : "";
  const time = job.eta_seconds == null ? "" : `, about ${Math.ceil(job.eta_seconds)} s`;
  return `${job.state ?? job.status}${job.stage ? ` (${job.stage})` : ""} ${job.progress}%${place}${time}`;
}
