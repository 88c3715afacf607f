// Telling somebody who is not looking at the place: a screen reader, and a passing note.

import { draw, h } from "./dom.js";
import { icon } from "./icons.js";

const NOTE_MS = 5000;
const notes = [];
let count = 0;

// For screen readers only, when they have finished what they are saying.
export function announce(text) {
  document.getElementById("polite").textContent = text;
}

// A passing note, read aloud too. `kind` is `ok` or `bad`.
export function note(text, kind = "ok") {
  const one = { key: ++count, text, kind };
  notes.push(one);
  show();
  announce(text);
  setTimeout(() => {
    notes.splice(notes.indexOf(one), 1);
    show();
  }, NOTE_MS);
}

function show() {
  draw(
    document.getElementById("toasts"),
    notes.map(({ key, text, kind }) =>
      h("p", { key, class: `toast ${kind}` }, icon(kind === "ok" ? "check" : "alert"), text),
    ),
  );
}
