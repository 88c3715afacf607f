// The routing table, in the order it is asked.

import { searchBox } from "../controls.js";
import { h } from "../dom.js";
import * as format from "../format.js";
import { icon } from "../icons.js";
import { empty, json, loaded, pageHead } from "../parts.js";
import { t } from "../text.js";
import { priceCase } from "../words.js";

export function routesPage(ctx) {
  let sought = "";
  const routes = ctx.watch(10_000, (signal) => ctx.api.get("routes", {}, signal));

  const fits = (route) =>
    [route.model, route.upstream_model ?? "", ...route.upstreams.map(({ name }) => name)].some(
      (word) => word.toLowerCase().includes(sought.toLowerCase()),
    );

  function view() {
    return [
      pageHead(t("nav.routes"), t("routes.lead")),
      h(
        "div",
        { class: "toolbar", key: "toolbar" },
        searchBox("route-search", t("routes.search"), sought, (text) => {
          sought = text;
          ctx.draw();
        }),
      ),
      loaded(routes, ({ data }) => {
        if (data.length === 0) return empty("fork", t("routes.none"), t("routes.none.text"));
        const shown = data.map((route, index) => [route, index]).filter(([route]) => fits(route));
        if (shown.length === 0)
          return empty("search", t("routes.not.found"), t("routes.not.found.text"));
        return h(
          "ol",
          { class: "routes", key: "routes" },
          shown.map(([route, at]) => row(route, at, ctx.facts()?.currency ?? "USD")),
        );
      }),
    ];
  }

  return { title: () => t("nav.routes"), view };
}

function row(route, at, currency) {
  const facts = [
    ["routes.price", price(route.price, currency)],
    ["routes.fit", t(`routes.fit.${route.fit}`)],
    ["routes.queue", route.queue > 0 && t("routes.queue.most", { n: format.number(route.queue) })],
    ["routes.age", route.max_age_s === null ? null : format.duration(route.max_age_s * 1000)],
  ].filter(([, value]) => value);
  const rewrites = Object.fromEntries(
    ["defaults", "overrides", "remove"]
      .filter((name) => Object.keys(route[name] ?? {}).length > 0)
      .map((name) => [name, route[name]]),
  );
  return h(
    "li",
    { class: "route", key: `${at} ${route.model}` },
    h("span", { class: "route-place" }, at + 1),
    h(
      "div",
      { class: "route-body" },
      h(
        "p",
        { class: "route-way" },
        h("code", { class: "route-model" }, route.model),
        icon("arrow"),
        h(
          "span",
          { class: "route-ends" },
          route.upstreams.map(({ name, weight }) =>
            h(
              "span",
              { class: "route-end", key: name },
              name,
              route.upstreams.length > 1 &&
                h(
                  "span",
                  { class: "quiet" },
                  weight > 0 ? ` × ${weight}` : ` ${t("routes.spare")}`,
                ),
            ),
          ),
        ),
        route.upstream_model &&
          h("span", { class: "quiet" }, t("routes.as"), " ", h("code", {}, route.upstream_model)),
      ),
      facts.length > 0 &&
        h(
          "dl",
          { class: "route-facts" },
          facts.map(([name, value]) =>
            h("div", { key: name }, h("dt", {}, t(name)), h("dd", {}, value)),
          ),
        ),
      Object.keys(rewrites).length > 0 &&
        h(
          "details",
          { class: "more" },
          h("summary", {}, t("routes.rewrites")),
          h("div", { class: "more-body" }, json(rewrites)),
        ),
    ),
  );
}

// `{per_second: "0.07"}` or amounts by case.
function price(value, currency) {
  const one = (amount) => format.money(Math.round(Number(amount) * 1e6), currency);
  const parts = Object.entries(value ?? {}).map(([unit, amount]) => {
    const said =
      typeof amount === "object"
        ? Object.entries(amount)
            .map(([when, each]) => `${priceCase(when)} ${one(each)}`)
            .join(", ")
        : one(amount);
    return t(`routes.price.${unit}`, { amount: said });
  });
  return parts.length > 0 ? parts.join(" + ") : t("routes.price.free");
}
