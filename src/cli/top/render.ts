/** The picture of a sample: lines no wider than the terminal, as many as it has. Pure; colours are SGR sequences of ECMA-48. */
import { printable } from '../../core/printable.ts'
import { counted } from '../../core/words.ts'
import { fitTable, showDuration, showLoss, showMs, showTime } from '../output.ts'
import {
  type AccessRow,
  type FlowRow,
  type GroupRow,
  HISTORY,
  type PeerRow,
  type Sample,
  total,
} from './sample.ts'

export const SORTS = ['rate', 'age', 'name'] as const
export type Sort = (typeof SORTS)[number]

export interface View {
  readonly width: number
  readonly height: number
  readonly colour: boolean
  /** Whether the terminal shows block elements. */
  readonly blocks: boolean
  /** Single flows instead of programs. */
  readonly single: boolean
  readonly sort: Sort
  /** Rows scrolled past. */
  readonly offset: number
  /** Shown in the first line instead of the time. */
  readonly note?: string
  /** The last line names the keys. */
  readonly keys: boolean
}

const BLOCKS = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'] as const
const PLAIN = ['_', '.', ',', '-', '=', '+', '*', '#'] as const
const STYLES = { bold: 1, dim: 2, red: 31, yellow: 33, cyan: 36 } as const
type Style = keyof typeof STYLES
const KEYS = 'q quit   f flows or programs   s sort   space pause   up/down scroll'
/** A history narrower than this is not shown. */
const LEAST_HISTORY = 20
/** Losses above this are worth a colour. */
const MUCH_LOSS = 0.02

/** A line and how it looks. */
interface Line {
  readonly text: string
  readonly style?: Style | undefined
  /** Behind the text, in its own colour. */
  readonly history?: string
}

export function render(sample: Sample, view: View): string[] {
  const above = [title(sample, view), ...links(sample, view), ...classes(sample, view), { text: '' }]
  const flows = view.single ? flowTable(sample.flows, view) : groupTable(sample.groups, view)
  const below = [...pins(sample), ...leftOut(sample)]
  const keys: Line[] = view.keys ? [{ text: KEYS, style: 'dim' }] : []
  const room = Math.max(2, view.height - above.length - below.length - keys.length)
  const [head, ...rows] = flows
  const offset = Math.min(view.offset, Math.max(0, rows.length - room + 1))
  const shown = head === undefined ? [] : [head, ...rows.slice(offset, offset + room - 1)]
  const filler = Number.isFinite(view.height) ? Math.max(0, room - shown.length) : 0
  const blank = Array.from({ length: filler }, (): Line => ({ text: '' }))
  const lines = [...above, ...shown, ...below, ...blank, ...keys]
  return lines.slice(0, view.height).map((line) => dressed(line, view))
}

function dressed({ text, style, history = '' }: Line, { width, colour }: View): string {
  const cut = printable(text).slice(0, width)
  const rest = history.slice(0, Math.max(0, width - cut.length))
  if (!colour) return (cut + rest).trimEnd()
  const end = rest === '' ? '' : `\x1b[${STYLES.cyan}m${rest}\x1b[0m`
  return (style === undefined ? cut : `\x1b[${STYLES[style]}m${cut}\x1b[0m`) + end
}

function title(sample: Sample, { width, note }: View): Line {
  const count = sample.flows.length + sample.flowsLeftOut
  const parts = [
    `godwit ${sample.version} ${sample.role}, up for ${showDuration(sample.at - sample.startedAt)}`,
    counted(count, 'flow'),
    ...(sample.waiting === undefined ? [] : [sample.waiting]),
  ]
  const end = note ?? showTime(sample.at).slice(0, 8)
  const left = parts.join(', ')
  if (!Number.isFinite(width)) return { text: `${left}  ${end}`, style: 'bold' }
  const start = left.length + end.length + 2 <= width ? left : `${left.slice(0, width - end.length - 3)}…`
  return { text: start.padEnd(width - end.length) + end, style: 'bold' }
}

/** Accesses; of an anchor, which has none, its hosts. */
function links(sample: Sample, view: View): Line[] {
  if (sample.accesses.length > 0) return accessTable(sample.accesses, view)
  if (sample.peers.length > 0) return peerTable(sample.peers, view)
  return []
}

