// What a reader fills in, chooses and searches with.

import { h } from "./dom.js";
import { icon } from "./icons.js";
import { t } from "./text.js";

// One of a few, as radio buttons that look like tabs. `options`: [value, label].
export function choice(name, legend, options, chosen, onchoose) {
  return h(
    "fieldset",
    { class: "choice" },
    h("legend", { class: "unseen" }, legend),
    options.map(([value, label]) =>
      h(
        "label",
        { class: "choice-one", key: value },
        h("input", {
          type: "radio",
          name,
          value,
          checked: value === chosen,
          onchange: () => onchoose(value),
        }),
        h("span", {}, label),
      ),
    ),
  );
}

// A labelled control. `error` and `hint` are read with it.
export function field({ id, label, hint, error, optional, control }) {
  const notes = [hint && `${id}-hint`, error && `${id}-error`].filter(Boolean).join(" ");
  return h(
    "div",
    { class: error ? "field wrong" : "field", key: id },
    h(
      "label",
      { for: id },
      label,
      optional && h("span", { class: "optional" }, ` ${t("form.optional")}`),
    ),
    control({
      id,
      "aria-describedby": notes || undefined,
      "aria-invalid": error ? "true" : undefined,
    }),
    hint && h("p", { class: "hint", id: `${id}-hint` }, hint),
    error && h("p", { class: "field-error", id: `${id}-error` }, icon("alert"), error),
  );
}

export function input(more) {
  return (given) => h("input", { class: "input", type: "text", ...given, ...more });
}

export function select(options, more) {
  return (given) =>
    h(
      "span",
      { class: "select" },
      h(
        "select",
        { class: "input", ...given, ...more },
        options.map(([value, label]) =>
          h("option", { value, key: value, selected: value === more.value }, label),
        ),
      ),
      icon("chevron"),
    );
}

// A box to search in: tells after each key.
export function searchBox(id, label, value, onsearch) {
  return h(
    "label",
    { class: "search", for: id },
    h("span", { class: "unseen" }, label),
    icon("search"),
    h("input", {
      id,
      class: "input",
      type: "search",
      placeholder: label,
      autocomplete: "off",
      spellcheck: "false",
      value,
      oninput: (event) => onsearch(event.currentTarget.value),
    }),
  );
}
