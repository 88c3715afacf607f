// The first page: is it well, what is under way, what has it cost today.

import { now } from "../clock.js";
import { sparkBars } from "../chart.js";
import { h } from "../dom.js";
import * as format from "../format.js";
import { icon } from "../icons.js";
import {
  badge,
  bar,
  buttonLink,
  callout,
  card,
  cardWith,
  copyable,
  empty,
  facts,
  link,
  loaded,
  pageHead,
  skeleton,
  stateOf,
  taskBar,
  time,
  trouble,
} from "../parts.js";
import { t } from "../text.js";
import { readUsage } from "../usage.js";

const DAYS = 14;

export function overviewPage(ctx) {
  const recent = ctx.watch(1500, (signal) => ctx.api.get("tasks", { limit: 7 }, signal));
  const usage = ctx.watch(20_000, (signal) => readUsage(ctx.api, DAYS, signal));

  function view() {
    const known = ctx.facts();
    return [
      pageHead(
        t("nav.overview"),
        t("overview.lead"),
        buttonLink("#/try", t("overview.try"), { kind: "primary", sign: "spark" }),
      ),
      known ? [health(known), reloaded(known.last_reload), tiles(known, usage)] : skeleton(),
      h(
        "div",
        { class: "columns", key: "columns" },
        cardWith(
          t("overview.recent"),
          link("#/tasks", t("overview.all")),
          loaded(recent, ({ data }) => recentTasks(data)),
        ),
        known &&
          h("div", { class: "stack" }, upstreams(known.upstreams), store(known.store), way(known)),
      ),
    ];
  }

  return { title: () => t("nav.overview"), view };
}

// Whether requests are taken, and whether somebody is there to render them.
function condition(known) {
  if (!known.ready) return ["bad", t("overview.not_ready"), known.why_not];
  const silent = known.upstreams.filter(({ standing }) =>
    ["broken", "out"].includes(standing?.mood),
  );
  if (silent.length === 0) return ["ok", t("overview.ready"), t("overview.ready.text")];
  const names = silent.map(({ name }) => name).join(", ");
  const values = { n: silent.length, all: known.upstreams.length, names };
  return ["warn", t("overview.partly"), t("overview.partly.text", values)];
}

// Of a reload that was refused, or not in force as a whole.
function reloaded(last) {
  if (!last || (last.ok && last.waiting.length === 0)) return null;
  const n = last.waiting.length;
  return callout(
    "warn",
    last.ok ? t("overview.waiting", { n }) : t("overview.kept"),
    [],
    link("#/config", t("overview.more")),
  );
}

function health(known) {
  const [tone, title, why] = condition(known);
  return h(
    "section",
    {
      class: `health ${tone}`,
      "aria-label": t("overview.health"),
      key: "health",
    },
    h("span", { class: "health-sign" }, icon(tone === "ok" ? "check" : "alert")),
    h(
      "div",
      { class: "health-text" },
      h("p", { class: "health-title" }, title),
      h("p", { class: "health-why" }, why),
    ),
    h(
      "dl",
      { class: "health-facts" },
      [
        [t("overview.up"), format.duration(now() - known.started_ms)],
        [t("overview.workers"), format.number(known.workers.length)],
        [t("overview.version"), known.version],
      ].map(([name, value]) => h("div", { key: name }, h("dt", {}, name), h("dd", {}, value))),
    ),
  );
}

