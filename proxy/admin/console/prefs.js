// What this browser keeps: theme and language for good, the admin token for this tab only.
// Where storage is switched off, everything lasts until the page is left.

const memory = new Map();

function read(storage, name) {
  try {
    return storage().getItem(`reelway.${name}`);
  } catch {
    return memory.get(name) ?? null;
  }
}

function write(storage, name, value) {
  memory.set(name, value);
  try {
    if (value === null) storage().removeItem(`reelway.${name}`);
    else storage().setItem(`reelway.${name}`, value);
  } catch {
    // `memory` has it.
  }
}

const local = () => localStorage;
const session = () => sessionStorage;

export const THEMES = ["system", "light", "dark"];

export function theme() {
  const chosen = read(local, "theme");
  return THEMES.includes(chosen) ? chosen : "system";
}

export function setTheme(chosen) {
  write(local, "theme", chosen === "system" ? null : chosen);
  if (chosen === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
}

export function chosenLanguage() {
  return read(local, "lang");
}

export function keepLanguage(lang) {
  write(local, "lang", lang);
}

export function adminToken() {
  return read(session, "token");
}

export function keepAdminToken(token) {
  write(session, "token", token);
}
