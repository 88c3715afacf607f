// Owners: what each may have over all its tokens, and what it has had.

import { h } from "../dom.js";
import { formDialog } from "../form_dialog.js";
import * as format from "../format.js";
import { limitFields, limitValues, readLimits, textField } from "../limits_form.js";
import { bar, button, empty, link, loaded, pageHead, table } from "../parts.js";
import { makePager } from "../pager.js";
import { note } from "../says.js";
import { t } from "../text.js";

const PAGE = 50;

export function ownersPage(ctx) {
  const owners = ctx.watch(4000, (signal) =>
    ctx.api.get("owners", { limit: PAGE, cursor: ctx.query.cursor }, signal),
  );
  const pager = makePager(ctx, () => owners.again());
  const currency = () => ctx.facts()?.currency ?? "USD";

  function edit(owner) {
    const before = valuesOf(owner);
    const values = valuesOf(owner);
    formDialog({
      title: t("owners.edit.title", { name: owner.name }),
      label: t("do.save"),
      fields: (wrong) => [
        limitFields(values, wrong, currency()),
        textField(values, wrong, "models", {
          label: t("owners.models"),
          hint: t("owners.models.hint"),
          optional: true,
        }),
      ],
      read: () => read(values, before),
      send: (body) => ctx.api.patch(`owners/${encodeURIComponent(owner.name)}`, body),
      done: () => {
        owners.again();
        note(t("token.edit.done", { name: owner.name }));
      },
    });
  }

  function money(spent, budget) {
    const figure = format.money(spent, currency());
    if (budget === null) return figure;
    return h(
      "span",
      { class: "with-bar" },
      h("span", {}, `${figure} / ${format.money(budget, currency())}`),
      bar(spent, budget, t("form.budgets"), spent > 0.9 * budget ? "bad" : ""),
    );
  }

  const columns = () => [
    { label: t("task.owner"), class: "wide", cell: name },
    { label: t("owners.tokens"), class: "number", cell: ({ tokens }) => format.number(tokens) },
    { label: t("tokens.flight"), class: "number", cell: flight },
    {
      label: t("owners.today"),
      class: "number",
      cell: (owner) => money(owner.spent_day_micro, owner.limits.budget_day_micro),
    },
    {
      label: t("owners.month"),
      class: "number",
      cell: (owner) => money(owner.spent_month_micro, owner.limits.budget_month_micro),
    },
    {
      label: t("owners.total"),
      class: "number",
      cell: (owner) => money(owner.spent_micro, owner.limits.budget_micro),
    },
    {
      label: t("upstreams.do"),
      class: "number",
      cell: (owner) =>
        button(t("token.edit"), () => edit(owner), {
          kind: "small",
          sign: "pencil",
          "aria-label": `${t("token.edit")}: ${owner.name}`,
        }),
    },
  ];

  function view() {
    return [
      pageHead(t("nav.owners"), t("owners.lead")),
      loaded(owners, ({ data, next }) =>
        data.length === 0
          ? empty(
              "people",
              t("owners.none"),
              t("owners.none.text"),
              link("#/tokens", t("nav.tokens")),
            )
          : [table(t("nav.owners"), columns(), data, (owner) => owner.name), pager.view(next)],
      ),
    ];
  }

  return { title: () => t("nav.owners"), view };
}

function name(owner) {
  const query = new URLSearchParams({ owner: owner.name });
  return [
    h("span", { class: "cell-title", title: owner.name }, owner.name),
    h(
      "span",
      { class: "cell-more" },
      link(`#/tokens?${query}`, t("nav.tokens")),
      " · ",
      link(`#/tasks?${query}`, t("nav.tasks")),
    ),
  ];
}

function flight(owner) {
  const most = owner.limits.max_in_flight;
  const figure = format.number(owner.in_flight);
  return most === null ? figure : `${figure} / ${format.number(most)}`;
}

function valuesOf(owner) {
  const models = owner.models.map(({ model, max_in_flight: most }) => `${model}=${most}`);
  return { ...limitValues(owner.limits), models: models.join(", ") };
}

function read(values, before) {
  const wrong = {};
  const body = {};
  const limits = readLimits(values, before, wrong);
  if (Object.keys(limits).length > 0) body.limits = limits;
  if (values.models !== before.models) {
    body.models = [];
    for (const pair of values.models.split(/[,，]/).map((one) => one.trim())) {
      const found = /^([^\s=]+)\s*=\s*([1-9]\d*)$/.exec(pair);
      if (found) body.models.push({ model: found[1], max_in_flight: Number(found[2]) });
      else if (pair) wrong.models = t("owners.models.hint");
    }
  }
  if (Object.keys(wrong).length > 0) return { wrong };
  return { body: Object.keys(body).length > 0 ? body : null };
}
