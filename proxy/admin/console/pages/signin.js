// The door: the admin token, kept for this tab.

import { field } from "../controls.js";
import { h } from "../dom.js";
import { icon, mark } from "../icons.js";
import { button, describe } from "../parts.js";
import { settings } from "../shell.js";
import { t } from "../text.js";

// `why`: a key of what signed the visitor out, or null. `enter(token)` fails when it is refused.
export function signIn({ why, draw, app, enter }) {
  let token = "";
  let shown = false;
  let busy = false;
  let wrong = null; // beside the field
  let notice = why; // above it

  async function submit(event) {
    event.preventDefault();
    if (busy) return;
    notice = null;
    wrong = token.trim() ? null : t("signin.empty");
    if (wrong === null) {
      busy = true;
      draw();
      try {
        await enter(token.trim());
        return;
      } catch (error) {
        busy = false;
        const what = error.status === 401 ? t("signin.wrong") : describe(error);
        wrong = `${what} ${error.message}`;
      }
    }
    draw();
    document.getElementById("admin-token")?.focus();
  }

  return {
    title: () => t("signin.title"),
    view: () =>
      h(
        "main",
        { class: "door", key: "door" },
        h(
          "form",
          { class: "door-card", onsubmit: submit, novalidate: true },
          h("div", { class: "door-brand" }, mark(), h("span", {}, "Reelway")),
          h("h1", {}, t("signin.title")),
          h("p", { class: "lead" }, t("signin.lead")),
          notice &&
            h(
              "p",
              { class: "callout warn", role: "alert" },
              icon("alert"),
              h("span", {}, t(notice)),
            ),
          field({
            id: "admin-token",
            label: t("signin.token"),
            hint: t("signin.hint"),
            error: wrong && h("span", { role: "alert" }, wrong),
            control: (given) =>
              h(
                "div",
                { class: "with-button" },
                h("input", {
                  ...given,
                  class: "input",
                  type: shown ? "text" : "password",
                  autocomplete: "current-password",
                  autocapitalize: "off",
                  spellcheck: "false",
                  ref: (node) => queueMicrotask(() => node.focus()),
                  oninput: (event) => (token = event.currentTarget.value),
                }),
                h(
                  "button",
                  {
                    class: "icon-button",
                    type: "button",
                    "aria-label": t("signin.show"),
                    "aria-pressed": String(shown),
                    title: t("signin.show"),
                    onclick: () => {
                      shown = !shown;
                      draw();
                    },
                  },
                  icon("eye"),
                ),
              ),
          }),
          button(busy ? t("do.working") : t("signin.do"), undefined, {
            kind: "primary full",
            type: "submit",
            busy,
          }),
        ),
        h("div", { class: "door-foot" }, settings(app, "door")),
      ),
  };
}