function accessTable(rows: readonly AccessRow[], view: View): Line[] {
  const head = ['ACCESS', 'STATE', 'DOWN', 'UP', 'RTT', 'LOSS', 'FLOWS', 'ADDRESSES']
  const cells = rows.map(({ access, flows, ...rates }) => [
    access.name,
    access.state,
    showRate(rates.received),
    showRate(rates.sent),
    showMs(access.rtt_ms),
    showLoss(access.loss),
    String(flows),
    access.addresses.join(' ') || '-',
  ])
  const styles = rows.map(({ access }) => styleOf(access.state, access.loss))
  const reasons = rows.flatMap(({ access: { name, state, reason } }): Line[] =>
    state === 'up' || reason === undefined
      ? []
      : [{ text: `${name} ${state}: ${reason}`, style: styleOf(state, null) }],
  )
  const lines = withHistories(head, cells, ['ADDRESSES', 'FLOWS'], rows, styles, view)
  return [{ text: '' }, ...lines, ...reasons]
}

function peerTable(rows: readonly PeerRow[], view: View): Line[] {
  const most = Number.isFinite(view.height) ? Math.max(3, Math.floor(view.height / 3)) : rows.length
  const busy = [...rows].sort((a, b) => total(b) - total(a)).slice(0, most)
  const cells = busy.map(({ peer, rtt_ms, loss, ...rates }) => [
    peer.name,
    peer.state,
    showRate(rates.received),
    showRate(rates.sent),
    showMs(rtt_ms),
    showLoss(loss),
    peer.addresses?.join(' ') || '-',
  ])
  const head = ['PEER', 'STATE', 'RECEIVED', 'SENT', 'RTT', 'LOSS', 'ADDRESSES']
  const styles = busy.map(({ peer, loss }) => styleOf(peer.state, loss))
  const lines = withHistories(head, cells, ['ADDRESSES'], busy, styles, view)
  const rest = rows.length - busy.length
  return [{ text: '' }, ...lines, ...(rest > 0 ? [{ text: `and ${rest} more`, style: 'dim' as const }] : [])]
}

/** A table with each row's history behind it, as wide as there is room; columns of `drop` go before the history does. */
function withHistories(
  head: readonly string[],
  cells: readonly (readonly string[])[],
  drop: readonly string[],
  rows: readonly { readonly history: readonly number[] }[],
  styles: readonly (Style | undefined)[],
  { width, blocks }: View,
): Line[] {
  const wanted = Number.isFinite(width) ? width - LEAST_HISTORY - 2 : width
  const lines = fitTable(head, cells, { drop, shorten: [head[0]!], width: wanted })
  const used = Math.max(...lines.map((line) => line.length)) + 2
  const room = Math.min(HISTORY, Number.isFinite(width) ? width - used : HISTORY)
  return lines.map((text, i): Line => {
    if (i === 0) return { text, style: 'bold' }
    const history = sparkline(rows[i - 1]!.history.slice(-room), blocks)
    return { text: text.padEnd(used), style: styles[i - 1], history }
  })
}

/** One character for each value, the highest for the greatest. */
export function sparkline(values: readonly number[], blocks: boolean): string {
  const signs = blocks ? BLOCKS : PLAIN
  const most = Math.max(1, ...values)
  return values.map((value) => signs[Math.min(7, Math.floor((value / most) * 8))]).join('')
}

function classes(sample: Sample, { width }: View): Line[] {
  if (sample.classes.length === 0) return []
  const head = ['CLASS', 'PEER', 'SCHEDULER', 'ACCESS']
  const rows = sample.classes.map(({ name, peer, scheduler, access }) => [
    name,
    peer,
    scheduler,
    access || '-',
  ])
  const [first, ...rest] = fitTable(head, rows, { shorten: ['PEER', 'ACCESS'], width })
  return [{ text: '' }, { text: first!, style: 'bold' }, ...rest.map((text): Line => ({ text }))]
}

