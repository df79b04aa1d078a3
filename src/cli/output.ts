/**
 * How the command prints: one JSON object for programs, tables for people. Names that others chose reach the terminal as text
 * only (core/printable.ts).
 */
import { printable, printableJson } from '../core/printable.ts'

/** One JSON object on one line, with numbers of any size. */
export function printJson(value: unknown): void {
  const text = JSON.stringify(value, (_, entry) => (typeof entry === 'bigint' ? entry.toString() : entry))
  process.stdout.write(`${printableJson(text)}\n`)
}

export function printLines(lines: readonly string[]): void {
  if (lines.length > 0) process.stdout.write(`${lines.map(printable).join('\n')}\n`)
}

/** Width of the terminal; without one, unlimited. */
export function terminalWidth(): number {
  return (process.stdout.isTTY && process.stdout.columns) || Number.POSITIVE_INFINITY
}

/**
 * A table no wider than the terminal: columns go in the order of `drop`, then the longest cells of `shorten` are cut. Without a
 * terminal all of it.
 */
export function fitTable(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  fit: {
    readonly drop?: readonly string[]
    readonly shorten?: readonly string[]
    readonly width?: number | undefined
  },
): string[] {
  const { drop = [], shorten = [], width = terminalWidth() } = fit
  let kept = head.map((_, i) => i)
  const cells = [head, ...rows].map((row) => [...row])
  const widthOf = (i: number) => Math.max(...cells.map((row) => row[i]?.length ?? 0))
  const total = () => kept.reduce((sum, i) => sum + widthOf(i) + 2, -2)
  for (const name of drop) if (total() > width) kept = kept.filter((i) => head[i] !== name)
  for (const name of shorten) {
    const i = head.indexOf(name)
    const limit = Math.max(head[i]?.length ?? 0, 8, widthOf(i) - Math.max(0, total() - width))
    for (const row of cells) if ((row[i]?.length ?? 0) > limit) row[i] = `${row[i]!.slice(0, limit - 1)}…`
  }
  const [first, ...rest] = cells.map((row) => kept.map((i) => row[i] ?? ''))
  return table(first!, rest)
}

/** Lines of words no longer than the terminal is wide; those after the first are indented. */
export function wrap(text: string, indent: string, width: number = terminalWidth()): string[] {
  const lines: string[] = []
  for (const word of text.split(/(?<=\S) (?=\S)/)) {
    const last = lines.at(-1)
    if (last !== undefined && last.length + 1 + word.length <= width)
      lines[lines.length - 1] = `${last} ${word}`
    else lines.push(last === undefined ? word : `${indent}${word}`)
  }
  return lines
}

/** Left-aligned columns, two spaces apart; numbers to the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)))
  const numeric = head.map(
    (_, i) => rows.length > 0 && rows.every((row) => /^(-|[\d.]+( \S{1,4})?)$/.test(row[i] ?? '')),
  )
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => (numeric[i] ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)))
      .join('  ')
      .trimEnd()
  return [line(head), ...rows.map(line)]
}

export function showMs(value: number | null | undefined): string {
  if (value === null || value === undefined) return '-'
  return `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`
}

export function showLoss(value: number | null | undefined): string {
  if (value === null || value === undefined) return '-'
  return `${(value * 100).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %`
}

export function showBytes(value: number | undefined): string {
  if (value === undefined) return '-'
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let scaled = value
  let unit = 0
  while (scaled >= 1000 && unit < units.length - 1) {
    scaled /= 1000
    unit++
  }
  return `${scaled >= 100 || unit === 0 ? scaled.toFixed(0) : scaled.toFixed(1)} ${units[unit]}`
}

/** `3 h 12 min`, from milliseconds. */
export function showDuration(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000))
  if (seconds < 60) return `${seconds} s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 60) return `${minutes} min`
  const hours = Math.floor(minutes / 60)
  if (hours < 48) return `${hours} h ${minutes % 60} min`
  return `${Math.floor(hours / 24)} d ${hours % 24} h`
}

/** `12 s ago`, from milliseconds since the Unix epoch. */
export function showAgo(epochMs: number): string {
  return `${showDuration(Date.now() - epochMs)} ago`
}

/** `14:03:22.118`, local time. */
export function showTime(epochMs: number): string {
  const time = new Date(epochMs)
  const two = (value: number): string => String(value).padStart(2, '0')
  const clock = [time.getHours(), time.getMinutes(), time.getSeconds()].map(two).join(':')
  return `${clock}.${String(time.getMilliseconds()).padStart(3, '0')}`
}

/** What a terminal that says what is waited for has to be. */
export interface Watched {
  readonly isTTY?: boolean | undefined
  write(text: string): unknown
}

/** What takes longer than a second says on a terminal what is waited for; programs read only the answer. */
export async function waitedFor<T>(what: string, work: Promise<T>, on: Watched = process.stderr): Promise<T> {
  const said = setTimeout(() => {
    if (on.isTTY) on.write(`${what} …\n`)
  }, 1000)
  try {
    return await work
  } finally {
    clearTimeout(said)
  }
}
