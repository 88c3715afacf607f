// The gateway's time: ages are counted by the clock that wrote the times.

let aheadMs = 0;

export function learn(gatewayMs) {
  aheadMs = gatewayMs - Date.now();
}

export function now() {
  return Date.now() + aheadMs;
}
