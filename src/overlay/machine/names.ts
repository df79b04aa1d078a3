/** Names of nodes and of their zones. */

/** What follows the first label. */
export function zoneOf(name: string): string {
  return name.slice(name.indexOf('.') + 1)
}

/** Whether an access list (full names, and `*.zone`) has this name (D10). */
export function mayBeAsked(patterns: readonly string[], name: string): boolean {
  return patterns.some(
    (pattern) => pattern === name || (pattern.startsWith('*.') && zoneOf(name) === pattern.slice(2)),
  )
}
