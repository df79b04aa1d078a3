/**
 * What engine workers of mechanisms have in common: building the datapath around a forwarder, and the loop that
 * runs engine, machines and commands in turn. The mechanism's timers join those of the tunnel machine.
 */
import { nodeCrypto } from '../crypto/node-crypto.ts'
import { Arena } from '../linux/arena.ts'
import { RealClock, realRandom } from '../linux/clock.ts'
import type { Poller } from '../linux/poller.ts'
import { keepCode } from '../linux/proc.ts'
import { openTun } from '../linux/tun.ts'
import { Datapath } from './datapath/datapath.ts'
import { Engine } from './engine.ts'
import type { LogLine } from './events.ts'
import { Fallbacks } from './fallbacks.ts'
import type { TunnelEvent } from './machine/api.ts'
import { TunnelMachine } from './machine/index.ts'
import { type Rehearsal, rehearse } from './rehearsal.ts'
import type { Forwarder, Machine } from './seam.ts'

/** How often counters and path qualities are told to the main thread. */
const REPORT_MS = 1000
/** Faults that are logged; all are counted. */
const FAULTS_LOGGED = 20

export interface NodeInit {
  readonly device: string
  readonly mtu: number
  readonly privateKey: Uint8Array
  readonly forwarder: Forwarder
  /** A forwarder of the same class for the rehearsal. */
  readonly rehearsal: Rehearsal
  readonly ringBytes: number
  readonly persistent: boolean
  readonly poller: Poller
  readonly tell: (event: LogLine) => void
  /** Packets held at most while their order is restored (datapath/reorder.ts); absent: none. */
  readonly reorderPackets?: number
  /** Milliseconds between measurements of a path in use; with it every measurement is a `sample` event. */
  readonly measureInterval?: number
  /** No handshake is stamped with this wall time or one before; see the event `timestamp-sent`. */
  readonly timestampFloor?: number
}

/** The mechanism's part of the loop. */
export interface NodeParts<Command> {
  handleCommand(command: Command, now: number): void
  handleTunnelEvent(event: TunnelEvent, now: number): void
  /** Events, sweeps: after every turn of the engine. */
  afterTurn(now: number): void
  /** Data was sent or received: once a batch and peer. */
  noteData(now: number): void
  nextTimeout(): number | undefined
  handleTimeout(now: number): void
  report(now: number): void
}

export function secretBytes(): Uint8Array {
  return realRandom.fill(new Uint8Array(8))
}

/** Memory for tables: huge pages where the kernel has them. */
export function allocate(bytes: number): ArrayBuffer {
  return new Arena(Math.ceil(bytes / 4096) * 4096).buffer
}

export class EngineNode<Command extends { readonly type: string }> {
  readonly arena: Arena
  readonly engine: Engine
  readonly machine: TunnelMachine
  readonly fallbacks: Fallbacks
  readonly clock = new RealClock()
  readonly #parts: NodeParts<Command>
  readonly #tell: (event: LogLine) => void
  #reportAt = 0

  constructor(init: NodeInit, parts: NodeParts<Command>) {
    this.#parts = parts
    this.#tell = init.tell
    this.arena = new Arena(Datapath.arenaBytes(init.ringBytes, init.reorderPackets) + (1 << 20))
    this.#rehearse(init)
    const tun = openTun(this.arena, { name: init.device, persistent: init.persistent })
    let machine: TunnelMachine | undefined
    const words = new Uint8Array(4)
    const datapath = new Datapath({
      arena: this.arena,
      tun,
      forwarder: init.forwarder,
      ringBytes: init.ringBytes,
      ...(init.reorderPackets !== undefined && { reorderPackets: init.reorderPackets }),
      random: () => new DataView(realRandom.fill(words).buffer).getUint32(0),
      machine: (seam) => {
        machine = new TunnelMachine(
          { ...seam, crypto: nodeCrypto, random: realRandom, wall: () => this.clock.wall() },
          {
            privateKey: init.privateKey,
            interfaceMtu: init.mtu,
            ...(init.timestampFloor !== undefined && { timestampFloor: init.timestampFloor }),
            ...(init.measureInterval !== undefined && { measureInterval: init.measureInterval }),
          },
        )
        return withTimers(machine, parts)
      },
    })
    this.machine = machine!
    if (datapath.aead.slow)
      init.tell({
        type: 'log',
        level: 'warn',
        message: 'no OpenSSL to call: packets are sealed at about a tenth of the speed; install libssl3',
      })
    this.engine = new Engine({
      datapath,
      tun,
      poller: init.poller,
      now: () => this.clock.now(),
      onTurn: (now) => this.#finishTurn(now),
    })
    this.fallbacks = new Fallbacks(this.engine, init.tell)
  }

  /** Before there is a device: packets that arrive meanwhile would wait. An engine works without; it starts slower. */
  #rehearse(init: NodeInit): void {
    keepCode()
    try {
      rehearse(
        this.arena,
        init.rehearsal,
        (seam) => {
          const machine = new TunnelMachine(
            { ...seam, crypto: nodeCrypto, random: realRandom, wall: () => this.clock.wall() },
            { privateKey: init.privateKey, interfaceMtu: init.mtu },
          )
          return { machine, driven: withTimers(machine, IDLE_PARTS) }
        },
        () => this.clock.now(),
      )
    } catch (error) {
      init.tell({ type: 'log', level: 'debug', message: `no rehearsal: ${(error as Error).message}` })
    }
  }

  /** Hands the tunnel's events on, then lets the mechanism finish its turn. */
  #finishTurn(now: number): void {
    for (let event = this.machine.poll(); event !== undefined; event = this.machine.poll()) {
      try {
        this.#parts.handleTunnelEvent(event, now)
      } catch (error) {
        if (event.type !== 'peer-failed') this.machine.fault(event.peer, error, now)
      }
      if (event.type === 'peer-failed') this.#noteFault(event.peer, event.reason)
    }
    this.#parts.afterTurn(now)
    if (now >= this.#reportAt) {
      this.#reportAt = now + REPORT_MS
      this.#parts.report(now)
    }
  }

  /** How often what a peer sent made something throw. */
  faults = 0

  #noteFault(peer: number, reason: string): void {
    this.faults++
    const message = `fault in what peer ${peer} sent, which is dropped: ${reason}`
    if (this.faults <= FAULTS_LOGGED) this.#tell({ type: 'log', level: 'warn', message })
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

  /** What cannot be carried out is logged, never fatal. */
  readonly onCommand = (command: unknown): void => {
    this.#command(command as Command)
  }

  #command(command: Command): void {
    try {
      this.#parts.handleCommand(command, this.clock.now())
    } catch (error) {
      this.#tell({ type: 'log', level: 'warn', message: `${command.type}: ${(error as Error).message}` })
    }
  }
}

/** Of a mechanism that has nothing to do yet. */
const IDLE_PARTS = {
  noteData: () => {},
  nextTimeout: () => undefined,
  handleTimeout: () => {},
}

/** The tunnel machine with the mechanism's deadlines beside its own. */
function withTimers(
  machine: TunnelMachine,
  parts: Pick<NodeParts<never>, 'noteData' | 'nextTimeout' | 'handleTimeout'>,
): Machine {
  return {
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
