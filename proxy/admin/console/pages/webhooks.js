// What clients were told of their tasks, or could not be told; and telling it again.

import { choice } from "../controls.js";
import { h } from "../dom.js";
import * as format from "../format.js";
import { button, describe, empty, loaded, pageHead, table, time } from "../parts.js";
import { makePager } from "../pager.js";
import { note } from "../says.js";
import { t } from "../text.js";

const STATES = ["pending", "delivered", "dead"];
const PAGE = 50;

export function webhooksPage(ctx) {
  const state = () => (STATES.includes(ctx.query.state) ? ctx.query.state : "pending");
  const hooks = ctx.watch(2000, async (signal) => {
    const asked = state();
    const query = { state: asked, limit: PAGE, cursor: ctx.query.cursor };
    return { state: asked, ...(await ctx.api.get("webhooks", query, signal)) };
  });

  const pager = makePager(ctx, () => hooks.again());

  async function replay(hook) {
    try {
      await ctx.api.post(`webhooks/${encodeURIComponent(hook.id)}/replay`);
      note(t("webhooks.replayed"));
    } catch (error) {
      note(`${describe(error)} ${error.message}`, "bad");
    }
    hooks.again();
  }

  const columns = () => [
    {
      label: t("webhooks.receiver"),
      class: "wide",
      cell: (hook) => [
        h("span", { class: "cell-title", title: hook.url }, hook.url),
        h(
          "a",
          { class: "link", href: `#/tasks/${encodeURIComponent(hook.task_id)}` },
          h("code", { class: "cell-id" }, hook.task_id),
        ),
      ],
    },
    { label: t("webhooks.tells"), cell: (hook) => h("code", { class: "break" }, hook.event) },
    {
      label: t("webhooks.attempts"),
      class: "number",
      cell: (hook) => format.number(hook.attempts),
    },
    { label: t("webhooks.last"), class: "wide", cell: last },
    { label: t("task.created"), class: "number", cell: (hook) => time(hook.created_ms) },
    {
      label: t("upstreams.do"),
      class: "number",
      cell: (hook) =>
        button(t("webhooks.replay"), () => replay(hook), {
          kind: "small",
          sign: "refresh",
          "aria-label": t("webhooks.replay.what", { what: hook.task_id }),
        }),
    },
  ];

  function view() {
    return [
      pageHead(t("nav.webhooks"), t("webhooks.lead")),
      h(
        "div",
        { class: "toolbar", key: "toolbar" },
        choice(
          "state",
          t("webhooks.state"),
          STATES.map((one) => [one, t(`state.${one}`)]),
          state(),
          (chosen) => {
            pager.reset();
            ctx.setQuery({ state: chosen, cursor: null });
            hooks.again();
          },
        ),
      ),
      loaded(hooks, ({ data, next, state: shown }) =>
        data.length === 0
          ? empty("hook", t(`webhooks.none.${shown}`), t("webhooks.none.text"))
          : [table(t("nav.webhooks"), columns(), data, (hook) => hook.id), pager.view(next)],
      ),
    ];
  }

  return { title: () => t("nav.webhooks"), view };
}

function last(hook) {
  const entry = hook.log?.at(-1);
  if (!entry) return h("span", { class: "quiet" }, t("webhooks.not.yet"));
  return h(
    "span",
    { class: "two-lines" },
    h("span", {}, entry.result),
    h("span", { class: "quiet" }, time(entry.ms)),
  );
}
