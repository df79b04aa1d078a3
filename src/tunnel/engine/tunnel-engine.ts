/**
 * The base of the mechanisms' engines, in the worker thread: device, datapath and tunnel machine around the mechanism's
 * forwarder, the peers by name, and the loop that runs engine, machines and commands in turn. The other end of its
 * messages is TunnelHost (tunnel-host.ts). The mechanism's deadlines join those of the tunnel machine.
 *
 * Packets come from `source`: a TUN device (`tunDevice`), or anything else that reads and writes packets in the arena and
 * can be polled. An end that reaches its peers over several accesses also has a MobileEnd (mobile-end.ts); a listening
 * end has none.
 */
import type { Clock, Random } from '../../core/clock.ts'
import { nodeCrypto } from '../../crypto/node-crypto.ts'
import { Arena } from '../../linux/arena.ts'
import { RealClock, realRandom } from '../../linux/clock.ts'
import { ClockEvents } from '../../linux/clock-events.ts'
import { keepCode } from '../../linux/proc.ts'
import { openTun, type Tun } from '../../linux/tun.ts'
import { openUdp } from '../../linux/udp.ts'
import { Datapath } from '../datapath/datapath.ts'
import type { PeerConfig, TunnelEvent } from '../protocol/api.ts'
import { TunnelMachine } from '../protocol/machine.ts'
import type { Endpoint, Forwarder, Machine } from '../seam.ts'
import { Engine } from './engine.ts'
import type {
  Alive,
  AnswerEvent,
  ClockEvent,
  EngineSetup,
  Greet,
  LogLine,
  PathReport,
  StatusEvent,
  TimestampEvent,
} from './events.ts'
import { Fallbacks } from './fallbacks.ts'
import { attempt, done, failed, type Outcome } from './outcome.ts'
import { type Rehearsal, rehearse } from './rehearsal.ts'
import { pathReports } from './reports.ts'
import type { EngineHost, Surroundings } from './thread.ts'

/** Max exceptions that are logged; all are counted. */
const FAULTS_LOGGED = 20
/** Default of `reportMs`. */
const REPORT_MS = 1000

export interface TunnelEngineInit {
  readonly setup: EngineSetup
  readonly source: (arena: Arena) => Tun
  readonly forwarder: Forwarder
  /** A forwarder of the same class to try the packet path with before the engine is ready; absent: it starts slower. */
  readonly rehearsal?: () => Rehearsal
  readonly ringBytes: number
  /** Max packets held while order is restored (datapath/reorder.ts); absent: none. */
  readonly reorderPackets?: number
  /** Milliseconds between measurements of a path in use; with it every measurement is a `sample` event. */
  readonly measureInterval?: number
  /** Longest time (ms) between two reports while the engine turns. Default 1000. */
  readonly reportMs?: number
}

/** The mechanism's part of the engine. */
export interface EngineParts<Command, Status> {
  /** The outcome answers a command with a number; that of another is logged when it failed. */
  handleCommand(command: Command, now: number): Outcome
  handleTunnelEvent(event: TunnelEvent, now: number): void
  /** Events, sweeps: after every turn of the engine. */
  afterTurn(now: number): void
  /** Data was sent or received: once a batch and peer. */
  noteData(now: number): void
  /** A datagram that is no message of the tunnel; see `SlowPath`. The bytes are valid during the call. */
  handleOther?(bytes: Uint8Array, from: Endpoint, socket: number, now: number): void
  nextTimeout(): number | undefined
  handleTimeout(now: number): void
  /** It was stopped, and its peers have been told: the last that is sent. */
  end?(now: number): void
  /** The event `status`; the engine adds counters of its own. */
  status(now: number): Status
}

export function secretBytes(): Uint8Array {
  return realRandom.fill(new Uint8Array(8))
}

/** Memory for tables: huge pages where the kernel has them. */
export function allocate(bytes: number): ArrayBuffer {
  return new Arena(Math.ceil(bytes / 4096) * 4096).buffer
}

