// What was made and spent, read whole: the gateway hands it out in pages.

const PAGE = 200;
const MOST_ROWS = 10_000;

// {rows, whole}: one row per UTC day, owner and model, the latest day first; not `whole` when
// there are more than a browser should add up.
export async function readUsage(api, days, signal) {
  const rows = [];
  let cursor = null;
  do {
    const page = await api.get("usage", { days, limit: PAGE, cursor }, signal);
    rows.push(...page.data);
    cursor = page.next;
  } while (cursor && rows.length < MOST_ROWS);
  return { rows, whole: cursor === null };
}
