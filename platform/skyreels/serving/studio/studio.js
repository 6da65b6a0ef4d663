// The page: four views behind tabs, of which one is shown.

import { attempt } from "./api.js";
import { showPair, wireArena } from "./arena.js";
import { prepareForm, wireForm } from "./create.js";
import { showGallery } from "./gallery.js";
import { showJobs, watch } from "./jobs.js";

const tabs = [...document.querySelectorAll("[role=tab]")];
const shows = { jobs: showJobs, gallery: showGallery, arena: showPair };

function select(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  const show = shows[tab.getAttribute("aria-controls")];
  if (show) attempt(show);
}

for (const [place, tab] of tabs.entries()) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(place + step + tabs.length) % tabs.length];
    next.focus();
    select(next);
  });
}

wireArena();
wireForm((job) => {
  watch(job);
  select(document.getElementById("tab-jobs"));
});
attempt(prepareForm);
