// The frames of the form at their places in the clip's time. A click between them asks for one there.

import { element } from "./api.js";

const form = document.getElementById("request");
const strip = document.getElementById("timeline");

/** `frames()`: [seconds, file] of the frames in between. `add(seconds)` makes room for another one. */
export function wireTimeline(frames, add) {
  const draw = () => show([[0, form.elements.first_frame.files[0]], ...frames(), [seconds(), form.elements.last_frame.files[0]]]);
  form.addEventListener("input", draw);
  form.addEventListener("reset", () => setTimeout(draw));
  strip.addEventListener("click", (event) => {
    const box = strip.getBoundingClientRect();
    if (event.target === strip) add((((event.clientX - box.left) / box.width) * seconds()).toFixed(2));
  });
}

/** Of the clip, as asked for, else as the model usually makes it. */
function seconds() {
  const { value, placeholder } = form.elements.seconds;
  return Number(value || placeholder) || 1;
}

function show(frames) {
  for (const picture of strip.children) URL.revokeObjectURL(picture.src);
  strip.replaceChildren(...frames.filter(([, file]) => file).map(([time, file]) => {
    const share = 100 * Math.min(1, Math.max(0, time / seconds()));
    const picture = element("img", { src: URL.createObjectURL(file), alt: `a frame at ${time} s`, title: `${time} s` });
    picture.style.left = `${share}%`;
    picture.style.transform = `translateX(-${share}%)`;
    return picture;
  }));
}
