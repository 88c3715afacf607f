// The secrets of a token: seen once, here.

import { openDialog } from "./dialogs.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { button, copyable } from "./parts.js";
import { t } from "./text.js";

const NAMES = ["token", "access_key", "secret_key", "webhook_secret"];

// Which of this tab's keys are still taken, by what was just heard of their tokens.
export function followStates(keys, tokens) {
  for (const key of keys) {
    const token = tokens.find(({ id }) => id === key.id);
    if (token) key.refused = token.state !== "active";
  }
}

// `made` is what the API answered; `keys` are this tab's keys, for trying them out.
export function showSecrets(made, keys) {
  const at = keys.findIndex((one) => one.id === made.id);
  if (at >= 0) keys.splice(at, 1);
  keys.unshift({ id: made.id, name: made.name, token: made.token });
  const dialog = openDialog({
    title: t("secrets.title", { name: made.name }),
    stays: true,
    view: () => [
      h("p", { class: "callout warn" }, icon("alert"), h("span", {}, t("secrets.once"))),
      h(
        "dl",
        { class: "secrets" },
        NAMES.filter((name) => made[name]).map((name) =>
          h(
            "div",
            { class: "secret", key: name, "data-secret": name },
            h("dt", {}, t(`secrets.${name}`)),
            h("dd", {}, copyable(made[name], t(`secrets.${name}`))),
            h("dd", { class: "hint" }, t(`secrets.${name}.use`)),
          ),
        ),
      ),
      h(
        "div",
        { class: "dialog-foot" },
        button(
          t("secrets.try"),
          () => {
            dialog.close();
            location.hash = "#/try";
          },
          { sign: "spark" },
        ),
        button(t("secrets.saved"), () => dialog.close(), { kind: "primary", autofocus: true }),
      ),
    ],
  });
}
