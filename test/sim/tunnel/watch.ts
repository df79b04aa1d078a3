/**
 * Writes down what two ends of a tunnel say to each other, and when: each kind of datagram with all its times, then events. `h1>` is
 * sent by the host's first access, `>1` by the anchor over the same path; `host:` and `anchor:` tell events.
 */
import assert from 'node:assert/strict'
import type { PathView, TunnelEvent } from '../../../src/tunnel/protocol/api.ts'
import { controlCodec, type Frame } from '../../../src/tunnel/protocol/control.ts'
import type { Endpoint } from '../../../src/tunnel/seam.ts'
import type { Datagram, Node, Pair } from './harness.ts'

const HANDSHAKE = ['', 'initiation', 'response', 'cookie']
const round = (ms: number): number => Math.round(ms * 10) / 10

function frameText(frame: Frame): string {
  const { type } = frame
  switch (type) {
    case 'hello':
      return `hello ${frame.features}`
    case 'path-announce':
      return `announce ${frame.pathId}.${frame.generation} mtu ${frame.mtu}`
    case 'path-accept':
      return `accept ${frame.pathId}.${frame.generation} at ${frame.observed.address.at(-1)}:${frame.observed.port}`
    case 'path-close':
      return `close ${frame.pathId}.${frame.generation} for ${frame.reason} up to ${frame.highestCounter}`
    case 'path-closed':
      return `closed ${frame.pathId}.${frame.generation}`
    case 'mtu-probe':
    case 'mtu-ack':
      return `${type} ${frame.size}`
    default:
      return type
  }
}

function eventText(event: TunnelEvent): string {
  const stateOf = ({ pathId, state, mtu }: PathView) =>
    `path ${pathId} ${state.name}${'reason' in state ? ` ${state.reason}` : ''} mtu ${mtu}`
  switch (event.type) {
    case 'path':
      return `${stateOf(event.path)} from ${event.from}`
    case 'session':
      return `session ${event.up ? 'up' : 'down'}${event.initiator ? ', own' : ''}`
    case 'handshake-failed':
      return `handshake failed, ${event.reason}`
    case 'hello':
      return `hello ${event.features} mtu ${event.mtu}${event.restarted ? ' restarted' : ''}`
    case 'path-closed':
      return `path ${event.pathId} closed`
    case 'quality':
      return `quality ${event.slot}: ${round(event.rttMs)} ${round(event.loss)}`
    default:
      return event.type
  }
}

/** Of an end, before something happens: events told, sessions whose keys the datapath has, datagrams sent again. */
interface Heard {
  readonly events: number
  readonly sessions: number
  readonly resent: number
}

/** Writes down what both ends of a pair say and tell, and what their datapaths have: keys, and datagrams that were sent again. */
export class Watch {
  readonly pair: Pair
  /** What gets lost, by its text. */
  lost: RegExp | undefined
  readonly #lines = new Map<string, number[]>()
  readonly #heard = new Map<Node, Heard>()
  #from: number

  constructor(pair: Pair) {
    this.pair = pair
    this.#from = pair.world.now
    pair.world.filter = (datagram, from, to) => {
      const text = `${this.#way(from, to)} ${this.#text(datagram)}`
      this.#say(text, pair.world.now)
      return this.lost === undefined || !this.lost.test(text)
    }
  }

  #way(from: Endpoint, to: Endpoint): string {
    const [source, target] = [from.address.at(-1)!, to.address.at(-1)!]
    return source === 100 ? `>${target}` : target === 100 ? `h${source}>` : `${source}>${target}`
  }

  #text(datagram: Datagram): string {
    if (datagram instanceof Uint8Array) return HANDSHAKE[datagram[0]!]!
    if (datagram.kind !== 'control') return datagram.kind
    const frames = controlCodec.decode(datagram.body)
    return frames.ok ? frames.value.map(frameText).join(' + ') : 'rubbish'
  }

  #say(text: string, at: number): void {
    const times = this.#lines.get(text) ?? []
    this.#lines.set(text, times)
    times.push(round(at - this.#from))
  }

  /** Does it, lets so long pass, and compares all that has been said, or `which` of it. */
  happens(ms: number, what: () => unknown, expected: string, which = /./): void {
    const { pair } = this
    const { world } = pair
    this.#from = world.now
    this.#lines.clear()
    for (const node of [pair.host, pair.anchor]) {
      const { events, sessions, resent } = node
      this.#heard.set(node, { events: events.length, sessions, resent })
    }
    what()
    world.run(ms)
    const said = [...this.#lines].filter(([text]) => which.test(text))
    const lines = said.map(([text, times]) => `${text}: ${paced(times)}`)
    for (const node of [pair.host, pair.anchor]) {
      const before = this.#heard.get(node)!
      const told = counted(node.events.slice(before.events).map(eventText))
      if (node.resent !== before.resent) told.push(`${node.resent - before.resent} sent again`)
      if (node.sessions !== before.sessions) told.push(`keys of ${node.sessions}`)
      if (told.length > 0) lines.push(`${node.name}: ${told.join('; ')}`)
    }
    assert.equal(lines.join('\n'), expected.trim().replace(/\n +/g, '\n'))
  }
}

/** The same one after the other only once, with their number. */
function counted(texts: readonly string[]): string[] {
  const runs: { text: string; count: number }[] = []
  for (const text of texts)
    if (runs.at(-1)?.text === text) runs.at(-1)!.count++
    else runs.push({ text, count: 1 })
  return runs.map(({ text, count }) => (count === 1 ? text : `${text} ×${count}`))
}

/** Times, with what is at a steady pace in short: `0 +20×50`. */
function paced(times: readonly number[]): string {
  const steps: { step: number; count: number }[] = []
  for (const [i, at] of times.entries()) {
    const step = round(at - (times[i - 1] ?? at))
    if (i > 1 && steps.at(-1)!.step === step) steps.at(-1)!.count++
    else steps.push({ step, count: 1 })
  }
  return steps
    .map(({ step, count }, i) => (i === 0 ? `${times[0]}` : `+${step}${count > 1 ? `×${count}` : ''}`))
    .join(' ')
}

/** Sends data each so many milliseconds over the host's path, and back over the same. */
export function traffic(pair: Pair, interval: number, ms: number, ways: 'up' | 'both' = 'both'): void {
  let sequence = 0
  pair.world.every(interval, pair.world.now + ms, () => {
    const path = pair.host.usable(pair.anchorPeer)[0]
    if (path !== undefined) pair.host.sendData(path, sequence)
    const back = pair.anchor.usable(pair.hostPeer)[0]
    if (ways === 'both' && back !== undefined) pair.anchor.sendData(back, sequence)
    sequence++
  })
}
