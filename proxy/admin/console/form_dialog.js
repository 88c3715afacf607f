// A form in a dialog: reads what was filled in, sends it, and says beside each field what is wrong.

import { openDialog } from "./dialogs.js";
import { h } from "./dom.js";
import { button, trouble } from "./parts.js";
import { t } from "./text.js";

// `fields(wrong, draw)` gives the controls, with ids `form-<field>`; `read()` answers {body}, or
// {wrong} by field; `send(body)` asks the gateway, and `done` is told its answer once the dialog
// has closed. A null body changes nothing and is not sent.
export function formDialog({ title, label, fields, read, send, done }) {
  let wrong = {};
  let failure = null;
  let busy = false;
  const dialog = openDialog({ title, kind: "wide", view });

  async function submit(event) {
    event.preventDefault();
    if (busy) return;
    const found = read();
    wrong = found.wrong ?? {};
    failure = null;
    if (found.body === null) {
      dialog.close();
      return;
    }
    if (found.body) {
      busy = true;
      dialog.draw();
      try {
        const answer = await send(found.body);
        dialog.close();
        done(answer);
        return;
      } catch (error) {
        busy = false;
        const name = fieldOf(error);
        if (name) wrong = { [name]: error.message };
        else failure = error;
      }
    }
    dialog.draw();
    document.querySelector("dialog [aria-invalid=true]")?.focus();
  }

  function view() {
    return h(
      "form",
      { class: "form", onsubmit: submit, novalidate: true },
      fields(wrong, () => dialog.draw()),
      failure && trouble(failure),
      h(
        "div",
        { class: "dialog-foot" },
        button(t("do.cancel"), () => dialog.close()),
        button(busy ? t("do.working") : label, undefined, {
          kind: "primary",
          type: "submit",
          busy,
        }),
      ),
    );
  }
}

// Which field of the form an error names: `limits.max_in_flight`, `models.0`.
function fieldOf(error) {
  const parts = (error.param ?? "").split(/[.[\]]+/);
  return parts.find((part) => part && document.getElementById(`form-${part}`));
}
