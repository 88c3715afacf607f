// One task: the video, what happened to it and when, and everything known of it.

import { now } from "../clock.js";
import { h } from "../dom.js";
import * as format from "../format.js";
import { icon } from "../icons.js";
import {
  badge,
  card,
  copyable,
  crumb,
  facts,
  json,
  link,
  loaded,
  pageHead,
  stateOf,
  taskBar,
  time,
} from "../parts.js";
import { player } from "../player.js";
import { announce } from "../says.js";
import { has, t } from "../text.js";
import { operation, phrase, stage } from "../words.js";

const isOver = (task) => task.status === "completed" || task.status === "failed";

export function taskPage(ctx) {
  const path = `tasks/${encodeURIComponent(ctx.params.id)}`;
  let told = null;
  const cell = ctx.watch(1000, async (signal) => {
    const known = cell.value;
    // What has ended rarely changes: it may be deleted, or expire.
    if (known && isOver(known) && now() - known.fetched < 60_000) return known;
    const task = await ctx.api.get(path, {}, signal);
    if (told !== null && told !== task.status) announce(t(`state.${task.status}`));
    told = task.status;
    return { ...task, fetched: now() };
  });

  function view() {
    return [
      crumb("#/tasks", t("nav.tasks")),
      pageHead(
        t("task.title"),
        h("span", { class: "task-id" }, copyable(ctx.params.id, t("task.id"))),
      ),
      loaded(cell, (task) => [
        summary(task),
        task.error && failure(task),
        h(
          "div",
          { class: "columns", key: "columns" },
          h("div", { class: "stack" }, picture(task), details(task), request(task)),
          h("div", { class: "stack" }, card(t("task.timeline"), timeLine(task))),
        ),
      ]),
    ];
  }

  function details(task) {
    const currency = ctx.facts()?.currency ?? "USD";
    const query = (name, value) => `#/tasks?${new URLSearchParams({ [name]: value })}`;
    return card(
      t("task.facts"),
      facts(
        [t("task.model"), task.model],
        [t("task.route"), task.route && h("code", {}, task.route)],
        [t("task.upstream"), task.upstream && link("#/upstreams", task.upstream)],
        [t("task.credential"), task.credential],
        [t("task.upstream_model"), task.upstream_model],
        [t("task.upstream_id"), task.upstream_id && copyable(task.upstream_id)],
        [t("task.owner"), link(query("owner", task.owner), task.owner)],
        [t("task.token"), link(`#/tokens/${encodeURIComponent(task.token_id)}`, task.token_id)],
        [t("task.dialect"), task.dialect],
        [t("task.operation"), operation(task.operation)],
        [t("task.seconds"), format.seconds(task.seconds)],
        [t("task.size"), task.size],
        [t("task.n"), format.number(task.n ?? 1)],
        [t("task.held"), format.money(task.hold_micro, currency)],
        [t("task.cost"), format.money(task.cost_micro, currency)],
        [t("task.created"), format.moment(task.created_ms)],
        [t("task.completed"), format.moment(task.completed_ms)],
        [t("task.expires"), format.moment(task.expires_ms)],
        [t("task.stage"), stage(task.stage)],
        task.adjusted.length > 0 && [t("task.adjusted"), task.adjusted.join(", ")],
        task.dropped.length > 0 && [t("task.dropped"), task.dropped.join(", ")],
        task.external_id && [t("task.external_id"), copyable(task.external_id)],
        task.source_id && [
          t("task.source_id"),
          link(`#/tasks/${encodeURIComponent(task.source_id)}`, task.source_id),
        ],
        task.webhook && [t("task.webhook"), task.webhook],
        task.unconfirmed && [t("task.unconfirmed"), t("say.yes")],
        task.deleted && [t("task.deleted"), t("say.yes")],
      ),
    );
  }

  return { title: () => t("task.title"), view };
}

