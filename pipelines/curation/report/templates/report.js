"use strict";

const clips = [...document.querySelectorAll("button.clip")];
const calm = matchMedia("(prefers-reduced-motion: reduce)");

function start(button, withSound) {
  const media = button.querySelector("video, audio");
  if (withSound) clips.filter((other) => other !== button).forEach(stop);
  media.muted = !withSound;
  button.setAttribute("aria-pressed", String(withSound));
  media.play().catch(() => media.paused && stop(button)); // refused, or paused before it began
}

function stop(button) {
  const media = button.querySelector("video, audio");
  media.pause();
  media.muted = true;
  button.setAttribute("aria-pressed", "false");
}

for (const button of clips) {
  const media = button.querySelector("video, audio");
  const heard = () => button.getAttribute("aria-pressed") === "true";
  button.addEventListener("click", () => (heard() ? stop(button) : start(button, true)));
  if (media.tagName === "VIDEO") {
    button.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "mouse" && !heard() && !calm.matches) start(button, false);
    });
    button.addEventListener("pointerleave", () => heard() || stop(button));
  } else {
    const progress = button.querySelector(".progress");
    const width = button.querySelector("svg").viewBox.baseVal.width;
    media.addEventListener("timeupdate", () => {
      progress.setAttribute("width", String((width * media.currentTime) / (media.duration || 1)));
    });
  }
}

const filters = [...document.querySelectorAll("[data-filter]")];
const cards = [...document.querySelectorAll("[data-group]")];

function show(group) {
  for (const button of filters) button.setAttribute("aria-pressed", String(button.dataset.filter === group));
  for (const card of cards) card.hidden = group !== "" && card.dataset.group !== group;
  const count = cards.filter((card) => !card.hidden).length;
  document.getElementById("shown").textContent = `${count} clips shown`;
}

for (const button of filters) button.addEventListener("click", () => show(button.dataset.filter));
for (const link of document.querySelectorAll("[data-show]")) {
  link.addEventListener("click", () => show(link.dataset.show));
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.copy);
    getSelection().selectAllChildren(text); // where the clipboard is closed to files, the text is at least selected
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  });
}
