// Tasks of all owners, the newest first, as they move.

import { choice, field, input } from "../controls.js";
import { h } from "../dom.js";
import * as format from "../format.js";
import {
  badge,
  button,
  buttonLink,
  empty,
  loaded,
  pageHead,
  stateOf,
  table,
  taskBar,
  time,
} from "../parts.js";
import { makePager } from "../pager.js";
import { announce } from "../says.js";
import { t } from "../text.js";

const REFUSED = "refused"; // no status of a task: submits that were told no
const MOST_REFUSED = 100;
const STATUSES = ["", "open", "queued", "in_progress", "completed", "failed", REFUSED];
const FILTERS = ["status", "model", "owner", "token", "upstream"];
const PAGE = 25;
const MOST_LOOKS = 4;
const TYPING_MS = 300;

export function tasksPage(ctx) {
  let typing = null; // the timer, and what was typed since the last look
  let typed = {};
  let known = new Map(); // id → status, as last told

  const tasks = ctx.watch(1500, async (signal) => {
    const page = await fill(signal);
    tell(page.data);
    return page;
  });

  // The gateway hands out what it finds in one look; a filter may find little in each.
  async function fill(signal) {
    if (ctx.query.status === REFUSED) return latestRefused(signal);
    const filters = Object.fromEntries(FILTERS.map((name) => [name, ctx.query[name]]));
    const page = { data: [], next: ctx.query.cursor };
    for (let look = 0; look < MOST_LOOKS; look += 1) {
      const query = { ...filters, limit: PAGE - page.data.length, cursor: page.next };
      const found = await ctx.api.get("tasks", query, signal);
      page.data.push(...found.data);
      page.next = found.next;
      if (!page.next || page.data.length >= PAGE) break;
    }
    return page;
  }

  async function latestRefused(signal) {
    const { owner, token, model, upstream } = ctx.query;
    const found = await ctx.api.get("refusals", { owner, limit: MOST_REFUSED }, signal);
    const fits = (wanted, is) => !wanted || wanted === is;
    const data = found.data.filter(
      (one) =>
        fits(token, one.token_id) && fits(model, one.model) && fits(upstream, one.upstream),
    );
    return { data, next: null };
  }

  const pager = makePager(ctx, () => tasks.again(), { back: "tasks.newer", on: "tasks.older" });

  // What moved since the last round, in one sentence.
  function tell(data) {
    if (ctx.query.status === REFUSED) return;
    const moved = data.filter((task) => known.has(task.id) && known.get(task.id) !== task.status);
    if (moved.length === 1) {
      const [one] = moved;
      announce(t("tasks.moved", { id: one.id, status: t(`state.${one.status}`) }));
    } else if (moved.length > 1) announce(t("tasks.many", { n: moved.length }));
    known = new Map(data.map((task) => [task.id, task.status]));
  }

  function ask(changes) {
    pager.reset();
    known = new Map();
    ctx.setQuery({ ...typed, ...changes, cursor: null });
    typed = {};
    tasks.again();
  }

  function askSoon(changes) {
    Object.assign(typed, changes);
    clearTimeout(typing);
    typing = setTimeout(() => !ctx.signal.aborted && ask({}), TYPING_MS);
  }

  function filters() {
    const { owner = "", token = "", model = "", upstream = "", status = "" } = ctx.query;
    const models = ctx.facts()?.models ?? [];
    const text = (name, label, value, more = {}) =>
      field({
        id: `by-${name}`,
        label,
        control: input({
          value,
          autocomplete: "off",
          spellcheck: "false",
          oninput: (event) => askSoon({ [name]: event.currentTarget.value.trim() }),
          ...more,
        }),
      });
    return h(
      "form",
      {
        class: "filters",
        role: "search",
        key: "filters",
        onsubmit: (event) => event.preventDefault(),
      },
      choice(
        "status",
        t("tasks.status"),
        STATUSES.map((one) => [one, one ? t(`state.${one}`) : t("tasks.any")]),
        status,
        (chosen) => ask({ status: chosen }),
      ),
      h(
        "div",
        { class: "filter-fields" },
        text("model", t("task.model"), model, { list: "known-models" }),
        text("upstream", t("task.upstream"), upstream),
        text("owner", t("task.owner"), owner),
        text("token", t("task.token"), token),
      ),
      h(
        "datalist",
        { id: "known-models" },
        models.map((one) => h("option", { value: one, key: one })),
      ),
    );
  }

  const columns = () => [
    { label: t("tasks.task"), class: "wide", cell: name },
    { label: t("tasks.status"), cell: (task) => badge(stateOf(task)) },
    { label: t("task.progress"), class: "narrow", cell: progress },
    { label: t("task.model"), cell: model },
    { label: t("task.owner"), cell: (task) => h("span", { class: "clip" }, task.owner) },
    { label: t("task.cost"), class: "number", cell: cost },
    { label: t("tasks.age"), class: "number", cell: (task) => time(task.created_ms) },
  ];

  const refusedColumns = () => [
    { label: t("refused.why"), class: "wide", cell: (one) => one.message },
    { label: t("refused.reason"), cell: (one) => h("code", null, one.reason) },
    { label: t("task.model"), cell: (one) => h("span", { class: "clip" }, one.model) },
    { label: t("task.upstream"), cell: (one) => one.upstream ?? format.NONE },
    { label: t("task.owner"), cell: (one) => h("span", { class: "clip" }, one.owner) },
    { label: t("tasks.age"), class: "number", cell: (one) => time(one.ms) },
  ];

  function rows(data) {
    if (ctx.query.status === REFUSED)
      return table(t("state.refused"), refusedColumns(), data, (one) => one.task_id);
    return table(t("nav.tasks"), columns(), data, (task) => task.id);
  }

  function cost(task) {
    const currency = ctx.facts()?.currency ?? "USD";
    if (task.cost_micro !== null) return format.money(task.cost_micro, currency);
    return h(
      "span",
      { class: "quiet", title: t("task.held") },
      `≤ ${format.money(task.hold_micro, currency)}`,
    );
  }

  function view() {
    return [
      pageHead(t("nav.tasks"), t("tasks.lead")),
      filters(),
      loaded(tasks, ({ data, next }) => [
        data.length === 0 ? none(next) : rows(data),
        pager.view(next),
      ]),
    ];
  }

  function none(next) {
    if (next) return empty("search", t("tasks.none.here"), t("tasks.none.here.text"));
    if (FILTERS.some((name) => ctx.query[name])) {
      const clear = () => ask(Object.fromEntries(FILTERS.map((name) => [name, null])));
      return empty(
        "search",
        t("tasks.none"),
        t("tasks.none.text"),
        button(t("tasks.clear"), clear),
      );
    }
    return empty(
      "film",
      t("overview.none"),
      t("overview.none.text"),
      buttonLink("#/try", t("overview.try"), { kind: "primary", sign: "spark" }),
    );
  }

  return { title: () => t("nav.tasks"), view };
}

function name(task) {
  return h(
    "a",
    { class: "cell-link", href: `#/tasks/${encodeURIComponent(task.id)}` },
    h("span", { class: "cell-title" }, task.prompt || t("task.no.prompt")),
    h("code", { class: "cell-id" }, task.id),
  );
}

function progress(task) {
  return h(
    "span",
    { class: "with-figure" },
    taskBar(task),
    h("span", { class: "figure" }, format.percent((task.progress ?? 0) / 100)),
  );
}

function unsent({ status }) {
  return t(status === "failed" ? "task.never.sent" : "task.no.upstream");
}

function model(task) {
  return h(
    "span",
    { class: "two-lines" },
    h("span", {}, task.model),
    h("span", { class: "quiet" }, task.upstream || unsent(task)),
  );
}
