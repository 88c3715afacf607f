// The console: who is signed in, which page the address names, and drawing it.

import { ApiError, makeApi } from "./api.js";
import { learn } from "./clock.js";
import { closeDialogs, openDialog, redrawDialogs } from "./dialogs.js";
import { draw } from "./dom.js";
import { every, watch } from "./live.js";
import { configPage } from "./pages/config.js";
import { missingPage } from "./pages/missing.js";
import { overviewPage } from "./pages/overview.js";
import { ownersPage } from "./pages/owners.js";
import { routesPage } from "./pages/routes.js";
import { signIn } from "./pages/signin.js";
import { taskPage } from "./pages/task.js";
import { tasksPage } from "./pages/tasks.js";
import { tokenPage } from "./pages/token.js";
import { tokensPage } from "./pages/tokens.js";
import { tryPage } from "./pages/try.js";
import { upstreamsPage } from "./pages/upstreams.js";
import { usagePage } from "./pages/usage.js";
import { webhooksPage } from "./pages/webhooks.js";
import { empty } from "./parts.js";
import { adminToken, keepAdminToken } from "./prefs.js";
import { frame, menu } from "./shell.js";
import { announce } from "./says.js";
import { language, t } from "./text.js";

const OVERVIEW_MS = 2000;

// By the address after `#/`; `:id` takes any one part. A page is a function of a context (below)
// and gives {title(), view()}.
const PAGES = {
  "": overviewPage,
  tasks: tasksPage,
  "tasks/:id": taskPage,
  usage: usagePage,
  try: tryPage,
  tokens: tokensPage,
  "tokens/:id": tokenPage,
  owners: ownersPage,
  upstreams: upstreamsPage,
  webhooks: webhooksPage,
  routes: routesPage,
  config: configPage,
};

const root = document.getElementById("app");
const app = {
  place: "",
  facts: null,
  trouble: null,
  draw: soon,
  signOut: () => leave(null),
  openMenu,
  closeMenu: () => drawer?.close(),
};
const keys = []; // API keys made since signing in: {id, name, token, refused}; only here
let kept = {}; // what pages remember from one visit to the next, until signing out
let session = null; // what signing out aborts
let page = null; // {context, made, leave}
let door = null; // the sign-in page, while nobody is signed in
let drawer = null;
let waiting = false;

// ---------------------------------------------------------------- drawing

// Soon, and once for all that asked.
function soon() {
  if (waiting) return;
  waiting = true;
  queueMicrotask(() => {
    waiting = false;
    document.documentElement.lang = language();
    const shown = door ?? page.made;
    document.title = `${shown.title()} · Reelway`;
    draw(root, door ? door.view() : frame(app, seen(page.made)));
    redrawDialogs();
  });
}

// A page that cannot be drawn leaves the frame around it in use.
function seen({ view }) {
  try {
    return view();
  } catch (error) {
    console.error(error);
    return empty("alert", t("error.console"), String(error));
  }
}

function openMenu() {
  drawer = openDialog({
    title: t("nav.menu"),
    kind: "drawer",
    view: () => menu(app, "drawer"),
    closed: () => (drawer = null),
  });
}

// ---------------------------------------------------------------- signing in and out

const api = makeApi(() => session && leave("signin.ended"));

function enter(overview) {
  door = null;
  session = new AbortController();
  keepFacts(overview);
  every(
    OVERVIEW_MS,
    async (signal) => {
      try {
        keepFacts(await api.get("overview", {}, signal));
        app.trouble = null;
      } catch (error) {
        if (!signal.aborted) app.trouble = error;
        throw error;
      } finally {
        if (!signal.aborted) soon();
      }
    },
    session.signal,
  );
  openPage();
}

function keepFacts(overview) {
  app.facts = overview;
  learn(overview.now_ms);
}

// `why` is a key of a sentence for whoever did not mean to leave.
function leave(why) {
  session?.abort();
  page?.leave.abort();
  [session, page, app.facts, app.trouble] = [null, null, null, null];
  keys.length = 0;
  kept = {};
  keepAdminToken(null);
  closeDialogs();
  door = signIn({
    why,
    draw: soon,
    app,
    enter: async (token) => {
      const overview = await makeApi(
        () => {},
        () => token,
      ).get("overview");
      keepAdminToken(token);
      enter(overview);
    },
  });
  soon();
}

async function start() {
  if (adminToken() === null) return leave(null);
  try {
    enter(await makeApi(() => {}).get("overview"));
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) return leave("signin.ended");
    // The token may be good; the gateway is not there, or not well.
    enterLater(error);
  }
}

// Signed in, with nothing to show yet: the frame says why, and pages ask again by themselves.
function enterLater(error) {
  app.trouble = error;
  session = new AbortController();
  every(
    OVERVIEW_MS,
    async (signal) => {
      const overview = await api.get("overview", {}, signal);
      session.abort();
      app.trouble = null;
      enter(overview);
    },
    session.signal,
  );
  openPage();
}

// ---------------------------------------------------------------- pages

function openPage() {
  page?.leave.abort();
  closeDialogs();
  const { place, make, params, query } = whereTo(location.hash);
  app.place = place;
  const leaving = new AbortController();
  const context = {
    api,
    keys,
    kept,
    params,
    query,
    signal: leaving.signal,
    draw: soon,
    facts: () => app.facts,
    watch: (ms, load) => watch(ms, load, leaving.signal, soon),
    setQuery(changes) {
      for (const [name, value] of Object.entries(changes)) {
        if (value) query[name] = value;
        else delete query[name];
      }
      const text = new URLSearchParams(query).toString();
      const path = location.hash.split("?")[0] || "#/";
      history.replaceState(null, "", text ? `${path}?${text}` : path);
      soon();
    },
  };
  page = { context, leave: leaving, made: null };
  page.made = make(context);
  soon();
}

function whereTo(hash) {
  const [path, search = ""] = hash.replace(/^#\/?/, "").split("?");
  const query = Object.fromEntries(new URLSearchParams(search));
  const parts = path.split("/").filter(Boolean).map(decoded);
  for (const [pattern, make] of Object.entries(PAGES)) {
    const wanted = pattern.split("/").filter(Boolean);
    const fits = (part, index) => part.startsWith(":") || part === parts[index];
    if (wanted.length === parts.length && wanted.every(fits)) {
      const params = {};
      wanted.forEach((part, index) => {
        if (part.startsWith(":")) params[part.slice(1)] = parts[index];
      });
      return { place: parts[0] ?? "", make, params, query };
    }
  }
  return { place: null, make: missingPage, params: {}, query };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

addEventListener("hashchange", () => {
  if (!session) return;
  openPage();
  queueMicrotask(() => {
    scrollTo(0, 0);
    (document.querySelector("h1") ?? document.getElementById("main"))?.focus({
      preventScroll: true,
    });
    announce(page.made.title());
  });
});

start();
