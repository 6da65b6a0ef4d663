// The form: words, frames, references with their tags, and a video with a mask painted on one of its frames.

import { attempt, call, element, json, say, send } from "./api.js";
import { Painter } from "./painter.js";
import { wireTimeline } from "./timeline.js";

const form = document.getElementById("request");
const painter = new Painter();
const rewritten = document.getElementById("rewritten");
const ROLES = ["subject", "style", "scene", "motion", "camera", "voice", "music"];

export async function prepareForm() {
  const { data } = await json("v1/models");
  const [model] = data;
  const { capabilities } = model;
  form.elements.lora.append(...(capabilities.loras ?? []).map((name) => element("option", { value: name }, name)));
  if (capabilities.size) form.elements.size.placeholder = capabilities.size;
  if (capabilities.seconds) form.elements.seconds.placeholder = capabilities.seconds;
  form.elements.refine.disabled = capabilities.refine === false;
}

export function wireForm(created) {
  document.getElementById("enhance").addEventListener("click", () => attempt(showAsked));
  form.elements.prompt.addEventListener("input", () => { rewritten.hidden = true; });
  form.addEventListener("reset", () => { rewritten.hidden = true; });
  document.getElementById("add-keyframe").addEventListener("click", () => addKeyframe());
  document.getElementById("add-reference").addEventListener("click", addReference);
  wireTimeline(() => rows("keyframes").map(({ time, file }) => [Number(time.value), file.files[0]]), addKeyframe);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => {
      say("sending…");
      const body = await requestBody();
      const job = await (await call("v1/videos", { method: "POST", body })).json();
      say(`asked: ${(job.clips ?? [job.id]).join(", ")}`);
      created(job);
      for (const other of job.clips?.slice(1) ?? []) created(await json(`v1/videos/${other}`));
    });
  });
}

async function showAsked() {
  if (!form.elements.prompt.reportValidity()) return;
  const { asked } = await send("v1/prompts", { prompt: form.elements.prompt.value });
  form.elements.asked.value = asked;
  rewritten.hidden = false;
  form.elements.asked.focus();
}

function addKeyframe(time = "") {
  row("keyframes", [
    element("label", {}, "Time in seconds ", element("input", { "data-of": "time", type: "number", min: "0", step: "any", required: "", value: time })),
    element("label", {}, "Picture ", element("input", { "data-of": "file", type: "file", accept: "image/*", required: "" })),
  ]);
}

function addReference() {
  const number = document.querySelectorAll("#references > .row").length + 1;
  const tag = element("input", { "data-of": "tag", value: `@ref_${number}`, pattern: "@[A-Za-z0-9_\\-]{1,64}", required: "" });
  const role = element("select", { "data-of": "role" }, ...ROLES.map((name) => element("option", { value: name }, name)));
  row("references", [
    element("label", {}, "File ", element("input", { "data-of": "file", type: "file", accept: "image/*,video/*,audio/*", required: "" })),
    element("label", {}, "Tag ", tag),
    element("label", {}, "Role ", role),
    element("button", { type: "button", onclick: () => insertTag(tag.value) }, "Put the tag into the prompt"),
  ]);
}

function row(place, children) {
  const made = element("div", { class: "row" }, ...children);
  made.append(element("button", { type: "button", onclick: () => remove(made) }, "Remove"));
  document.getElementById(place).append(made);
  made.querySelector("input").focus();
}

function remove(made) {
  made.remove();
  form.dispatchEvent(new Event("input"));
}

function insertTag(tag) {
  const prompt = form.elements.prompt;
  prompt.setRangeText(`${tag} `, prompt.selectionStart, prompt.selectionEnd, "end");
  prompt.focus();
}

function rows(place) {
  return [...document.querySelectorAll(`#${place} > .row`)].map((made) =>
    Object.fromEntries([...made.querySelectorAll("[data-of]")].map((field) => [field.dataset.of, field])));
}

async function requestBody() {
  const body = new FormData();
  body.append("prompt", form.elements[rewritten.hidden ? "prompt" : "asked"].value);
  if (!rewritten.hidden) body.append("enhance_prompt", "false");
  for (const name of ["negative_prompt", "seconds", "size", "seed", "n", "num_inference_steps", "guidance_scale", "audio_guidance_scale", "lora"]) {
    const { value } = form.elements[name];
    if (value !== "") body.append(name, value);
  }
  if (form.elements.refine.checked) body.append("refine", "true");
  if (!form.elements.audio.checked) body.append("audio", "false");
  if (form.elements.arena.value) body.append("metadata", JSON.stringify({ arena: form.elements.arena.value }));
  for (const name of ["first_frame", "last_frame"]) {
    const [file] = form.elements[name].files;
    if (file) body.append(name, file);
  }
  const keyframes = rows("keyframes").map(({ time, file }, number) => {
    body.append(`keyframe_${number}`, file.files[0]);
    return { time: Number(time.value), image: `keyframe_${number}` };
  });
  if (keyframes.length) body.append("keyframes", JSON.stringify(keyframes));
  const references = rows("references").map(({ file, tag, role }, number) => {
    const [given] = file.files;
    body.append(`reference_${number}`, given);
    return { type: given.type.split("/")[0], tag: tag.value, role: role.value, source: `reference_${number}` };
  });
  if (references.length) body.append("references", JSON.stringify(references));
  const [video] = form.elements.source_video.files;
  if (video) {
    body.append("source_video", video);
    const { value: task } = form.elements.task;
    if (task === "remove") body.append("remove", JSON.stringify(["text", "logo"]));
    else if (task !== "inpaint") body.append("task", task);
    else {
      body.append("mask", await painter.mask());
      body.append("mask_mode", "edit_white");
    }
  }
  return body;
}
