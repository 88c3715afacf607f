// One token: what it may do, what it has used, and what can be done with it.

import { field, select } from "../controls.js";
import { confirm } from "../dialogs.js";
import { h } from "../dom.js";
import * as format from "../format.js";
import {
  badge,
  bar,
  button,
  card,
  cardWith,
  copyable,
  crumb,
  facts,
  link,
  loaded,
  pageHead,
} from "../parts.js";
import { note } from "../says.js";
import { followStates, showSecrets } from "../secrets.js";
import { t } from "../text.js";
import { tokenDialog } from "../token_form.js";

export function tokenPage(ctx) {
  const path = `tokens/${encodeURIComponent(ctx.params.id)}`;
  const cell = ctx.watch(3000, async (signal) => heard(await ctx.api.get(path, {}, signal)));

  function heard(token) {
    followStates(ctx.keys, [token]);
    return token;
  }

  async function act(what, body = {}) {
    const token = heard(await ctx.api.post(`${path}/${what}`, body));
    cell.again();
    return token;
  }

  const ask = (token, what, more = {}) =>
    confirm({
      title: t(`token.${what}.title`, { name: token.name }),
      text: t(`token.${what}.text`),
      label: t(`token.${what}`),
      act: async () => {
        await act(what);
        note(t(`token.${what}.done`, { name: token.name }));
      },
      ...more,
    });

  function rotate(token) {
    let overlap = "86400";
    ask(token, "rotate", {
      extra: () =>
        field({
          id: "overlap",
          label: t("token.overlap"),
          hint: t("token.overlap.hint"),
          control: select(
            [
              ["0", t("token.overlap.none")],
              ...[
                ["3600", 3600],
                ["86400", 86_400],
                ["604800", 604_800],
              ].map(([value, s]) => [value, format.duration(s * 1000)]),
            ],
            { value: overlap, onchange: (event) => (overlap = event.currentTarget.value) },
          ),
        }),
      act: async () => {
        const made = await act("rotate", { overlap_s: Number(overlap) });
        showSecrets(made, ctx.keys);
      },
    });
  }

  const edit = (token) =>
    tokenDialog(ctx, {
      title: t("token.edit.title", { name: token.name }),
      label: t("do.save"),
      token,
      send: (body) => ctx.api.patch(path, body),
      done: () => {
        cell.again();
        note(t("token.edit.done", { name: token.name }));
      },
    });

  function actions(token) {
    if (token.state === "revoked") return null;
    const isOff = token.state === "disabled";
    return card(
      t("token.actions"),
      h(
        "ul",
        { class: "deeds" },
        deed("rotate", () => rotate(token), { sign: "refresh" }),
        isOff
          ? deed("enable", () => ask(token, "enable"), { sign: "play" })
          : deed("disable", () => ask(token, "disable"), { sign: "pause" }),
        deed("revoke", () => ask(token, "revoke", { danger: true }), {
          sign: "ban",
          kind: "danger",
        }),
      ),
    );
  }

  function view() {
    return [
      crumb("#/tokens", t("nav.tokens")),
      pageHead(
        cell.value?.name ?? t("tokens.token"),
        h("span", { class: "task-id" }, copyable(ctx.params.id, t("tokens.id"))),
        cell.value &&
          cell.value.state !== "revoked" &&
          button(t("token.edit"), () => edit(cell.value), { sign: "pencil" }),
      ),
      loaded(cell, (token) =>
        h(
          "div",
          { class: "columns", key: "columns" },
          h("div", { class: "stack" }, identity(token), used(token), limits(token)),
          h("div", { class: "stack" }, actions(token)),
        ),
      ),
    ];
  }

  function used(token) {
    const currency = ctx.facts()?.currency ?? "USD";
    const most = token.limits.budget_micro;
    const taken = token.spent_micro + token.held_micro;
    return cardWith(
      t("token.used"),
      link(`#/tasks?${new URLSearchParams({ token: token.id })}`, t("token.tasks")),
      facts(
        [
          t("tokens.spent"),
          most === null || most === undefined
            ? format.money(token.spent_micro, currency)
            : h(
                "span",
                { class: "with-bar" },
                `${format.money(token.spent_micro, currency)} / ${format.money(most, currency)}`,
                bar(taken, most, t("token.budget_micro"), taken > 0.9 * most ? "bad" : ""),
              ),
        ],
        [t("task.held"), format.money(token.held_micro, currency)],
        [t("tokens.flight"), format.number(token.in_flight)],
      ),
    );
  }

  function limits(token) {
    const currency = ctx.facts()?.currency ?? "USD";
    return card(
      t("form.limits"),
      facts(
        ...Object.entries(token.limits).map(([name, value]) => [
          t(`token.${name}`),
          value === null
            ? h("span", { class: "quiet" }, t("form.unlimited"))
            : name.endsWith("_micro")
              ? format.money(value, currency)
              : name.endsWith("_bytes")
                ? format.bytes(value)
                : format.number(value),
        ]),
      ),
    );
  }

  return { title: () => cell.value?.name ?? t("tokens.token"), view };
}

function deed(what, onclick, more) {
  return h(
    "li",
    { key: what },
    h("p", {}, t(`token.${what}.about`)),
    button(t(`token.${what}`), onclick, more),
  );
}

function identity(token) {
  const some = (values, none) =>
    values.length > 0 ? values.join(", ") : h("span", { class: "quiet" }, none);
  const labels = Object.entries(token.labels ?? {}).map(([name, value]) => `${name}=${value}`);
  return card(
    t("token.identity"),
    facts(
      [t("tokens.state"), badge(token.state)],
      [t("token.owner"), token.owner],
      [t("token.models"), some(token.models, t("tokens.all.models"))],
      [t("token.dialects"), some(token.dialects, t("say.all"))],
      [t("token.operations"), some(token.operations, t("say.all"))],
      [t("token.addresses"), some(token.addresses, t("say.all"))],
      [t("token.shared"), t(token.shared ? "say.yes" : "say.no")],
      [t("token.labels"), some(labels, format.NONE)],
      [t("token.webhook"), token.webhook && h("code", {}, token.webhook)],
      [t("task.created"), format.moment(token.created_ms)],
      token.previous_until_ms !== null && [
        t("token.previous"),
        format.moment(token.previous_until_ms),
      ],
      [
        t("token.expires"),
        token.expires_ms === null ? t("form.expires.never") : format.moment(token.expires_ms),
      ],
    ),
  );
}
