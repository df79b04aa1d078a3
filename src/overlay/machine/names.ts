/** Names of nodes and of their zones. */

/** What follows the first label. */
export function zoneOf(name: string): string {
  return name.slice(name.indexOf('.') + 1)
}

/** The name of a zone's coordinator. */
export function dc(zone: string): string {
  return `dc.${zone}`
}

/** First labels of names that no node has. */
const RESERVED = ['dc', 'ns', 'www', 'mail', 'localhost']
export const LABEL = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/

/** Whether a node of the zone may have this name. */
export function mayBeNode(name: string, zone: string): boolean {
  const label = name.slice(0, Math.max(0, name.length - zone.length - 1))
  return name === `${label}.${zone}` && LABEL.test(label) && !RESERVED.includes(label)
}

/** Whether an access list (full names, and `*.zone`) has this name (D10). */
export function mayBeAsked(patterns: readonly string[], name: string): boolean {
  return patterns.some(
    (pattern) => pattern === name || (pattern.startsWith('*.') && zoneOf(name) === pattern.slice(2)),
  )
}