function summary(task) {
  const end = task.completed_ms ?? now();
  return h(
    "section",
    { class: "summary", "aria-label": t("task.summary"), key: "summary" },
    h("p", { class: "summary-prompt" }, task.prompt || t("task.no.prompt")),
    h(
      "div",
      { class: "summary-state" },
      badge(stateOf(task)),
      taskBar(task),
      h("span", { class: "figure" }, format.percent((task.progress ?? 0) / 100)),
      h("span", { class: "quiet" }, icon("clock"), format.duration(end - task.created_ms)),
    ),
  );
}

function failure(task) {
  const { code, message, provider_code: theirs } = task.error;
  return h(
    "div",
    { class: "callout bad", key: "failure" },
    icon("alert"),
    h(
      "div",
      { class: "callout-text" },
      h("strong", {}, has(`failure.${code}`) ? t(`failure.${code}`) : t("failure.other")),
      h("p", {}, message),
      h("p", { class: "quiet" }, h("code", {}, code), theirs && [" · ", h("code", {}, theirs)]),
    ),
  );
}

function picture(task) {
  if (task.content_urls.length > 0) return task.content_urls.map((url) => player(task, url));
  const gone = task.status === "completed";
  return h(
    "div",
    { class: "screen", key: "screen" },
    h(
      "div",
      { class: "screen-text" },
      icon(task.status === "failed" || gone ? "ban" : "film"),
      h(
        "p",
        {},
        t(
          gone
            ? "task.video.gone"
            : task.status === "failed"
              ? "task.video.none"
              : "task.video.soon",
        ),
      ),
    ),
  );
}

function request(task) {
  const asked = task.request ?? {};
  if (Object.keys(asked).length === 0) return null;
  return card(t("task.request"), json(asked));
}

// ---------------------------------------------------------------- the time line

// The tone and icon of an entry: by the stage it led to, or by what its event begins with.
const ENDS = { completed: ["ok", "check"], failed: ["bad", "cross"] };
const EVENTS = [
  ["refused", ["warn", "ban"]],
  ["unconfirmed", ["warn", "alert"]],
  ["sent", ["busy", "arrow"]],
  ["accepted", ["busy", "check"]],
  ["found", ["busy", "search"]],
  ["reserved", ["idle", "plus"]],
  ["waiting", ["idle", "pause"]],
  ["queued", ["idle", "clock"]],
  ["in_progress", ["busy", "play"]],
  ["completed", ["ok", "check"]],
  ["failed", ["bad", "cross"]],
  ["deleted", ["warn", "trash"]],
];

function toneOf(entry) {
  const word = EVENTS.find(([start]) => entry.event.startsWith(start));
  return word?.[1] ?? ENDS[entry.stage] ?? ["idle", "clock"];
}

export function timeLine(task) {
  const entries = task.timeline ?? [];
  if (entries.length === 0) return h("p", { class: "quiet" }, t("task.timeline.none"));
  return h(
    "ol",
    { class: "line" },
    entries.map((entry, index) => {
      const [tone, sign] = toneOf(entry);
      const [head, rest] = phrase(entry.event);
      const next = entries[index + 1];
      return h(
        "li",
        { class: `line-entry ${tone}`, key: index },
        h("span", { class: "line-dot" }, icon(sign)),
        h(
          "div",
          { class: "line-text" },
          h(
            "p",
            { class: "line-head" },
            h("span", { class: "line-event" }, head),
            h("time", { datetime: new Date(entry.ms).toISOString() }, format.clockTime(entry.ms)),
          ),
          rest && h("p", { class: "line-rest" }, rest),
        ),
        next
          ? pause(format.duration(next.ms - entry.ms))
          : !isOver(task) &&
              pause(t("task.since", { time: format.duration(now() - entry.ms) }), "now"),
      );
    }),
  );
}

function pause(text, kind = "") {
  return h("p", { class: `line-pause ${kind}`.trim() }, h("span", {}, text));
}
