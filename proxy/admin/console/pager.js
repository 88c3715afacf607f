// Turning the pages of a list: the gateway names the next page, the way back is remembered here.

import { h } from "./dom.js";
import { button } from "./parts.js";
import { t } from "./text.js";

// The page shown is in the address (`cursor`); `again()` asks for it. `view(next)` gives the
// buttons, nothing when there is one page only; `reset()` is for a list that begins anew.
export function makePager(ctx, again, { back = "page.back", on = "page.on" } = {}) {
  const before = [];

  function turn(cursor) {
    ctx.setQuery({ cursor });
    again();
    scrollTo(0, 0);
  }

  function onward(next) {
    before.push(ctx.query.cursor ?? null);
    turn(next);
  }

  function view(next) {
    if (!next && !ctx.query.cursor) return null;
    return h(
      "nav",
      { class: "paging", "aria-label": t("page.pages"), key: "paging" },
      button(t(back), () => turn(before.pop() ?? null), { disabled: !ctx.query.cursor }),
      button(t(on), () => onward(next), { disabled: !next }),
    );
  }

  return { view, reset: () => (before.length = 0) };
}
