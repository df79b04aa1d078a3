/** `top`: what accesses and flows carry, live; on a terminal with keys, elsewhere a table or an object each time. */
import { GodwitError } from '../../core/errors.ts'
import { ControlClient } from '../../host/control/client.ts'
import type { Status } from '../../host/daemon/daemon.ts'
import { State } from '../../host/stores/state.ts'
import type { CommonOptions } from '../definition.ts'
import { printJson } from '../output.ts'
import { render, SORTS, type View } from '../top/render.ts'
import { type Rates, type Sample, Sampler } from '../top/sample.ts'
import { Screen } from '../top/screen.ts'

interface TopOptions extends CommonOptions {
  /** Seconds. */
  readonly interval?: number
  readonly count?: number
  readonly flows?: boolean
}

const WATCHED = { watched: '1' }

export async function top(options: TopOptions): Promise<void> {
  const daemon = new ControlClient(new State(options).socket)
  const sampler = new Sampler()
  const take = async () =>
    sampler.take(await daemon.get<Status>('/v1/status', WATCHED), performance.now(), Date.now())
  const interval = (options.interval ?? 1) * 1000
  const first = await take()
  if (options.json !== true && process.stdout.isTTY) await watch(first, take, interval, options)
  else await print(take, interval, options)
}

/** Without a terminal: rates need two samples, so the first comes after one interval. */
async function print(take: () => Promise<Sample>, interval: number, options: TopOptions): Promise<void> {
  const view: View = {
    width: Number.POSITIVE_INFINITY,
    height: Number.POSITIVE_INFINITY,
    colour: false,
    blocks: showsBlocks(),
    single: options.flows === true,
    sort: 'rate',
    offset: 0,
    keys: false,
  }
  for (let left = options.count ?? Number.POSITIVE_INFINITY; left > 0; left--) {
    await new Promise((done) => setTimeout(done, interval))
    const sample = await take()
    if (options.json) printJson(jsonOf(sample))
    else process.stdout.write(`${[...render(sample, view), ''].join('\n')}\n`)
  }
}

async function watch(
  first: Sample,
  take: () => Promise<Sample>,
  interval: number,
  options: TopOptions,
): Promise<void> {
  let sample = first
  let note: string | undefined
  let paused = false
  let [single, sort, offset] = [options.flows === true, 0, 0]
  let left = options.count ?? Number.POSITIVE_INFINITY
  let end: (signal?: NodeJS.Signals) => void = () => {}
  let fail: (error: unknown) => void = () => {}
  const ended = new Promise<NodeJS.Signals | undefined>((done, failed) => {
    end = done
    fail = failed
  })
  const draw = (): void => {
    const { width, height } = screen
    const shownNote = paused ? 'paused' : note
    const view: View = {
      width,
      height,
      colour: process.env.NO_COLOR === undefined || process.env.NO_COLOR === '',
      blocks: showsBlocks(),
      single,
      sort: SORTS[sort]!,
      offset,
      keys: screen.hasKeys,
      ...(shownNote !== undefined && { note: shownNote }),
    }
    screen.draw(render(sample, view))
  }
  const rows = () => (single ? sample.flows : sample.groups).length
  const keys: Readonly<Record<string, () => void>> = {
    q: () => end(),
    '\x03': () => end(),
    '\x1a': () => {
      screen.leave()
      process.kill(process.pid, 'SIGSTOP')
    },
    f: () => {
      single = !single
      offset = 0
    },
    s: () => {
      sort = (sort + 1) % SORTS.length
    },
    ' ': () => {
      paused = !paused
    },
    '\x1b[A': () => {
      offset = Math.max(0, offset - 1)
    },
    '\x1b[B': () => {
      offset = Math.min(Math.max(0, rows() - 1), offset + 1)
    },
  }
  const onKey = (key: string): void => {
    keys[key]?.()
    draw()
  }
  const input = process.stdin.isTTY ? process.stdin : undefined
  const screen = new Screen(process.stdout, input, onKey)
  const resume = (): void => {
    screen.enter()
    draw()
  }
  const resize = (): void => {
    screen.forget()
    draw()
  }
  const signals = ['SIGTERM', 'SIGHUP', 'SIGINT'] as const
  for (const signal of signals) process.on(signal, end)
  process.on('SIGCONT', resume)
  process.stdout.on('resize', resize)
  const tick = async (): Promise<void> => {
    try {
      const taken = await take()
      note = undefined
      if (!paused) sample = taken
    } catch (error) {
      if (!(error instanceof GodwitError)) throw error
      note = 'no answer, trying again'
    }
    draw()
    if (--left <= 0) end()
  }
  let asking = false
  const timer = setInterval(() => {
    if (asking) return
    asking = true
    tick()
      .catch(fail)
      .finally(() => {
        asking = false
      })
  }, interval)
  let signal: NodeJS.Signals | undefined
  try {
    resume()
    signal = await ended
  } finally {
    clearInterval(timer)
    screen.leave()
    process.stdout.off('resize', resize)
    process.off('SIGCONT', resume)
    for (const each of signals) process.off(each, end)
  }
  if (signal !== undefined) process.kill(process.pid, signal)
}

function showsBlocks(): boolean {
  const { LC_ALL, LC_CTYPE, LANG } = process.env
  return /utf-?8/i.test(LC_ALL || LC_CTYPE || LANG || '')
}

const mbps = ({ sent, received }: Rates) => {
  const of = (value: number | null) => (value === null ? null : Math.round(value) / 1e6)
  return { sent_mbps: of(sent), received_mbps: of(received) }
}

function jsonOf(sample: Sample): object {
  return {
    at: sample.at,
    role: sample.role,
    accesses: sample.accesses.map(({ access, flows, ...rates }) => {
      const { name, state, rtt_ms, loss } = access
      return { name, state, rtt_ms, loss, flows, ...mbps(rates) }
    }),
    peers: sample.peers.map(({ peer, rtt_ms, loss, ...rates }) => {
      const { name, kind, state } = peer
      return { name, kind, state, rtt_ms, loss, ...mbps(rates) }
    }),
    applications: sample.groups.map(({ name, flows, accesses, pinned, age, gap, ...rates }) => {
      const since = Math.round(sample.at - age)
      return { app: name, flows, accesses, pinned, since, last_gap_ms: gap ?? null, ...mbps(rates) }
    }),
    flows: sample.flows.map(({ flow, age, gap, ...rates }) => {
      const { id, app, proto, src, dst, mechanism, peer, access, policy, pinned } = flow
      const since = Math.round(sample.at - age)
      const known = { id, app, proto, src, dst, mechanism, peer, access, policy, pinned }
      return { ...known, since, last_gap_ms: gap ?? null, ...mbps(rates) }
    }),
    flows_left_out: sample.flowsLeftOut,
    classes: sample.classes,
    pins: sample.pins,
  }
}
