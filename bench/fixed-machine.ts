/** A machine with fixed keys and one peer on one path, and a forwarder that sends everything there: for the datapath. */
import type {
  Endpoint,
  Forwarder,
  Machine,
  MachineSeam,
  SessionKeys,
  TransportForm,
} from '../src/tunnel/seam.ts'

/** Both ends' fixed keys; the ends swap send and receive. */
export function fixedKeys(peer: number, localIndex: number, remoteIndex: number, end: 0 | 1): SessionKeys {
  const key = (n: number) => new Uint8Array(32).fill(n)
  return {
    peer,
    localIndex,
    remoteIndex,
    sendKey: key(1 + end),
    receiveKey: key(2 - end),
    sendKeyAes: key(11 + end),
    receiveKeyAes: key(12 - end),
  }
}

export interface FixedEnd {
  readonly end: 0 | 1
  readonly form: TransportForm
  readonly remote: Endpoint
  readonly mtu: number
  readonly socket: number
}

/** Records what the datapath tells it. Call `begin` once the sockets are there. */
export class FixedMachine implements Machine {
  readonly seam: MachineSeam
  readonly events: string[] = []
  readonly controls: { pathId: number; slot: number; counter: number; body: Uint8Array }[] = []
  slot = -1
  localIndex = 0

  constructor(seam: MachineSeam) {
    this.seam = seam
  }

  /** Installs the session. Both ends must draw the same first index (`random: () => 0`). */
  begin(end: FixedEnd): void {
    const { sessions, paths } = this.seam
    this.localIndex = sessions.newIndex()
    sessions.install(fixedKeys(0, this.localIndex, this.localIndex, end.end))
    sessions.setForm(0, end.form)
    sessions.useForSending(this.localIndex)
    this.slot = paths.open({ peer: 0, pathId: 1, socket: end.socket, remote: end.remote, mtu: end.mtu })
  }

  nextTimeout(): number | undefined {
    return undefined
  }
  handleTimeout(): void {}
  handleHandshake(bytes: Uint8Array): void {
    this.events.push(`handshake ${bytes.length}`)
  }
  handleControl(
    _peer: number,
    _localIndex: number,
    slot: number,
    pathId: number,
    _from: Endpoint,
    _socket: number,
    counter: number,
    _newest: boolean,
    _bytes: number,
    body: Uint8Array,
  ): void {
    this.controls.push({ pathId, slot, counter, body: body.slice() })
  }
  handleFirstReceive(peer: number): void {
    this.events.push(`first ${peer}`)
  }
  handleRoaming(peer: number, pathId: number, from: Endpoint): number {
    this.events.push(`roaming ${peer} ${pathId} ${from.address.join('.')}:${from.port}`)
    return -1
  }
  fault(peer: number, error: unknown): void {
    this.events.push(`fault ${peer} ${(error as Error).message}`)
  }
  noteTraffic(): void {}
  wantSession(peer: number): void {
    this.events.push(`want ${peer}`)
  }
  pathError(slot: number, errno: number): void {
    this.events.push(`error ${slot} ${errno}`)
  }
}

/** Sends everything on one slot, lets everything in. */
export class OpenForwarder implements Forwarder {
  slot = 0
  outbound(): number {
    return this.slot
  }
  inbound(): boolean {
    return true
  }
}