/** The usual source. The device outlives a killed daemon, as a rule: the next one finds its flows' addresses and routes. */
export function tunDevice({ device, passing }: EngineSetup): (arena: Arena) => Tun {
  return (arena) => openTun(arena, { name: device, persistent: passing !== true })
}

export class TunnelEngine<
  Command extends { readonly type: string },
  Event,
  Peer extends { readonly name: string },
  Status extends StatusEvent,
> {
  readonly arena: Arena
  readonly engine: Engine
  readonly machine: TunnelMachine
  readonly clock: Clock
  readonly peers = new Peers<Peer>()
  readonly openUdp: Surroundings['openUdp']
  /** Sends an event to the main thread. */
  readonly emit: (event: Event | Status | LogLine | TimestampEvent | AnswerEvent | ClockEvent) => void
  readonly #parts: EngineParts<Command, Status>
  readonly #random: Random
  readonly #reportMs: number
  readonly #fallbacks: Fallbacks
  /** That peers come to; -1: none. */
  #listening = -1
  #reportAt = 0
  /** How often what a peer sent made something throw. */
  #faults = 0

  constructor(host: EngineHost, init: TunnelEngineInit, parts: EngineParts<Command, Status>) {
    this.#parts = parts
    this.#reportMs = init.reportMs ?? REPORT_MS
    this.emit = host.post
    const { surroundings } = host
    this.clock = surroundings?.clock ?? new RealClock()
    this.openUdp = surroundings?.openUdp ?? openUdp
    this.#random = surroundings?.random ?? realRandom
    // Simulations have many engines for few packets.
    const simulated = surroundings !== undefined
    const size = Datapath.arenaBytes(init.ringBytes, init.reorderPackets) + (1 << 20)
    this.arena = simulated ? new Arena(size, false) : new Arena(size)
    if (init.rehearsal !== undefined && !simulated) this.#rehearse(init.rehearsal, init.setup)
    const tun = (surroundings?.openTun ?? init.source)(this.arena)
    const { setup } = init
    let machine: TunnelMachine | undefined
    const words = new Uint8Array(4)
    const datapath = new Datapath({
      arena: this.arena,
      tun,
      forwarder: init.forwarder,
      ringBytes: init.ringBytes,
      ...(init.reorderPackets !== undefined && { reorderPackets: init.reorderPackets }),
      random: () => new DataView(this.#random.fill(words).buffer).getUint32(0),
      machine: (seam) => {
        machine = new TunnelMachine(
          { ...seam, crypto: nodeCrypto, random: this.#random, wall: () => this.clock.wall() },
          {
            privateKey: setup.privateKey,
            interfaceMtu: setup.mtu,
            ...(setup.timestampFloor !== undefined && { timestampFloor: setup.timestampFloor }),
            ...(init.measureInterval !== undefined && { measureInterval: init.measureInterval }),
          },
        )
        return withTimers(machine, parts)
      },
    })
    this.machine = machine!
    if (datapath.aead.slow)
      this.emit({
        type: 'log',
        level: 'warn',
        message: 'no OpenSSL library: encryption runs at about a tenth of the speed; install libssl3',
      })
    this.engine = new Engine({
      datapath,
      tun,
      poller: host.poller,
      now: () => this.clock.now(),
      onTurn: (now) => this.#finishTurn(now),
      onEnd: (now) => {
        this.machine.end(now)
        parts.end?.(now)
      },
    })
    this.#fallbacks = new Fallbacks(this.engine, this.emit)
    if (surroundings === undefined) this.#watchClock()
  }

  /** In this thread, which waits with poll anyhow. Without, the main thread looks at the clock every two seconds. */
  #watchClock(): void {
    try {
      const clock = new ClockEvents()
      this.engine.addReader({
        fd: clock.fd,
        onReadable: () => {
          clock.take()
          this.emit({ type: 'clock', changed: true })
        },
        close: () => clock.close(),
      })
      this.emit({ type: 'clock', changed: false })
    } catch (error) {
      this.emit({
        type: 'log',
        level: 'debug',
        message: `no events of the clock: ${(error as Error).message}`,
      })
    }
  }

  /** Before there is a device: packets that arrive meanwhile would wait. An engine works without; it starts slower. */
  #rehearse(rehearsal: () => Rehearsal, { privateKey, mtu }: EngineSetup): void {
    keepCode()
    try {
      rehearse(
        this.arena,
        rehearsal,
        (seam) => {
          const machine = new TunnelMachine(
            { ...seam, crypto: nodeCrypto, random: realRandom, wall: () => this.clock.wall() },
            { privateKey, interfaceMtu: mtu },
          )
          return { machine, driven: withTimers(machine, IDLE_PARTS) }
        },
        () => this.clock.now(),
      )
    } catch (error) {
      this.emit({ type: 'log', level: 'debug', message: `no rehearsal: ${(error as Error).message}` })
    }
  }

  /** A socket that peers come to, on every address. Throws PORT_TAKEN. */
  listen(port: number): void {
    const socket = this.engine.addSocket(this.openUdp(this.arena, { family: 6, port, multihomed: true }))
    if (this.#listening < 0) this.#listening = socket
  }

  /** Makes the peer known to the tunnel machine and by its name; answers with its index. */
  addPeer(peer: Peer, config: PeerConfig, now: number): Outcome<number> {
    if (this.peers.get(peer.name) !== undefined)
      return failed('PEER_EXISTS', `there is a peer ${peer.name} already`)
    const added = attempt(() => this.machine.addPeer(config, now))
    if (added.ok) this.peers.add(added.value, peer)
    return added
  }

  /** Ends the peer's sessions and paths; returns the index that it had. */
  removePeer(name: string, now: number): number | undefined {
    const index = this.peers.remove(name)
    if (index !== undefined) this.machine.removePeer(index, now)
    return index
  }

  /** The paths of all peers, each with what `more` adds, its access at least. Ends with the peer that makes `max`. */
  paths<More extends Pick<PathReport, 'access'>>(
    more: (slot: number) => More,
    max?: number,
  ): (PathReport & More)[] {
    const { machine, engine, peers } = this
    return pathReports({ machine, datapath: engine.datapath, peers: peers.indices() }, more, max)
  }

  /** Data exchanged with a peer so far. */
  readonly tally = (peer: number): { readonly sent: number; readonly received: number } => {
    const { sentData, receivedData } = this.engine.datapath.peers
    return { sent: sentData[peer] ?? 0, received: receivedData[peer] ?? 0 }
  }

  /** Reports at the end of this turn, whenever the last one was. */
  reportSoon(): void {
    this.#reportAt = 0
  }

  /** Never fatal: the caller gets the failure as answer; the failure of a command without a number is logged. */
  readonly onCommand = (message: unknown): void => {
    const command = message as (Command | Alive) & { readonly request?: number }
    const outcome = command.type === 'alive' ? done : this.#carryOut(command as Command)
    if (command.request !== undefined) this.emit({ type: 'answer', request: command.request, outcome })
    else if (!outcome.ok)
      this.emit({ type: 'log', level: 'warn', message: `${command.type}: ${outcome.failure.message}` })
  }

  #carryOut(command: Command): Outcome {
    try {
      if (command.type === 'greet') return this.#greet(command as unknown as Greet)
      return this.#parts.handleCommand(command, this.clock.now())
    } catch (error) {
      // A bug of this program; packets of other peers are not affected.
      const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
      this.emit({ type: 'log', level: 'error', message: `fault in ${command.type}: ${text}` })
      return failed('INTERNAL', `fault in ${command.type}: ${(error as Error).message}`)
    }
  }

  #greet({ name, remote }: Greet): Outcome {
    const peer = this.peers.get(name)
    if (peer !== undefined && this.#listening >= 0)
      this.machine.greet(peer, remote, this.#listening, this.clock.now())
    return done
  }

  /** Passes the tunnel's events on, then lets the mechanism finish its turn. */
  #finishTurn(now: number): void {
    for (let event = this.machine.poll(); event !== undefined; event = this.machine.poll()) {
      try {
        this.#parts.handleTunnelEvent(event, now)
      } catch (error) {
        if (event.type !== 'peer-failed') this.machine.fault(event.peer, error, now)
      }
      if (event.type === 'peer-failed') this.#noteFault(event.peer, event.reason)
      if (event.type === 'timestamp-sent') this.emit({ type: 'timestamp', floor: event.floor })
    }
    this.#parts.afterTurn(now)
    if (now < this.#reportAt) return
    this.#reportAt = now + this.#reportMs
    const status = this.#parts.status(now)
    this.emit({
      ...status,
      counters: { ...status.counters, faults: this.#faults, ...this.#fallbacks.counters() },
    })
  }

  #noteFault(peer: number, reason: string): void {
    this.#faults++
    if (this.#faults > FAULTS_LOGGED) return
    const name = this.peers.nameOf(peer) || 'an unknown peer'
    const message = `dropped a datagram of ${name} that caused an error: ${reason}`
    this.emit({ type: 'log', level: 'warn', message })
  }
}

/** Peers by the name that the main thread calls them by, and by the tunnel machine's index. */
export class Peers<Peer extends { readonly name: string }> {
  readonly #indices = new Map<string, number>()
  readonly #peers: (Peer | undefined)[] = []

  add(index: number, peer: Peer): void {
    this.#indices.set(peer.name, index)
    this.#peers[index] = peer
  }

  remove(name: string): number | undefined {
    const index = this.#indices.get(name)
    if (index === undefined) return undefined
    this.#indices.delete(name)
    this.#peers[index] = undefined
    return index
  }

  get(name: string): number | undefined {
    return this.#indices.get(name)
  }

  at(index: number): Peer | undefined {
    return this.#peers[index]
  }

  nameOf(index: number): string {
    return this.#peers[index]?.name ?? ''
  }

  indices(): Iterable<readonly [string, number]> {
    return this.#indices
  }
}

/** For a mechanism without work to do yet. */
const IDLE_PARTS = {
  noteData: () => {},
  nextTimeout: () => undefined,
  handleTimeout: () => {},
}

/** The tunnel machine with the mechanism's deadlines beside its own. */
function withTimers(
  machine: TunnelMachine,
  parts: Pick<EngineParts<never, unknown>, 'noteData' | 'handleOther' | 'nextTimeout' | 'handleTimeout'>,
): Machine {
  return {
    ...(parts.handleOther !== undefined && {
      handleOther: (bytes, from, socket, now) => parts.handleOther?.(bytes, from, socket, now),
    }),
    handleHandshake: (bytes, from, socket, now) => machine.handleHandshake(bytes, from, socket, now),
    handleControl: (...control) => machine.handleControl(...control),
    handleFirstReceive: (peer, localIndex, now) => machine.handleFirstReceive(peer, localIndex, now),
    handleRoaming: (peer, pathId, from, socket, bytes, now) =>
      machine.handleRoaming(peer, pathId, from, socket, bytes, now),
    fault: (peer, error, now) => machine.fault(peer, error, now),
    noteTraffic: (peer, sent, received, any, now) => {
      if (sent || received) parts.noteData(now)
      machine.noteTraffic(peer, sent, received, any, now)
    },
    wantSession: (peer, now) => machine.wantSession(peer, now),
    pathError: (slot, errno, now) => machine.pathError(slot, errno, now),
    nextTimeout: () => {
      const own = parts.nextTimeout()
      const other = machine.nextTimeout()
      if (own === undefined) return other
      return other === undefined || own < other ? own : other
    },
    handleTimeout: (now) => {
      machine.handleTimeout(now)
      parts.handleTimeout(now)
    },
  }
}
