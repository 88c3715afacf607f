// The configuration in force and where each value came from; and reading the file again.

import { searchBox } from "../controls.js";
import { h } from "../dom.js";
import { button, callout, describe, empty, loaded, pageHead, table, time } from "../parts.js";
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
      cell: ({ origin }) => h("span", { class: "quiet break" }, from(origin)),
    },
  ];

  const fits = ({ key, value, origin }) =>
    `${key} ${shown(value)} ${from(origin)}`.toLowerCase().includes(sought.toLowerCase());

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
      reloaded(outcome, config.value?.last_reload),
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

const shown = (value) => {
  if (value === "(hidden)") return t("config.hidden");
  return typeof value === "string" ? value : JSON.stringify(value);
};

// `default`, `env NAME`, or `file:line`, which is said as it is.
function from(origin) {
  if (origin === "default") return t("config.from.default");
  return origin.startsWith("env ") ? t("config.from.env", { name: origin.slice(4) }) : origin;
}

// What came of the reload made here, or of a later one by somebody else.
function reloaded(mine, last) {
  if (mine?.error) return callout("bad", describe(mine.error), [mine.error.message]);
  const isMine = mine && !mine.busy && !(last && last.ms > mine.ms);
  const came = isMine ? mine : last;
  if (!came) return null;
  if (!came.ok) return callout("bad", t("config.kept"), came.problems, time(came.ms));
  if (came.waiting.length > 0) {
    return callout("warn", t("config.waiting"), came.waiting, time(came.ms));
  }
  if (isMine) return callout("ok", t("config.reloaded"), []);
  return h("p", { class: "quiet", key: "last" }, t("config.last.ok"), " ", time(came.ms));
}
