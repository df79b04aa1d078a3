/**
 * A tunnel with everything real: TUN, sockets, engine and TunnelMachine, and a forwarder that knows peers by their inner
 * addresses. Runs as a program of its own inside a namespace, so that a test can kill it; the test talks to it by the
 * IPC channel of `fork` (netns-tunnel.ts in test/netns/tunnel is its other end).
 */
import { isMainThread, workerData } from 'node:worker_threads'
import { nodeCrypto } from '../../src/crypto/node-crypto.ts'
import { Arena } from '../../src/linux/arena.ts'
import { RealClock, realRandom } from '../../src/linux/clock.ts'
import { openTun } from '../../src/linux/tun.ts'
import { openUdp } from '../../src/linux/udp.ts'
import { Datapath } from '../../src/tunnel/datapath/datapath.ts'
import { Engine } from '../../src/tunnel/engine/engine.ts'
import { EngineWorker, serveEngine } from '../../src/tunnel/engine/thread.ts'
import {
  type PathConfig,
  type PeerConfig,
  type PeerView,
  type TunnelEvent,
  TunnelMachine,
  usable,
} from '../../src/tunnel/protocol/machine.ts'
import { type Forwarder, Verdict } from '../../src/tunnel/seam.ts'

export interface NodeSetup {
  readonly device: string
  readonly mtu: number
  readonly privateKey: Uint8Array
  readonly sockets: readonly { readonly family: 4 | 6; readonly port: number; readonly device?: string }[]
  readonly peers: readonly NodePeer[]
  /** Answers take the path that the newest data came on, as an anchor does. */
  readonly implicit: boolean
  readonly loadThreshold?: number
  readonly timestampFloor?: number
}

export interface NodePeer {
  readonly config: PeerConfig
  /** The peer's inner addresses, 4 or 16 bytes. */
  readonly inner: readonly Uint8Array[]
  readonly paths: readonly PathConfig[]
}

export type NodeCommand =
  | { readonly do: 'prefer'; readonly pathId: number }
  | { readonly do: 'add-path'; readonly path: PathConfig }
  | { readonly do: 'remove-path'; readonly pathId: number }
  | { readonly do: 'wake' }
  /** A new handshake now. */
  | { readonly do: 'rekey' }
  | { readonly do: 'report' }

export interface NodeReport {
  readonly type: 'report'
  readonly peers: readonly PeerView[]
  readonly counts: {
    readonly inbound: Datapath['inbound']['counts']
    readonly outbound: Datapath['outbound']['counts']
    readonly merger: Datapath['merger']['counts']
    readonly lastWriteError: number
    readonly sendsFailed: number
  }
  readonly rss: number
  readonly udpSegments: boolean
}

export type NodeEvent = (TunnelEvent & { readonly at: number }) | NodeReport

/** Packets by destination to the preferred usable path of its peer, else the best one. */
class InnerForwarder implements Forwarder {
  readonly peerOf = new Map<string, number>()
  readonly slots: number[] = []
  readonly learned: { slot: number; order: number }[] = []
  readonly implicit: boolean

  constructor(implicit: boolean) {
    this.implicit = implicit
  }

  outbound(bytes: Uint8Array, _view: DataView, at: number): number {
    const v4 = bytes[at]! >> 4 === 4
    const peer = this.#peer(bytes, at + (v4 ? 16 : 24), v4)
    if (peer === undefined) return Verdict.DROP
    return this.slots[peer] ?? Verdict.PARK
  }

  inbound(
    bytes: Uint8Array,
    _view: DataView,
    at: number,
    _length: number,
    _partial: boolean,
    peer: number,
    slot: number,
    order: number,
  ): boolean {
    const v4 = bytes[at]! >> 4 === 4
    if (this.#peer(bytes, at + (v4 ? 12 : 8), v4) !== peer) return false
    const learned = this.learned[peer]
    if (this.implicit && slot >= 0 && (learned === undefined || order > learned.order)) {
      this.learned[peer] = { slot, order }
      this.slots[peer] = slot
    }
    return true
  }

  #peer(bytes: Uint8Array, at: number, v4: boolean): number | undefined {
    return this.peerOf.get(bytes.subarray(at, at + (v4 ? 4 : 16)).join())
  }
}

