/**
 * The demo: a scenario shown while it runs. On a terminal a small picture that is drawn over itself, elsewhere plain
 * lines; then the verdict.
 */
import { observeScenario } from './run.ts'
import { type Figures, type Observer, type Scenario, type TimelineEntry, timelineLine } from './scenario.ts'
import type { Check, LabOptions, ScenarioResult } from './types.ts'

/** Seconds of history in the bars; one bar each half second. */
const BARS = 40
const BAR_SECONDS = 0.5
const LEVELS = ' ▁▂▃▄▅▆▇█'
const EVENTS = 10

export async function showDemo(
  scenario: Scenario,
  options: LabOptions,
  screen: NodeJS.WriteStream,
): Promise<ScenarioResult> {
  screen.write('godwit demo: two programs swap their access networks while they download.\n')
  screen.write('Building a mobile host, two access networks with NATs, an anchor and two servers …\n\n')
  const view = screen.isTTY ? new Picture(screen) : new Lines(screen)
  const measured = await observeScenario(scenario, options, view)
  const result = { ...measured, passed: measured.checks.every((check) => check.ok || !isPromise(check)) }
  screen.write(`${verdict(result).join('\n')}\n`)
  return result
}

/**
 * What a user was promised: every byte, each program on the access it was moved to, the rest left alone. How evenly the
 * bytes came depends on what else the machine does; `godwit lab run` judges that too, the demo mentions it.
 */
function isPromise(check: Check): boolean {
  return !/^(counters|total) of/.test(check.name)
}

/** What happened and a line of rates each second. */
class Lines implements Observer {
  readonly #screen: NodeJS.WriteStream
  #said = 0

  constructor(screen: NodeJS.WriteStream) {
    this.#screen = screen
  }

  event(entry: TimelineEntry): void {
    this.#screen.write(`${timelineLine(entry)}\n`)
  }

  progress(figures: Figures): void {
    if (figures.seconds - this.#said < 1) return
    this.#said = figures.seconds
    const rates = figures.accesses.map(({ name, mbps }) => `${name} ${mbps.toFixed(1)} Mbit/s`)
    const places = figures.applications
      .filter(({ mbps }) => mbps > 0.1)
      .map(({ name, access, mbps }) => `${name} ${mbps.toFixed(1)}${access === '' ? '' : ` on ${access}`}`)
    this.#screen.write(
      `${timelineLine({ at: figures.seconds, label: [...rates, ...places].join('   '), marked: false })}\n`,
    )
  }
}

/** Accesses with bars of the last seconds, applications, and what happened, redrawn in place. */
class Picture implements Observer {
  readonly #screen: NodeJS.WriteStream
  readonly #events: TimelineEntry[] = []
  readonly #history = new Map<string, number[]>()
  #figures: Figures | undefined
  #barAt = Number.NEGATIVE_INFINITY
  #drawn = 0

  constructor(screen: NodeJS.WriteStream) {
    this.#screen = screen
  }

  event(entry: TimelineEntry): void {
    this.#events.push(entry)
    this.#draw()
  }

  progress(figures: Figures): void {
    this.#figures = figures
    if (figures.seconds - this.#barAt >= BAR_SECONDS) {
      this.#barAt = figures.seconds
      for (const { name, mbps } of figures.accesses) {
        const bars = this.#history.get(name) ?? []
        bars.push(mbps)
        this.#history.set(name, bars.slice(-BARS))
      }
    }
    this.#draw()
  }

  #draw(): void {
    const lines: string[] = []
    if (this.#figures !== undefined) {
      const most = Math.max(1, ...[...this.#history.values()].flat())
      lines.push('  access        now')
      for (const { name, mbps } of this.#figures.accesses) {
        const bars = (this.#history.get(name) ?? []).map(
          (value) => LEVELS[Math.round((8 * value) / most)] ?? ' ',
        )
        lines.push(`  ${name.padEnd(8)}${rateText(mbps)}   ${bars.join('')}`)
      }
      lines.push('', '  program       now          access')
      for (const { name, access, mbps } of this.#figures.applications)
        lines.push(`  ${name.padEnd(8)}${rateText(mbps)}   ${access}`)
      lines.push('')
    }
    for (const entry of this.#events.slice(-EVENTS)) lines.push(timelineLine(entry))
    const width = this.#screen.columns || 80
    const text = lines.map((line) => `${line.slice(0, width - 1)}\x1b[K\n`).join('')
    // Up to where the last picture began, then over it.
    this.#screen.write(`${this.#drawn > 0 ? `\x1b[${this.#drawn}A` : ''}${text}\x1b[J`)
    this.#drawn = lines.length
  }
}

function rateText(mbps: number): string {
  return `${mbps.toFixed(1).padStart(7)} Mbit/s`
}

/** What the viewer wants to know: is every byte there, how long was nothing heard, was anything lost. */
function verdict(result: ScenarioResult): string[] {
  const { metrics, checks } = result
  const failed = checks.filter((check) => !check.ok)
  const bytes = checks.filter((check) => check.name.endsWith('every byte as sent'))
  return [
    '',
    ...bytes.map(
      (check) => `${check.ok ? 'intact' : 'BROKEN'}: ${check.name.replace(/:.*/, '')} (${check.value})`,
    ),
    `longest gap in the call: ${Math.round(Number(metrics.gap_ms ?? Number.NaN))} ms; packets lost: ${metrics.lost_packets ?? '?'}`,
    ...failed.map(
      (check) =>
        `${isPromise(check) ? 'FAILED' : 'not as even as it should be (a busy machine?)'}: ${check.name}: ${check.value}, wanted ${check.want}`,
    ),
    `plot: ${result.plot ?? 'none; npm install -g echarts@6 draws it'}`,
    result.passed
      ? `Both downloads changed networks and neither noticed. (seed ${result.seed})`
      : `The demo failed. (seed ${result.seed}; logs beside the plot)`,
    ...(!result.passed && failed.some((check) => !isPromise(check))
      ? ['The rates were uneven too, as they are on a busy machine: try again when it is idle.']
      : []),
  ]
}
