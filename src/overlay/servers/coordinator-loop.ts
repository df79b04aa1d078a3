/**
 * The coordinator in its worker thread: its machine on a UDP socket, with the store. The requests of a turn are
 * processed, then committed together, then answered, so that acknowledged state survives a power cut.
 */

import { toHex } from '../../core/bytes.ts'
import { withShortHashes } from '../../crypto/openssl-hash.ts'
import { pooledRandom, RealClock } from '../../linux/clock.ts'
import type { ReceiveBatch } from '../../linux/udp.ts'
import type { EngineHost } from '../../tunnel/engine/thread.ts'
import { Coordinator } from '../machine/coordinator.ts'
import { overlayCrypto } from '../node/crypto.ts'
import { Store } from '../store/store.ts'
import { faultText } from './answers.ts'
import type { CoordinatorCommand, CoordinatorEvent, CoordinatorSetup } from './protocol.ts'
import { UdpLoop, type UdpLoopOwner } from './udp-loop.ts'

/** Faults that are logged; all are counted. */
const FAULTS_LOGGED = 20

export class CoordinatorLoop implements UdpLoopOwner {
  readonly engine: UdpLoop
  readonly #machine: Coordinator
  readonly #store: Store
  readonly #post: (event: CoordinatorEvent) => void
  readonly #now: () => number
  #faults = 0

  constructor(host: EngineHost) {
    const setup = host.data as CoordinatorSetup
    const clock = new RealClock()
    this.#now = () => clock.now()
    this.#post = host.post
    this.#store = new Store(setup.store)
    this.#machine = new Coordinator(
      { crypto: withShortHashes(overlayCrypto), random: pooledRandom(), wall: () => clock.wall() },
      this.#store,
      setup.init,
    )
    this.engine = new UdpLoop(host.poller, this.#now)
    this.engine.drive(this)
    this.engine.open(setup.port)
  }

  readonly onCommand = (message: unknown): void => {
    const command = message as CoordinatorCommand
    const machine = this.#machine
    const now = this.#now()
    switch (command.type) {
      case 'relay-ack':
        machine.handleRelayAck(command.id, command.sides, now)
        break
      case 'relay-load':
        machine.handleRelayLoad(command.load, command.measured, now)
        break
      case 'zone':
        machine.handleZone(command.zone, command.found, now)
        break
      case 'forget':
        machine.forget(command.name)
        break
      case 'notification-prepare-ack':
        machine.handleNotificationPrepareAck(command.id, command.isReady, now)
        break
      case 'notified':
        machine.handleNotified(command.name, command.token, command.isConnected)
        break
      case 'push-gone':
        machine.handlePushGone(command.name, command.address)
        break
      case 'soft-up':
      case 'soft-down':
      case 'soft-entry':
      case 'soft-got':
      case 'soft-heard':
        machine.handleSoft(command, now)
        break
      case 'report':
        this.#post({ type: 'report', counts: { ...machine.counts, faults: this.#faults } })
    }
  }

  beginTurn(): void {
    this.#store.beginTurn()
  }

  onMessage(socket: number, batch: ReceiveBatch, i: number, now: number): void {
    const at = batch.at[i]!
    const length = batch.length[i]!
    const segment = Math.max(1, batch.segment[i]!)
    const from = this.engine.sourceOf(batch, i)
    for (let done = 0; done < length; done += segment) {
      const bytes = this.engine.arena.u8.slice(at + done, at + Math.min(length, done + segment))
      try {
        this.#machine.handleDatagram(bytes, from, socket, now)
      } catch (error) {
        // A bug of this program triggered by one message: that datagram is dropped, the others are processed.
        this.onFault(error)
      }
      // What asks for a write has no answer; what does not is answered by the working copy.
      if (this.#store.isAway) this.finishTurn()
    }
  }

  finishTurn(): void {
    try {
      this.#store.commit()
    } catch (error) {
      const { code, op } = error as { readonly code?: unknown; readonly op?: unknown }
      if (code === 'STORE_TAKEN') throw error
      // Nothing that rests on it may be answered.
      // That the database is away is logged once (store-watch.ts); whoever was behind another writer is asked again.
      if (!this.#store.isAway && op !== 'behind') this.onFault(error)
      for (let output = this.#machine.poll(); output !== undefined; output = this.#machine.poll())
        // Where nodes are is not in the store. Questions to other coordinators are repeated.
        if (output.type === 'soft-listen' || output.type === 'soft-put' || output.type === 'soft-get')
          this.#post(output)
      return
    }
    for (let output = this.#machine.poll(); output !== undefined; output = this.#machine.poll()) {
      if (output.type === 'send') this.engine.send(output.socket, output.to, output.bytes)
      else if (output.type === 'relay-order') {
        const { id, another, account, sides, binds } = output
        this.#post({ type: 'relay-order', id, pair: toHex(output.pair), another, account, sides, binds })
      } else this.#post(output)
    }
  }

  nextTimeout(): number | undefined {
    return this.#machine.nextTimeout()
  }

  handleTimeout(now: number): void {
    this.#machine.handleTimeout(now)
  }

  close(): void {
    this.#store.close()
  }

  onFault(error: unknown): void {
    this.#faults++
    if (this.#faults > FAULTS_LOGGED) return
    this.#post({ type: 'log', level: 'error', message: `error in the coordinator: ${faultText(error)}` })
  }
}
