// What was rendered and spent, by day, model and owner; and whether the books balance.

import { makeChart } from "../chart.js";
import { choice } from "../controls.js";
import { h } from "../dom.js";
import * as format from "../format.js";
import { icon } from "../icons.js";
import { button, buttonLink, card, describe, empty, loaded, pageHead, table } from "../parts.js";
import { announce } from "../says.js";
import { t } from "../text.js";
import { readUsage } from "../usage.js";

const SPANS = ["7", "30", "90"];

export function usagePage(ctx) {
  let by = "model";
  let verdict = null; // of the ledger: {busy}, {error} or the answer
  const span = () => (SPANS.includes(ctx.query.days) ? ctx.query.days : "30");
  const usage = ctx.watch(15_000, async (signal) => {
    const days = span();
    return { days, ...(await readUsage(ctx.api, days, signal)) };
  });
  const spend = makeChart("chart-spend", ctx.draw, ctx.signal);
  const renders = makeChart("chart-renders", ctx.draw, ctx.signal);

  // The same names in the same order, and so in the same colours, whatever is picked.
  function series(rows, days, pick) {
    const place = new Map(days.map((day, index) => [day, index]));
    const found = new Map();
    for (const row of rows) {
      const index = place.get(row.day);
      if (index === undefined) continue;
      const one = found.get(row[by]) ?? { name: row[by], weight: 0, values: days.map(() => 0) };
      found.set(one.name, one);
      one.values[index] += pick(row);
      one.weight += row.completed;
    }
    return [...found.values()].sort((a, b) => b.weight - a.weight || (a.name < b.name ? -1 : 1));
  }

  function charts({ rows: data, days: count }) {
    const currency = ctx.facts()?.currency ?? "USD";
    const days = format.lastDays(Number(count));
    const shared = { days, sayDay: format.dayName };
    return h(
      "div",
      { class: "halves", key: "charts" },
      h(
        "div",
        { class: "card" },
        spend({
          ...shared,
          title: t("usage.spend"),
          series: series(data, days, (row) => row.spent_micro),
          say: (micro) => format.money(Math.round(micro), currency),
        }),
      ),
      h(
        "div",
        { class: "card" },
        renders({
          ...shared,
          title: t("usage.renders"),
          series: series(data, days, (row) => row.completed),
          say: (count) => format.number(count),
          whole: true,
        }),
      ),
    );
  }

  function sums(data) {
    const found = new Map();
    for (const row of data) {
      const key = JSON.stringify([row.owner, row.model]);
      const sum = found.get(key) ?? {
        key,
        owner: row.owner,
        model: row.model,
        submits: 0,
        completed: 0,
        failed: 0,
        seconds: 0,
        spent_micro: 0,
      };
      for (const name of ["submits", "completed", "failed", "seconds", "spent_micro"]) {
        sum[name] += row[name] ?? 0;
      }
      found.set(key, sum);
    }
    return [...found.values()].sort(
      (a, b) => b.spent_micro - a.spent_micro || b.submits - a.submits,
    );
  }

  const columns = () => {
    const currency = ctx.facts()?.currency ?? "USD";
    const figure = (name) => ({
      label: t(`usage.${name}`),
      class: "number",
      cell: (row) => format.number(Math.round(row[name])),
    });
    return [
      { label: t("task.owner"), cell: (row) => h("span", { class: "cell-title" }, row.owner) },
      { label: t("task.model"), cell: (row) => row.model },
      figure("submits"),
      figure("completed"),
      figure("failed"),
      figure("seconds"),
      {
        label: t("usage.spend"),
        class: "number",
        cell: (row) => format.money(row.spent_micro, currency),
      },
    ];
  };

  async function verify() {
    if (verdict?.busy) return;
    verdict = { busy: true };
    ctx.draw();
    try {
      verdict = await ctx.api.get("ledger/verify");
      announce(verdict.ok ? t("ledger.ok", { n: verdict.tasks }) : t("ledger.bad"));
    } catch (error) {
      verdict = { error };
    }
    ctx.draw();
  }

  function ledger() {
    return card(
      t("ledger.title"),
      h("p", { class: "quiet" }, t("ledger.text")),
      verdict && !verdict.busy && finding(verdict),
      h(
        "div",
        { class: "actions" },
        button(verdict?.busy ? t("do.working") : t("ledger.verify"), verify, {
          busy: verdict?.busy,
        }),
      ),
    );
  }

  function view() {
    return [
      pageHead(t("nav.usage"), t("usage.lead")),
      h(
        "div",
        { class: "toolbar", key: "toolbar" },
        choice(
          "days",
          t("usage.span"),
          SPANS.map((n) => [n, t("usage.days", { n })]),
          span(),
          (days) => {
            ctx.setQuery({ days });
            usage.again();
          },
        ),
        choice(
          "by",
          t("usage.by"),
          [
            ["model", t("usage.by.model")],
            ["owner", t("usage.by.owner")],
          ],
          by,
          (chosen) => {
            by = chosen;
            ctx.draw();
          },
        ),
      ),
      loaded(usage, (value) =>
        value.rows.length === 0
          ? empty(
              "bars",
              t("usage.none"),
              t("usage.none.text"),
              buttonLink("#/try", t("overview.try"), { kind: "primary", sign: "spark" }),
            )
          : [
              !value.whole &&
                h("p", { class: "callout warn", key: "part" }, icon("alert"), t("usage.part")),
              charts(value),
              h(
                "section",
                { class: "card flush", "aria-label": t("usage.table"), key: "sums" },
                h("h2", { class: "card-title" }, t("usage.table")),
                table(t("usage.table"), columns(), sums(value.rows), (row) => row.key),
              ),
            ],
      ),
      ledger(),
    ];
  }

  return { title: () => t("nav.usage"), view };
}

function finding({ ok, tasks, problems, error }) {
  if (error) {
    return h(
      "p",
      { class: "finding bad" },
      icon("alert"),
      h("span", {}, `${describe(error)} ${error.message}`),
    );
  }
  if (ok) {
    return h(
      "p",
      { class: "finding ok" },
      icon("check"),
      h("span", {}, t("ledger.ok", { n: tasks })),
    );
  }
  return h(
    "div",
    { class: "finding bad" },
    icon("alert"),
    h(
      "div",
      {},
      h("p", {}, t("ledger.bad")),
      h(
        "ul",
        {},
        problems.map((problem) => h("li", { key: problem }, problem)),
      ),
    ),
  );
}
