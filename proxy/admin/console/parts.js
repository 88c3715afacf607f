// The pieces all pages are made of.

import { h } from "./dom.js";
import * as format from "./format.js";
import { icon } from "./icons.js";
import { announce } from "./says.js";
import { has, t } from "./text.js";

// ---------------------------------------------------------------- states

// What a word means: its colour and its icon.
const TONES = {
  queued: ["idle", "clock"],
  waiting: ["idle", "pause"],
  in_progress: ["busy", "play"],
  completed: ["ok", "check"],
  failed: ["bad", "cross"],
  well: ["ok", "check"],
  cooling: ["warn", "clock"],
  out: ["bad", "ban"],
  broken: ["bad", "alert"],
  retired: ["idle", "pause"],
  active: ["ok", "check"],
  disabled: ["warn", "pause"],
  expired: ["idle", "clock"],
  revoked: ["bad", "ban"],
  pending: ["busy", "clock"],
  delivered: ["ok", "check"],
  dead: ["bad", "cross"],
  ready: ["ok", "check"],
  not_ready: ["bad", "alert"],
};

export function badge(word) {
  const [tone, sign] = TONES[word] ?? ["idle", "clock"];
  return h(
    "span",
    { class: `badge ${tone}` },
    icon(sign),
    has(`state.${word}`) ? t(`state.${word}`) : word,
  );
}

// ---------------------------------------------------------------- pages and cards

// The page above this one.
export function crumb(href, label) {
  return h("p", { class: "crumb", key: "crumb" }, link(href, icon("chevron", "back"), label));
}

export function pageHead(title, lead, ...actions) {
  return h(
    "header",
    { class: "page-head", key: "page-head" },
    h(
      "div",
      { class: "page-title" },
      h("h1", { tabindex: -1 }, title),
      lead && h("p", { class: "lead" }, lead),
    ),
    actions.length > 0 && h("div", { class: "actions" }, actions),
  );
}

export function card(title, ...children) {
  return h(
    "section",
    { class: "card", "aria-label": title },
    h("h2", { class: "card-title" }, title),
    children,
  );
}

// A card whose heading has something at its other end.
export function cardWith(title, aside, ...children) {
  return h(
    "section",
    { class: "card", "aria-label": title },
    h("div", { class: "card-head" }, h("h2", { class: "card-title" }, title), aside),
    children,
  );
}

export function facts(...pairs) {
  return h(
    "dl",
    { class: "facts" },
    pairs
      .filter((pair) => pair)
      .map(([name, value]) =>
        h(
          "div",
          { class: "fact", key: name },
          h("dt", {}, name),
          h("dd", {}, value ?? format.NONE),
        ),
      ),
  );
}

export function empty(sign, title, text, ...actions) {
  return h(
    "div",
    { class: "empty" },
    h("span", { class: "empty-sign" }, icon(sign)),
    h("h2", {}, title),
    h("p", {}, text),
    actions.length > 0 && h("div", { class: "actions" }, actions),
  );
}

// ---------------------------------------------------------------- when it fails

// What an error means and what to do, as far as its code says; the gateway's own words beside.
export function describe(error) {
  const code = error.status === 0 ? "unreachable" : error.code;
  if (has(`error.${code}`)) return t(`error.${code}`);
  return error.status >= 500 ? t("error.server") : t("error.other");
}

export function trouble(error, again) {
  return h(
    "div",
    { class: "callout bad", role: "alert", key: "trouble" },
    icon("alert"),
    h(
      "div",
      { class: "callout-text" },
      h("strong", {}, describe(error)),
      h("p", {}, error.message),
    ),
    again && button(t("do.again"), again, { sign: "refresh" }),
  );
}

// Something to be known of before all else on a page; `lines` are shown as they were written.
export function callout(tone, title, lines, ...more) {
  return h(
    "div",
    { class: `callout ${tone}`, role: "status", key: "told" },
    icon(tone === "ok" ? "check" : "alert"),
    h(
      "div",
      { class: "callout-text" },
      h("strong", {}, title),
      more.length > 0 && [" ", ...more],
      lines.length > 0 &&
        h(
          "ul",
          {},
          lines.map((line) => h("li", { key: line }, h("code", { class: "break" }, line))),
        ),
    ),
  );
}

// A cell of `live.watch`: its value as `view` shows it, that it is on its way, or that it failed.
export function loaded(cell, view) {
  if (cell.value !== undefined) {
    // Of a gateway that does not answer at all the frame around the page tells.
    return [cell.error && cell.error.status !== 0 && stale(cell.error), view(cell.value)];
  }
  return cell.error ? trouble(cell.error, cell.again) : skeleton();
}