function tiles(known, usage) {
  const days = format.lastDays(DAYS);
  const rows = usage.value?.rows ?? [];
  const perDay = (pick) =>
    days.map((day) =>
      rows.filter((row) => row.day === day).reduce((all, row) => all + pick(row), 0),
    );
  const spent = perDay((row) => row.spent_micro);
  const completed = perDay((row) => row.completed);
  const failed = perDay((row) => row.failed);
  const [done, lost] = [completed.at(-1), failed.at(-1)];
  const all = completed.reduce((a, b) => a + b, 0) + failed.reduce((a, b) => a + b, 0);
  const good = completed.reduce((a, b) => a + b, 0);
  const some = usage.value !== undefined;
  return h(
    "div",
    { class: "tiles", key: "tiles" },
    usage.error && usage.value === undefined && trouble(usage.error, usage.again),
    tile(
      t("overview.open"),
      known.tasks_open === null ? format.NONE : format.number(known.tasks_open),
      t("overview.open.text"),
      null,
      "#/tasks?status=open",
    ),
    tile(
      t("overview.spend"),
      some ? format.money(spent.at(-1), known.currency) : format.NONE,
      t("overview.days", { n: DAYS }),
      some && sparkBars(spent),
      "#/usage",
    ),
    tile(
      t("overview.renders"),
      some ? format.number(done) : format.NONE,
      [some && t("overview.failed", { n: lost }), refused(known.refused_today)]
        .filter(Boolean)
        .join(" · "),
      some && sparkBars(completed),
      "#/usage",
    ),
    tile(
      t("overview.success"),
      some && all > 0 ? format.percent(good / all) : format.NONE,
      t("overview.days", { n: DAYS }),
      some &&
        sparkBars(completed.map((one, at) => (one + failed[at] ? one / (one + failed[at]) : 0))),
      "#/tasks?status=failed",
    ),
  );
}

function tile(name, figure, text, picture, href) {
  return h(
    "a",
    { class: "tile", href, key: name },
    h("span", { class: "tile-name" }, name),
    h("span", { class: "tile-figure" }, figure),
    h("span", { class: "tile-foot" }, h("span", { class: "tile-text" }, text), picture),
  );
}

function recentTasks(tasks) {
  if (tasks.length === 0) {
    return empty(
      "film",
      t("overview.none"),
      t("overview.none.text"),
      buttonLink("#/try", t("overview.try"), { sign: "spark" }),
    );
  }
  return h(
    "ul",
    { class: "feed" },
    tasks.map((task) =>
      h(
        "li",
        { key: task.id },
        h(
          "a",
          { class: "feed-row", href: `#/tasks/${encodeURIComponent(task.id)}` },
          h("span", { class: "feed-state" }, badge(stateOf(task))),
          h(
            "span",
            { class: "feed-text" },
            h("span", { class: "feed-prompt" }, task.prompt || task.id),
            h("span", { class: "feed-more" }, `${task.model} · ${task.owner}`),
          ),
          h(
            "span",
            { class: "feed-end" },
            taskBar(task),
            h("span", { class: "feed-age" }, time(task.created_ms)),
          ),
        ),
      ),
    ),
  );
}

// "32 refused: busy": submits that were told no are no tasks, and have not failed.
function refused(byReason) {
  const reasons = Object.entries(byReason ?? {});
  if (reasons.length === 0) return "";
  const n = reasons.reduce((all, [, count]) => all + count, 0);
  return t("overview.refused", { n, why: reasons.map(([reason]) => reason).join(", ") });
}

function upstreams(all) {
  return cardWith(
    t("nav.upstreams"),
    link("#/upstreams", t("overview.more")),
    all.length === 0
      ? h("p", { class: "quiet" }, t("upstreams.none.text"))
      : h(
          "ul",
          { class: "rows" },
          all.map((one) =>
            h(
              "li",
              { key: one.name },
              h("span", { class: "rows-name" }, one.name),
              one.standing ? badge(one.standing.mood) : format.NONE,
            ),
          ),
        ),
  );
}

function store(known) {
  if (!known)
    return card(t("overview.store"), h("p", { class: "quiet" }, t("overview.store.none")));
  const used = known.used_bytes;
  return card(
    t("overview.store"),
    facts(
      [t("overview.server"), `${known.server} ${known.version}`],
      [
        t("overview.memory"),
        known.max_bytes
          ? h(
              "span",
              { class: "with-bar" },
              `${format.bytes(used)} / ${format.bytes(known.max_bytes)}`,
              bar(
                used,
                known.max_bytes,
                t("overview.memory"),
                used > 0.8 * known.max_bytes ? "bad" : "",
              ),
            )
          : format.bytes(used),
      ],
      [t("overview.keys"), format.number(known.keys)],
      [t("overview.persistence"), t(`overview.persistence.${known.persistence}`)],
    ),
  );
}

function way(known) {
  return card(
    t("overview.way"),
    h("p", { class: "quiet" }, t("overview.way.text")),
    h("p", {}, copyable(`${known.public_url.replace(/\/$/, "")}/v1`)),
  );
}
