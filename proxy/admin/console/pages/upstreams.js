// The accounts that render, and each of their keys: how busy, how well, and a test.

import { now } from "../clock.js";
import { h } from "../dom.js";
import * as format from "../format.js";
import { icon } from "../icons.js";
import { badge, bar, button, describe, empty, loaded, pageHead, table } from "../parts.js";
import { announce, note } from "../says.js";
import { t } from "../text.js";

export function upstreamsPage(ctx) {
  const findings = new Map(); // "upstream/credential" → {busy} or {ok, text}
  const upstreams = ctx.watch(2000, (signal) => ctx.api.get("upstreams", {}, signal));
  const pathOf = (upstream, credential) =>
    `upstreams/${encodeURIComponent(upstream)}/credentials/${encodeURIComponent(credential)}`;

  async function test(upstream, credential) {
    const name = `${upstream}/${credential}`;
    if (findings.get(name)?.busy) return;
    findings.set(name, { busy: true });
    ctx.draw();
    try {
      const found = await ctx.api.post(`${pathOf(upstream, credential)}/test`);
      findings.set(name, { ok: found.ok, text: said(found) });
    } catch (error) {
      findings.set(name, { ok: false, text: `${describe(error)} ${error.message}` });
    }
    announce(findings.get(name).text);
    ctx.draw();
  }

  async function restore(path, name) {
    try {
      await ctx.api.post(`${path}/restore`);
      note(t("upstreams.restored", { name }));
    } catch (error) {
      note(`${describe(error)} ${error.message}`, "bad");
    }
    upstreams.again();
  }

  function finding(upstream, credential) {
    const found = findings.get(`${upstream}/${credential}`);
    if (!found) return null;
    return h(
      "p",
      { class: `finding ${found.busy ? "" : found.ok ? "ok" : "bad"}` },
      icon(found.busy ? "clock" : found.ok ? "check" : "alert"),
      h("span", {}, found.busy ? t("upstreams.testing") : found.text),
    );
  }

  const back = (path, what) =>
    button(t("upstreams.restore"), () => restore(path, what), {
      kind: "small",
      sign: "refresh",
      "aria-label": t("upstreams.restore.what", { what }),
    });

  function deeds(upstream, credential) {
    const what = `${upstream.name}/${credential.name}`;
    return h(
      "span",
      { class: "row-actions" },
      credential.standing.mood !== "well" && back(pathOf(upstream.name, credential.name), what),
      button(t("upstreams.test"), () => test(upstream.name, credential.name), {
        kind: "small",
        busy: findings.get(what)?.busy,
        "aria-label": t("upstreams.test.what", { what }),
      }),
    );
  }

  function one(upstream) {
    const columns = [
      {
        label: t("task.credential"),
        class: "wide",
        cell: (credential) => [
          h("span", { class: "cell-title" }, credential.name),
          finding(upstream.name, credential.name),
        ],
      },
      { label: t("upstreams.load"), class: "narrow", cell: load },
      {
        label: t("upstreams.weight"),
        class: "number",
        cell: ({ weight }) => format.number(weight),
      },
      {
        label: t("upstreams.mood"),
        cell: (credential) => [credential.retired && badge("retired"), mood(credential.standing)],
      },
      {
        label: t("upstreams.do"),
        class: "number",
        cell: (credential) => deeds(upstream, credential),
      },
    ];
    return h(
      "section",
      { class: "card upstream", "aria-label": upstream.name, key: upstream.name },
      h(
        "div",
        { class: "upstream-head" },
        h("span", { class: "upstream-sign" }, icon("cloud")),
        h(
          "div",
          { class: "upstream-name" },
          h("h2", { class: "card-title" }, upstream.name),
          h("p", { class: "quiet" }, upstream.provider, " · ", h("code", {}, upstream.base_url)),
        ),
        upstream.waiting > 0 &&
          h(
            "span",
            { class: "badge idle" },
            icon("clock"),
            t("upstreams.waiting", { n: upstream.waiting }),
          ),
        upstream.open > 0 &&
          h(
            "a",
            {
              class: "badge busy",
              href: `#/tasks?${new URLSearchParams({ upstream: upstream.name })}`,
            },
            icon("play"),
            t("upstreams.open", { n: upstream.open }),
          ),
        mood(upstream.standing),
        upstream.standing.mood !== "well" &&
          back(`upstreams/${encodeURIComponent(upstream.name)}`, upstream.name),
      ),
      table(
        t("upstreams.keys", { name: upstream.name }),
        columns,
        upstream.credentials,
        (credential) => credential.name,
      ),
    );
  }

  function view() {
    return [
      pageHead(t("nav.upstreams"), t("upstreams.lead")),
      loaded(upstreams, ({ data }) =>
        data.length === 0
          ? empty("cloud", t("upstreams.none"), t("upstreams.none.text"))
          : h("div", { class: "stack", key: "all" }, data.map(one)),
      ),
    ];
  }

  return { title: () => t("nav.upstreams"), view };
}

// What came of a test, and by how much the clocks differ: signatures go by them.
function said({ what, ms, skew_s: skew }) {
  const key = skew > 0 ? "upstreams.skew" : "upstreams.skew.back";
  const clocks = skew ? `; ${t(key, { time: format.duration(Math.abs(skew) * 1000) })}` : "";
  return `${what} (${format.duration(ms)}${clocks})`;
}

function load(credential) {
  const { in_flight: taken, max_in_flight: most } = credential;
  if (most === null) return h("span", { class: "quiet" }, t("upstreams.no.limit"));
  return h(
    "span",
    { class: "with-figure" },
    bar(taken, most, t("upstreams.load"), taken >= most ? "warn" : ""),
    h("span", { class: "figure" }, `${format.number(taken)} / ${format.number(most)}`),
  );
}

function mood(standing) {
  const wait = standing.until_ms - now();
  const notes = [
    standing.code,
    standing.mood !== "well" &&
      standing.strikes > 0 &&
      t("upstreams.strikes", { n: standing.strikes }),
    standing.mood !== "well" &&
      (wait > 0 ? t("upstreams.until", { time: format.duration(wait) }) : t("upstreams.trial")),
  ].filter(Boolean);
  return h(
    "span",
    { class: "mood" },
    badge(standing.mood),
    standing.mood !== "well" && h("span", { class: "mood-why" }, notes.join(" · ")),
  );
}