function serve(): void {
  serveEngine(({ poller, post, data }) => {
    const setup = data as NodeSetup
    const clock = new RealClock()
    const ringBytes = 4 << 20
    const arena = new Arena(Datapath.arenaBytes(ringBytes))
    const tun = openTun(arena, { name: setup.device, persistent: true })
    const forwarder = new InnerForwarder(setup.implicit)
    let machine!: TunnelMachine
    let preferred = 0
    const route = () => {
      for (const view of machine.peers()) {
        const candidates = view.paths.filter((path) => usable(path.state))
        const kept = setup.implicit ? forwarder.learned[view.peer]?.slot : undefined
        const best =
          candidates.find((path) => path.slot === kept) ??
          candidates.find((path) => path.pathId === preferred && path.state.name !== 'suspect') ??
          candidates.find((path) => path.state.name !== 'suspect') ??
          candidates[0]
        if (best === undefined) delete forwarder.slots[view.peer]
        else forwarder.slots[view.peer] = best.slot
      }
    }
    const datapath = new Datapath({
      arena,
      tun,
      forwarder,
      ringBytes,
      random: () => Math.floor(Math.random() * 2 ** 32),
      machine: (seam) => {
        machine = new TunnelMachine(
          { ...seam, crypto: nodeCrypto, random: realRandom, wall: () => Date.now() },
          {
            privateKey: setup.privateKey,
            interfaceMtu: setup.mtu,
            ...(setup.loadThreshold === undefined ? {} : { loadThreshold: setup.loadThreshold }),
            ...(setup.timestampFloor === undefined ? {} : { timestampFloor: setup.timestampFloor }),
          },
        )
        return machine
      },
    })
    const engine = new Engine({
      datapath,
      tun,
      poller,
      now: () => clock.now(),
      onTurn: (now) => {
        for (let event = machine.poll(); event !== undefined; event = machine.poll()) {
          if (event.type === 'path-closed' && forwarder.learned[event.peer]?.slot === event.slot)
            delete forwarder.learned[event.peer]
          if (event.type === 'path' || event.type === 'path-closed') route()
          if (event.type !== 'quality') post({ ...event, at: now })
        }
      },
    })
    for (const socket of setup.sockets) engine.addSocket(openUdp(arena, socket))
    const now = clock.now()
    datapath.now = now
    for (const peer of setup.peers) {
      const index = machine.addPeer(peer.config, now)
      for (const address of peer.inner) forwarder.peerOf.set(address.join(), index)
      for (const path of peer.paths) machine.addPath(index, path, now)
    }
    const pathOf = (pathId: number) => machine.peer(0)?.paths.find((path) => path.pathId === pathId)
    const onCommand = (message: unknown) => {
      const command = message as NodeCommand
      const at = clock.now()
      if (command.do === 'prefer') {
        preferred = command.pathId
        route()
      } else if (command.do === 'add-path') machine.addPath(0, command.path, at)
      else if (command.do === 'remove-path') machine.removePath(pathOf(command.pathId)?.slot ?? -1, at)
      else if (command.do === 'wake') machine.wake(at)
      else if (command.do === 'rekey') machine.connect(0, at)
      else
        post({
          type: 'report',
          peers: [...machine.peers()],
          counts: {
            inbound: datapath.inbound.counts,
            outbound: datapath.outbound.counts,
            merger: datapath.merger.counts,
            lastWriteError: datapath.merger.lastError,
            sendsFailed: datapath.sender.failed,
          },
          rss: process.memoryUsage.rss(),
          udpSegments: tun.udpSegments,
        } satisfies NodeReport)
    }
    return { engine, onCommand }
  })
}

if (isMainThread) {
  process.once('message', (setup) => {
    void EngineWorker.start(new URL(import.meta.url), setup, {
      onEvent: (event) => process.send?.(event),
      onEnd: (error) => {
        if (error !== undefined) console.error(error)
        process.exit(error === undefined ? 0 : 1)
      },
    }).then(
      (worker) => {
        process.on('message', (command) => worker.post(command))
        // `process.exit` alone would wait for the engine, which sleeps.
        process.on('disconnect', () => void worker.stop())
        process.send?.('ready')
      },
      (error) => {
        console.error(error)
        process.exit(1)
      },
    )
  })
} else if (workerData !== null) serve()
