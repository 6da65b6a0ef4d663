// Two clips of one prompt, unnamed, in an order that turns from vote to vote. Both must be played before a vote, and
// before points; a vote goes on to the next pair, points do not.

import { attempt, element, json, media, say, send } from "./api.js";

const players = ["first", "second"].map((name) => document.getElementById(name));
const dimension = document.getElementById("dimension");
const votes = [...document.querySelectorAll("[data-verdict]")];
const points = [...document.querySelectorAll("[data-points]")];
const rate = document.getElementById("rate");
const SCALE = ["bad", "poor", "fair", "good", "excellent"];
let pair = null;
const played = new Set();

export function wireArena() {
  for (const choice of points) {
    choice.append(element("option", { value: "" }, "–"), ...SCALE.map((word, number) => element("option", { value: number + 1 }, `${number + 1} ${word}`)));
  }
  for (const player of players) {
    player.addEventListener("ended", () => {
      played.add(player);
      allow(played.size === players.length);
    });
  }
  document.getElementById("play-both").addEventListener("click", () => attempt(async () => {
    for (const player of players) player.currentTime = 0;
    await Promise.all(players.map((player) => player.play()));
  }));
  for (const vote of votes) vote.addEventListener("click", () => attempt(() => cast(vote.dataset.verdict)));
  rate.addEventListener("click", () => attempt(givePoints));
}

function allow(judging) {
  for (const button of [...votes, rate]) button.disabled = !judging;
}

export async function showPair() {
  pair = (await json("v1/arena/pair")).pair;
  const there = pair !== null;
  document.getElementById("pair").hidden = document.getElementById("ballot").hidden = !there;
  document.getElementById("arena-prompt").textContent = there ? pair.item : "";
  if (!there) {
    say("make clips of one prompt with two models, adapters or names: then there is something to compare");
    return;
  }
  played.clear();
  allow(false);
  for (const choice of points) choice.value = "";
  if (!dimension.children.length) dimension.append(...pair.dimensions.map((name) => element("option", { value: name }, name)));
  for (const player of players) {
    if (player.src) URL.revokeObjectURL(player.src);
    player.src = await media(pair[player.id]);
  }
}

async function cast(verdict) {
  await send("v1/arena/votes", { first: pair.first, second: pair.second, dimension: dimension.value, verdict });
  await showPair();
  say("your vote is counted");
}

async function givePoints() {
  const given = points.filter((choice) => choice.value !== "");
  for (const choice of given) {
    await send("v1/arena/ratings", { clip: pair[choice.dataset.points], dimension: dimension.value, points: Number(choice.value) });
  }
  say(given.length ? "your points are counted" : "choose points for a clip first");
}
