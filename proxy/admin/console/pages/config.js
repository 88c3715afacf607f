// The configuration in force and where each value came from; and reading the file again.

import { searchBox } from "../controls.js";
import { h } from "../dom.js";
import * as format from "../format.js";
import { icon } from "../icons.js";
import { button, describe, empty, loaded, pageHead, table, time } from "../parts.js";
import { announce } from "../says.js";
import { t } from "../text.js";

export function configPage(ctx) {
  let sought = "";
  let outcome = null; // of the reload made here: {busy}, {error} or the answer
  const config = ctx.watch(10_000, (signal) => ctx.api.get("config", {}, signal));

  async function reload() {
    if (outcome?.busy) return;
    outcome = { busy: true };
    ctx.draw();
    try {
      outcome = await ctx.api.post("reload");
      announce(t(outcome.ok ? "config.reloaded" : "config.kept"));
    } catch (error) {
      outcome = { error };
    }
    ctx.draw();
    config.again();
  }

  const columns = () => [
    {
      label: t("config.key"),
      class: "wide",
      cell: ({ key }) => h("code", { class: "break" }, key),
    },
    {
      label: t("config.value"),
      class: "wide",
      cell: ({ value }) => h("code", { class: "break" }, shown(value)),
    },
    {
      label: t("config.origin"),
      cell: ({ origin }) => h("span", { class: "quiet break" }, origin),
    },
  ];

  const fits = ({ key, value, origin }) =>
    `${key} ${shown(value)} ${origin}`.toLowerCase().includes(sought.toLowerCase());

  function view() {
    return [
      pageHead(
        t("nav.config"),
        t("config.lead"),
        button(outcome?.busy ? t("do.working") : t("config.reload"), reload, {
          kind: "primary",
          sign: "refresh",
          busy: outcome?.busy,
        }),
      ),
      outcome && !outcome.busy ? told(outcome) : config.value && before(config.value.last_reload),
      h(
        "div",
        { class: "toolbar", key: "toolbar" },
        searchBox("config-search", t("config.search"), sought, (text) => {
          sought = text;
          ctx.draw();
        }),
      ),
      loaded(config, ({ data }) => {
        const rows = data.filter(fits);
        return rows.length === 0
          ? empty("search", t("config.none"), t("config.none.text"))
          : table(t("nav.config"), columns(), rows, ({ key }) => key);
      }),
    ];
  }

  return { title: () => t("nav.config"), view };
}

const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));

function before(last) {
  if (!last) return null;
  const text = last.ok ? t("config.last.ok") : t("config.last.bad");
  return h("p", { class: "quiet", key: "last" }, text, " ", time(last.ms));
}

function told({ ok, problems, waiting, error }) {
  if (error) {
    return callout("bad", describe(error), [error.message]);
  }
  if (!ok) return callout("bad", t("config.kept"), problems);
  if (waiting.length > 0) return callout("warn", t("config.waiting"), waiting);
  return callout("ok", t("config.reloaded"), []);
}

function callout(tone, title, lines) {
  return h(
    "div",
    { class: `callout ${tone}`, role: "status", key: "told" },
    icon(tone === "ok" ? "check" : "alert"),
    h(
      "div",
      { class: "callout-text" },
      h("strong", {}, title),
      lines.length > 0 &&
        h(
          "ul",
          {},
          lines.map((line) => h("li", { key: line }, h("code", { class: "break" }, line))),
        ),
    ),
  );
}