// Over the page, so that nothing moves when it comes and goes.
export function stale(error) {
  return h(
    "p",
    { class: "stale", role: "status", key: "stale" },
    icon("alert"),
    h("span", {}, t("error.stale"), " ", describe(error)),
  );
}

export function skeleton() {
  return h(
    "div",
    { class: "skeleton", role: "status", key: "skeleton" },
    h("span", { class: "unseen" }, t("loading")),
    [1, 2, 3, 4, 5].map((line) => h("span", { class: `bone bone-${line}` })),
  );
}

// ---------------------------------------------------------------- things to press

// A `busy` one keeps the focus, which a disabled one would lose; its handler has to look.
export function button(label, onclick, { sign, kind = "", busy, type = "button", ...more } = {}) {
  return h(
    "button",
    {
      class: `button ${kind}`.trim(),
      type,
      onclick,
      "aria-disabled": busy ? "true" : undefined,
      ...more,
    },
    sign && icon(sign),
    h("span", {}, label),
  );
}

export function iconButton(label, sign, onclick, more = {}) {
  return h(
    "button",
    { class: "icon-button", type: "button", onclick, "aria-label": label, title: label, ...more },
    icon(sign),
  );
}

export function link(href, ...children) {
  return h("a", { class: "link", href }, children);
}

export function buttonLink(href, label, { sign, kind = "", ...more } = {}) {
  return h(
    "a",
    { class: `button ${kind}`.trim(), href, ...more },
    sign && icon(sign),
    h("span", {}, label),
  );
}

// Copies `text`; `what` names it for those who cannot see it.
export function copyButton(text, what) {
  const said = t("do.copy.what", { what });
  return h(
    "button",
    {
      class: "icon-button copy",
      type: "button",
      "aria-label": said,
      title: said,
      onclick: async (event) => {
        const pressed = event.currentTarget;
        const done = await copy(text);
        announce(t(done ? "do.copied" : "do.not.copied"));
        pressed.dataset.copied = done ? "yes" : "no";
        setTimeout(() => delete pressed.dataset.copied, 1500);
      },
    },
    icon("copy", "copy-before"),
    icon("check", "copy-after"),
  );
}

// The clipboard is for secure contexts only; an admin port reached by plain HTTP is none.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "unseen";
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

export function copyable(text, what = text) {
  return h("span", { class: "copyable" }, h("code", {}, text), copyButton(text, what));
}

// ---------------------------------------------------------------- bars

// How far something is. `value` from 0 to `max`.
export function bar(value, max, label, tone = "") {
  const share = max > 0 ? Math.min(1, Math.max(0, value / max)) : 0;
  return h(
    "span",
    {
      class: `bar ${tone}`.trim(),
      role: "progressbar",
      "aria-label": label,
      "aria-valuemin": 0,
      "aria-valuemax": max,
      "aria-valuenow": Math.min(value, max),
    },
    h("span", { class: "bar-fill", style: { "--share": share.toFixed(4) } }),
  );
}

// Where a task stands: in our own queue no upstream has heard of it.
export const stateOf = (task) => (task.waiting ? "waiting" : task.status);

const BAR_TONES = { completed: "ok", failed: "bad", queued: "idle" };

export function taskBar(task) {
  const label = t("task.progress");
  return bar(task.progress ?? 0, 100, label, BAR_TONES[task.status] ?? "busy");
}

// ---------------------------------------------------------------- tables

// `columns`: {label, cell(row), class?}; the first one heads its row. On narrow screens each row
// is a card, and its cells carry their labels. The roles are spelled out because a changed
// `display` takes them away from a table.
export function table(caption, columns, rows, keyOf) {
  return h(
    "table",
    { class: "table", role: "table", key: "table" },
    h("caption", { class: "unseen" }, caption),
    h(
      "thead",
      { role: "rowgroup" },
      h(
        "tr",
        { role: "row" },
        columns.map(({ label, class: name }) =>
          h("th", { role: "columnheader", scope: "col", class: name }, label),
        ),
      ),
    ),
    h(
      "tbody",
      { role: "rowgroup" },
      rows.map((row) =>
        h(
          "tr",
          { role: "row", key: keyOf(row) },
          columns.map(({ label, cell, class: name }, index) =>
            h(
              index ? "td" : "th",
              {
                role: index ? "cell" : "rowheader",
                scope: index ? undefined : "row",
                class: name,
                "data-label": label,
              },
              cell(row),
            ),
          ),
        ),
      ),
    ),
  );
}

// ---------------------------------------------------------------- values

export function json(value) {
  return h("pre", { class: "code", tabindex: 0 }, JSON.stringify(value, null, 2));
}

export function time(ms) {
  if (ms === null || ms === undefined) return format.NONE;
  const iso = new Date(ms).toISOString();
  return h("time", { datetime: iso, title: format.moment(ms) }, format.ago(ms));
}
