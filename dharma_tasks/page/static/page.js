// Asks for what is to be shown, every second while somebody looks, and shows it.

import { h, patch } from "./dom.js";
import { page, summary } from "./view.js";

const EVERY = 1000;
const PATIENCE = 10_000;
// From `origin`, since `location` may hold a login, which fetch refuses.
const SOURCE = new URL(`${location.pathname}/state`, location.origin);

let shown = null;
let lost = null;

async function look() {
  try {
    const answer = await fetch(SOURCE, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (answer.status === 401 || answer.status === 403) {
      lost = "You are not logged in any more: load the page again.";
    } else if (answer.ok) {
      shown = await answer.json();
      lost = null;
    } else {
      throw new Error(`it says ${answer.status}`);
    }
  } catch (error) {
    const since = new Date(shown?.at ?? Date.now()).toLocaleTimeString();
    lost = `Flower does not answer; this is what was known at ${since}.`;
    console.warn(error);
  }
  show();
  setTimeout(look, document.hidden ? 5 * EVERY : EVERY);
}

function show() {
  document.body.classList.toggle("lost", lost !== null);
  if (!shown) {
    patch(document.querySelector("main"), [h("p", { class: "hint" }, lost ?? "Looking …")]);
    return;
  }
  const pills = lost || shown.lost ? [["bad", "not up to date"]] : summary(shown);
  patch(document.querySelector("#summary"),
    pills.map(([kind, text]) => h("span", { class: `pill ${kind}` }, text)));
  patch(document.querySelector("main"), page(shown, lost));
  document.title = `${pills.map(([, text]) => text).join(", ")} · Migrations`;
}

document.addEventListener("visibilitychange", () => document.hidden || show());
look();
