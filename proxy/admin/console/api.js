// The admin API: JSON in and out, with the admin token of this tab.

import { adminToken } from "./prefs.js";

const PATIENCE_MS = 30_000;

// `status` 0: nobody answered. `param` names the field at fault, where one is.
export class ApiError extends Error {
  constructor(status, code, message, param) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.param = param ?? null;
  }
}

// An address of this gateway, wherever a front proxy has put the console.
export function at(path, query = {}) {
  const url = new URL(path.replace(/^\/+/, ""), new URL(".", document.baseURI));
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") url.searchParams.set(name, value);
  }
  return url.href;
}

// `onRefused` hears of every 401, before the call itself fails.
export function makeApi(onRefused, token = adminToken) {
  async function call(method, path, { query, body, signal } = {}) {
    const headers = { Accept: "application/json", Authorization: `Bearer ${token() ?? ""}` };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const signals = [AbortSignal.timeout(PATIENCE_MS), ...(signal ? [signal] : [])];
    let reply;
    let text;
    try {
      reply = await fetch(at(`api/${path}`, query), {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        signal: AbortSignal.any(signals),
        cache: "no-store",
        credentials: "omit",
        redirect: "error",
      });
      text = await reply.text();
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError(0, "unreachable", String(error.message ?? error));
    }
    const said = parsed(text);
    if (reply.ok && said !== undefined) return said;
    const { message, code, param } = said?.error ?? {};
    if (reply.status === 401) onRefused();
    throw new ApiError(
      reply.status,
      code ?? (reply.ok ? "not_json" : `http_${reply.status}`),
      message ?? `${reply.status} ${reply.statusText}`.trim(),
      param,
    );
  }

  return {
    get: (path, query, signal) => call("GET", path, { query, signal }),
    post: (path, body = {}, signal) => call("POST", path, { body, signal }),
    patch: (path, body, signal) => call("PATCH", path, { body, signal }),
  };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
