/** What the commands of the overlay show: its peers, and the conversation of a node as a sequence diagram. */

/** What GET /v1/overlay answers. */
export interface OverlayView {
  readonly name: string
  readonly addresses: readonly string[]
  readonly coordinator: string
  readonly registered: boolean
  readonly trouble: string | null
  readonly observed: string | null
  readonly names: { readonly server: string | null; readonly keeper: string; readonly zone: string }
  readonly peers: readonly {
    readonly name: string
    readonly addresses: readonly string[]
    readonly way: string | null
    readonly access: string | null
    readonly reason: string
  }[]
}

export interface TraceStep {
  readonly at: number
  /** Milliseconds since 1970. */
  readonly wall: number
  readonly from: string
  readonly to: string
  readonly what: string
}

const COLUMN = 30
const TIME = 14

/** One column for each participant in the order of its first word, one line for each step; times from the first step (ms). */
export function conversation(steps: readonly TraceStep[]): string[] {
  const [first] = steps
  if (first === undefined) return []
  const names = [...new Set(steps.flatMap(({ from, to }) => [from, to]))]
  const pad = (text: string) => text.padEnd(COLUMN).slice(0, COLUMN)
  const head = `${''.padEnd(TIME)}${names.map((name) => pad(label(name))).join('')}`.trimEnd()
  const lines = steps.map(({ at, from, to, what }) => {
    const [a, b] = [names.indexOf(from), names.indexOf(to)]
    const [left, right] = [Math.min(a, b), Math.max(a, b)]
    const width = COLUMN * (right - left) - 3
    const text = ` ${what} `
    const rest = Math.max(2, width - text.length)
    const line = `─${text}${'─'.repeat(rest - 1)}`
    const arrow = a < b ? `├${line}>│` : `│<${line}┤`
    const before = Array.from({ length: left }, () => pad('│')).join('')
    const after = Array.from({ length: names.length - right - 1 }, () => '│'.padStart(COLUMN)).join('')
    const time = `+${(at - first.at).toFixed(1)} ms`
    return `${time.padEnd(TIME)}${before}${a === b ? `│ ${what}` : arrow}${after}`
  })
  return [head, ...lines]
}

/** The first label of a long name. */
function label(name: string): string {
  return name.length < COLUMN ? name : `${name.slice(0, COLUMN - 2)}…`
}
