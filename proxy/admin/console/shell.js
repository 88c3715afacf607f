// The frame around every page: navigation, theme and language, and whether the gateway is well.

import { at } from "./api.js";
import { choice } from "./controls.js";
import { h } from "./dom.js";
import { icon, mark } from "./icons.js";
import { copyable, describe } from "./parts.js";
import { THEMES, setTheme, theme } from "./prefs.js";
import { LANGUAGES, language, setLanguage, t } from "./text.js";

const GROUPS = [
  [
    "watch",
    [
      ["", "grid"],
      ["tasks", "list"],
      ["usage", "bars"],
      ["try", "spark"],
    ],
  ],
  [
    "manage",
    [
      ["tokens", "key"],
      ["owners", "people"],
      ["upstreams", "server"],
      ["webhooks", "hook"],
    ],
  ],
  [
    "setup",
    [
      ["routes", "fork"],
      ["config", "sliders"],
    ],
  ],
];

export const nameOf = (place) => t(place ? `nav.${place}` : "nav.overview");

// `app` is what main.js makes: `place` (the first part of the address), `facts` (the overview, or
// null), `trouble` (why it could not be had, or null), `draw`, `openMenu`,
// `closeMenu`, `signOut`.
export function frame(app, page) {
  return [
    h(
      "a",
      {
        class: "skip",
        href: "#main",
        key: "skip",
        onclick: (event) => {
          event.preventDefault(); // the fragment names the page
          document.getElementById("main").focus();
        },
      },
      t("nav.skip"),
    ),
    h(
      "div",
      { class: "frame", key: "frame" },
      h("aside", { class: "side" }, brand(), menu(app, "side")),
      h(
        "header",
        { class: "top" },
        brand(),
        h(
          "button",
          {
            class: "icon-button",
            type: "button",
            onclick: app.openMenu,
            "aria-label": t("nav.menu"),
          },
          icon("menu"),
        ),
      ),
      h("main", { id: "main", class: "main", tabindex: -1 }, h("div", { class: "page" }, page)),
    ),
    app.trouble?.status === 0 && unreachable(app.trouble),
  ];
}

function unreachable(error) {
  return h(
    "p",
    { class: "stale", role: "status", key: "unreachable" },
    icon("alert"),
    h("span", {}, describe(error)),
  );
}

function brand() {
  return h("a", { class: "brand", href: "#/" }, mark(), h("span", {}, "Reelway"));
}

// Also in the drawer of narrow screens; `where` keeps the two apart.
export function menu(app, where) {
  return h(
    "div",
    { class: "menu" },
    h(
      "nav",
      { "aria-label": t("nav.label") },
      GROUPS.map(([group, places]) =>
        h(
          "div",
          { class: "nav-group", key: group },
          h("p", { class: "nav-title", id: `${where}-${group}` }, t(`nav.group.${group}`)),
          h(
            "ul",
            { "aria-labelledby": `${where}-${group}` },
            places.map(([place, sign]) =>
              h(
                "li",
                { key: place },
                h(
                  "a",
                  {
                    class: "nav-link",
                    href: `#/${place}`,
                    onclick: app.closeMenu,
                    "aria-current": app.place === place ? "page" : undefined,
                  },
                  icon(sign),
                  h("span", {}, nameOf(place)),
                  mention(app, place),
                ),
              ),
            ),
          ),
        ),
      ),
    ),
    h(
      "div",
      { class: "menu-foot" },
      app.facts && address(app.facts.public_url),
      settings(app, where),
      h(
        "button",
        { class: "nav-link", type: "button", onclick: app.signOut },
        icon("out"),
        h("span", {}, t("nav.signout")),
      ),
      app.facts &&
        h(
          "p",
          { class: "version" },
          `Reelway ${app.facts.version} · `,
          h("a", { class: "link", href: at("openapi.json") }, t("nav.api")),
        ),
    ),
  );
}

function address(url) {
  return h("div", { class: "address" }, h("span", {}, t("nav.address")), copyable(url));
}

// What deserves a look from wherever one is: tasks under way, upstreams that are not well.
function mention(app, place) {
  if (!app.facts) return null;
  if (place === "tasks" && app.facts.tasks_open) {
    const n = app.facts.tasks_open;
    return h("span", { class: "count", "aria-label": t("nav.open", { n }) }, n);
  }
  const unwell = app.facts.upstreams.filter(
    ({ standing }) => standing && standing.mood !== "well",
  ).length;
  if (place === "upstreams" && unwell > 0) {
    return h("span", { class: "count bad", "aria-label": t("nav.unwell", { n: unwell }) }, unwell);
  }
  return null;
}

const THEME_SIGNS = { system: "screen", light: "sun", dark: "moon" };

export function settings(app, where) {
  return h(
    "div",
    { class: "settings" },
    choice(
      `${where}-theme`,
      t("theme.label"),
      THEMES.map((one) => [
        one,
        [icon(THEME_SIGNS[one]), h("span", { class: "unseen" }, t(`theme.${one}`))],
      ]),
      theme(),
      (chosen) => {
        setTheme(chosen);
        app.draw();
      },
    ),
    choice(
      `${where}-language`,
      t("language.label"),
      Object.entries(LANGUAGES),
      language(),
      (chosen) => {
        setLanguage(chosen);
        app.draw();
      },
    ),
  );
}
