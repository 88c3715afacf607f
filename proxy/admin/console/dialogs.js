// Modal dialogs. The browser keeps the focus inside, closes on Escape and gives the focus back.

import { draw, h } from "./dom.js";
import { button, iconButton, trouble } from "./parts.js";
import { t } from "./text.js";

let count = 0;
const open = new Set();

// `view(dialog)` gives the body's children, again at each `dialog.draw()`. `kind` is `wide` or
// `drawer`. `stays`: neither Escape nor a press beside it closes it. `closed` is called once,
// however it ended.
export function openDialog({ title, view, kind = "", stays = false, closed }) {
  const id = `dialog-${++count}`;
  const node = document.createElement("dialog");
  node.className = `dialog ${kind}`.trim();
  node.setAttribute("aria-labelledby", id);
  const dialog = { draw: render, close: () => node.close() };

  function render() {
    draw(
      node,
      h(
        "div",
        { class: "dialog-head" },
        h("h2", { id }, title),
        !stays && iconButton(t("do.close"), "cross", () => node.close()),
      ),
      h("div", { class: "dialog-body" }, view(dialog)),
    );
  }

  render();
  node.addEventListener("cancel", (event) => stays && event.preventDefault());
  // Chromium closes on a second Escape whatever `cancel` says.
  node.addEventListener("keydown", (event) => {
    if (stays && event.key === "Escape") event.preventDefault();
  });
  node.addEventListener("pointerdown", (event) => {
    if (event.target === node && !stays) node.close();
  });
  node.addEventListener("close", () => {
    open.delete(dialog);
    node.remove();
    closed?.();
  });
  open.add(dialog);
  document.body.append(node);
  node.showModal();
  return dialog;
}

export function closeDialogs() {
  for (const dialog of [...open]) dialog.close();
}

// After a change of language.
export function redrawDialogs() {
  for (const dialog of open) dialog.draw();
}

// Ask before something is done. `act()` does it; while it runs the dialog waits, and when it fails
// it says why. `danger` for what cannot be undone.
export function confirm({ title, text, label, danger = false, extra, act }) {
  let busy = false;
  let failure = null;
  const dialog = openDialog({
    title,
    view: () => [
      h("p", {}, text),
      extra?.(),
      failure && trouble(failure),
      h(
        "div",
        { class: "dialog-foot" },
        button(t("do.cancel"), () => dialog.close(), { autofocus: true }),
        button(busy ? t("do.working") : label, run, {
          kind: danger ? "danger" : "primary",
          busy,
        }),
      ),
    ],
  });

  async function run() {
    if (busy) return;
    busy = true;
    failure = null;
    dialog.draw();
    try {
      await act();
      dialog.close();
    } catch (error) {
      busy = false;
      failure = error;
      dialog.draw();
    }
  }
}
