// What each part of the page looks like, from the document that the server sends (`shown.py`).

import { h } from "./dom.js";

const SIGNS = {
  applied: "✓", running: "▸", failed: "✕", rolled_back: "↩", rolling_back: "↩", pending: "",
};
const SAID = (state) => state.replace("_", " ");

/** The whole page below its head. `age` is how old the document is, in seconds. */
export function page(shown, lost) {
  return [
    lost && notice("bad", lost),
    shown.lost && notice("bad", `${shown.lost}. This is what was known before`, shown.lost_since),
    !shown.lost && !shown.workers.length &&
      notice("warn", "No worker is alive. Start one:", null, "celery -A dharma_tasks worker"),
    ...shown.runs.map(run),
    ...shown.databases.map(database),
    !shown.databases.length && h("p", { class: "hint" }, "Reading the journals …"),
    history(shown.history),
    h("footer", {}, "This page only shows. ", h("code", {}, "dharma status"), " and ",
      h("code", {}, "dharma history"), " say more."),
  ].filter(Boolean);
}

/** In a word or two each: what the runs do, and whether something is the matter. */
export function summary(shown) {
  const states = [...new Set(shown.runs.map((each) => each.state))];
  const troubles = shown.databases.reduce((sum, each) => sum + each.troubles.length, 0);
  return [
    ...states.map((state) => [state === "running" ? "live" : "warn", state]),
    ...(states.length || troubles ? [] : [["calm", "nothing runs"]]),
    ...(troubles ? [["bad", troubles === 1 ? "1 needs attention" : `${troubles} need attention`]] : []),
  ];
}

function notice(kind, text, since, command) {
  return h("p", { class: `notice ${kind}`, role: "alert" }, text,
    since && [" (since ", time(since), ")"], command && [" ", h("code", {}, command)]);
}

function run(each) {
  return h("p", { class: "run", key: each.id },
    h("span", {}, "Run ", h("b", {}, each.id), ` ${each.goal}, by `, h("b", {}, each.by), ", ",
      time(each.created)),
    each.command && h("span", {}, "Go on: ", h("code", {}, each.command)));
}

function database(each) {
  const at = each.current ? ["at ", h("b", {}, each.current)] : "nothing applied";
  return h("section", { class: "database", key: each.name },
    h("header", {}, h("h2", {}, each.name),
      h("p", {}, at, each.total ? `, ${each.applied} of ${each.total} applied` : "")),
    each.stale && stale(each),
    line(each),
    each.moving && moving(each.moving),
    each.troubles.map(trouble),
    each.ended && !each.troubles.length && h("p", { class: "ended" }, each.ended));
}

function stale(each) {
  const known = each.read ? ["Last known state, from ", time(each.read), ". "] : "";
  return h("p", { class: "notice warn" }, known, "Since ", time(each.stale_since), ": ", each.stale);
}

function line(each) {
  if (!each.total) return null;
  const here = each.moving?.waits ? "here held" : "here";
  return h("ol", { class: "line", "aria-label": `Versions of ${each.name}` },
    each.earlier > 0 && h("li", { class: "more" }, `${each.earlier} earlier`),
    each.steps.map((step) => h("li",
      { class: `step ${step.state} ${step.version === each.moving?.version ? here : ""}`, key: step.version,
        title: `${step.version} ${step.name}: ${SAID(step.state)}` },
      h("i", { "aria-hidden": "true" }, SIGNS[step.state]),
      h("span", {}, step.version),
      h("span", { class: "unseen" }, ` ${step.name}: ${SAID(step.state)}`))),
    each.later > 0 && h("li", { class: "more" }, `${each.later} later`));
}

function moving({ title, position, now, waits }) {
  return h("div", { class: `now${waits ? " waiting" : ""}` },
    h("p", { class: "what" }, h("b", {}, title), h("span", {}, now?.what ?? ""),
      position && h("span", { class: "position" }, position.replace("/", " of "))),
    now && bar(now),
    now && facts(now),
    waits && h("p", { class: "waits" }, waits));
}

function bar(each) {
  const known = each.share != null;
  return h("div", { class: known ? "bar" : "bar unknown", role: "progressbar", "aria-label": each.what,
      "aria-valuemin": known ? 0 : null, "aria-valuemax": known ? 100 : null,
      "aria-valuenow": known ? percent(each) : null },
    h("i", { share: known ? each.share : 0 }));
}

function facts(each) {
  return h("p", { class: "facts" },
    each.share != null && h("b", {}, `${percent(each)} %`),
    each.numbers.map((text) => h("span", {}, text)),
    each.worker && h("span", {}, each.worker),
    each.heartbeat && h("span", { class: each.quiet ? "quiet" : null }, `heartbeat ${each.heartbeat}`));
}

const percent = (each) => Math.floor(each.share * 100);

function trouble(each) {
  return h("div", { class: "trouble", key: each.title, role: "alert" },
    h("p", {}, h("b", {}, each.title)),
    each.error && h("pre", {}, each.error),
    h("p", {}, each.todo),
    each.command && h("p", {}, h("code", {}, each.command)));
}

function history(entries) {
  if (!entries.length) return null;
  return h("section", { class: "history" }, h("h2", {}, "Last entries of the audit trails"),
    h("ol", {}, entries.map((each) => h("li", { class: each.event.replace(" ", "_") },
      time(each.at), h("span", { class: "where" }, each.database),
      h("b", { class: "event" }, each.event), h("span", { class: "what" }, each.what),
      h("span", { class: "by" }, each.took && `${each.took}, `, `by ${each.by}`),
      each.text && h("p", {}, each.text)))));
}

const CLOCK = new Intl.DateTimeFormat([], { timeStyle: "medium" });
const DATE = new Intl.DateTimeFormat([], { dateStyle: "medium", timeStyle: "medium" });

function time(text) {
  const at = new Date(text);
  const today = at.toDateString() === new Date().toDateString();
  return h("time", { datetime: text, title: at.toISOString() }, (today ? CLOCK : DATE).format(at));
}