function groupTable(groups: readonly GroupRow[], view: View): Line[] {
  if (groups.length === 0) return [{ text: 'no flows' }]
  const rows = sorted(groups, view.sort, ({ name }) => name)
  const cells = rows.map((row) => [
    row.name,
    String(row.flows),
    showRate(row.received),
    showRate(row.sent),
    showAge(row),
    showGap(row.gap),
    row.accesses.join(' ') + (row.pinned ? ' (by hand)' : ''),
  ])
  const head = ['PROGRAM', 'FLOWS', 'DOWN', 'UP', 'AGE', 'LAST GAP', 'ACCESS']
  return flowLines(head, cells, rows, { shorten: ['PROGRAM', 'ACCESS'] }, view)
}

function flowTable(flows: readonly FlowRow[], view: View): Line[] {
  if (flows.length === 0) return [{ text: 'no flows' }]
  const rows = sorted(flows, view.sort, ({ flow }) => flow.app)
  const cells = rows.map((row) => {
    const { id, app, proto, dst, access, pinned, policy, peer, mechanism } = row.flow
    return [
      id,
      app || '-',
      `${proto} ${dst}`,
      showRate(row.received),
      showRate(row.sent),
      showAge(row),
      showGap(row.gap),
      (access || '-') + (pinned === undefined ? '' : ' (by hand)'),
      policy || '-',
      peer || '-',
      mechanism,
    ]
  })
  const head = [
    'FLOW',
    'PROGRAM',
    'TO',
    'DOWN',
    'UP',
    'AGE',
    'LAST GAP',
    'ACCESS',
    'POLICY',
    'PEER',
    'MECHANISM',
  ]
  const fit = { drop: ['MECHANISM', 'PEER', 'POLICY', 'FLOW'], shorten: ['TO', 'PROGRAM'] }
  return flowLines(head, cells, rows, fit, view)
}

function flowLines(
  head: readonly string[],
  cells: readonly (readonly string[])[],
  rows: readonly (FlowRow | GroupRow)[],
  fit: { readonly drop?: readonly string[]; readonly shorten: readonly string[] },
  { width }: View,
): Line[] {
  const [first, ...rest] = fitTable(head, cells, { ...fit, width })
  const style = (i: number): Style | undefined => (total(rows[i]!) === 0 ? 'dim' : undefined)
  return [
    { text: first!, style: 'bold' as const },
    ...rest.map((text, i): Line => ({ text, style: style(i) })),
  ]
}

function sorted<Row extends FlowRow | GroupRow>(
  rows: readonly Row[],
  sort: Sort,
  name: (row: Row) => string,
): Row[] {
  const byName = (a: Row, b: Row) => (name(a) < name(b) ? -1 : name(a) > name(b) ? 1 : b.age - a.age)
  const by = {
    rate: (a: Row, b: Row) => total(b) - total(a) || byName(a, b),
    age: (a: Row, b: Row) => b.age - a.age || byName(a, b),
    name: byName,
  }[sort]
  return [...rows].sort(by)
}

function pins({ pins }: Sample): Line[] {
  return pins.map(
    ({ what, access }): Line => ({
      text: `${what} was moved to ${access} by hand; to undo: godwit move ${what} auto`,
      style: 'yellow',
    }),
  )
}

function leftOut({ flowsLeftOut }: Sample): Line[] {
  return flowsLeftOut === 0 ? [] : [{ text: `${flowsLeftOut} more flows not listed`, style: 'dim' }]
}

function styleOf(state: string, loss: number | null): Style | undefined {
  if (state === 'down') return 'red'
  if (state !== 'up' || (loss ?? 0) > MUCH_LOSS) return 'yellow'
  return undefined
}

function showAge({ age, exact }: Pick<FlowRow, 'age' | 'exact'>): string {
  return `${exact ? '' : '>'}${showDuration(age)}`
}

function showGap(gap: number | null | undefined): string {
  if (gap === undefined) return '-'
  return gap === null ? '?' : showMs(gap)
}

/** `12.3 Mb/s`, from bits per second. */
export function showRate(value: number | null): string {
  if (value === null) return '-'
  const units = ['b/s', 'kb/s', 'Mb/s', 'Gb/s']
  let scaled = value
  let unit = 0
  while (scaled >= 999.5 && unit < units.length - 1) {
    scaled /= 1000
    unit++
  }
  return `${scaled >= 99.95 || unit === 0 ? scaled.toFixed(0) : scaled.toFixed(1)} ${units[unit]}`
}
