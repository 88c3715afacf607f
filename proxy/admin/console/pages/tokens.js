// All tokens, and making one.

import { searchBox } from "../controls.js";
import { h } from "../dom.js";
import * as format from "../format.js";
import { badge, bar, button, empty, loaded, pageHead, table, time } from "../parts.js";
import { makePager } from "../pager.js";
import { showSecrets } from "../secrets.js";
import { t } from "../text.js";
import { tokenDialog } from "../token_form.js";

const PAGE = 50;

export function tokensPage(ctx) {
  let sought = "";
  const tokens = ctx.watch(4000, (signal) =>
    ctx.api.get(
      "tokens",
      { limit: PAGE, cursor: ctx.query.cursor, owner: ctx.query.owner },
      signal,
    ),
  );

  const pager = makePager(ctx, () => tokens.again());

  const create = () =>
    tokenDialog(ctx, {
      title: t("tokens.create"),
      label: t("tokens.create"),
      owners: [...new Set((tokens.value?.data ?? []).map((one) => one.owner))],
      send: (body) => ctx.api.post("tokens", body),
      done: (token) => {
        tokens.again();
        showSecrets(token, ctx.keys);
      },
    });

  function everybody() {
    pager.reset();
    ctx.setQuery({ owner: null, cursor: null });
    tokens.again();
  }

  function fits(token) {
    const words = [token.name, token.owner, token.id, token.state, ...token.models];
    return words.some((word) => word.toLowerCase().includes(sought.toLowerCase()));
  }

  const columns = () => {
    const currency = ctx.facts()?.currency ?? "USD";
    return [
      { label: t("tokens.token"), class: "wide", cell: name },
      { label: t("tokens.state"), cell: (token) => badge(token.state) },
      { label: t("token.owner"), cell: (token) => h("span", { class: "clip" }, token.owner) },
      { label: t("token.models"), cell: scope },
      { label: t("tokens.flight"), class: "number", cell: flight },
      { label: t("tokens.spent"), class: "number", cell: (token) => spent(token, currency) },
      { label: t("token.expires"), class: "number", cell: expiry },
    ];
  };

  function view() {
    return [
      pageHead(
        t("nav.tokens"),
        t("tokens.lead"),
        button(t("tokens.create"), create, { kind: "primary", sign: "plus" }),
      ),
      h(
        "div",
        { class: "toolbar", key: "toolbar" },
        searchBox("token-search", t("tokens.search"), sought, (text) => {
          sought = text;
          ctx.draw();
        }),
        ctx.query.owner &&
          button(t("tokens.of", { name: ctx.query.owner }), everybody, { sign: "cross" }),
      ),
      loaded(tokens, ({ data, next }) => {
        const shown = data.filter(fits);
        if (data.length === 0 && !ctx.query.cursor) {
          return empty(
            "key",
            t("tokens.none"),
            t("tokens.none.text"),
            button(t("tokens.create"), create, { kind: "primary", sign: "plus" }),
          );
        }
        return [
          shown.length === 0
            ? empty("search", t("tokens.not.found"), t("tokens.not.found.text"))
            : table(t("nav.tokens"), columns(), shown, (token) => token.id),
          pager.view(next),
        ];
      }),
    ];
  }

  return { title: () => t("nav.tokens"), view };
}

function name(token) {
  return h(
    "a",
    { class: "cell-link", href: `#/tokens/${encodeURIComponent(token.id)}` },
    h("span", { class: "cell-title" }, token.name),
    h("code", { class: "cell-id" }, token.id),
  );
}

function scope(token) {
  return token.models.length === 0
    ? h("span", { class: "quiet" }, t("tokens.all.models"))
    : h("span", { class: "clip", title: token.models.join(", ") }, token.models.join(", "));
}

function flight(token) {
  const most = token.limits.max_in_flight;
  const figure = format.number(token.in_flight);
  return most === null || most === undefined ? figure : `${figure} / ${format.number(most)}`;
}

function spent(token, currency) {
  const most = token.limits.budget_micro;
  const figure = format.money(token.spent_micro, currency);
  if (most === null || most === undefined) return figure;
  const taken = token.spent_micro + token.held_micro;
  return h(
    "span",
    { class: "with-bar" },
    h("span", {}, `${figure} / ${format.money(most, currency)}`),
    bar(taken, most, t("token.budget_micro"), taken > 0.9 * most ? "bad" : ""),
  );
}

function expiry(token) {
  return token.expires_ms === null
    ? h("span", { class: "quiet" }, t("form.expires.never"))
    : time(token.expires_ms);
}
