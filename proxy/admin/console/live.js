// What changes by itself: asked for again and again while somebody looks, and only then.

const SLOWEST_MS = 15_000;

// Runs until `signal` is aborted. `job(signal)` is awaited before the next round; after a failure
// rounds come at half the pace each time. A hidden tab asks nothing, and at once when it is seen
// again.
export function every(ms, job, signal) {
  let timer = null;
  let failures = 0;
  let running = false;
  let again = false;

  async function round() {
    if (signal.aborted || document.hidden) return;
    if (running) {
      again = true;
      return;
    }
    clearTimeout(timer);
    running = true;
    try {
      await job(signal);
      failures = 0;
    } catch {
      failures += 1; // the job has told its reader
    }
    running = false;
    if (signal.aborted) return;
    const pause = again ? 0 : Math.min(ms * 2 ** Math.min(failures, 10), Math.max(ms, SLOWEST_MS));
    again = false;
    timer = setTimeout(round, pause);
  }

  document.addEventListener("visibilitychange", round, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  queueMicrotask(round); // the caller has what we return by then
  return round;
}

// The latest answer of `load(signal)`: `value` undefined until the first, `error` of the last
// round or null. `again()` asks now. `changed` is called after each round.
export function watch(ms, load, signal, changed) {
  const cell = { value: undefined, error: null, again: null };
  cell.again = every(
    ms,
    async (aborted) => {
      try {
        const value = await load(aborted);
        if (aborted.aborted) return;
        cell.value = value;
        cell.error = null;
      } catch (error) {
        if (aborted.aborted) return;
        cell.error = error;
        throw error;
      } finally {
        if (!aborted.aborted) changed();
      }
    },
    signal,
  );
  return cell;
}
